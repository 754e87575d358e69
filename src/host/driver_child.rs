//! Attributes of drivers, read and written by a child process.
//!
//! A driver that does not answer leaves its caller in uninterruptible sleep,
//! where it can be neither killed nor waited for, and libvirt would wait for the
//! hook forever. So a child does it; the program waits for each answer
//! until a deadline, and then goes on without the child. A child whose parent is
//! gone when the driver answers at last takes its own write back, so that a late
//! success leaves no device behind.
//!
//! The two talk over a pair of sockets, a line of JSON each way. An order is an array:
//! a file to be read, or a file with the text to be written and, if there is one, the
//! file and the text that take the write back. The answer is the errno of what failed,
//! the text that was read, or 0 for a write.
//!
//! A child can be split off early, while the program has one thread and holds no
//! lock: that costs a fraction of starting a program. Later it is the program
//! started again, so that it inherits nothing. On a host that is busy this takes its time:
//! a child says when it is there, and only then does patience with a driver begin.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    panic,
    path::Path,
    process::{Child, Command, ExitCode, Stdio, exit},
    time::Duration,
};

use fork::Fork;
use nix::{
    errno::Errno,
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout},
};

use super::{Deadline, Host, fault, files, poll::wait_for_input, write_attribute};

/// Name under which a program is started that is to act as the child. Arguments come from
/// libvirt, a domain's name among them, but the name of a hook is its path.
const ROLE: &str = "virt-vgpu driver child";

fn text(answer: Answer) -> io::Result<String> {
    match answer {
        Answer::Text(text) => Ok(text),
        Answer::Errno(NOT_UTF_8) => {
            let why = "its text is not UTF-8";
            Err(io::Error::new(io::ErrorKind::InvalidData, why))
        }
        Answer::Errno(TOO_LONG) => Err(files::too_long(files::ATTRIBUTE)),
        Answer::Errno(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// What comes back.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Answer {
    Errno(i32),
    Text(String),
}

/// What a child says first.
const THERE: &[u8] = b"\"there\"\n";

/// `EILSEQ` stands for a text that is not UTF-8; no read says it.
const NOT_UTF_8: i32 = Errno::EILSEQ as i32;

/// `EFBIG` stands for a text that is longer than an attribute; no read says it.
const TOO_LONG: i32 = Errno::EFBIG as i32;

/// A write and the one that takes it back.
#[derive(Debug, Clone)]
pub(super) struct ReversibleWrite {
    /// File and text.
    pub(super) write: (String, String),
    /// File and text, carried out by a child that nobody listens to any more.
    pub(super) undo: Option<(String, String)>,
}

/// A child that waits for orders. Dropping it ends it, as soon as its driver
/// lets it go.
#[derive(Debug)]
pub(super) struct DriverChild {
    child: BufReader<UnixStream>,
    /// None for one that was split off.
    process: Option<Child>,
    /// Whether it has said that it is there.
    is_there: bool,
}

impl DriverChild {
    /// Splits the child off this process, which must have one thread and hold
    /// no lock: the child would keep it.
    pub(super) fn split_off() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        match fork::fork()? {
            Fork::Parent(_) => Ok(Self {
                child: BufReader::new(ours),
                process: None,
                is_there: false,
            }),
            Fork::Child => {
                drop(ours);
                // A bug in the child must not go on as a second hook.
                let served =
                    panic::catch_unwind(|| let_go_of_stdio().and_then(|()| serve(&theirs)));
                exit(i32::from(!matches!(served, Ok(Ok(())))));
            }
        }
    }

    /// Starts the program again, as the child.
    pub(super) fn start() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        // Nothing of libvirt's: a pipe kept open here would keep libvirt waiting.
        let process = Command::new("/proc/self/exe")
            .arg0(ROLE)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            child: BufReader::new(ours),
            process: Some(process),
            is_there: false,
        })
    }

    /// Lets the child end when it has done what it is at. It has to be waited for by
    /// who goes on, where it was started as a program.
    pub(super) fn end(self) -> Option<Child> {
        self.process
    }

    /// Has the order carried out and returns the driver's answer. After any
    /// other error the child is dead, or hangs in the driver (`TimedOut`), and
    /// takes no further orders.
    pub(super) fn carry_out(
        &mut self,
        order: &ReversibleWrite,
        patience: Duration,
    ) -> io::Result<io::Result<()>> {
        match self.ask(&order.line()?, patience)? {
            Answer::Errno(0) => Ok(Ok(())),
            Answer::Errno(errno) => Ok(Err(io::Error::from_raw_os_error(errno))),
            Answer::Text(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Has an attribute read; its text as [`files::read_text`] gives it. Errors are as
    /// those of [`Self::carry_out`].
    pub(super) fn read(
        &mut self,
        path: &Path,
        patience: Duration,
    ) -> io::Result<io::Result<String>> {
        let line = serde_json::to_string(&[path])? + "\n";
        Ok(text(self.ask(&line, patience)?))
    }

    fn ask(&mut self, line: &str, patience: Duration) -> io::Result<Answer> {
        self.child.get_mut().write_all(line.as_bytes())?;
        self.answer(patience)
    }

    fn answer(&mut self, patience: Duration) -> io::Result<Answer> {
        if !self.is_there {
            self.next_line(Host::PATIENCE)?;
            self.is_there = true;
        }
        self.next_line(patience)
    }

    fn next_line(&mut self, patience: Duration) -> io::Result<Answer> {
        let is_buffered = !self.child.buffer().is_empty();
        if !is_buffered && !wait_for_input(self.child.get_ref(), Deadline::after(patience))? {
            let text = format!("no answer from the driver within {} s", patience.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        let mut answer = String::new();
        self.child.read_line(&mut answer)?;
        serde_json::from_str(&answer).map_err(|_| {
            io::Error::other("the process that asks the driver died without an answer")
        })
    }
}

impl ReversibleWrite {
    /// A JSON array: texts that end in a line break stay on one line.
    fn line(&self) -> io::Result<String> {
        let mut parts = vec![&self.write.0, &self.write.1];
        parts.extend(self.undo.iter().flat_map(|(path, value)| [path, value]));
        Ok(serde_json::to_string(&parts)? + "\n")
    }
}

/// libvirt reads a hook's output to its end, which does not come while anybody
/// has it open.
fn let_go_of_stdio() -> io::Result<()> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// Acts as the child when the program was started under its name; to be called first in
/// `main`.
#[must_use]
pub fn act_if_asked() -> Option<ExitCode> {
    if std::env::args_os().next()? != ROLE {
        return None;
    }
    let parent = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(UnixStream::from);
    let served = parent.and_then(|parent| serve(&parent));
    Some(if served.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Carries out orders until the parent is gone.
fn serve(mut parent: &UnixStream) -> io::Result<()> {
    parent.write_all(THERE)?;
    for line in BufReader::new(parent).lines() {
        let parts: Vec<String> = serde_json::from_str(&line?)?;
        let number = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => NOT_UTF_8,
            io::ErrorKind::FileTooLarge => TOO_LONG,
            _ => error.raw_os_error().unwrap_or(Errno::EIO as i32),
        };
        let (answer, undo) = match parts.as_slice() {
            [path] => match files::read_text(Path::new(path), files::ATTRIBUTE) {
                Ok(text) => (Answer::Text(text), &[][..]),
                Err(error) => (Answer::Errno(number(error)), &[][..]),
            },
            [path, value, undo @ ..] => match write_attribute(Path::new(path), value) {
                Ok(()) => {
                    fault::after_write_of_child();
                    (Answer::Errno(0), undo)
                }
                Err(error) => (Answer::Errno(number(error)), &[][..]),
            },
            [] => return Err(io::ErrorKind::InvalidData.into()),
        };
        let line = serde_json::to_string(&answer)? + "\n";
        if let Err(unheard) = parent.write_all(line.as_bytes()) {
            if let [path, value] = undo {
                write_attribute(Path::new(path), value)?;
            }
            return Err(unheard);
        }
    }
    Ok(())
}
