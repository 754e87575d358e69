//! `nvml-command`: the commands of `/dev/nvidiactl` by way of NVML, so that the contract of the
//! simulated host can be put to the library as it is put to the kernel module.
//!
//! A line of the input is a command, and a line of the output its answer: `ok` with the lines of
//! the text, joined by `;`, or the name of the errno that NVML's code stands for. NVML is
//! initialised per command: between two of them nobody has the driver's device open, which
//! `sriov-manage` would not bear.
//!
//! What NVML cannot say, or says less of:
//!
//! - `creatable` has no numbers of vGPUs, only the ids of types.
//! - `placements` is not supported where the GPU tells no placements, whatever is free.
//! - A GPU instance is found by its id first. With MIG mode off that is not supported, and one
//!   that is not there is not found, before anything else could be wrong.
//! - `ci-create` takes the profile with so many slices. Where there is none, also for 5 slices,
//!   of which NVML has no profile at all, it is `EINVAL` without a call.
//! - `scheduler` with adaptive round robin (ARR 2) has no time slice, without it no averaging
//!   factor and no frequency. Such a command is `ENOSYS`: nobody was asked.
//! - `state` is what NVML tells of `gpu`: no line for a mode that is not supported, `-` for a GPU
//!   instance's heterogeneous mode that is not, the scheduler's frequency as the time slice that
//!   it makes, only vGPUs that a VM has, and neither pid nor name of that.

mod answer;
mod gpu;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use lab_nvidia_smi::{LIBRARY, raw::Raw};
use libloading::Library;
use nvml_wrapper::Nvml;

use answer::{Answer, Failure, one_line};
use gpu::Gpu;

fn main() -> ExitCode {
    // SAFETY: The library is NVML or stands in for it; loading it does nothing but that.
    let library = match unsafe { Library::new(LIBRARY) } {
        Ok(library) => library,
        Err(error) => {
            eprintln!("nvml-command: {LIBRARY}: {error}");
            return ExitCode::FAILURE;
        }
    };
    for line in io::stdin().lines() {
        let done = line.and_then(|line| {
            let answer = one_line(&perform(&library, &line));
            let mut output = io::stdout().lock();
            writeln!(output, "{answer}")?;
            output.flush()
        });
        if let Err(error) = done {
            eprintln!("nvml-command: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn perform(library: &Library, line: &str) -> Answer {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [command, address, words @ ..] = words.as_slice() else {
        return Err(Failure::Words);
    };
    let numbers: Result<Vec<u32>, _> = words.iter().map(|word| word.parse()).collect();
    let numbers = numbers.map_err(|_| Failure::Words)?;
    let nvml = Nvml::builder().lib_path(LIBRARY.as_ref()).init()?;
    let gpu = Gpu {
        raw: Raw::new(&nvml, library),
        device: nvml.device_by_pci_bus_id(*address)?,
    };
    gpu.perform(command, &numbers)
}
