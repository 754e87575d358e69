//! The kinds of device, one file or directory each, and the one list of them. The
//! parser of pool files, the man page, the lists of accepted values, the planner and
//! the commands use the list; no other module names a kind.
//!
//! A new kind needs a file here, a row in [`KINDS`] (its row in [`PLANNED`] goes) and a
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
mod mig_settings;
mod new_device;
mod nvidia_vgpu;
mod pci;
mod vgpu_settings;
mod view;

pub use board::Board;
pub use candidate::{
    Announced, Candidate, Detail, Idle, MadeAs, Placeholder, PlacementChoice, Rejection, ToMake,
};
pub use devices::Devices;
pub use former::{FormerWay, former_handle, former_way};
pub use gpu_settings::{GpuSettings, SchedulerPolicy, SchedulerSettings};
pub use mig_settings::{GpuInstances, MigMode, MigSettings};
pub use new_device::{Named, NewDevice};
pub use view::{FieldSources, HostView};

/// Every kind that this version serves, in the order in which messages list them.
pub const KINDS: &[&dyn Kind] = &[&nvidia_vgpu::NvidiaVgpu, &mdev::Mdev, &pci::Pci];

/// Kinds that pool files may name in the future. They are known so that the error
/// message says so, instead of treating them as misspelt.
pub const PLANNED: &[Planned] = &[
    Planned {
        name: "sriov-nic",
        tables: &["sriov-nic"],
        fields: &[Field::Netdev, Field::Mac, Field::LinkSpeedMbps],
    },
    Planned {
        name: "usb",
        tables: &["usb"],
        fields: &[
            Field::Bus,
            Field::PortPath,
            Field::UsbVersion,
            Field::SpeedMbps,
            Field::InterfaceDriver,
        ],
    },
];

/// The kind of a pool's devices, as the first line of its file names it. A row of the
/// registry; it has no state.
pub trait Kind: fmt::Debug + Sync {
    /// Its name in pool files.
    fn name(&self) -> &'static str;

    /// A short description of its devices.
    fn about(&self) -> &'static str;

    /// The devices to which the rules of its pools apply.
    fn subject(&self) -> Subject;

    /// The subject in words.
    fn words(&self) -> Words;

    /// The keys of a pool file that this kind accepts in addition to the common ones.
    fn keys(&self) -> Keys;

    /// The fields of its devices that this version reads.
    fn fields(&self) -> Vec<Field>;

    /// Its part of a pool file, checked.
    ///
    /// # Errors
    /// The first mistake, with its line and key.
    fn parse(&self, part: &Part<'_>) -> Result<Arc<dyn Devices>, ConfigError>;

    /// Every device of the host to which the rules of its pools apply.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    fn subjects(&self, view: &HostView<'_>) -> io::Result<Vec<Parent>>;

    /// The subject for a device of that name: the device itself or the device that it
    /// is part of; None if the kind's rules apply to neither. Reads nothing else.
    fn subject_named(&self, sysfs: &dyn Sysfs, name: &ParentName) -> Option<Parent>;

    /// Whether the XML names a device that must be chosen before the start. Otherwise
    /// the XML has a UUID, and any parent can make the device.
    fn is_chosen_ahead(&self) -> bool {
        true
    }

    /// The beginning of the name that a new device of a domain gets: "gpu" for gpu0.
    fn name_of_devices(&self) -> &'static str {
        "gpu"
    }

    /// Whether its devices are whole functions. A function from which another kind hands
    /// out parts must not be handed out whole.
    fn is_of_whole_functions(&self) -> bool {
        false
    }

    /// Whether libvirt must leave its functions with the driver that they have
    /// (`managed='no'`).
    fn keeps_its_driver(&self) -> bool {
        false
    }

    /// Whether a libvirt of that version can pass the kind's functions to VMs. The
    /// version is counted as in libvirt (9.7.0 is 9007000).
    ///
    /// # Errors
    /// Why it cannot.
    fn check_libvirt(&self, version: u32) -> Result<(), String> {
        let _ = version;
        Ok(())
    }

    /// The missing thing on this host without which no device of the kind can be chosen; None
    /// if nothing is known to be missing.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    fn lacking(&self, sysfs: &dyn Sysfs) -> io::Result<Option<String>> {
        let _ = sysfs;
        Ok(None)
    }

    /// Why a function cannot be handed out whole now, whichever pool takes it; None if it can,
    /// and for kinds that hand out other things. What the host needs is not asked here.
    fn withheld(&self, view: &HostView<'_>, function: PciAddress) -> Option<String> {
        let _ = (view, function);
        None
    }

    /// Devices to which the rules would apply if they were bound to the right driver,
    /// each with its present owner.
    fn unbound(&self, view: &HostView<'_>) -> Vec<(PciAddress, String)> {
        let _ = view;
        Vec::new()
    }
}

/// The devices to which the rules of a pool apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A parent of mediated devices.
    Parent,
    /// A whole GPU of NVIDIA's driver, whichever of its functions makes the devices.
    Gpu,
    /// A PCI function.
    Function,
}

/// Words for what the rules of a kind's pools apply to.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// The plural: "GPUs of NVIDIA's driver".
    pub subjects: &'static str,
    /// The singular: "GPU that NVIDIA's driver has".
    pub subject: &'static str,
    /// Says that there are none: "no GPUs".
    pub none: &'static str,
    /// Says so in a sentence: "this host has no NVIDIA GPU".
    pub host_has_none: &'static str,
    /// Says of a PCI function that a domain's XML names that it is not there.
    pub absent: &'static str,
    /// The command that lists what is there.
    pub lists: &'static str,
    /// Says of such a function that it is not in the pool.
    pub not_taken: &'static str,
    /// Words for devices that are not bound to the right driver; None if any driver
    /// will do.
    pub unbound: Option<UnboundWords>,
}

/// Words for devices that are not bound to the right driver ([`Kind::unbound`]).
#[derive(Debug, Clone, Copy)]
pub struct UnboundWords {
    /// Says that none is bound: "no GPU is bound to nvidia".
    pub none_bound: &'static str,
    /// Says so in a sentence about this host.
    pub host_has_none_bound: &'static str,
    /// The heading above the devices that are not bound.
    pub heading: &'static str,
}

/// The keys of a pool file that only this kind, or only some kinds, have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keys {
    /// The key for the type of the devices, if devices are made.
    pub type_key: Option<TypeKey>,
    /// The other keys at the top of the file.
    pub settings: &'static [&'static str],
    /// Those of them that are tables, with the keys in each.
    pub tables: &'static [(&'static str, &'static [&'static str])],
    /// The keys of `[defaults]`.
    pub defaults: &'static [&'static str],
}

/// A key for the type of the devices.
#[derive(Debug, Clone, Copy)]
pub struct TypeKey {
    /// Its name.
    pub name: &'static str,
    /// A description of its value, for a comment in a pool file.
    pub about: &'static str,
    /// The option of that name by which a new pool gets it.
    pub option: TypeOption,
}

/// The option of 'pool create' for a [`TypeKey`].
#[derive(Debug, Clone, Copy)]
pub struct TypeOption {
    /// The name of its value in the help, as in "TYPE".
    pub value_name: &'static str,
    /// Its help.
    pub help: &'static str,
    /// A sentence about pools that are created with this option.
    pub creates: &'static str,
    /// Reads its value.
    pub parse: fn(&str) -> Result<TypeSelector, InvalidName>,
}

/// A pool file, for the kind that reads its own part.
#[derive(Debug)]
pub struct Part<'p> {
    /// The top of the file; all of its keys are allowed for the kind.
    pub top: &'p Table<'p, 'p>,
    /// The position of the `kind` key.
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
    /// Fields of its devices, other than those that are read already.
    pub fields: &'static [Field],
}

/// The kind of that name, if this version serves it.
#[must_use]
pub fn named(name: &str) -> Option<&'static dyn Kind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}

/// The names of the kinds that this version serves.
#[must_use]
pub fn names() -> Vec<&'static str> {
    KINDS.iter().map(|kind| kind.name()).collect()
}

/// The names of the kinds whose rules apply to that subject.
#[must_use]
pub fn names_about(subject: Subject) -> String {
    let kinds = KINDS.iter().filter(|kind| kind.subject() == subject);
    let names: Vec<&str> = kinds.map(|kind| kind.name()).collect();
    names.join(" or ")
}

/// Whether the key is a top-level key of another kind.
#[must_use]
pub fn is_anothers_key(key: &str) -> bool {
    let has = |kind: &&dyn Kind| {
        let keys = kind.keys();
        keys.type_key.is_some_and(|key_of| key_of.name == key) || keys.settings.contains(&key)
    };
    KINDS.iter().any(has) || PLANNED.iter().any(|kind| kind.tables.contains(&key))
}

/// Whether the key is a `[defaults]` key of another kind.
#[must_use]
pub fn is_anothers_default(key: &str) -> bool {
    let mut kinds = KINDS.iter();
    kinds.any(|kind| kind.keys().defaults.contains(&key))
}

/// The fields of every PCI function.
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

/// Parameters of NVIDIA's driver, which can also make the mediated devices of kind
/// `mdev`; other drivers do not have these parameters.
const NVIDIA_PARAMETERS: &[&str] = &[
    "frame-rate-limit",
    "console-vnc",
    "unified-memory",
    "debuggers",
    "profilers",
];

/// The type of the devices: the text of the kind's own key, which is required.
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
        assert_eq!(names(), ["nvidia-vgpu", "mdev", "pci"]);
        assert_eq!(named("usb"), None);
    }

    /// Every field is read for some kind, or belongs to a planned kind.
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
