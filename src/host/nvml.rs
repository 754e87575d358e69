//! Access to NVIDIA's management library through a child process. The child gets one
//! question and must answer before a deadline. A driver that hangs or crashes affects only
//! the child.

use std::{
    io::{self, Read, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{Deadline, Host, fault, poll::wait_for_input};
use crate::{
    device::nvml::{Answer, Failure, FailureKind, GpuFacts, Guests, Nvml, Question},
    model::PciAddress,
};

/// The program that is asked.
pub const NVML_PROGRAM: &str = "/usr/sbin/virt-vgpu-nvml";

/// The longest accepted answer: far more than a host full of GPUs needs.
const LONGEST: u64 = 16 << 20;

/// NVML, asked through a child with a deadline.
#[derive(Debug, Clone, Copy)]
pub struct NvmlChild<'a> {
    host: &'a Host,
    patience: Duration,
}

impl<'a> NvmlChild<'a> {
    /// The time limit for a healthy driver. Loading the library wakes sleeping GPUs, which
    /// takes some seconds each if the persistence daemon is not running.
    pub const PATIENCE: Duration = Duration::from_secs(8);

    /// NVML for a caller that waits until `deadline`.
    #[must_use]
    pub fn new(host: &'a Host, deadline: Deadline) -> Self {
        Self {
            host,
            patience: deadline.left().min(Self::PATIENCE),
        }
    }

    /// NVML for a caller that waits for that change as long as a healthy driver needs, within
    /// the deadline of [`Host::be_done_by`]. MIG
    /// mode is the longest: older GPUs are reset for it, newer ones detached and attached again.
    #[must_use]
    pub fn for_change(host: &'a Host, change: &Question) -> Self {
        const MODE: Duration = Duration::from_secs(120);
        const INSTANCE: Duration = Duration::from_secs(30);
        let patience = match change {
            Question::SetMig { .. } => MODE,
            Question::CreateInstance { .. } | Question::DestroyInstance { .. } => INSTANCE,
            _ => Self::PATIENCE,
        };
        Self {
            host,
            patience: host.at_most_left(patience),
        }
    }

    /// Asks one question that changes nothing.
    ///
    /// # Errors
    /// What NVML or the child says; that there is no answer in time.
    pub fn ask(&self, question: &Question) -> Result<Answer, Failure> {
        Self::answer(|| self.exchange(question, None))
    }

    /// Changes a GPU. If the driver answers too late, the child undoes the change with
    /// `undo`, because nobody reads its answer any more.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn change(&self, change: &Question, undo: Option<&Question>) -> Result<(), Failure> {
        let answer = Self::answer(|| {
            fault::before("nvml", NVML_PROGRAM)?;
            let text = self.exchange(change, undo)?;
            fault::after("nvml", NVML_PROGRAM);
            Ok(text)
        })?;
        match answer {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn answer(exchange: impl FnOnce() -> io::Result<Vec<u8>>) -> Result<Answer, Failure> {
        let asked = || -> io::Result<Answer> {
            serde_json::from_slice(&exchange()?).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("its answer: {error}"))
            })
        };
        match asked() {
            Ok(Answer::Failed(failure)) => Err(failure),
            Ok(answer) => Ok(answer),
            Err(error) => Err(Failure {
                kind: match error.kind() {
                    io::ErrorKind::NotFound => FailureKind::NoLibrary,
                    _ => FailureKind::Other,
                },
                message: format!("cannot ask NVML through {NVML_PROGRAM}: {error}"),
            }),
        }
    }

    fn exchange(&self, question: &Question, undo: Option<&Question>) -> io::Result<Vec<u8>> {
        let deadline = Deadline::after(self.patience);
        let mut child = Command::new(self.host.path(NVML_PROGRAM))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let answer = converse(&mut child, question, undo, deadline);
        let takes_back = undo.is_some() && is_late(&answer);
        if takes_back || !is_gone(&mut child, answer.is_ok(), deadline) {
            self.host.leave_behind(child);
        }
        answer
    }
}

impl NvmlChild<'_> {
    /// NVIDIA's driver in the guests, as of now.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn guests(&self) -> Result<Guests, Failure> {
        match self.ask(&Question::Guests)? {
            Answer::Guests(guests) => Ok(guests),
            other => Err(unexpected(&other)),
        }
    }
}

impl Nvml for NvmlChild<'_> {
    fn gpus(&self) -> Result<Vec<GpuFacts>, Failure> {
        match self.ask(&Question::Gpus)? {
            Answer::Gpus(gpus) => Ok(gpus),
            other => Err(unexpected(&other)),
        }
    }

    fn gpu(&self, gpu: PciAddress) -> Result<GpuFacts, Failure> {
        match self.ask(&Question::Gpu { gpu })? {
            Answer::Gpus(gpus) => gpus.into_iter().next().ok_or_else(|| Failure {
                kind: FailureKind::NoGpu,
                message: format!("NVML knows no GPU {gpu}"),
            }),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(answer: &Answer) -> Failure {
    Failure {
        kind: FailureKind::Other,
        message: format!("{NVML_PROGRAM} answered something else: {answer:?}"),
    }
}

/// Whether the driver has not answered yet. The child is then left alive, so that it can
/// undo a late change.
fn is_late(answer: &io::Result<Vec<u8>>) -> bool {
    matches!(answer, Err(error) if error.kind() == io::ErrorKind::TimedOut)
}

fn converse(
    child: &mut Child,
    question: &Question,
    undo: Option<&Question>,
    deadline: Deadline,
) -> io::Result<Vec<u8>> {
    let mut lines = serde_json::to_string(question)? + "\n";
    if let Some(undo) = undo {
        lines += &(serde_json::to_string(undo)? + "\n");
    }
    // The pipe is closed after the write, because the child reads to the end of its input.
    // A question fits into the pipe, so the write never waits.
    let mut input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    match input.write_all(lines.as_bytes()) {
        // The child has died; the missing answer describes this better.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    drop(input);
    let mut ours = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut text = Vec::new();
    let mut part = [0; 64 << 10];
    loop {
        if !wait_for_input(&ours, deadline)? {
            let why = "no answer from the driver in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        let count = ours.read(&mut part)?;
        if count == 0 {
            break;
        }
        text.extend_from_slice(&part[..count]);
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > LONGEST {
            return Err(io::Error::other("its answer has no end"));
        }
    }
    if text.is_empty() {
        return Err(io::Error::other("it died without an answer"));
    }
    Ok(text)
}

/// Ends the child; whether it has ended. A child that hangs in its driver ends only when
/// the driver returns, and is a zombie until this process waits for it.
fn is_gone(child: &mut Child, answered: bool, deadline: Deadline) -> bool {
    let mut asked = || !matches!(child.try_wait(), Ok(None));
    // It has answered and closed its output, so only its exit is left.
    if answered && deadline.wait_until(&mut asked) {
        return true;
    }
    // It may have ended already.
    let _ = child.kill();
    !matches!(child.try_wait(), Ok(None))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// It closes its output without an answer, and is killed; who goes on for long
    /// must not collect what is left of such children.
    #[test]
    fn a_child_that_was_killed_is_no_zombie_for_good() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let program = host.path(NVML_PROGRAM);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        let script = "#!/bin/sh\necho $$ > \"$0.pid\"\nexec > /dev/null\nexec sleep 1000\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let failure = host.nvml().ask(&Question::Gpus).unwrap_err();
        assert!(
            failure.message.ends_with("it died without an answer"),
            "{failure:?}"
        );
        let pid = fs::read_to_string(host.path(&format!("{NVML_PROGRAM}.pid"))).unwrap();
        let process = std::path::PathBuf::from(format!("/proc/{}", pid.trim()));
        let gone = Deadline::after(Duration::from_secs(30)).wait_until(|| {
            host.be_done_writing();
            !process.exists()
        });
        assert!(gone, "{}", process.display());
    }
}
