//! The claim of a domain that runs, and single devices of it: plugged in, and given
//! back while the others stay.

use super::{
    Claim, ClaimedDevice, DeviceOutcome, Origin, Released, State, release::give_back_device,
    remove, save,
};
use crate::{
    host::{Deadline, Host, HostLock},
    model::{DeviceName, DomainName, DomainUuid},
};

impl Claim {
    /// A claim for a domain that runs and has nothing yet. Not on disk; it is
    /// committed, because of the domain's start nothing is left to wait for.
    #[must_use]
    pub fn of_running(host: &Host, domain: (DomainUuid, DomainName)) -> Self {
        Self {
            state: State::Committed,
            launched: true,
            daemon: None,
            ..Self::intent(host, domain, Origin::Prepare, Vec::new())
        }
    }

    /// Whether there is nothing in it that would have to be given back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.media.is_none()
    }
}

/// Removes the named devices of the claim, last first, and takes them out of it; the
/// claim itself goes when nothing is left in it. One that a process holds open is
/// waited for until `deadline` and then kept.
pub fn give_back_part(
    host: &Host,
    lock: &HostLock,
    claim: &Claim,
    names: &[DeviceName],
    deadline: Deadline,
) -> Released {
    let mut devices: Vec<(ClaimedDevice, DeviceOutcome)> = Vec::new();
    for device in claim.devices.iter().rev() {
        if !names.contains(&device.name) {
            continue;
        }
        let outcome = give_back_device(host, device, deadline)
            .unwrap_or_else(|error| DeviceOutcome::Kept(error.to_string()));
        devices.push((device.clone(), outcome));
    }
    let is_gone = |device: &ClaimedDevice| {
        let mut outcomes = devices.iter();
        outcomes.any(|(one, outcome)| one == device && !matches!(outcome, DeviceOutcome::Kept(_)))
    };
    let mut rest = claim.clone();
    rest.devices.retain(|device| !is_gone(device));
    let settled = if rest.is_empty() {
        remove(host, lock, claim.domain)
    } else {
        save(host, lock, &rest)
    };
    Released {
        devices,
        claim_error: settled.err(),
        media_error: None,
    }
}
