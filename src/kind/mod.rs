//! The kinds of device, a file or folder each, and the one list of them. The parser of
//! pool files, the man page, the lists of what is accepted, the planner and the commands
//! read the list; nobody else knows a kind by name.
//!
//! A new kind is a file here, a row in [`KINDS`] (and none any more in [`PLANNED`]) and a
//! host in `tests/cases`.

use std::{fmt, io, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{
    device::{Sysfs, mdev::Parent},
    document::{self, ConfigError, Table},
    model::{InvalidName, ParentName, PciAddress, TypeSelector},
    rule::Field,
};

mod board;
mod candidate;
mod devices;
mod former;
mod gpu_settings;
mod mdev;
mod new_device;
mod nvidia_vgpu;
mod vgpu_settings;
mod view;

pub use board::Board;
pub use candidate::{
    Announced, Candidate, Detail, Idle, MadeAs, Placeholder, PlacementChoice, Rejection, ToMake,
};
pub use devices::Devices;
pub use former::{FormerWay, former_handle, former_way};
pub use gpu_settings::{GpuSettings, SchedulerPolicy, SchedulerSettings};
pub use new_device::{Named, NewDevice};
pub use view::{FieldSources, HostView};

/// Every kind that this version serves, in the order in which messages list them.
pub const KINDS: &[&dyn Kind] = &[&nvidia_vgpu::NvidiaVgpu, &mdev::Mdev];

/// Kinds that pool files may name one day: known, so that they are refused as what they
/// are and not as slips of the pen.
pub const PLANNED: &[Planned] = &[
    Planned {
        name: "pci",
        tables: &[],
        fields: &[Field::Serial],
    },
    Planned {
        name: "sriov-nic",
        tables: &["sriov-nic"],
        fields: &[
            Field::Serial,
            Field::Netdev,
            Field::Mac,
            Field::LinkSpeedMbps,
        ],
    },
    Planned {
        name: "usb",
        tables: &["usb"],
        fields: &[
            Field::Serial,
            Field::Bus,
            Field::PortPath,
            Field::UsbVersion,
            Field::SpeedMbps,
            Field::InterfaceDriver,
        ],
    },
];

/// What the devices of a pool are, as the first line of its file names it. A row of the
/// registry: it holds nothing and changes nothing.
pub trait Kind: fmt::Debug + Sync {
    /// Its name in pool files.
    fn name(&self) -> &'static str;

    /// What its devices are, in a few words.
    fn about(&self) -> &'static str;

    /// What the rules of its pools are about.
    fn subject(&self) -> Subject;

    /// The same in words.
    fn words(&self) -> Words;

    /// The keys of a pool file that are not for all kinds and that it takes.
    fn keys(&self) -> Keys;

    /// What rules can ask of its devices, as far as this version reads it.
    fn fields(&self) -> Vec<Field>;

    /// Its part of a pool file, checked.
    ///
    /// # Errors
    /// The first mistake, with its line and key.
    fn parse(&self, part: &Part<'_>) -> Result<Arc<dyn Devices>, ConfigError>;

    /// Every device of the host that rules of its pools are about.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    fn subjects(&self, view: &HostView<'_>) -> io::Result<Vec<Parent>>;

    /// What rules of its pools are about where a device of that name is looked at: the
    /// device itself or what it is part of; None where they are about neither. Reads no
    /// more than that.
    fn subject_named(&self, sysfs: &dyn Sysfs, name: &ParentName) -> Option<Parent>;

    /// Whether the XML names a device that has to be chosen before the start; else a UUID
    /// stands there, and any parent makes the device under it.
    fn is_chosen_ahead(&self) -> bool {
        true
    }

    /// Whether libvirt must leave its functions with the driver that they have
    /// (`managed='no'`).
    fn keeps_its_driver(&self) -> bool {
        false
    }

    /// Whether a libvirt of that version hands its functions to VMs, as libvirt counts
    /// versions (9.7.0 is 9007000).
    ///
    /// # Errors
    /// Why it does not.
    fn check_libvirt(&self, version: u32) -> Result<(), String> {
        let _ = version;
        Ok(())
    }

    /// What this host lacks before anything of the kind can be chosen; None where nothing
    /// is known to be missing.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    fn lacking(&self, sysfs: &dyn Sysfs) -> io::Result<Option<String>> {
        let _ = sysfs;
        Ok(None)
    }

    /// Devices that rules of its pools would be about if the right driver had them, each
    /// with what has it.
    fn unbound(&self, view: &HostView<'_>) -> Vec<(PciAddress, String)> {
        let _ = view;
        Vec::new()
    }
}

/// What the rules of a pool take or do not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A parent of mediated devices.
    Parent,
    /// A whole GPU of NVIDIA's driver, whichever of its functions makes the devices.
    Gpu,
}

/// What the rules of a kind's pools are about, in words.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// All of them: "GPUs of NVIDIA's driver".
    pub subjects: &'static str,
    /// One: "GPU that NVIDIA's driver has".
    pub subject: &'static str,
    /// There are none: "no GPUs".
    pub none: &'static str,
    /// The same in a sentence: "this host has no NVIDIA GPU".
    pub host_has_none: &'static str,
    /// About those that the right driver does not have; None where any driver will do.
    pub unbound: Option<UnboundWords>,
}

/// What is said where the right driver does not have a device ([`Kind::unbound`]).
#[derive(Debug, Clone, Copy)]
pub struct UnboundWords {
    /// It has none: "no GPU is bound to nvidia".
    pub none_bound: &'static str,
    /// The same in a sentence about this host.
    pub host_has_none_bound: &'static str,
    /// What this is for pools, as a heading above those that it lacks.
    pub heading: &'static str,
}

/// The keys of a pool file that a kind has of its own, or shares with some kinds only.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keys {
    /// The one that says what the devices are made as, where they are made.
    pub type_key: Option<TypeKey>,
    /// The others at the top of the file.
    pub settings: &'static [&'static str],
    /// Those of `[defaults]`.
    pub defaults: &'static [&'static str],
}

/// A key that says what devices are made as.
#[derive(Debug, Clone, Copy)]
pub struct TypeKey {
    /// Its name.
    pub name: &'static str,
    /// What it holds, for a comment behind it.
    pub about: &'static str,
    /// The option of that name by which a new pool gets it.
    pub option: TypeOption,
}

/// The option of 'pool create' for a [`TypeKey`].
#[derive(Debug, Clone, Copy)]
pub struct TypeOption {
    /// What stands for its value in the help: "TYPE".
    pub value_name: &'static str,
    /// Its help.
    pub help: &'static str,
    /// What a pool is that is created with it, a sentence.
    pub creates: &'static str,
    /// Reads its value.
    pub parse: fn(&str) -> Result<TypeSelector, InvalidName>,
}

/// A pool file, for a kind that reads its own part of it.
#[derive(Debug)]
pub struct Part<'p> {
    /// The top of the file; all of its keys are known to be right for the kind.
    pub top: &'p Table<'p, 'p>,
    /// Where the kind is named.
    pub kind: &'p document::Position,
}

impl dyn Kind + '_ {
    /// Whether its devices have the field and this version reads it.
    #[must_use]
    pub fn reads(&self, field: Field) -> bool {
        self.fields().contains(&field)
    }
}

impl PartialEq for dyn Kind + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Kind + '_ {}

impl fmt::Display for dyn Kind + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for dyn Kind + '_ {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A kind that this version does not serve yet.
#[derive(Debug)]
pub struct Planned {
    /// Its name in pool files.
    pub name: &'static str,
    /// Tables that its pool files will have.
    pub tables: &'static [&'static str],
    /// What rules will ask of its devices, beyond what is read already.
    pub fields: &'static [Field],
}

/// The kind of that name, where this version serves it.
#[must_use]
pub fn named(name: &str) -> Option<&'static dyn Kind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}

/// The names of the kinds that this version serves.
#[must_use]
pub fn names() -> Vec<&'static str> {
    KINDS.iter().map(|kind| kind.name()).collect()
}

/// The names of the kinds whose rules are about that.
#[must_use]
pub fn names_about(subject: Subject) -> String {
    let kinds = KINDS.iter().filter(|kind| kind.subject() == subject);
    let names: Vec<&str> = kinds.map(|kind| kind.name()).collect();
    names.join(" or ")
}

/// Whether the key is one at the top of the file for another kind.
#[must_use]
pub fn is_anothers_key(key: &str) -> bool {
    let has = |kind: &&dyn Kind| {
        let keys = kind.keys();
        keys.type_key.is_some_and(|key_of| key_of.name == key) || keys.settings.contains(&key)
    };
    KINDS.iter().any(has) || PLANNED.iter().any(|kind| kind.tables.contains(&key))
}

/// Whether the key is one of `[defaults]` for another kind.
#[must_use]
pub fn is_anothers_default(key: &str) -> bool {
    let mut kinds = KINDS.iter();
    kinds.any(|kind| kind.keys().defaults.contains(&key))
}

/// What rules can ask of any PCI function.
pub const PCI_FIELDS: &[Field] = &[
    Field::Host,
    Field::Address,
    Field::SlotLabel,
    Field::Class,
    Field::ClassId,
    Field::Vendor,
    Field::VendorId,
    Field::Device,
    Field::DeviceId,
    Field::SubsystemId,
    Field::Driver,
    Field::NumaNode,
    Field::IommuGroup,
    Field::VirtualFunction,
    Field::PhysicalFunction,
];

/// Parameters of NVIDIA's driver, which may be behind a mediated device of any kind of
/// pool; other drivers have no place to put them.
const NVIDIA_PARAMETERS: &[&str] = &[
    "frame-rate-limit",
    "console-vnc",
    "unified-memory",
    "debuggers",
    "profilers",
];

/// What devices are made as: the text of the kind's own key, which has to be there.
fn read_type<T>(
    part: &Part<'_>,
    (key, wants): (&str, &str),
    kind: &dyn Kind,
) -> Result<T, ConfigError>
where
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    let file = part.top.file();
    let Some(written) = part.top.text(key)? else {
        let at = document::Position {
            key: key.to_owned(),
            line: part.kind.line,
        };
        let what = format!("is missing: kind '{kind}' wants {wants}");
        return Err(at.refuse(file, &what, &[]));
    };
    let parsed = written.value.parse();
    parsed.map_err(|invalid: T::Err| written.at.refuse(file, &invalid.to_string(), &[]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn kinds_have_names_of_their_own() {
        let planned = PLANNED.iter().map(|kind| kind.name);
        let all: Vec<&str> = names().into_iter().chain(planned).collect();
        let different: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), different.len(), "{all:?}");
        for kind in KINDS {
            assert_eq!(named(kind.name()), Some(*kind));
            assert!(!kind.about().is_empty(), "{kind}");
        }
        assert_eq!(names(), ["nvidia-vgpu", "mdev"]);
        assert_eq!(named("usb"), None);
    }

    /// A field is read for some kind, or is one of a kind that is still to come.
    #[test]
    fn every_field_is_one_of_some_kind() {
        for &field in Field::ALL {
            let is_read = KINDS.iter().any(|kind| kind.reads(field));
            assert_eq!(is_read, field.info().is_read, "{field}");
            let is_planned = PLANNED.iter().any(|kind| kind.fields.contains(&field));
            assert_ne!(is_read, is_planned, "{field}");
        }
    }

    #[test]
    fn what_mdev_parents_have_is_read() {
        let kind = named("mdev").unwrap();
        let read = Field::ALL.iter().filter(|&&field| kind.reads(field));
        let names: Vec<_> = read.map(|field| field.name()).collect();
        assert_eq!(
            names.join(" "),
            "host address slot-label class class-id vendor vendor-id device device-id \
             subsystem-id driver numa-node iommu-group virtual-function physical-function"
        );
    }
}
