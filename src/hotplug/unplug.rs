//! Unplugging: the guest is asked for the device, and it goes back once the guest has
//! let go.

use std::time::Duration;

use super::{PlugError, Plugged, live};
use crate::{
    claims::{self, Claim, ClaimedDevice, Damaged},
    hook,
    host::{
        Deadline, Host, HostLock,
        libvirt::{Domain, LibvirtError},
    },
    model::{DeviceName, DomainName, DomainUuid},
};

/// As long as a hook's.
const LOCK_PATIENCE: Duration = hook::PATIENCE;

/// Why a device is not out.
#[derive(Debug, thiserror::Error)]
pub enum UnplugError {
    /// The guest has been asked and has not answered.
    #[error(
        "the guest of domain '{domain}' has not let go of {} in time, as its operating system has \
         to; the device stays the VM's until it does or the VM stops, and is freed by itself then{}",
        listed(devices),
        also_out(gone)
    )]
    NotLetGo {
        domain: DomainName,
        devices: Vec<DeviceName>,
        /// Those that it has let go of, which were given back.
        gone: Vec<DeviceName>,
    },
    /// The guest has let go, and the host has not.
    #[error(
        "the guest of domain '{domain}' has let go, but {why}; 'virt-vgpu reconcile' tries again"
    )]
    NotGivenBack { domain: DomainName, why: String },
    #[error(transparent)]
    Libvirt(#[from] LibvirtError),
    #[error(transparent)]
    Domain(PlugError),
}

fn listed(names: &[DeviceName]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    quoted.join(", ")
}

fn also_out(gone: &[DeviceName]) -> String {
    match gone {
        [] => String::new(),
        gone => format!(" ({} went back)", listed(gone)),
    }
}

/// Takes devices out of a domain that runs and gives them back. Those that it does
/// not have are only given back. The answer names those that were given back.
///
/// # Errors
/// When the guest does not let go of one within `patience`, or libvirt or the host
/// refuses. Those that it has let go of are given back all the same.
pub fn unplug(
    host: &Host,
    domain: &Domain,
    names: &[DeviceName],
    patience: Duration,
) -> Result<Vec<Plugged>, UnplugError> {
    let def = &live::running(domain).map_err(UnplugError::Domain)?;
    let claim = claims::load(host, def.uuid)
        .map_err(|damaged| UnplugError::Domain(PlugError::Allocate(damaged.into())))?;
    let deadline = Deadline::after(patience);
    let (mut asked, mut refusal) = (Vec::new(), None);
    for name in names {
        let Some(key) = live::detachable(def, name) else {
            continue;
        };
        match domain.detach_live(&key, &format!("hostdev '{name}'")) {
            Err(error) if !is_being_unplugged(&error) => refusal = refusal.or(Some(error)),
            _ => asked.push(name.clone()),
        }
    }
    let mut held: Vec<DeviceName> = Vec::new();
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
    if let Some(error) = unknown {
        return Err(UnplugError::Domain(error));
    }
    let its = claim.iter().flat_map(|claim| &claim.devices);
    let free: Vec<ClaimedDevice> = its
        .filter(|device| names.contains(&device.name) && !held.contains(&device.name))
        .cloned()
        .collect();
    if let Some(claim) = claim.filter(|_| !free.is_empty()) {
        give_back(host, &claim, None, &free).map_err(|why| UnplugError::NotGivenBack {
            domain: def.name.clone(),
            why,
        })?;
    }
    if let Some(error) = refusal {
        return Err(error.into());
    }
    if !held.is_empty() {
        return Err(UnplugError::NotLetGo {
            domain: def.name.clone(),
            devices: held,
            gone: free.into_iter().map(|device| device.name).collect(),
        });
    }
    Ok(free.iter().map(Plugged::from).collect())
}

/// What a domain's claim has, whether or not it is plugged in.
///
/// # Errors
/// When the claim cannot be read.
pub fn held(host: &Host, domain: DomainUuid) -> Result<Vec<Plugged>, Damaged> {
    let claim = claims::load(host, domain)?;
    let devices = claim.iter().flat_map(|claim| &claim.devices);
    Ok(devices.map(Plugged::from).collect())
}

/// QEMU's word for a second request while the guest still thinks about the first
/// (`qmp_device_del`).
fn is_being_unplugged(error: &LibvirtError) -> bool {
    let text = error.to_string();
    text.contains("already in the process of unplug")
}

/// Those of the devices that the domain has. One that runs no more has none: its end
/// has given them back.
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

/// Gives devices of a domain's claim back under the host lock. `known` is the claim
/// as it was when the devices were its; `before` what it was before they were made.
/// The reason why one is kept.
pub(super) fn give_back(
    host: &Host,
    known: &Claim,
    before: Option<&Claim>,
    devices: &[ClaimedDevice],
) -> Result<(), String> {
    let deadline = Deadline::after(LOCK_PATIENCE);
    let purpose = format!("unplugging devices of domain {}", known.domain_name);
    let lock = HostLock::acquire(host, &purpose, deadline).map_err(|error| error.to_string())?;
    let now = claims::load(host, known.domain).map_err(|error| error.to_string())?;
    let Some(mut now) = now.filter(|now| is_same_run(known, now)) else {
        return Ok(());
    };
    let its = devices.iter().filter(|device| now.devices.contains(device));
    let names: Vec<DeviceName> = its.map(|device| device.name.clone()).collect();
    let released = match before {
        Some(before) => {
            // A run is as old as it was: what was young is gone.
            now.since_boot_ms = before.since_boot_ms;
            claims::undo_part(host, &lock, &now, (&names, before), deadline)
        }
        None => claims::give_back_part(host, &lock, &now, &names, deadline),
    };
    hook::log_released(&now.domain_name, now.domain, &released);
    if released.is_complete() {
        Ok(())
    } else {
        Err(hook::kept_reason(&released))
    }
}

/// Whether the claim is still about the run that it was about. A start makes a new one,
/// whose steps are noted in it; once QEMU runs it holds its devices open.
fn is_same_run(known: &Claim, now: &Claim) -> bool {
    now.since_boot_ms == known.since_boot_ms
        || (now.launched >= known.launched && now.daemon == known.daemon)
}
