//! Virtual functions that are not handed out until they are repaired. A QEMU that
//! is killed while NVIDIA's plugin still initialises leaves its function wedged:
//! everything about it looks healthy, and the driver of the next guest never comes
//! up. Only functions made anew are free of it.

use std::{collections::BTreeMap, io};

use serde::{Deserialize, Serialize};

use super::Claim;
use crate::{
    device::{PCI_DEVICES, list, optional, pci, vendor_vfio},
    host::{ClaimLock, Host, HostLock},
    model::{DomainName, ParentName, PciAddress},
};

/// Where they are noted, a file each.
pub const QUARANTINE: &str = "/run/virt-vgpu/quarantine";

/// A function that is not handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The function.
    pub function: PciAddress,
    /// The domain that had it, where that is known.
    pub domain: Option<DomainName>,
    /// What happened, for people.
    pub reason: String,
    /// The inode of its directory in sysfs: a function that is made anew has
    /// another, and nothing of what was wrong with it.
    pub made: Option<u64>,
}

impl Quarantined {
    /// The reason with the remedy.
    #[must_use]
    pub fn in_words(&self, host: &Host) -> String {
        let gpu = vendor_vfio::gpu(host, self.function).ok().flatten();
        let gpu = gpu.map_or_else(|| "GPU".to_owned(), |gpu| gpu.to_string());
        format!(
            "{}; when no VM uses {gpu}, 'virt-vgpu host apply --renew {gpu}' repairs it",
            self.reason
        )
    }
}

/// Notes the claim's functions.
///
/// # Errors
/// The kernel's errno with the file's name.
pub fn quarantine(
    host: &Host,
    _lock: &ClaimLock<'_>,
    claim: &Claim,
    reason: &str,
) -> io::Result<()> {
    for (_, function) in claim.wedging() {
        let noted = Quarantined {
            function,
            domain: Some(claim.domain_name.clone()),
            reason: reason.to_owned(),
            // Without it the function is kept back until it is not there any more.
            made: made(host, function).ok().flatten(),
        };
        let path = path(function);
        let text = serde_json::to_string_pretty(&noted)? + "\n";
        host.make_directory(QUARANTINE, 0o755)
            .and_then(|()| host.replace_file(&path, text.as_bytes(), 0o644))
            .map_err(|error| {
                io::Error::new(error.kind(), format!("cannot write {path}: {error}"))
            })?;
    }
    Ok(())
}

impl Claim {
    /// What may have become of the functions of a VM that was killed this early.
    #[must_use]
    pub fn killed_early(&self) -> String {
        format!(
            "the QEMU of domain '{}' was killed while its vGPU was still starting, which may have \
             wedged the function",
            self.domain_name
        )
    }
}

/// Notes the functions of a domain that does not run any more, and of whose end nothing
/// is known but that it came early, or that somebody has noted something against them;
/// the reason. To be called before they go.
///
/// # Errors
/// As [`quarantine`].
pub fn quarantine_suspects(
    host: &Host,
    lock: &ClaimLock<'_>,
    claim: &Claim,
) -> io::Result<Option<String>> {
    let has_just_ended = claim.may_be_of_this_boot(host) && claim.may_be_wedged();
    let suspicion = claim
        .suspicion
        .clone()
        .or_else(|| has_just_ended.then(|| claim.killed_early()))
        .filter(|_| claim.wedging().next().is_some());
    if let Some(reason) = &suspicion {
        quarantine(host, lock, claim, reason)?;
    }
    Ok(suspicion)
}

fn made(host: &Host, function: PciAddress) -> io::Result<Option<u64>> {
    optional(host.inode(&format!("{PCI_DEVICES}/{function}")))
}

/// All that are still to be kept back. A file that cannot be understood keeps its
/// function back too.
///
/// # Errors
/// When the directory is there but cannot be listed.
pub fn quarantined(host: &Host) -> io::Result<Vec<Quarantined>> {
    let functions = functions(host)?.into_iter();
    Ok(functions
        .filter_map(|function| match noted(host, function) {
            Noted::There(noted) => {
                let now = made(host, noted.function);
                // One that cannot be looked at now may be the same.
                let is_same = noted.made.is_none() || now.map_or(true, |now| noted.made == now);
                is_same.then_some(noted)
            }
            Noted::Unreadable(noted) => Some(noted),
            Noted::Gone => None,
        })
        .collect())
}

/// Those that were noted and are repaired: made anew since, or not there any more,
/// which a function comes back from only by being made anew.
///
/// # Errors
/// When the directory, or the host's PCI functions, cannot be listed.
pub fn repaired(host: &Host) -> io::Result<Vec<PciAddress>> {
    let functions = functions(host)?;
    if functions.is_empty() {
        return Ok(functions);
    }
    let there = pci::functions(host)?;
    let is_repaired = |&function: &PciAddress| match noted(host, function) {
        Noted::There(noted) if there.iter().any(|(one, _)| *one == function) => {
            let now = made(host, function).ok().flatten();
            noted.made.is_some() && now.is_some() && noted.made != now
        }
        Noted::There(_) => true,
        Noted::Unreadable(_) | Noted::Gone => false,
    };
    Ok(functions.into_iter().filter(is_repaired).collect())
}

/// Forgets those that are repaired; their functions.
///
/// # Errors
/// As [`repaired`], or the kernel's errno with the file's name.
pub fn forget_repaired(host: &Host, _lock: &HostLock) -> io::Result<Vec<PciAddress>> {
    let repaired = repaired(host)?;
    for &function in &repaired {
        let path = path(function);
        host.remove_file(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot remove {path}: {error}"))
        })?;
    }
    Ok(repaired)
}

fn path(function: PciAddress) -> String {
    format!("{QUARANTINE}/{function}.json")
}

/// The functions that there are files about.
fn functions(host: &Host) -> io::Result<Vec<PciAddress>> {
    let names = optional(list(host, QUARANTINE))?.unwrap_or_default();
    let functions = names.iter().filter_map(|name| name.strip_suffix(".json"));
    let functions = functions.filter_map(|name| name.parse::<ParentName>().ok()?.pci());
    Ok(functions.collect())
}

/// What a file says.
enum Noted {
    There(Quarantined),
    /// With the problem as the reason.
    Unreadable(Quarantined),
    Gone,
}

fn noted(host: &Host, function: PciAddress) -> Noted {
    let path = path(function);
    let unreadable = |why: String| {
        Noted::Unreadable(Quarantined {
            reason: format!("{path} keeps it back and cannot be read ({why})"),
            domain: None,
            made: None,
            function,
        })
    };
    match host.read_file(&path) {
        Ok(text) => match serde_json::from_str::<Quarantined>(&text) {
            Ok(noted) => Noted::There(noted),
            Err(error) => unreadable(error.to_string()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Noted::Gone,
        Err(error) => unreadable(error.to_string()),
    }
}

/// The functions with reason and remedy, for planning.
///
/// # Errors
/// As [`quarantined`].
pub fn kept_back(host: &Host) -> io::Result<BTreeMap<PciAddress, String>> {
    let all = quarantined(host)?.into_iter();
    Ok(all.map(|one| (one.function, one.in_words(host))).collect())
}
