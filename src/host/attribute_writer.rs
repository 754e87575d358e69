//! Writes to attributes that may hang, done by a child process.
//!
//! A driver that does not answer leaves its caller in uninterruptible sleep,
//! where it can be neither killed nor waited for, and libvirt would wait for the
//! hook forever. So the program starts itself once more for the write, waits
//! until a deadline, and then goes on without the child. A child whose parent is
//! gone when the driver answers at last takes its own write back, so that a late
//! success leaves no device behind.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::write_attribute;

/// First argument of a program that is to act as the child.
const ROLE: &str = "--write-attribute";

/// A write and the one that takes it back.
#[derive(Debug, Clone)]
pub struct Order {
    /// File and text.
    pub write: (PathBuf, String),
    /// File and text, carried out by a child that nobody listens to any more.
    pub undo: Option<(PathBuf, String)>,
}

/// Carries the order out and returns within `patience`.
///
/// # Errors
/// The driver's errno; `TimedOut` when it had not answered.
pub fn write(order: &Order, patience: Duration) -> io::Result<()> {
    let mut child = start(order)?;
    let Some(mut answers) = child.stdout.take() else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut ready = [PollFd::new(answers.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut ready, timeout) {
            Ok(0) => {
                let text = format!("no answer from the driver within {} s", patience.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut answer = String::new();
    answers.read_to_string(&mut answer)?;
    drop(answers);
    child.wait()?;
    match answer.trim().parse() {
        Ok(0) => Ok(()),
        Ok(errno) => Err(io::Error::from_raw_os_error(errno)),
        Err(_) => Err(io::Error::other(
            "the writing process died without an answer",
        )),
    }
}

fn start(order: &Order) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(ROLE).arg(&order.write.0).arg(&order.write.1);
    if let Some((path, value)) = &order.undo {
        command.arg(path).arg(value);
    }
    // Nothing of libvirt's: a pipe kept open here would keep libvirt waiting.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// Acts as the child when the arguments say so; to be called first in `main`.
#[must_use]
pub fn act_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != ROLE {
        return None;
    }
    let arguments: Vec<OsString> = arguments.collect();
    let (Some(path), Some(value)) = (arguments.first(), text(&arguments, 1)) else {
        return Some(ExitCode::from(2));
    };
    let errno = match write_attribute(Path::new(path), value) {
        Ok(()) => 0,
        Err(error) => error
            .raw_os_error()
            .unwrap_or(nix::errno::Errno::EIO as i32),
    };
    let heard = writeln!(io::stdout(), "{errno}").and_then(|()| io::stdout().flush());
    if heard.is_err()
        && errno == 0
        && let (Some(path), Some(value)) = (arguments.get(2), text(&arguments, 3))
    {
        let _ = write_attribute(Path::new(path), value);
    }
    Some(ExitCode::SUCCESS)
}

fn text(arguments: &[OsString], index: usize) -> Option<&str> {
    arguments.get(index)?.to_str()
}
