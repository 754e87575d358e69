//! Runs programs of others that change the host. Their output is kept, and they are never
//! killed before their end.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::process::CommandExt,
    process::{Command, ExitStatus, Stdio},
};

use nix::{fcntl::OFlag, unistd::pipe2};

use super::{Deadline, Host, fault, poll::wait_for_input};

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its stdout and stderr together, in their order.
    pub said: String,
}

impl Ended {
    /// What it said, in one line.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        let words: Vec<&str> = self.said.split_whitespace().collect();
        words.join(" ")
    }
}

impl Host {
    /// Runs a program until it ends.
    ///
    /// # Errors
    /// When it cannot be started; `TimedOut` when it has not ended by the
    /// deadline: then it goes on without us, for a GPU whose driver is half
    /// changed is worse than a program too many.
    pub fn run_program(
        &self,
        program: &str,
        arguments: &[&str],
        deadline: Deadline,
    ) -> io::Result<Ended> {
        const LONGEST: usize = 64 << 10;
        fault::before("program", program)?;
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        let mut child = Command::new(self.path(program))
            .args(arguments)
            .stdin(Stdio::null())
            // Nor does a package ask on the terminal.
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(theirs.try_clone()?)
            .stderr(theirs)
            // An interrupt at the keyboard is for us.
            .process_group(0)
            .spawn()?;
        let mut said = Vec::new();
        let mut ours = File::from(ours);
        let mut part = [0; 4096];
        loop {
            if !wait_for_input(&ours, deadline)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let count = ours.read(&mut part)?;
            if count == 0 {
                break;
            }
            if said.len() < LONGEST {
                said.extend_from_slice(&part[..count]);
            }
        }
        let mut status = None;
        let ended = deadline.wait_until(|| {
            status = child.try_wait().transpose();
            status.is_some()
        });
        let status = match status {
            Some(status) if ended => status?,
            _ => return Err(io::ErrorKind::TimedOut.into()),
        };
        fault::after("program", program);
        Ok(Ended {
            status,
            said: String::from_utf8_lossy(&said).into_owned(),
        })
    }
}
