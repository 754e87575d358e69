//! Giving a claim's devices back.

use std::{io, time::Duration};

use super::{Claim, ClaimedDevice, ClaimedMedia, Standing, State, quarantine_whole, remove, save};
use crate::{
    apply::{NotTaken, take_back},
    device::step::Undo,
    domain::media_path,
    host::{ClaimLock, Deadline, DeviceLock, Holder, Host, Processes},
    model::DomainName,
};

/// How long to wait for one device. Other processes that wait for the same board must
/// not time out meanwhile.
const PATIENCE: Duration = Duration::from_secs(4);

/// The result for one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceOutcome {
    /// The device was removed.
    Removed,
    /// The device did not exist: it was never made, or its driver removed it.
    Absent,
    /// Another device has its UUID; that device was not touched.
    Foreign(String),
    /// The device could not be removed and stays claimed.
    Kept(String),
    /// The device did not get back the driver that it had. It is quarantined, and not
    /// claimed any more.
    Unfit(String),
}

/// The result for a claim.
#[derive(Debug)]
pub struct Released {
    /// Each device that was to be removed with its result, in order of removal.
    pub devices: Vec<(ClaimedDevice, DeviceOutcome)>,
    /// An error while updating the claim's file.
    pub claim_error: Option<io::Error>,
    /// An error while removing the medium. The claim then stays for a later try, but
    /// does not prevent a start.
    pub media_error: Option<io::Error>,
}

impl Released {
    /// Nothing was removed, because the claim could not be updated first.
    #[must_use]
    pub fn nothing(error: io::Error) -> Self {
        Self {
            devices: Vec::new(),
            claim_error: Some(error),
            media_error: None,
        }
    }

    /// Whether no device is left, so that the domain can start again.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.claim_error.is_none()
            && !self
                .devices
                .iter()
                .any(|(_, outcome)| matches!(outcome, DeviceOutcome::Kept(_)))
    }
}

/// Removes the claim's devices, last first, its medium, and then the claim itself. If a
/// process holds a device open, waits until `deadline`; after that the device stays in
/// the claim for a later try.
pub fn give_back(host: &Host, lock: &ClaimLock<'_>, claim: &Claim, deadline: Deadline) -> Released {
    // A start that finds no free device waits until this is done. If the disk is full, the
    // note is left out: giving devices back must not need disk space.
    if let Err(error) = note_releasing(host, lock, claim) {
        tracing::debug!("domain '{}': {error}", claim.domain_name);
    }
    let devices = give_back_devices(host, claim, |_| true, deadline);
    let media_error = remove_media(host, claim).err();
    let media = media_error.as_ref().and(claim.media.clone());
    let kept = devices.iter().rev();
    let kept = kept.filter(|(_, outcome)| matches!(outcome, DeviceOutcome::Kept(_)));
    let kept = kept.map(|(device, _)| device.clone()).collect();
    let claim_error = settle(host, lock, claim, kept, media).err();
    Released {
        devices,
        claim_error,
        media_error,
    }
}

/// Notes in the claim that its devices are being given back. A claim without devices
/// needs no note, because nobody would wait for it.
fn note_releasing(host: &Host, lock: &ClaimLock<'_>, claim: &Claim) -> io::Result<()> {
    if claim.devices.is_empty() || claim.state == State::Releasing {
        return Ok(());
    }
    let releasing = Claim {
        state: State::Releasing,
        ..claim.clone()
    };
    save(host, lock, &releasing)
}

/// Removes devices that a running domain has lost. The claim stays as it is: the
/// domain gets other devices instead, or keeps its claim to these.
pub fn give_back_lost(
    host: &Host,
    _lock: &ClaimLock<'_>,
    claim: &Claim,
    devices: &[ClaimedDevice],
    deadline: Deadline,
) -> Released {
    Released {
        devices: give_back_devices(host, claim, |device| devices.contains(device), deadline),
        claim_error: None,
        media_error: None,
    }
}

/// Removes the selected devices of the claim, last first.
pub(super) fn give_back_devices(
    host: &Host,
    claim: &Claim,
    goes: impl Fn(&ClaimedDevice) -> bool,
    deadline: Deadline,
) -> Vec<(ClaimedDevice, DeviceOutcome)> {
    let outcome = |device: &ClaimedDevice| {
        give_back_device(host, device, &claim.domain_name, deadline)
            .unwrap_or_else(|error| DeviceOutcome::Kept(error.to_string()))
    };
    let going = claim.devices.iter().rev().filter(|device| goes(device));
    going
        .map(|device| (device.clone(), outcome(device)))
        .collect()
}

fn remove_media(host: &Host, claim: &Claim) -> io::Result<()> {
    if claim.media.is_none() {
        return Ok(());
    }
    let path = media_path(claim.domain);
    host.remove_link(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot remove {path}: {error}")))
}

fn settle(
    host: &Host,
    lock: &ClaimLock<'_>,
    claim: &Claim,
    kept: Vec<ClaimedDevice>,
    media: Option<ClaimedMedia>,
) -> io::Result<()> {
    if kept.is_empty() && media.is_none() {
        return remove(host, lock, claim.domain);
    }
    let rest = Claim {
        state: State::Releasing,
        devices: kept,
        leaving: Vec::new(),
        suspicion: None,
        media,
        ..claim.clone()
    };
    save(host, lock, &rest)
}

/// Removes one device, or says why it stays. A device that was freed by a reset of its
/// board and then set to something else is left alone.
fn give_back_device(
    host: &Host,
    device: &ClaimedDevice,
    domain: &DomainName,
    deadline: Deadline,
) -> io::Result<DeviceOutcome> {
    /// Even without patience, wait this long for a lock that is about to be released.
    const MOMENT: Duration = Duration::from_millis(50);
    /// A scan of all processes is used for this long.
    const FRESH: Duration = Duration::from_millis(50);
    // Waits for processes that hold the device without taking the lock: others may need
    // its board.
    let standing = wait_for_driver(host, device, deadline.at_most(PATIENCE))?;
    if let Some(outcome) = without_removal(host, device, standing)? {
        return Ok(outcome);
    }
    if let Some(why) = wait_for_holders(host, device, deadline.at_most(PATIENCE))? {
        return Ok(DeviceOutcome::Kept(why));
    }
    let before = deadline.left();
    let soon = Deadline::after(before.max(MOMENT));
    let purpose = format!("a device of domain {domain}");
    let lock = DeviceLock::acquire(host, &device.lock_name(host), &purpose, soon);
    let _lock = match lock {
        Ok(lock) => lock,
        Err(error) => return Ok(DeviceOutcome::Kept(error.to_string())),
    };
    if let Some(outcome) = without_removal(host, device, device.standing(host)?)? {
        return Ok(outcome);
    }
    if before.saturating_sub(deadline.left()) > FRESH {
        if let Some(why) = wait_for_holders(host, device, Deadline::after(Duration::ZERO))? {
            return Ok(DeviceOutcome::Kept(why));
        }
    }
    let (mut unfit, mut failed) = (None, None);
    // Of functions that share a group, each comes back by itself.
    for undo in device.undo.iter().rev() {
        let taken_back = take_back_patiently(host, undo, deadline.at_most(PATIENCE));
        match (taken_back, undo) {
            (Ok(()), _) => {}
            (Err(error), Undo::Bound(bound)) if is_unfit(&error) => {
                let function = bound.before.function;
                let why = format!("{function} has not got its driver back: {error}");
                let is_in_use = error.kind() == io::ErrorKind::TimedOut;
                quarantine_whole(host, domain, &bound.before, (&why, is_in_use))?;
                unfit = unfit.or(Some(why));
            }
            (Err(error), _) => failed = failed.or(Some(error)),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(unfit.map_or(DeviceOutcome::Removed, DeviceOutcome::Unfit))
}

/// Whether a function is not to be tried again: a driver does not answer, or its own driver
/// does not take it. Other errors may pass.
fn is_unfit(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut || NotTaken::is(error)
}

/// The result for a device that does not exist as it was claimed and has left nothing.
fn without_removal(
    host: &Host,
    device: &ClaimedDevice,
    standing: Standing,
) -> io::Result<Option<DeviceOutcome>> {
    Ok(match standing {
        Standing::There => None,
        // A function that was pulled out leaves those that it took along.
        Standing::Gone if device.keeps_others(host)? => None,
        Standing::Gone => Some(DeviceOutcome::Absent),
        Standing::Busy(why) => Some(DeviceOutcome::Kept(why)),
        Standing::Foreign(what) => Some(DeviceOutcome::Foreign(what)),
    })
}

/// A function's plugin needs a moment to end after QEMU has ended. Until then its
/// driver answers `EBUSY`, or `EPERM` as for an open device. For a mediated device
/// there is only one try: the kernel removes the `remove` attribute at the first write.
fn take_back_patiently(host: &Host, undo: &Undo, deadline: Deadline) -> io::Result<()> {
    if matches!(undo, Undo::Device(_)) {
        return take_back(undo, host);
    }
    let mut latest = Ok(());
    deadline.wait_until(|| {
        latest = take_back(undo, host);
        !matches!(
            latest.as_ref().map_err(io::Error::kind),
            Err(io::ErrorKind::ResourceBusy | io::ErrorKind::PermissionDenied)
        )
    });
    latest
}

/// The state of the device once its driver has finished. A driver may still be making
/// or removing it for a process that has died.
fn wait_for_driver(
    host: &Host,
    device: &ClaimedDevice,
    deadline: Deadline,
) -> io::Result<Standing> {
    /// The kernel shows a complete device a moment before it accepts its removal.
    const SETTLE: Duration = Duration::from_millis(100);
    let mut latest = device.standing(host)?;
    if matches!(latest, Standing::Busy(_)) {
        let mut failed = None;
        deadline.wait_until(|| match device.standing(host) {
            Ok(standing) => {
                latest = standing;
                !matches!(latest, Standing::Busy(_))
            }
            Err(error) => {
                failed = Some(error);
                true
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        std::thread::sleep(SETTLE);
        latest = device.standing(host)?;
    }
    Ok(latest)
}

/// Waits until no process has the device open. Returns the process that has, or may
/// have, it open at the deadline.
fn wait_for_holders(
    host: &Host,
    device: &ClaimedDevice,
    deadline: Deadline,
) -> io::Result<Option<String>> {
    let mut latest = Ok(Holder::Nobody);
    deadline.wait_until(|| {
        latest = device
            .nodes(host)
            .and_then(|nodes| Ok(Processes::scan_to_free(host)?.holder(host, &nodes)));
        !matches!(latest, Ok(Holder::Process(_) | Holder::Unknown(_)))
    });
    Ok(match latest? {
        Holder::Nobody => None,
        Holder::Process(pid) => Some(format!("process {pid} still has {} open", device.handle)),
        Holder::Unknown(why) => Some(why),
    })
}
