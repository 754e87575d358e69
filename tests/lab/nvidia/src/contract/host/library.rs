//! `nvml-command`: a program that carries out the commands of `/dev/nvidiactl` through
//! NVML, one line for each.

use std::{
    ffi::OsStr,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use nix::errno::Errno;

use super::{super::Answer, super::sequence::errno_named, errno};

/// The program. It has no file open between two commands.
#[derive(Debug)]
pub(super) struct Library {
    child: Child,
    /// Some until it is to end.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Library {
    pub fn start(program: &OsStr) -> io::Result<Self> {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = child.stdin.take();
        let answers = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            child,
            commands,
            answers: BufReader::new(answers),
        })
    }

    pub fn ask(&mut self, line: &str) -> Answer {
        let mut answer = String::new();
        let asked = self.exchange(line, &mut answer);
        asked.map_err(|error| errno(&error))?;
        let answer = answer.trim_end();
        let (status, text) = answer.split_once(' ').unwrap_or((answer, ""));
        if status == "ok" {
            let lines = text.split(';').filter(|line| !line.is_empty());
            return Ok(lines.map(|line| format!("{line}\n")).collect());
        }
        let refused = errno_named(status);
        // An NVML code without an errno, or no answer.
        if matches!(refused, Errno::EIO | Errno::UnknownErrno) {
            eprintln!("nvml-command: {line}: {answer:?}");
        }
        Err(refused)
    }

    fn exchange(&mut self, line: &str, answer: &mut String) -> io::Result<()> {
        let commands = self.commands.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        commands.write_all(format!("{line}\n").as_bytes())?;
        self.answers.read_line(answer)?;
        Ok(())
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        drop(self.commands.take());
        // Errors cannot be reported to anybody.
        _ = self.child.wait();
    }
}
