//! The devices of the host, with the fields that rules use.

use serde::{Serialize, Serializer};

use crate::{
    config::Pool,
    device::{Sysfs, gpu_fields::GpuFields, pci::DeviceFields, pci::PciNames},
    host::Host,
    kind::{self, KINDS, Kind, Subject},
    model::ParentName,
    rule::{Field, Fields},
};

mod functions;
mod parents;

pub use functions::FunctionList;
pub use parents::{MdevReport, OwnerReport, ParentList, ParentReport};

/// Which devices are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Those that rules of a kind of pool are about.
    Of(&'static dyn Kind),
    /// All PCI functions.
    Functions,
}

/// The name of all PCI functions.
pub const FUNCTIONS: &str = "pci";

/// The query.
#[derive(Debug)]
pub struct Query<'q> {
    /// Only these, where any are named: addresses in any notation, or other kernel names.
    pub addresses: &'q [String],
    /// Which devices.
    pub shown: Shown,
    /// Only devices that the rules of this pool take.
    pub pool: Option<&'q Pool>,
    /// Whether each field that rules can test is wanted.
    pub fields: bool,
}

/// The devices.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum DeviceList {
    /// PCI functions.
    Functions(FunctionList),
    /// Parents of mediated devices.
    Parents(ParentList),
}

/// Looks at them.
///
/// # Errors
/// When they cannot be listed, or an address names none of them.
pub fn devices(host: &Host, query: &Query<'_>) -> anyhow::Result<DeviceList> {
    Ok(if query.shown.subject() == Some(Subject::Parent) {
        DeviceList::Parents(parents::gather(host, query)?)
    } else {
        DeviceList::Functions(functions::gather(host, query)?)
    })
}

impl Shown {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Of(kind) => kind.name(),
            Self::Functions => FUNCTIONS,
        }
    }

    fn subject(self) -> Option<Subject> {
        match self {
            Self::Of(kind) => Some(kind.subject()),
            Self::Functions => None,
        }
    }

    /// Whether the devices have the field and this version reads it.
    pub fn has(self, field: Field) -> bool {
        match self {
            Self::Of(kind) => kind.reads(field),
            Self::Functions => kind::PCI_FIELDS.contains(&field),
        }
    }

    /// The text for an empty list.
    pub fn none(self) -> String {
        match self {
            Self::Of(kind) => {
                let none = kind.words().none;
                format!("{none}; 'virt-vgpu devices --kind {FUNCTIONS}' lists PCI functions")
            }
            Self::Functions => "no PCI functions".to_owned(),
        }
    }

    /// Parents of mediated devices: the default.
    pub fn parents() -> Option<Self> {
        let is_it = |kind: &&&dyn Kind| kind.subject() == Subject::Parent;
        KINDS.iter().find(is_it).map(|kind| Self::Of(*kind))
    }
}

/// The value of every field that this version reads for such a device, as a rule would
/// have it; None where the device has no such field.
#[derive(Debug)]
pub struct FieldValues(pub Vec<(Field, Option<String>)>);

impl FieldValues {
    fn read(device: &DeviceFields<'_>, shown: Shown) -> Self {
        let fields = Field::ALL.iter().filter(|field| shown.has(**field));
        let value = |field: Field| {
            let value = device.field(field)?;
            Some(field.info().value_type.print(&value))
        };
        Self(fields.map(|&field| (field, value(field))).collect())
    }
}

impl Serialize for FieldValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(field, value)| (field.name(), value)))
    }
}

/// The fields of a device, to be read one by one.
fn fields_of<'a>(
    sysfs: &'a dyn Sysfs,
    names: &'a dyn PciNames,
    name: &'a ParentName,
    path: &'a str,
    gpu: Option<GpuFields<'a>>,
) -> DeviceFields<'a> {
    DeviceFields {
        sysfs,
        names,
        name,
        path,
        gpu,
    }
}
