//! Virtual functions that are not handed out until they are repaired. A QEMU that
//! is killed while NVIDIA's plugin still initialises leaves its function wedged:
//! everything about it looks healthy, and the driver of the next guest never comes
//! up. Only functions made anew are free of it.

use std::{collections::BTreeMap, io};

use serde::{Deserialize, Serialize};

use super::{Claim, DeviceKind};
use crate::{
    device::{PCI_DEVICES, Sysfs, vendor_vfio},
    host::{Host, HostLock},
    model::{DomainName, ParentName},
};

/// Where they are noted, a file each.
pub const QUARANTINE: &str = "/run/virt-vgpu/quarantine";

/// A function that is not handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The function.
    pub function: ParentName,
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
        let gpu = vendor_vfio::gpu(host, &self.function).ok().flatten();
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
pub fn quarantine(host: &Host, _lock: &HostLock, claim: &Claim, reason: &str) -> io::Result<()> {
    let devices = claim.devices.iter();
    for device in devices.filter(|device| device.kind == DeviceKind::VendorVfio) {
        let noted = Quarantined {
            function: device.parent.clone(),
            domain: Some(claim.domain_name.clone()),
            reason: reason.to_owned(),
            made: made(host, &device.parent),
        };
        let path = format!("{QUARANTINE}/{}.json", device.parent);
        let text = serde_json::to_string_pretty(&noted)? + "\n";
        host.make_directory(QUARANTINE, 0o755)
            .and_then(|()| host.replace_file(&path, text.as_bytes(), 0o644))
            .map_err(|error| {
                io::Error::new(error.kind(), format!("cannot write {path}: {error}"))
            })?;
    }
    Ok(())
}

fn made(host: &Host, function: &ParentName) -> Option<u64> {
    host.inode(&format!("{PCI_DEVICES}/{function}"))
}

/// All that are still to be kept back. A file that cannot be understood keeps its
/// function back too.
///
/// # Errors
/// When the directory is there but cannot be listed.
pub fn quarantined(host: &Host) -> io::Result<Vec<Quarantined>> {
    let names = match host.list(QUARANTINE) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let functions = names.iter().filter_map(|name| name.strip_suffix(".json"));
    let functions = functions.filter_map(|name| name.parse::<ParentName>().ok());
    Ok(functions
        .filter_map(|function| noted(host, function))
        .collect())
}

fn noted(host: &Host, function: ParentName) -> Option<Quarantined> {
    let path = format!("{QUARANTINE}/{function}.json");
    let read = host.read_file(&path);
    let unreadable = |why: String| {
        Some(Quarantined {
            reason: format!("{path} keeps it back and cannot be read ({why})"),
            domain: None,
            made: None,
            function: function.clone(),
        })
    };
    match read.map(|text| serde_json::from_str::<Quarantined>(&text)) {
        Ok(Ok(noted)) => {
            let is_same = noted.made.is_none() || noted.made == made(host, &noted.function);
            is_same.then_some(noted)
        }
        Ok(Err(error)) => unreadable(error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => unreadable(error.to_string()),
    }
}

/// The functions with reason and remedy, for planning.
///
/// # Errors
/// As [`quarantined`].
pub fn kept_back(host: &Host) -> io::Result<BTreeMap<ParentName, String>> {
    let all = quarantined(host)?.into_iter();
    Ok(all
        .map(|one| (one.function.clone(), one.in_words(host)))
        .collect())
}
