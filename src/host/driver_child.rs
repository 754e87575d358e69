//! Attributes of drivers, read and written by a child process.
//!
//! A driver that does not answer leaves its caller in uninterruptible sleep,
//! where it can be neither killed nor waited for, and libvirt would wait for the
//! hook forever. So a child process asks the driver. The program waits for each answer
//! until a deadline, and then continues without the child. When the driver finally
//! answers and the parent has gone, the child undoes its own write, so that a late
//! success leaves no device behind.
//!
//! The two talk over a pair of sockets, a line of JSON each way. An order is an array:
//! a file to be read, or a file with the text to be written and, if there is one, the
//! file and the text that take the write back. The answer is the errno of what failed,
//! the text that was read, or 0 for a write.
//!
//! A child can be forked early, while the program has one thread and holds no lock: a
//! fork costs a fraction of starting a program. Later the program starts itself again as
//! the child, so that the child inherits nothing. This takes time on a busy host, so the
//! child reports when it is ready. The time limit for the driver begins only then.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    panic,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio, exit},
    time::Duration,
};

use fork::Fork;
use nix::{
    errno::Errno,
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout},
};

use super::{Deadline, Host, fault, files, poll::wait_for_input, write_attribute};

/// The program name (`argv[0]`) that makes a program act as the child. A hook's arguments
/// come from libvirt and contain a domain's name, but its program name is always its path.
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

/// The child's answer.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Answer {
    Errno(i32),
    Text(String),
}

/// The child's first line.
const THERE: &[u8] = b"\"there\"\n";

/// `EILSEQ` stands for a text that is not UTF-8; no read says it.
const NOT_UTF_8: i32 = Errno::EILSEQ as i32;

/// `EFBIG` stands for a text that is longer than an attribute; no read says it.
const TOO_LONG: i32 = Errno::EFBIG as i32;

/// A write, and the write that undoes it.
#[derive(Debug, Clone)]
pub(super) struct ReversibleWrite {
    /// File and text.
    pub(super) write: (String, String),
    /// File and text. The child writes it when the parent no longer reads the answer.
    pub(super) undo: Option<(String, String)>,
}

/// A child that waits for orders. Dropping it ends the child as soon as its driver
/// returns.
#[derive(Debug)]
pub(super) struct DriverChild {
    child: BufReader<UnixStream>,
    /// None for a forked child.
    process: Option<Child>,
    /// Whether the child has reported that it is ready.
    is_there: bool,
}

impl DriverChild {
    /// Forks the child. This process must have one thread and hold no lock, because the
    /// child would keep the lock.
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
        // The child must not keep libvirt's pipes open: libvirt would wait for it.
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

    /// Lets the child end after its present order. A program that continues has to wait
    /// for a child that was started as a program.
    pub(super) fn end(self) -> Option<Child> {
        self.process
    }

    /// Gives the child an order and returns the driver's answer. After any other error the
    /// child is dead or hangs in the driver (`TimedOut`), and accepts no more orders.
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

    /// Reads an attribute through the child; the text is that of [`files::read_attribute`].
    /// Errors are those of [`Self::carry_out`].
    pub(super) fn read(
        &mut self,
        path: &Path,
        patience: Duration,
    ) -> io::Result<io::Result<String>> {
        let line = serde_json::to_string(&[path])? + "\n";
        Ok(text(self.ask(&line, patience)?))
    }

    /// Reads several attributes of one driver; the time limit is for all of them. All orders are
    /// given at once: each answer would cost two changes of the process otherwise.
    pub(super) fn read_each(
        &mut self,
        paths: &[PathBuf],
        patience: Duration,
    ) -> io::Result<Vec<io::Result<String>>> {
        let mut lines = String::new();
        for path in paths {
            lines += &serde_json::to_string(&[path])?;
            lines.push('\n');
        }
        self.child.get_mut().write_all(lines.as_bytes())?;
        let mut deadline = None;
        let answers = paths.iter().map(|_| {
            let left = deadline.map_or(patience, Deadline::left);
            let answer = text(self.answer(left)?);
            // It begins when the child is there.
            deadline.get_or_insert_with(|| Deadline::after(patience));
            Ok(answer)
        });
        answers.collect()
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
    /// The order as a JSON array on one line, even if a text ends in a line break.
    fn line(&self) -> io::Result<String> {
        let mut parts = vec![&self.write.0, &self.write.1];
        parts.extend(self.undo.iter().flat_map(|(path, value)| [path, value]));
        Ok(serde_json::to_string(&parts)? + "\n")
    }
}

/// Closes the child's copies of stdin, stdout and stderr. libvirt reads a hook's output
/// until every process has closed it.
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

/// Acts as the child if the program was started under the child's name. Must be the first
/// call in `main`.
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

/// Carries out orders until the parent has gone.
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
            [path] => match files::read_attribute(Path::new(path)) {
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
