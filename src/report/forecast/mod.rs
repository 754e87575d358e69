//! The forecast of a domain's start on the present host, as plain data from the hook's own
//! code. It changes nothing on the host.

use serde::Serialize;

use crate::{
    allocate::AllocateError,
    model::{
        DeviceName, DomainName, DomainUuid, MdevTypeId, MdevUuid, NumaNode, ParentName, PciAddress,
        PoolName,
    },
};

mod make;
mod together;
mod xml;

pub use together::{Had, PlacedDevice, TogetherForecast};
pub use xml::{of_domain, of_file};

/// All that there is to say.
#[derive(Debug, Serialize)]
pub struct Forecast {
    /// The domain.
    pub domain: DomainName,
    /// Its UUID, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_uuid: Option<DomainUuid>,
    /// How a start would end.
    pub outcome: ForecastResult,
    /// The hook's line, as libvirt would show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The requested devices, in the order of the requests.
    pub devices: Vec<Device>,
    /// What devices share that should share something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub together: Vec<TogetherForecast>,
    /// The pools that it names and that can be used.
    pub pools: Vec<PoolForecast>,
    /// The devices in its claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds: Option<Held>,
    /// Further notes.
    pub notes: Vec<String>,
}

/// How a start would end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForecastResult {
    /// With all its devices.
    Served,
    /// Not at all.
    Refused,
    /// It has its devices already.
    Running,
    /// The hook has nothing to do for it.
    NothingWanted,
}

/// The origin of the XML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XmlOf {
    /// A domain that libvirt has.
    Domain,
    /// A file; its domain may not exist yet.
    File,
    /// A file without a UUID: the domain does not exist, and its devices have no UUIDs.
    FileWithoutUuid,
}

/// A request, and the device that it would get.
#[derive(Debug, Serialize)]
pub struct Device {
    /// Its name in the domain.
    pub name: DeviceName,
    /// The pool it is asked of.
    pub pool: PoolName,
    /// None where the domain has none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MdevUuid>,
    /// Whether the domain has its hostdev.
    pub placeholder: bool,
    /// Where it would be; None where it would be nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<PlannedDevice>,
}

/// Where a device would be, and as what.
#[derive(Debug, Serialize)]
pub struct PlannedDevice {
    /// Its parent, or the function that it is.
    pub parent: ParentName,
    /// Its type.
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
    /// Other PCI functions that it takes along.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub along: Vec<PciAddress>,
    /// How the kernel can reset it between two VMs, best first; None if it is not reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_methods: Option<Vec<String>>,
    /// Why the host needs it, if a rule with `allow-critical` takes it all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_host: Option<String>,
    /// Parameters that keep the VM from being saved and migrated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub against_migration: Vec<String>,
    /// Why there; empty for a device that is there already.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A pool and all its candidates.
#[derive(Debug, Serialize)]
pub struct PoolForecast {
    /// Its name.
    pub name: PoolName,
    /// The type that it hands out.
    #[serde(rename = "type")]
    pub device_type: String,
    /// How its devices are spread.
    pub placement: String,
    /// The pool's own limit, 0 for none.
    pub instances: u32,
    /// Devices of the pool that claims hold.
    pub in_use: u32,
    /// How many more its candidates make together, within that limit.
    pub free: u32,
    /// Whether so many will fit; else there may be fewer.
    pub exact: bool,
    /// In the order in which they are tried.
    pub candidates: Vec<CandidateForecast>,
}

/// A device that may serve.
#[derive(Debug, Serialize)]
pub struct CandidateForecast {
    /// Its name.
    pub parent: ParentName,
    /// Its board.
    pub board: ParentName,
    /// Where its memory is near.
    pub numa_node: Option<NumaNode>,
    /// All mediated devices on the board, ours or not.
    pub in_use: u32,
    /// How many more of the type it can make.
    pub available: u32,
    /// That, or why it has none, in words.
    pub room: String,
}

impl CandidateForecast {
    /// Whether the other is of the same board and no different.
    pub fn is_like(&self, other: &Self) -> bool {
        let said = |one: &Self| {
            (
                one.board.clone(),
                one.numa_node,
                one.in_use,
                one.room.clone(),
            )
        };
        said(self) == said(other)
    }
}

/// The domain's present devices.
#[derive(Debug, Serialize)]
pub struct Held {
    /// How its claim stands.
    pub state: HeldState,
    /// Why it stands so.
    pub reason: String,
    /// The devices.
    pub devices: Vec<HeldDevice>,
}

/// How a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldState {
    /// The domain runs.
    InUse,
    /// It is being started.
    Starting,
    /// It does not run.
    Stale,
    /// Nobody can tell.
    Unknown,
}

/// A device that it has.
#[derive(Debug, Serialize)]
pub struct HeldDevice {
    /// Parameters that keep the VM from being saved and migrated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub against_migration: Vec<String>,
    /// Its name in the domain.
    pub name: DeviceName,
    /// Its pool.
    pub pool: PoolName,
    /// The UUID of the request.
    pub uuid: MdevUuid,
    /// Its parent, or the function that it is.
    pub parent: ParentName,
    /// Other PCI functions that it takes along.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub along: Vec<PciAddress>,
    /// Its type.
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
}

impl Forecast {
    /// A refusal before any other facts are known.
    pub(super) fn refused(
        domain: DomainName,
        domain_uuid: Option<DomainUuid>,
        error: &AllocateError,
        xml_of: XmlOf,
    ) -> Self {
        Self {
            domain,
            domain_uuid,
            outcome: ForecastResult::Refused,
            refusal: Some(line(error, xml_of)),
            devices: Vec::new(),
            together: Vec::new(),
            pools: Vec::new(),
            holds: None,
            notes: Vec::new(),
        }
    }

    /// Nothing is asked for.
    pub(super) fn nothing(domain: DomainName, domain_uuid: Option<DomainUuid>) -> Self {
        Self {
            domain,
            domain_uuid,
            outcome: ForecastResult::NothingWanted,
            refusal: None,
            devices: Vec::new(),
            together: Vec::new(),
            pools: Vec::new(),
            holds: None,
            notes: Vec::new(),
        }
    }

    /// The forecast with more to say.
    pub(super) fn with_notes(mut self, notes: impl Iterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }
}

/// The line as the hook prints it, without advice about a domain that need not be there.
pub(super) fn line(error: &AllocateError, xml_of: XmlOf) -> String {
    let text = match xml_of {
        XmlOf::Domain => error.to_string(),
        XmlOf::File | XmlOf::FileWithoutUuid => error.about_xml(),
    };
    let line = format!("virt-vgpu: {text}");
    line.replace(['\n', '\r'], " ")
}
