//! Giving a claim's devices back.

use std::{io, time::Duration};

use super::{Claim, ClaimedDevice, ClaimedMedia, DeviceKind, State, remove, save};
use crate::{
    apply::take_back,
    device::{
        Sysfs,
        mdev::{self, Mdev},
        vendor_vfio,
    },
    domain::media_path,
    host::{Deadline, Holder, Host, HostLock, Processes},
    model::MdevUuid,
};

/// How long one device is waited for, with the host lock held: others must not
/// run out of their own patience meanwhile.
const PATIENCE: Duration = Duration::from_secs(4);

/// What became of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceOutcome {
    /// It was there and was removed.
    Removed,
    /// It was not there: never made, or its driver removed it.
    Absent,
    /// Another device has its UUID; that one was not touched.
    Foreign(String),
    /// It could not be removed and stays claimed.
    Kept(String),
}

/// What became of a claim.
#[derive(Debug)]
pub struct Released {
    /// Each device that was to go with its outcome, in the order they were given back.
    pub devices: Vec<(ClaimedDevice, DeviceOutcome)>,
    /// A failure to bring the claim's file up to date.
    pub claim_error: Option<io::Error>,
    /// A failure to take the medium away. The claim then stays for a later try,
    /// but never in the way of a start.
    pub media_error: Option<io::Error>,
}

impl Released {
    /// Nothing went, because that could not be noted.
    #[must_use]
    pub fn nothing(error: io::Error) -> Self {
        Self {
            devices: Vec::new(),
            claim_error: Some(error),
            media_error: None,
        }
    }

    /// Whether no device is left, so that the domain can start anew.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.claim_error.is_none()
            && !self
                .devices
                .iter()
                .any(|(_, outcome)| matches!(outcome, DeviceOutcome::Kept(_)))
    }
}

/// Removes the claim's devices, last first, its medium, and then the claim
/// itself. A device that a process holds open is waited for until `deadline`
/// and then kept in the claim for a later try.
pub fn give_back(host: &Host, lock: &HostLock, claim: &Claim, deadline: Deadline) -> Released {
    let mut devices = Vec::new();
    for device in claim.devices.iter().rev() {
        devices.push((device.clone(), give_back_device(host, device, deadline)));
    }
    let kept: Vec<ClaimedDevice> = devices
        .iter()
        .rev()
        .filter(|(_, outcome)| matches!(outcome, DeviceOutcome::Kept(_)))
        .map(|(device, _)| device.clone())
        .collect();
    let media_error = remove_media(host, claim).err();
    let media = media_error.as_ref().and(claim.media.clone());
    let claim_error = settle(host, lock, claim, kept, media).err();
    Released {
        devices,
        claim_error,
        media_error,
    }
}

/// Removes devices and leaves their claim as it is: a domain that runs and has lost
/// them gets others in their place, or keeps its claim to these.
pub fn make_way(
    host: &Host,
    _lock: &HostLock,
    devices: &[ClaimedDevice],
    deadline: Deadline,
) -> Released {
    let outcome =
        |device: &ClaimedDevice| (device.clone(), give_back_device(host, device, deadline));
    Released {
        devices: devices.iter().map(outcome).collect(),
        claim_error: None,
        media_error: None,
    }
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
    lock: &HostLock,
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

/// Removes one device, or says why it stays.
pub(super) fn give_back_device(
    host: &Host,
    device: &ClaimedDevice,
    deadline: Deadline,
) -> DeviceOutcome {
    match device.kind {
        DeviceKind::Mdev => give_back_mdev(host, device, deadline),
        DeviceKind::VendorVfio => give_back_function(host, device, deadline),
    }
    .unwrap_or_else(|error| DeviceOutcome::Kept(error.to_string()))
}

/// A function may have been freed by a reset of its GPU, and set to something
/// else by somebody since. Its plugin needs a moment to end after QEMU has; until
/// then the driver answers `EBUSY`, or `EPERM` as for one that is open.
fn give_back_function(
    host: &Host,
    device: &ClaimedDevice,
    deadline: Deadline,
) -> io::Result<DeviceOutcome> {
    let name = device.function()?;
    if !vendor_vfio::is_function(host, name) {
        return Ok(DeviceOutcome::Absent);
    }
    match vendor_vfio::current(host, name)? {
        None => return Ok(DeviceOutcome::Absent),
        Some(id) if id.to_string() != device.type_id.as_str() => {
            let text = format!("{name} has the type {id} now, not {}", device.type_id);
            return Ok(DeviceOutcome::Foreign(text));
        }
        Some(_) => {}
    }
    if let Some(why) = wait_for_holders(host, device, deadline.at_most(PATIENCE))? {
        return Ok(DeviceOutcome::Kept(why));
    }
    let release = vendor_vfio::release(name);
    let mut latest = Ok(());
    deadline.at_most(PATIENCE).wait_until(|| {
        latest = take_back(&release, host);
        !matches!(
            latest.as_ref().map_err(io::Error::kind),
            Err(io::ErrorKind::ResourceBusy | io::ErrorKind::PermissionDenied)
        )
    });
    latest?;
    Ok(DeviceOutcome::Removed)
}

fn give_back_mdev(
    host: &Host,
    device: &ClaimedDevice,
    deadline: Deadline,
) -> io::Result<DeviceOutcome> {
    let parent = mdev::parent_named(host, &device.parent);
    let removal = mdev::removal(&parent, device.uuid);
    let traces = mdev::traces(&parent, device.uuid);
    let Some(found) = wait_for_driver(host, device.uuid, &traces, deadline.at_most(PATIENCE))?
    else {
        return Ok(if traces.iter().any(|path| host.exists(path)) {
            DeviceOutcome::Kept(format!("{} is still busy with it", device.parent))
        } else {
            DeviceOutcome::Absent
        });
    };
    if !device.is(&found) {
        let text = format!(
            "{} is now {} on {}, not {} on {}",
            device.uuid, found.type_id, found.parent, device.type_id, device.parent
        );
        return Ok(DeviceOutcome::Foreign(text));
    }
    if let Some(why) = wait_for_holders(host, device, deadline.at_most(PATIENCE))? {
        return Ok(DeviceOutcome::Kept(why));
    }
    take_back(&removal, host)?;
    Ok(DeviceOutcome::Removed)
}

/// The device, once its driver has done with it. A driver may still be making or
/// removing it for a writer that is gone: then there are traces of it but no
/// whole device.
fn wait_for_driver(
    host: &Host,
    uuid: MdevUuid,
    traces: &[String],
    deadline: Deadline,
) -> io::Result<Option<Mdev>> {
    /// The kernel shows a device whole a moment before it takes removals.
    const SETTLE: Duration = Duration::from_millis(100);
    let mut latest = mdev::find(host, uuid);
    let is_busy = |latest: &io::Result<_>| {
        matches!(latest, Ok(None)) && traces.iter().any(|path| host.exists(path))
    };
    if is_busy(&latest) {
        deadline.wait_until(|| {
            latest = mdev::find(host, uuid);
            !is_busy(&latest)
        });
        std::thread::sleep(SETTLE);
        latest = mdev::find(host, uuid);
    }
    latest
}

/// Waits until no process has the device open; who still has, or may have, at the
/// deadline.
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
        Holder::Process(pid) => Some(format!("process {pid} still has {} open", device.label())),
        Holder::Unknown(why) => Some(why),
    })
}
