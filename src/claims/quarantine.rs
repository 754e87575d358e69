//! Functions that are not handed out until they are repaired.
//!
//! If QEMU is killed while NVIDIA's plugin still initialises, a virtual function looks
//! healthy afterwards, but the driver of the next guest never starts. Only recreating the
//! function repairs it. A whole function is unfit if it does not answer, or if the driver
//! that it had does not let it go or does not take it back. It is repaired when that driver
//! has it again.

use std::{collections::BTreeMap, io, time::Duration};

use serde::{Deserialize, Serialize};

use super::Claim;
use crate::{
    apply::take_back,
    device::{
        PCI_DEVICES, Sysfs, board_of,
        driver::{self, VFIO_PCI},
        list, optional, pci,
        step::{Binding, Bound, Undo},
        vendor_vfio, vfio_nodes,
    },
    host::{ClaimLock, Deadline, DeviceLock, Holder, Host, HostLock, Processes},
    model::{DomainName, ParentName, PciAddress},
};

/// The directory of the quarantine, with one file for each function.
pub const QUARANTINE: &str = "/run/virt-vgpu/quarantine";

/// A function that is not handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The function.
    pub function: PciAddress,
    /// The domain that had it, if known.
    pub domain: Option<DomainName>,
    /// What happened, for people.
    pub reason: String,
    /// The inode of the function's directory in sysfs. A recreated function has another
    /// inode, and works again.
    pub made: Option<u64>,
    /// For a whole function, what it had before a VM was to have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Binding>,
    /// Whether something on the host may be using it: its driver does not let it go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_in_use: bool,
}

impl Quarantined {
    /// The reason with the remedy.
    #[must_use]
    pub fn in_words(&self, host: &Host) -> String {
        if let Some(before) = &self.before {
            return format!("{}; {}", self.reason, self.remedy(before));
        }
        let gpu = vendor_vfio::gpu(host, self.function).ok().flatten();
        let gpu = gpu.map_or_else(|| "GPU".to_owned(), |gpu| gpu.to_string());
        format!(
            "{}; when no VM uses {gpu}, 'virt-vgpu host apply --renew {gpu}' repairs it",
            self.reason
        )
    }
}

impl Quarantined {
    /// What ends the quarantine of a whole function. A function that something may be using
    /// must not be removed under it.
    fn remedy(&self, before: &Binding) -> String {
        let function = self.function;
        let again = match &before.driver {
            Some(driver) if driver.as_str() != VFIO_PCI => format!(
                "it is quarantined until {driver} has it again and it answers ('virt-vgpu \
                 reconcile' tries that)"
            ),
            _ => "it is quarantined until it is detected anew".to_owned(),
        };
        if self.is_in_use {
            return format!("{again}: stop what uses it, or reboot the host");
        }
        format!(
            "{again}; 'echo 1 > {PCI_DEVICES}/{function}/remove' and 'echo 1 > \
             /sys/bus/pci/rescan' detect it anew, or a reboot"
        )
    }
}

/// Quarantines the claim's functions.
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
            // Without an inode the function is quarantined until it disappears.
            made: made(host, function).ok().flatten(),
            before: None,
            is_in_use: false,
        };
        note(host, &noted)?;
    }
    Ok(())
}

/// Quarantines a whole function that is unfit.
///
/// # Errors
/// The kernel's errno with the file's name.
pub fn quarantine_whole(
    host: &Host,
    domain: &DomainName,
    before: &Binding,
    (reason, is_in_use): (&str, bool),
) -> io::Result<()> {
    note(
        host,
        &Quarantined {
            function: before.function,
            domain: Some(domain.clone()),
            reason: reason.to_owned(),
            made: made(host, before.function).ok().flatten(),
            before: Some(before.clone()),
            is_in_use,
        },
    )
}

/// Ends the quarantine of functions that a plan has found fit: what is noted about them is
/// about an earlier run.
///
/// # Errors
/// The kernel's errno with the file's name.
pub(super) fn forget(
    host: &Host,
    _planning: &HostLock,
    functions: impl Iterator<Item = PciAddress>,
) -> io::Result<()> {
    for function in functions {
        let path = path(function);
        if host.exists(&path) {
            host.remove_file(&path).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot remove {path}: {error}"))
            })?;
        }
    }
    Ok(())
}

fn note(host: &Host, noted: &Quarantined) -> io::Result<()> {
    let path = path(noted.function);
    let text = serde_json::to_string_pretty(noted)? + "\n";
    host.make_directory(QUARANTINE, 0o755)
        .and_then(|()| host.replace_file(&path, text.as_bytes(), 0o644))
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write {path}: {error}")))
}

impl Claim {
    /// Why the functions of a VM that was killed so early are suspect.
    #[must_use]
    pub fn killed_early(&self) -> String {
        format!(
            "the QEMU of domain '{}' was killed while its vGPU was still starting, which may have \
             wedged the function",
            self.domain_name
        )
    }
}

/// Quarantines the functions of a domain that no longer runs, if it ended early for an
/// unknown reason, or if its claim records a suspicion. Returns the reason. Call this
/// before the devices are removed.
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

/// Whole functions that are quarantined.
///
/// # Errors
/// As [`quarantined`].
pub fn unfit(host: &Host) -> io::Result<Vec<Quarantined>> {
    let mut all = quarantined(host)?;
    all.retain(|one| one.before.is_some());
    Ok(all)
}

/// Tries once more to give unfit functions the drivers that they had. What cannot be done
/// yet is left for another time, and so is a function that a VM has, whoever gave it to it.
pub(super) fn give_back_unfit(host: &Host, deadline: Deadline) {
    const MOMENT: Duration = Duration::from_secs(1);
    let Ok(vfio) = VFIO_PCI.parse() else { return };
    // The driver of a function that is back may have come too late to end the reservation.
    let all = functions(host).unwrap_or_default().into_iter();
    let whole = all.filter_map(|function| match noted(host, function) {
        Noted::There(noted) => Some((noted.function, noted.before?)),
        Noted::Unreadable(_) | Noted::Gone => None,
    });
    for (function, before) in whole {
        if deadline.has_passed() || before.driver.as_ref() == Some(&vfio) {
            continue;
        }
        let board = board_of(host, &function.into());
        let purpose = format!("the quarantined function {function}");
        let soon = deadline.at_most(MOMENT);
        let Ok(_lock) = DeviceLock::acquire(host, &board, &purpose, soon) else {
            continue;
        };
        // A start takes this lock after it has written its claim.
        if is_with_a_vm(host, function) {
            continue;
        }
        let undo = Undo::Bound(Bound {
            bound_to: vfio.clone(),
            before,
        });
        match take_back(&undo, host) {
            Ok(()) => tracing::info!("{function} has the driver again that it had"),
            Err(error) => tracing::debug!("{function} stays quarantined: {error}"),
        }
    }
}

/// Whether a claim names the function, or a process has it open. What cannot be read counts
/// as yes.
fn is_with_a_vm(host: &Host, function: PciAddress) -> bool {
    let claimed = super::functions(host, None);
    if claimed.map_or(true, |claimed| claimed.contains_key(&function)) {
        return true;
    }
    let nodes = vfio_nodes(host, &format!("{PCI_DEVICES}/{function}"));
    let holder = nodes.and_then(|nodes| Ok(Processes::scan(host)?.holder(host, &nodes)));
    !matches!(holder, Ok(Holder::Nobody))
}

/// Whether a whole function has the driver again that it had, and answers.
fn is_back(host: &Host, noted: &Quarantined) -> bool {
    let Some(Binding {
        function,
        driver: Some(driver),
        ..
    }) = &noted.before
    else {
        return false;
    };
    let has_it = matches!(driver::bound(host, *function), Ok(Some(now)) if now == *driver);
    has_it && driver::answers(host, *function).unwrap_or_default()
}

/// The functions that are still quarantined. A function whose file cannot be understood
/// is quarantined too.
///
/// # Errors
/// When the directory is there but cannot be listed.
pub fn quarantined(host: &Host) -> io::Result<Vec<Quarantined>> {
    let functions = functions(host)?.into_iter();
    Ok(functions
        .filter_map(|function| match noted(host, function) {
            Noted::There(noted) => {
                let now = made(host, noted.function);
                // A function whose inode cannot be read now counts as the same.
                let is_same = noted.made.is_none() || now.map_or(true, |now| noted.made == now);
                (is_same && !is_back(host, &noted)).then_some(noted)
            }
            Noted::Unreadable(noted) => Some(noted),
            Noted::Gone => None,
        })
        .collect())
}

/// The functions that were recreated or have disappeared since they were quarantined.
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
            is_back(host, &noted) || noted.made.is_some() && now.is_some() && noted.made != now
        }
        Noted::There(_) => true,
        Noted::Unreadable(_) | Noted::Gone => false,
    };
    Ok(functions.into_iter().filter(is_repaired).collect())
}

/// Ends the quarantine of repaired functions and returns them.
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

/// The functions that have a file.
fn functions(host: &Host) -> io::Result<Vec<PciAddress>> {
    let names = optional(list(host, QUARANTINE))?.unwrap_or_default();
    let functions = names.iter().filter_map(|name| name.strip_suffix(".json"));
    let functions = functions.filter_map(|name| name.parse::<ParentName>().ok()?.pci());
    Ok(functions.collect())
}

/// The contents of a file.
enum Noted {
    There(Quarantined),
    /// The problem is the reason of the quarantine.
    Unreadable(Quarantined),
    Gone,
}

fn noted(host: &Host, function: PciAddress) -> Noted {
    let path = path(function);
    let unreadable = |why: String| {
        Noted::Unreadable(Quarantined {
            reason: format!("{path} quarantines it and cannot be read ({why})"),
            domain: None,
            made: None,
            before: None,
            is_in_use: false,
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

/// The quarantined functions with reason and remedy, for planning.
///
/// # Errors
/// As [`quarantined`].
pub fn quarantine_reasons(host: &Host) -> io::Result<BTreeMap<PciAddress, String>> {
    let all = quarantined(host)?.into_iter();
    Ok(all.map(|one| (one.function, one.in_words(host))).collect())
}
