//! NVIDIA's `sriov-manage`, which makes virtual functions and takes them away: the
//! driver refuses `sriov_numvfs`. It binds the GPU again, and needs it for itself.

use std::{io, time::Duration};

use super::{
    steps::SRIOV_MANAGE,
    work::{OTHERS, PURPOSE},
};
use crate::{
    device::readiness,
    host::{Deadline, DeviceLock, DriverLock, Host, LockError, gpu_openers, patience},
    model::PciAddress,
};

/// Why a step was not done.
#[derive(Debug)]
pub(super) enum NotDone {
    /// It must not be done now.
    Refused(String),
    /// It was tried.
    Failed(String),
}

impl NotDone {
    /// The reason.
    pub(super) fn why(self) -> String {
        match self {
            Self::Refused(why) | Self::Failed(why) => why,
        }
    }
}

/// Proof that no other of our processes asks anything of NVIDIA's driver as a whole, or of
/// that GPU.
#[derive(Debug)]
pub(super) struct Alone {
    /// A start takes it only to destroy something: who has it for long counts as hanging.
    _gpu: Option<DeviceLock>,
    _driver: DriverLock,
}

impl Alone {
    /// Waits until that is so.
    pub(super) fn with(host: &Host, gpu: PciAddress) -> Result<Self, NotDone> {
        /// How long a start or a stop on the GPU may take.
        const STARTS: Duration = Duration::from_secs(60);
        let not_got = |error: LockError| NotDone::Failed(error.to_string());
        let others = Deadline::after(OTHERS);
        let driver = DriverLock::acquire(host, PURPOSE, others).map_err(not_got)?;
        let starts = Deadline::after(STARTS);
        let gpu = DeviceLock::acquire(host, &gpu.into(), PURPOSE, starts).map_err(not_got)?;
        Ok(Self {
            _gpu: Some(gpu),
            _driver: driver,
        })
    }

    /// The same for a start, which waits until its deadline. Other starts go on with the GPU.
    pub(super) fn for_start(
        host: &Host,
        purpose: &str,
        deadline: Deadline,
    ) -> Result<Self, LockError> {
        Ok(Self {
            _gpu: None,
            _driver: DriverLock::acquire(host, purpose, deadline)?,
        })
    }
}

/// How long virtual functions may take after `sriov-manage -e` has ended well, before it
/// is run again: vGPU 17.2 makes none for a while after the driver was loaded.
const PAUSES: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(30)];

/// Makes the virtual functions of a GPU that has none.
pub(super) fn make_functions(host: &Host, gpu: PciAddress) -> Result<(), NotDone> {
    let run = |flag: &str| sriov_manage(host, flag, gpu, &Alone::with(host, gpu)?);
    let are_there = || -> io::Result<bool> { Ok(!readiness::functions(host, gpu)?.are_missing()) };
    let wait = |span| {
        // An error is told by the look behind.
        patience(span).wait_until(|| are_there().unwrap_or(true));
    };
    until_there(run, are_there, wait)
}

/// Runs `sriov-manage -e`, and once more after each pause. It ends well, without a
/// word, also where it makes nothing. A second `-e` alone would change nothing: it
/// finds the GPU as it left it.
fn until_there(
    mut run: impl FnMut(&str) -> Result<String, NotDone>,
    are_there: impl Fn() -> io::Result<bool>,
    mut wait: impl FnMut(Duration),
) -> Result<(), NotDone> {
    let there = || are_there().map_err(|error| NotDone::Failed(error.to_string()));
    let mut said = run("-e")?;
    for pause in PAUSES {
        if there()? {
            return Ok(());
        }
        wait(pause);
        if there()? {
            return Ok(());
        }
        run("-d")?;
        said = run("-e")?;
    }
    if there()? {
        return Ok(());
    }
    let said = match said.as_str() {
        "" => "it says nothing".to_owned(),
        said => format!("it says '{said}'"),
    };
    let pauses = PAUSES.map(|pause| format!("{} s", pause.as_secs()));
    Err(NotDone::Failed(format!(
        "sriov-manage -e made no virtual functions, nor after {} more, with -d before it; {said}; \
         either this version of NVIDIA's driver makes no vGPUs on this board ('journalctl -k -g \
         NVRM' shows its messages), or SR-IOV, ARI or above-4G decoding is off in the firmware, or \
         the IOMMU in the kernel",
        pauses.join(" and ")
    )))
}

/// Runs NVIDIA's program, and returns what it says. It wants the GPU's `unbindLock`, which it gets while
/// nobody has the GPU open; short visitors, such as a monitoring program, are
/// worth another try, and nothing else is.
pub(super) fn sriov_manage(
    host: &Host,
    flag: &str,
    gpu: PciAddress,
    _alone: &Alone,
) -> Result<String, NotDone> {
    const LOCKED: &str = "Cannot obtain unbindLock";
    const PATIENCE: Duration = Duration::from_secs(120);
    const PAUSE: Duration = Duration::from_secs(1);
    const TRIES: u32 = 6;
    let arguments = [flag, &gpu.to_string()];
    let mut said = String::new();
    for _ in 0..TRIES {
        let deadline = Deadline::after(PATIENCE);
        let ended = host
            .run_program(SRIOV_MANAGE, &arguments, deadline)
            .map_err(|error| NotDone::Failed(no_sriov_manage(&error)))?;
        said = ended.in_one_line();
        if ended.status.success() {
            return Ok(said);
        }
        if !ended.said.contains(LOCKED) {
            return Err(NotDone::Failed(format!(
                "sriov-manage {flag} failed ({}): {said}; 'journalctl -k -g NVRM' shows its \
                 messages",
                ended.status
            )));
        }
        patience(PAUSE).wait_until(|| false);
    }
    Err(NotDone::Failed(format!(
        "sriov-manage {flag} failed {TRIES} times: {said}; {}",
        who_has_it_open(host)
    )))
}

fn no_sriov_manage(error: &io::Error) -> String {
    let next = match error.kind() {
        io::ErrorKind::TimedOut => "it goes on; 'journalctl -k -g NVRM' shows what it waits for",
        io::ErrorKind::NotFound => "it comes with NVIDIA's vGPU driver for KVM: install that one",
        _ => "check that it can be run",
    };
    format!("{SRIOV_MANAGE}: {error}; {next}")
}

/// The next step when others keep the driver from a change.
#[must_use]
pub fn who_has_it_open(host: &Host) -> String {
    let openers = gpu_openers(host);
    let named: Vec<String> = openers.iter().map(ToString::to_string).collect();
    if named.is_empty() {
        "stop what uses the driver (nvidia-smi, DCGM, exporters), then try again".to_owned()
    } else {
        format!(
            "stop what has the driver open, then try again: {}",
            named.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What is run and waited for when functions are there after so many of these.
    fn story(there_after: usize) -> (Vec<String>, Result<(), String>) {
        let story = RefCell::new(Vec::new());
        let told = |what: String| story.borrow_mut().push(what);
        let result = until_there(
            |flag| {
                told(flag.to_owned());
                Ok(String::new())
            },
            || Ok(story.borrow().len() >= there_after),
            |span| told(format!("{span:?}")),
        );
        let result = result.map_err(NotDone::why);
        (story.into_inner(), result)
    }

    #[test]
    fn a_silent_failure_is_tried_again_from_the_ground() {
        let all = ["-e", "15s", "-d", "-e", "30s", "-d", "-e"];
        for (there_after, runs) in [(1, 1), (2, 2), (4, 4), (5, 5), (7, 7)] {
            let (story, result) = story(there_after);
            assert_eq!(story, all[..runs]);
            assert_eq!(result, Ok(()));
        }
        let (told, result) = story(8);
        assert_eq!(told, all);
        assert_eq!(
            result.unwrap_err(),
            "sriov-manage -e made no virtual functions, nor after 15 s and 30 s more, with -d before \
             it; it says nothing; either this version of NVIDIA's driver makes no vGPUs on this board \
             ('journalctl -k -g NVRM' shows its messages), or SR-IOV, ARI or above-4G decoding is \
             off \
             in the firmware, or the IOMMU in the kernel"
        );
    }
}
