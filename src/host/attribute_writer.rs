//! Writes to attributes that may hang, done by a child process.
//!
//! A driver that does not answer leaves its caller in uninterruptible sleep,
//! where it can be neither killed nor waited for, and libvirt would wait for the
//! hook forever. So the program starts itself once more for its writes, waits
//! for each answer until a deadline, and then goes on without the child. A child
//! whose parent is gone when the driver answers at last takes its own write
//! back, so that a late success leaves no device behind.
//!
//! The child reads orders from its stdin, one a line: file, text, and the file
//! and text that take the write back, with tabs between; for each it answers
//! with a line that holds the errno, 0 for none. It can be started before the
//! first order is known, so that its start costs no time of its own.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::fd::AsFd,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::write_attribute;

/// First argument of a program that is to act as the child.
const ROLE: &str = "--write-attributes";

/// A write and the one that takes it back.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// File and text.
    pub(super) write: (String, String),
    /// File and text, carried out by a child that nobody listens to any more.
    pub(super) undo: Option<(String, String)>,
}

/// A child that waits for orders. Dropping it ends it, as soon as its driver
/// lets it go.
#[derive(Debug)]
pub(super) struct AttributeWriter {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl AttributeWriter {
    /// Starts the child.
    pub(super) fn start() -> io::Result<Self> {
        // Nothing of libvirt's: a pipe kept open here would keep libvirt waiting.
        let Child { stdin, stdout, .. } = Command::new("/proc/self/exe")
            .arg(ROLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (stdin, stdout) {
            (Some(orders), Some(answers)) => Ok(Self {
                orders,
                answers: BufReader::new(answers),
            }),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Has the order carried out and returns the driver's answer. After any
    /// other error the child is dead, or hangs in the driver (`TimedOut`), and
    /// takes no further orders.
    pub(super) fn carry_out(
        &mut self,
        order: &Order,
        patience: Duration,
    ) -> io::Result<io::Result<()>> {
        self.orders.write_all(order.line()?.as_bytes())?;
        self.wait(patience)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.trim().parse() {
            Ok(0) => Ok(Ok(())),
            Ok(errno) => Ok(Err(io::Error::from_raw_os_error(errno))),
            Err(_) => Err(io::Error::other(
                "the writing process died without an answer",
            )),
        }
    }

    fn wait(&self, patience: Duration) -> io::Result<()> {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(
            self.answers.get_ref().as_fd(),
            PollFlags::POLLIN,
        )];
        loop {
            match poll(&mut ready, timeout) {
                Ok(0) => {
                    let text = format!("no answer from the driver within {} s", patience.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Order {
    fn line(&self) -> io::Result<String> {
        let mut parts = vec![&self.write.0, &self.write.1];
        parts.extend(self.undo.iter().flat_map(|(path, value)| [path, value]));
        if parts.iter().any(|part| part.contains(['\t', '\n'])) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a tab or a line break in a write",
            ));
        }
        let parts: Vec<&str> = parts.into_iter().map(String::as_str).collect();
        Ok(parts.join("\t") + "\n")
    }
}

/// Acts as the child when the arguments say so; to be called first in `main`.
#[must_use]
pub fn act_if_asked() -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != ROLE {
        return None;
    }
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let parts: Vec<&str> = line.split('\t').collect();
        let [path, value, undo @ ..] = parts.as_slice() else {
            break;
        };
        let errno = match write_attribute(Path::new(path), value) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(Errno::EIO as i32),
        };
        let heard = writeln!(io::stdout(), "{errno}").and_then(|()| io::stdout().flush());
        if heard.is_err() {
            if let (0, [path, value]) = (errno, undo) {
                let _ = write_attribute(Path::new(path), value);
            }
            break;
        }
    }
    Some(ExitCode::SUCCESS)
}
