//! `nvidia-smi -r`. NVML has no call for it, so the driver is asked.

use std::{
    fs::OpenOptions,
    io::{self, Write},
};

use lab_nvidia_smi::raw::{Answer, Code};
use nix::errno::Errno;

/// A write is one command.
const DRIVER: &str = "/dev/nvidiactl";

const IN_USE: u32 = 19;
const NO_PERMISSION: u32 = 4;
const UNKNOWN: u32 = 999;

/// Resets the GPUs with these bus ids; the first failure ends it.
pub fn all(buses: Vec<String>) -> Answer<()> {
    for bus in buses {
        one(&bus).map_err(|error| refused(&bus, &error))?;
        println!("GPU {bus} was successfully reset.");
    }
    println!("All done.");
    Ok(())
}

fn one(bus: &str) -> io::Result<()> {
    // NVML's domain has four digits more.
    let address = bus.to_lowercase();
    let address = address.strip_prefix("0000").unwrap_or(&address);
    let mut driver = OpenOptions::new().write(true).open(DRIVER)?;
    driver.write_all(format!("reset {address}").as_bytes())
}

fn refused(bus: &str, error: &io::Error) -> Code {
    let errno = error.raw_os_error().map(Errno::from_raw);
    match errno {
        Some(Errno::EBUSY) => {
            println!("GPU {bus} is currently in use by another process.");
            Code(IN_USE)
        }
        Some(Errno::EPERM) => {
            println!("Unable to reset GPU {bus}: Insufficient Permissions");
            Code(NO_PERMISSION)
        }
        _ => {
            println!("Unable to reset GPU {bus}: {error}");
            Code(UNKNOWN)
        }
    }
}
