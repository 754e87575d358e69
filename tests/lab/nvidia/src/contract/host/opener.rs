//! A process that has a VFIO device open; for the driver it is a VM.

use std::{
    env,
    ffi::OsString,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::errno::Errno;

use super::{super::Answer, super::sequence::errno_named, errno};

/// The path of the program, unless the environment sets another.
const PROGRAM: &str = "/usr/bin/vfio-opener";
const PROGRAM_VARIABLE: &str = "LAB_NVIDIA_OPENER";

/// The process; it ends with this value.
#[derive(Debug)]
pub(super) struct Opener {
    child: Child,
    device: PathBuf,
}

impl Opener {
    pub fn start(device: &Path, uuid: Option<&str>, name: Option<&str>) -> Result<Self, Errno> {
        let program = env::var_os(PROGRAM_VARIABLE).unwrap_or_else(|| OsString::from(PROGRAM));
        let mut command = Command::new(program);
        command.arg(device);
        if let Some(uuid) = uuid {
            command.args(["-uuid", uuid]);
        }
        if let Some(name) = name {
            command.args(["-name", &format!("guest={name}")]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().map_err(|error| errno(&error))?;
        let mut opener = Self {
            child,
            device: device.to_owned(),
        };
        let mut line = String::new();
        if let Some(stdout) = opener.child.stdout.take() {
            let read = BufReader::new(stdout).read_line(&mut line);
            read.map_err(|error| errno(&error))?;
        }
        match line.trim() {
            "open" => Ok(opener),
            other => Err(errno_named(other)),
        }
    }

    /// The answer to a further process.
    pub fn again(&self) -> Answer {
        let uuid = "5a000000-0000-4000-8000-ffffffffffff";
        Self::start(&self.device, Some(uuid), Some("again")).map(|_| String::new())
    }

    /// Ends it, by the end of its input or by SIGKILL.
    pub fn end(mut self, killed: bool) -> Answer {
        if killed {
            self.child.kill().map_err(|error| errno(&error))?;
        }
        drop(self.child.stdin.take());
        let ended = self.child.wait();
        ended.map(|_| String::new()).map_err(|error| errno(&error))
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Errors cannot be reported to anybody.
        _ = self.child.wait();
    }
}
