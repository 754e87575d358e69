//! Unplugs devices: the guest is asked to release the device, and the device is given
//! back when the guest has released it.

use std::time::Duration;

use super::{PlugError, Plugged, live};
use crate::{
    allocate,
    claims::{self, Claim, ClaimedDevice, Damaged, Released},
    events,
    host::{
        ClaimLock, Deadline, Host, Processes,
        libvirt::{Domain, LibvirtError},
    },
    model::{DeviceName, DomainName, DomainUuid},
};

/// As long as a hook's deadline.
const LOCK_PATIENCE: Duration = allocate::PATIENCE;

/// Why a device is not unplugged, or not given back.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct UnplugError {
    cause: Cause,
    /// The devices that the guest has, or may have. It has released all others.
    pub held: Vec<DeviceName>,
    /// The released devices that the domain held and that the message mentions.
    pub out: Vec<DeviceName>,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    /// The guest was asked and has not answered.
    #[error(
        "the guest of domain '{domain}' has not released {} in time, which its operating system \
         must do; the VM keeps the device until then or until the VM stops, and then it is freed \
         automatically{}",
        listed(devices),
        also_out(gone)
    )]
    NotLetGo {
        domain: DomainName,
        devices: Vec<DeviceName>,
        /// The devices that it has released, which were given back.
        gone: Vec<DeviceName>,
    },
    /// The guest has released the devices, but the host has not.
    #[error(
        "the guest of domain '{domain}' has released {}, but {why}; 'virt-vgpu reconcile' tries \
         again{}",
        listed(gone),
        still_in(devices)
    )]
    NotGivenBack {
        domain: DomainName,
        gone: Vec<DeviceName>,
        why: String,
        /// The devices that it has not released.
        devices: Vec<DeviceName>,
    },
    #[error("{cause}{}", also_out(gone))]
    Libvirt {
        cause: LibvirtError,
        gone: Vec<DeviceName>,
    },
    #[error("{cause}{}", also_out(gone))]
    Domain {
        cause: PlugError,
        gone: Vec<DeviceName>,
    },
}

fn listed(names: &[DeviceName]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    quoted.join(", ")
}

fn also_out(gone: &[DeviceName]) -> String {
    match gone {
        [] => String::new(),
        gone => format!(" (given back: {})", listed(gone)),
    }
}

fn still_in(held: &[DeviceName]) -> String {
    match held {
        [] => String::new(),
        held => format!(" (it still has {})", listed(held)),
    }
}

/// Unplugs devices from a running domain and gives them back. Devices that it does not
/// have are only given back. Returns the devices that were given back.
///
/// # Errors
/// When the guest does not release one within `patience`, or libvirt or the host
/// refuses. The released devices are given back anyway.
pub fn unplug(
    host: &Host,
    domain: &Domain,
    names: &[DeviceName],
    patience: Duration,
) -> Result<Vec<Plugged>, UnplugError> {
    let untouched = |cause: PlugError| UnplugError {
        cause: Cause::Domain {
            cause,
            gone: Vec::new(),
        },
        held: names.to_vec(),
        out: Vec::new(),
    };
    let def = &live::running(domain).map_err(untouched)?;
    let claim = claims::load(host, def.uuid)
        .map_err(|damaged| untouched(PlugError::Allocate(damaged.into())))?;
    let deadline = Deadline::after(patience);
    let (mut asked, mut refusal) = (Vec::new(), None);
    let mut held: Vec<DeviceName> = Vec::new();
    for name in names {
        let Some(key) = live::detachable(def, name) else {
            continue;
        };
        held.push(name.clone());
        match domain.detach_live(&key, &format!("hostdev '{name}'")) {
            Err(error) if !is_being_unplugged(&error) => refusal = refusal.or(Some(error)),
            _ => asked.push(name.clone()),
        }
    }
    let mut unknown = None;
    deadline.wait_until(|| match still_there(domain, names) {
        Ok(there) => {
            held = there;
            !asked.iter().any(|name| held.contains(name))
        }
        Err(error) => {
            unknown = Some(error);
            true
        }
    });
    let its = claim.iter().flat_map(|claim| &claim.devices);
    let free: Vec<ClaimedDevice> = its
        .filter(|device| names.contains(&device.name) && !held.contains(&device.name))
        .cloned()
        .collect();
    let given_back = match claim.filter(|_| !free.is_empty()) {
        Some(claim) => give_back(host, &claim, None, &free),
        None => Ok(()),
    };
    let gone: Vec<DeviceName> = free.iter().map(|device| device.name.clone()).collect();
    let (out, domain, devices) = (gone.clone(), def.name.clone(), held.clone());
    let cause = match (given_back, unknown, refusal) {
        (Err(why), ..) => Cause::NotGivenBack {
            domain,
            gone,
            why,
            devices,
        },
        (_, Some(cause), _) => Cause::Domain { cause, gone },
        // The domain no longer has it, whatever libvirt has said.
        _ if held.is_empty() => return Ok(free.iter().map(Plugged::from).collect()),
        (_, _, Some(cause)) => Cause::Libvirt { cause, gone },
        _ => Cause::NotLetGo {
            domain,
            devices,
            gone,
        },
    };
    Err(UnplugError { cause, held, out })
}

/// Gives back devices of a running domain's claim that its QEMU no longer has, however
/// young the claim is. Returns whether none of them is left: QEMU may need some more
/// time. A device that the kernel is about to remove stays claimed, so that the domain
/// gets it again when it reappears.
///
/// # Errors
/// When this cannot be determined, or a device cannot be removed.
pub fn take_back(host: &Host, claim: &Claim, names: &[DeviceName]) -> anyhow::Result<bool> {
    let unused = claim.unused(host, &Processes::scan_to_free(host)?, Duration::ZERO);
    let goes = |device: &&ClaimedDevice| {
        let name = &device.name;
        names.contains(name) && unused.contains(name) && device.is_to_stay(host)
    };
    let free: Vec<ClaimedDevice> = claim.devices.iter().filter(goes).cloned().collect();
    if !free.is_empty() {
        give_back(host, claim, None, &free).map_err(anyhow::Error::msg)?;
    }
    Ok(free.len() == names.len())
}

/// The devices in a domain's claim, plugged in or not.
///
/// # Errors
/// When the claim cannot be read.
pub fn held(host: &Host, domain: DomainUuid) -> Result<Vec<Plugged>, Damaged> {
    let claim = claims::load(host, domain)?;
    let devices = claim.iter().flat_map(|claim| &claim.devices);
    Ok(devices.map(Plugged::from).collect())
}

/// QEMU's answer to a second request while the guest has not finished the first
/// (`qmp_device_del`).
fn is_being_unplugged(error: &LibvirtError) -> bool {
    let text = error.to_string();
    text.contains("already in the process of unplug")
}

/// Those of the devices that the domain still has. A domain that is no longer running
/// has none: its devices were given back when it ended.
fn still_there(domain: &Domain, names: &[DeviceName]) -> Result<Vec<DeviceName>, PlugError> {
    if !domain.is_active()? {
        return Ok(Vec::new());
    }
    let def = live::definition(domain)?;
    let there = names
        .iter()
        .filter(|name| live::detachable(&def, name).is_some());
    Ok(there.cloned().collect())
}

/// Gives back devices of a domain's claim. `known` is the claim when the domain had the
/// devices; `before` is the claim before they were made. Returns why a device is kept,
/// if one is.
pub(super) fn give_back(
    host: &Host,
    known: &Claim,
    before: Option<&Claim>,
    devices: &[ClaimedDevice],
) -> Result<(), String> {
    let deadline = Deadline::after(LOCK_PATIENCE);
    let purpose = format!("unplugging devices of domain {}", known.domain_name);
    let lock = ClaimLock::acquire(host, known.domain, &purpose, deadline)
        .map_err(|error| error.to_string())?;
    let released = give_back_locked(host, &lock, known, before, devices, deadline);
    claims::unlock(host, lock);
    let Some(released) = released? else {
        return Ok(());
    };
    events::log_released(&known.domain_name, known.domain, &released);
    if released.is_complete() {
        Ok(())
    } else {
        Err(events::kept_reason(&released))
    }
}

/// None if the run that had the devices is over.
fn give_back_locked(
    host: &Host,
    lock: &ClaimLock<'_>,
    known: &Claim,
    before: Option<&Claim>,
    devices: &[ClaimedDevice],
    deadline: Deadline,
) -> Result<Option<Released>, String> {
    let now = claims::load(host, known.domain).map_err(|error| error.to_string())?;
    let Some(mut now) = now.filter(|now| known.is_of_run(now)) else {
        return Ok(None);
    };
    let its = devices.iter().filter(|device| now.devices.contains(device));
    let names: Vec<DeviceName> = its.map(|device| device.name.clone()).collect();
    Ok(Some(match before {
        Some(before) => {
            // The run has its former age again: the young devices are gone.
            now.since_boot_ms = before.since_boot_ms;
            claims::undo_part(host, lock, &now, (&names, before), deadline)
        }
        None => claims::give_back_part(host, lock, &now, &names, deadline),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<DeviceName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn every_error_says_what_went_out() {
        let domain: DomainName = "vm1".parse().unwrap();
        let not_let_go = |gone: &[&str]| Cause::NotLetGo {
            domain: domain.clone(),
            devices: names(&["a"]),
            gone: names(gone),
        };
        let not_given_back = |devices: &[&str]| Cause::NotGivenBack {
            domain: domain.clone(),
            gone: names(&["b", "c"]),
            why: "it is busy".to_owned(),
            devices: names(devices),
        };
        let stopped = |gone: &[&str]| Cause::Domain {
            cause: PlugError::NotRunning("vm1".to_owned()),
            gone: names(gone),
        };
        let late = "the guest of domain 'vm1' has not released 'a' in time, which its operating \
                    system must do; the VM keeps the device until then or until the VM stops, and \
                    then it is freed automatically";
        let busy = "the guest of domain 'vm1' has released 'b', 'c', but it is busy; 'virt-vgpu \
                    reconcile' tries again";
        let stops = "domain 'vm1' is not running: there is nothing to plug a device into; start it \
                     first";
        for (cause, wanted) in [
            (not_let_go(&[]), late.to_owned()),
            (
                not_let_go(&["b", "c"]),
                format!("{late} (given back: 'b', 'c')"),
            ),
            (not_given_back(&[]), busy.to_owned()),
            (not_given_back(&["a"]), format!("{busy} (it still has 'a')")),
            (stopped(&[]), stops.to_owned()),
            (stopped(&["b"]), format!("{stops} (given back: 'b')")),
        ] {
            assert_eq!(cause.to_string(), wanted);
        }
    }
}
