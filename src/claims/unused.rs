//! Single devices that the QEMU of a running VM has lost: the guest released one late,
//! or the process that made one died before QEMU got it. They are given back; the other
//! devices stay with the VM.
//!
//! QEMU has `/dev/vfio/GROUP` or `/dev/vfio/devices/vfioN` open from before its monitor
//! answers until it has released the device. So once libvirt has said `started`, a node
//! that no process has open proves that the device is unused. Before that, it proves
//! nothing.

use std::{io, time::Duration};

use super::{
    Claim, ClaimedDevice, DeviceOutcome, Released, State, release::give_back_devices, remove, save,
};
use crate::{
    host::{ClaimLock, Deadline, Holder, Host, Processes, boot_id},
    model::DeviceName,
};

impl Claim {
    /// The devices that the running domain has lost. Empty for a domain that is
    /// starting or being restored, or whose claim changed within `grace`.
    ///
    /// A claim that is not committed belongs to a failed start or to an earlier run. If
    /// the domain runs nevertheless, it has started without asking for devices.
    #[must_use]
    pub fn unused(&self, host: &Host, processes: &Processes, grace: Duration) -> Vec<DeviceName> {
        if !self.has_reached_qemu(host, grace) {
            return Vec::new();
        }
        let devices = self.devices.iter();
        let unused = devices.filter(|device| {
            self.has_left(host, device) || is_there_unopened(host, processes, device)
        });
        unused.map(|device| device.name.clone()).collect()
    }

    fn has_reached_qemu(&self, host: &Host, grace: Duration) -> bool {
        let is_started = self.launched && self.daemon.is_none();
        (is_started || self.state != State::Committed)
            && self.boot_id == boot_id(host)
            && self.age() >= grace
    }

    /// Whether the device disappeared while it was being taken back, and only the claim
    /// still lists it. A device that disappeared in another way stays claimed: the VM
    /// had it.
    fn has_left(&self, host: &Host, device: &ClaimedDevice) -> bool {
        (self.leaving.contains(&device.name) || self.state != State::Committed)
            && match device.is_there(host) {
                Ok(there) => !there,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            }
    }
}

fn is_there_unopened(host: &Host, processes: &Processes, device: &ClaimedDevice) -> bool {
    let is_open = || {
        let nodes = device.nodes(host)?;
        // A device without a node cannot be checked.
        let holder = processes.holder(host, &nodes);
        Ok::<_, io::Error>(nodes.is_empty() || holder != Holder::Nobody)
    };
    matches!(device.is_there(host), Ok(true)) && matches!(is_open(), Ok(false))
}

/// Removes some devices of a running domain, last first, and drops them from its claim.
/// With the last device the claim is removed, unless its medium is still lent.
pub fn give_back_part(
    host: &Host,
    lock: &ClaimLock<'_>,
    claim: &Claim,
    names: &[DeviceName],
    deadline: Deadline,
) -> Released {
    take_out(host, lock, claim, (names, None), deadline)
}

/// Removes devices that were made for a running domain whose claim was `before`. If a
/// device replaced another one, the other one is listed in the claim again.
pub fn undo_part(
    host: &Host,
    lock: &ClaimLock<'_>,
    claim: &Claim,
    (names, before): (&[DeviceName], &Claim),
    deadline: Deadline,
) -> Released {
    take_out(host, lock, claim, (names, Some(before)), deadline)
}

fn take_out(
    host: &Host,
    lock: &ClaimLock<'_>,
    claim: &Claim,
    (names, before): (&[DeviceName], Option<&Claim>),
    deadline: Deadline,
) -> Released {
    if names.is_empty() {
        return Released {
            devices: Vec::new(),
            claim_error: None,
            media_error: None,
        };
    }
    let (devices, claim_error) = match announce(host, lock, claim, names) {
        Err(error) => (Vec::new(), Some(error)),
        Ok(()) => {
            let goes = |device: &ClaimedDevice| names.contains(&device.name);
            let devices = give_back_devices(host, claim, goes, deadline);
            let error = shrink(host, lock, (claim, before), &devices).err();
            (devices, error)
        }
    };
    Released {
        devices,
        claim_error,
        media_error: None,
    }
}

/// Without this, after a crash, a device that we removed would look like one that was
/// pulled out of the host. Devices that were announced before stay announced.
fn announce(
    host: &Host,
    lock: &ClaimLock<'_>,
    claim: &Claim,
    unused: &[DeviceName],
) -> io::Result<()> {
    let mut announced = claim.clone();
    let is_new = |name: &&DeviceName| !claim.leaving.contains(name);
    announced
        .leaving
        .extend(unused.iter().filter(is_new).cloned());
    if announced.leaving == claim.leaving {
        return Ok(());
    }
    save(host, lock, &announced)
}

fn shrink(
    host: &Host,
    lock: &ClaimLock<'_>,
    (claim, before): (&Claim, Option<&Claim>),
    outcomes: &[(ClaimedDevice, DeviceOutcome)],
) -> io::Result<()> {
    let outcome = |device: &ClaimedDevice| {
        let mut outcomes = outcomes.iter();
        outcomes.find_map(|(one, outcome)| (one.name == device.name).then_some(outcome))
    };
    let mut rest = claim.clone();
    rest.devices
        .retain(|device| matches!(outcome(device), None | Some(DeviceOutcome::Kept(_))));
    // Devices that a driver, or another process before us, is still removing. A
    // complete device of ours may be used again.
    let is_leaving = |device: &&ClaimedDevice| match outcome(device) {
        Some(_) => !matches!(device.is_there(host), Ok(true)),
        None => claim.leaving.contains(&device.name),
    };
    let leaving = rest.devices.iter().filter(is_leaving);
    rest.leaving = leaving.map(|device| device.name.clone()).collect();
    for device in before.iter().flat_map(|before| &before.devices) {
        let was_replaced = outcome(device).is_some() && !claim.devices.contains(device);
        if was_replaced && rest.devices.iter().all(|one| one.name != device.name) {
            rest.devices.push(device.clone());
        }
    }
    if rest.is_empty() {
        remove(host, lock, claim.domain)
    } else {
        save(host, lock, &rest)
    }
}
