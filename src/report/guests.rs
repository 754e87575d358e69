//! NVIDIA's driver in the guests: its version and its licence, as the host's driver tells them.
//! All of it is a comfort: what is not known is left out, and nothing here fails.

use std::time::Duration;

use serde::Serialize;

use super::status::{ClaimReport, ClaimState, DeviceReport};
use crate::{
    device::{
        PCI_DEVICES, Sysfs, board_of,
        nvml::{GuestDriver, GuestFacts, Guests, Licence, LicenceState, LicenceTerm},
    },
    driver_set::{DriverVersion, Pair, pair},
    host::{Deadline, Host, NvmlChild, utc_now},
    model::{DomainUuid, MdevTypeId, PciAddress, UtcTime, VgpuTypeId, visible},
};

/// How long the driver may take to answer: VMs run, so its GPUs are awake.
const PATIENCE: Duration = Duration::from_secs(4);

/// The version of the host's driver, where NVML does not tell it.
const HOST_DRIVER: &str = "/sys/module/nvidia/version";

/// NVIDIA's driver in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// Whether it runs there.
    pub driver_loaded: bool,
    /// Its version: `580.65.06`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Whether the guest has a licence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<LicenceKind>,
    /// When the licence ends. A guest that leases its licence renews it before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence_until: Option<UtcTime>,
}

/// Whether a guest has a licence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LicenceKind {
    /// It has one.
    Licensed,
    /// It has one that does not end.
    Permanent,
    /// It has had one, and its time is over.
    Expired,
    /// It has none, and the driver slows it down, or will.
    Unlicensed,
    /// It has none, and is not slowed down so far.
    Unrestricted,
    /// It has not asked for one yet.
    NotAskedFor,
}

impl Guest {
    /// In a word.
    #[must_use]
    pub fn driver_in_words(&self) -> &str {
        match &self.driver {
            Some(version) => version,
            None if self.driver_loaded => "unknown",
            None => "not loaded",
        }
    }

    /// In a few words; empty where nothing is known.
    #[must_use]
    pub fn licence_in_words(&self) -> String {
        let words = match self.licence {
            None => return String::new(),
            Some(LicenceKind::Licensed) => "licensed",
            Some(LicenceKind::Permanent) => "permanent",
            Some(LicenceKind::Expired) => "expired",
            Some(LicenceKind::Unlicensed) => "unlicensed",
            Some(LicenceKind::Unrestricted) => "unlicensed, not restricted yet",
            Some(LicenceKind::NotAskedFor) => "not asked for yet",
        };
        match self.licence_until {
            Some(until) if self.licence == Some(LicenceKind::Expired) => format!("{words} {until}"),
            Some(until) => format!("{words} until {until}"),
            None => words.to_owned(),
        }
    }

    /// None if nothing is known.
    fn of(facts: &GuestFacts, now: UtcTime) -> Option<Self> {
        let driver = match &facts.driver {
            GuestDriver::Version(text) => Some(bounded(text)),
            GuestDriver::NotLoaded => {
                return Some(Self {
                    driver_loaded: false,
                    driver: None,
                    licence: None,
                    licence_until: None,
                });
            }
            GuestDriver::Unknown => None,
        };
        let (licence, licence_until) = match facts.licence {
            Some(licence) => known(licence, now),
            None => (None, None),
        };
        let is_known = driver.is_some() || licence.is_some();
        is_known.then_some(Self {
            driver_loaded: true,
            driver,
            licence,
            licence_until,
        })
    }
}

/// Any text can stand there: the guest says it.
fn bounded(text: &str) -> String {
    const LONGEST: usize = 40;
    let text: String = text.trim().chars().take(LONGEST).collect();
    visible(&text).into_owned()
}

fn known(licence: Licence, now: UtcTime) -> (Option<LicenceKind>, Option<UtcTime>) {
    match licence.state {
        LicenceState::Unknown => (None, None),
        LicenceState::NotAskedFor => (Some(LicenceKind::NotAskedFor), None),
        LicenceState::Unrestricted => (Some(LicenceKind::Unrestricted), None),
        LicenceState::Restricted | LicenceState::Unlicensed => {
            (Some(LicenceKind::Unlicensed), None)
        }
        LicenceState::Licensed => match licence.term {
            LicenceTerm::Permanent => (Some(LicenceKind::Permanent), None),
            LicenceTerm::Unknown => (Some(LicenceKind::Licensed), None),
            LicenceTerm::Until(parts) => match UtcTime::new(parts) {
                Some(until) if until < now => (Some(LicenceKind::Expired), Some(until)),
                until => (Some(LicenceKind::Licensed), until),
            },
        },
    }
}

/// Adds what runs in the guests of running VMs, with the problems that it has. The driver is
/// asked only if one of them has a vGPU of NVIDIA.
pub(super) fn add(host: &Host, claims: &mut [ClaimReport], problems: &mut Vec<String>) {
    let running = |claim: &&mut ClaimReport| claim.state == ClaimState::InUse;
    let mut claims: Vec<&mut ClaimReport> = claims.iter_mut().filter(running).collect();
    let mut devices = claims.iter().flat_map(|claim| &claim.devices);
    if !devices.any(|device| vgpu_type(&device.type_id).is_some()) {
        return;
    }
    let Ok(guests) = NvmlChild::new(host, Deadline::after(PATIENCE)).guests() else {
        return;
    };
    let now = utc_now();
    let host_driver = host_driver(host, &guests);
    for claim in &mut claims {
        let found = matched(host, claim, &guests.vgpus);
        for (device, facts) in claim.devices.iter_mut().zip(found) {
            device.guest = facts.and_then(|facts| Guest::of(facts, now));
        }
        problems.extend(problems_of(claim, host_driver.as_ref()));
    }
}

/// Adds what the agent of a guest tells of its devices, each with the driver's name and version in
/// Windows' form. Which device of the guest is which of the claim is not told, so it counts only if
/// all of NVIDIA have one version. What NVML has told stays.
pub fn add_from_agent(host: &Host, claim: &mut ClaimReport, devices: &[(String, String)]) {
    let ours = devices.iter().filter(|(name, _)| name.contains("NVIDIA"));
    let mut versions = ours.filter_map(|(_, version)| DriverVersion::of_windows(version));
    let Some(version) = versions.next() else {
        return;
    };
    if !versions.all(|other| other == version) {
        return;
    }
    for device in &mut claim.devices {
        let is_of_nvidia = vgpu_type(&device.type_id).is_some() || is_of_nvidia(host, device);
        if is_of_nvidia && device.guest.is_none() {
            device.guest = Some(Guest {
                driver_loaded: true,
                driver: Some(version.to_string()),
                licence: None,
                licence_until: None,
            });
        }
    }
}

/// Whether a whole PCI device is one of NVIDIA.
fn is_of_nvidia(host: &Host, device: &DeviceReport) -> bool {
    const VENDOR: &str = "0x10de";
    let path = device
        .parent
        .pci()
        .map(|one| format!("{PCI_DEVICES}/{one}/vendor"));
    path.is_some_and(|path| host.read(&path).is_ok_and(|text| text == VENDOR))
}

/// None for devices that are no vGPU of NVIDIA.
fn vgpu_type(type_id: &MdevTypeId) -> Option<VgpuTypeId> {
    let text = type_id.as_str();
    text.strip_prefix("nvidia-").unwrap_or(text).parse().ok()
}

fn host_driver(host: &Host, guests: &Guests) -> Option<DriverVersion> {
    let told = guests.host_driver.as_ref();
    let of_nvml = told.and_then(|text| text.trim().parse().ok());
    of_nvml.or_else(|| host.read_file(HOST_DRIVER).ok()?.trim().parse().ok())
}

/// What identifies a vGPU that has no UUID of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    gpu: PciAddress,
    type_id: VgpuTypeId,
}

impl Kind {
    fn of(host: &Host, device: &DeviceReport) -> Option<Self> {
        Some(Self {
            gpu: board_of(host, &device.parent).pci()?,
            type_id: vgpu_type(&device.type_id)?,
        })
    }
}

/// For each device of the claim the vGPU that it is. A virtual function has no name in NVML, so
/// several of one type on one GPU cannot be told apart: they are known as long as the guest says
/// the same of all of them.
fn matched<'g>(
    host: &Host,
    claim: &ClaimReport,
    vgpus: &'g [GuestFacts],
) -> Vec<Option<&'g GuestFacts>> {
    let kinds: Vec<Option<Kind>> = claim
        .devices
        .iter()
        .map(|device| Kind::of(host, device))
        .collect();
    let devices = claim.devices.iter().zip(&kinds);
    let one = |(device, kind): (&DeviceReport, &Option<Kind>)| {
        let kind = (*kind)?;
        let mut all = vgpus.iter();
        if let Some(facts) = all.find(|facts| facts.mdev == Some(device.uuid)) {
            return Some(facts);
        }
        let alike = alike(claim.domain_uuid, kind, vgpus);
        let (first, others) = alike.split_first()?;
        let count = kinds.iter().filter(|other| **other == Some(kind)).count();
        let says_the_same =
            |other: &&GuestFacts| (&other.driver, other.licence) == (&first.driver, first.licence);
        (alike.len() == count && others.iter().all(says_the_same)).then_some(*first)
    };
    devices.map(one).collect()
}

fn alike(vm: DomainUuid, kind: Kind, vgpus: &[GuestFacts]) -> Vec<&GuestFacts> {
    let is_one = |facts: &&GuestFacts| {
        let its = Kind {
            gpu: facts.gpu,
            type_id: facts.type_id,
        };
        facts.mdev.is_none() && facts.vm == Some(vm) && its == kind
    };
    vgpus.iter().filter(is_one).collect()
}

/// A line for each problem, with all devices that have it.
fn problems_of(claim: &ClaimReport, host_driver: Option<&DriverVersion>) -> Vec<String> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for device in &claim.devices {
        let guest = device.guest.as_ref();
        let licence = guest.and_then(licence_problem);
        let driver = guest.and_then(|guest| driver_problem(device, guest, host_driver));
        for problem in licence.into_iter().chain(driver) {
            let name = format!("'{}'", device.name);
            match found.iter_mut().find(|(known, _)| *known == problem) {
                Some((_, names)) => names.push(name),
                None => found.push((problem, vec![name])),
            }
        }
    }
    let line = |(problem, names): (String, Vec<String>)| {
        let (names, domain) = (names.join(", "), &claim.domain);
        format!("domain '{domain}': {names}: {problem}")
    };
    found.into_iter().map(line).collect()
}

/// A licence that ends soon is no problem: NVIDIA's licence servers lease them for a short time,
/// and each guest renews its own before the end.
fn licence_problem(guest: &Guest) -> Option<String> {
    let what = match (guest.licence?, guest.licence_until) {
        (LicenceKind::Expired, Some(until)) => format!("the guest's licence expired {until}"),
        (LicenceKind::Unlicensed, _) => {
            "the guest has no licence, so NVIDIA's driver slows it down".to_owned()
        }
        _ => return None,
    };
    Some(format!(
        "{what}; add a licence token to the guest's driver set with 'virt-vgpu driver token add', \
         see whether the guest's clock is right, and in the guest see 'systemctl status \
         nvidia-gridd' (Windows: the service NVDisplay.ContainerLocalSystem)"
    ))
}

fn driver_problem(
    device: &DeviceReport,
    guest: &Guest,
    host_driver: Option<&DriverVersion>,
) -> Option<String> {
    let version: DriverVersion = guest.driver.as_ref()?.parse().ok()?;
    let ours = host_driver?;
    let Pair::Unsupported(why) = pair(ours, &version) else {
        return None;
    };
    let pool = &device.pool;
    Some(format!(
        "NVIDIA does not support the guest's driver {version} with this host's {ours}: {why}; lend \
         the VMs of pool '{pool}' a driver set that fits: 'virt-vgpu driver list' shows them, and \
         'guest-driver' in the pool's file names one"
    ))
}

#[cfg(test)]
mod tests;
