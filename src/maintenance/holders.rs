//! Who has devices of the GPUs, or their driver.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use serde::Serialize;

use crate::{
    claims,
    device::{PCI_DEVICES, Sysfs, maintenance::Maintenance},
    domain,
    gpu_setup::users,
    host::{Host, gpu_openers, libvirt::Libvirt},
    model::{DomainName, DomainUuid, Handle, PciAddress, visible},
};

/// Who has something of the GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Holders {
    /// The domains, in the order of their names.
    pub domains: Vec<Holder>,
    /// vGPUs that no domain has, as others make them, in words.
    pub others: Vec<String>,
    /// Processes that have NVIDIA's driver open, in words. They are in the way of a change of the
    /// driver only.
    pub clients: Vec<String>,
    /// What could not be looked at.
    pub doubts: Vec<String>,
}

/// A domain that has devices of the GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Its name.
    pub domain: DomainName,
    /// Its UUID.
    pub domain_uuid: DomainUuid,
    /// Its devices on these GPUs: functions, or UUIDs of mediated devices.
    pub devices: BTreeSet<Handle>,
}

impl Holders {
    /// Whether nobody has anything, and nothing is in doubt; clients of the driver do not count.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        self.domains.is_empty() && self.others.is_empty() && self.doubts.is_empty()
    }

    /// Who is in the way, in words: `domain 'ws7', vGPU 0000:3b:00.4 of nobody`.
    #[must_use]
    pub fn in_words(&self) -> String {
        let domains = self.domains.iter();
        let domains = domains.map(|one| format!("domain '{}'", one.domain));
        let rest = self.others.iter().chain(&self.doubts).cloned();
        domains.chain(rest).collect::<Vec<_>>().join(", ")
    }
}

/// Looks for them: in claims, at the GPUs, and in libvirt if it is given. Without libvirt,
/// domains are not seen that name a device themselves.
///
/// # Errors
/// When claims or GPUs cannot be read.
pub fn holders(
    host: &Host,
    libvirt: Option<&Libvirt>,
    noted: &Maintenance,
) -> anyhow::Result<Holders> {
    let mut domains: BTreeMap<DomainUuid, Holder> = BTreeMap::new();
    let mut add = |name: &DomainName, uuid: DomainUuid, device: Handle| {
        let holder = domains.entry(uuid).or_insert_with(|| Holder {
            domain: name.clone(),
            domain_uuid: uuid,
            devices: BTreeSet::new(),
        });
        holder.devices.insert(device);
    };
    let (all, damaged) = claims::load_all(host).context("cannot read the claims")?;
    let mut found = Holders {
        clients: gpu_openers(host).iter().map(ToString::to_string).collect(),
        doubts: damaged.iter().map(ToString::to_string).collect(),
        ..Holders::default()
    };
    for claim in &all {
        for device in &claim.devices {
            let parent = device.parent.pci();
            let on_parent = parent.and_then(|parent| noted.gpu_of(host, parent));
            if on_parent.is_some() {
                add(&claim.domain_name, claim.domain, device.handle);
            }
            let functions = device.functions();
            for function in functions.filter(|&one| noted.gpu_of(host, one).is_some()) {
                add(&claim.domain_name, claim.domain, Handle::Pci(function));
            }
        }
    }
    if let Some(libvirt) = libvirt {
        for one in libvirt.domains().context("cannot list the domains")? {
            // A domain that has just gone has nothing.
            let is_active = one.is_active().unwrap_or(false);
            let Some(xml) = is_active.then(|| one.live_xml().ok()).flatten() else {
                continue;
            };
            let Ok(def) = domain::parse(&xml) else {
                let name = one.name().unwrap_or_default();
                let name = visible(&name);
                found.doubts.push(format!(
                    "the XML of domain '{name}' cannot be understood: whether it has devices of \
                     the GPUs is not known"
                ));
                continue;
            };
            for hostdev in &def.hostdevs {
                if noted.gpu_with(host, hostdev.handle).is_some() {
                    add(&def.name, def.uuid, hostdev.handle);
                }
            }
        }
    }
    let has_it = |device| domains.values().any(|one| one.devices.contains(&device));
    let mut others = Vec::new();
    // With a damaged claim it is not known which vGPUs are of nobody. Of a GPU that is not there any
    // more nobody has a vGPU.
    let is_told = damaged.is_empty();
    let there = noted.gpus.iter().filter(|gpu| is_there(host, **gpu));
    for &gpu in there.filter(|_| is_told) {
        for user in users(host, gpu)? {
            if user.domain.is_none() && !has_it(user.device) {
                others.push(no_domains(gpu, user.device));
            }
        }
    }
    found.others = others;
    let mut domains: Vec<Holder> = domains.into_values().collect();
    domains.sort_by(|one, other| one.domain.cmp(&other.domain));
    found.domains = domains;
    Ok(found)
}

fn is_there(host: &Host, gpu: PciAddress) -> bool {
    host.exists(&format!("{PCI_DEVICES}/{gpu}"))
}

fn no_domains(gpu: PciAddress, device: Handle) -> String {
    format!("vGPU {device} on {gpu}, which no domain has")
}
