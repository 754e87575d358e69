//! The devices of the host, with the fields that rules use.

use serde::{Serialize, Serializer};

use crate::{
    config::Pool,
    device::{Sysfs, gpu_fields::GpuFields, mdev, pci::DeviceFields, pci::PciNames},
    host::Host,
    kind::{KINDS, Kind, Subject},
    model::{ParentName, PciAddress},
    rule::{Field, Fields},
};

mod functions;
mod names;
mod parents;
mod whole;

pub use functions::{FunctionList, FunctionReport};
pub use parents::{MdevReport, OwnerReport, ParentList, ParentReport};
pub use whole::{Link, WholeFunction};

/// The query.
#[derive(Debug)]
pub struct Query<'q> {
    /// Only these, where any are named: PCI addresses in any notation, or names
    /// of other parents of mediated devices.
    pub addresses: &'q [String],
    /// Those that rules of this kind of pool are about.
    pub kind: &'static dyn Kind,
    /// Only devices that the rules of this pool take.
    pub pool: Option<&'q Pool>,
    /// Only PCI functions that nobody has and the host does not need.
    pub free: bool,
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
    Ok(match query.kind.subject() {
        Subject::Parent => DeviceList::Parents(parents::gather(host, query)?),
        Subject::Gpu | Subject::Function => DeviceList::Functions(functions::gather(host, query)?),
    })
}

/// The kind of the devices that are shown unless another is wanted: all PCI functions; but
/// parents of mediated devices where one is named that is no PCI function.
#[must_use]
pub fn usual_kind(host: &Host, addresses: &[String]) -> Option<&'static dyn Kind> {
    let is_parent = |text: &String| {
        let name = text.parse::<ParentName>();
        text.parse::<PciAddress>().is_err()
            && name.is_ok_and(|name| host.exists(&format!("{}/{name}", mdev::PARENTS)))
    };
    let subject = match addresses.iter().any(is_parent) {
        true => Subject::Parent,
        false => Subject::Function,
    };
    let mut kinds = KINDS.iter().copied();
    kinds.find(|kind| kind.subject() == subject)
}

/// The text for an empty list.
fn none_of(kind: &dyn Kind) -> String {
    let none = kind.words().none;
    match kind.subject() {
        Subject::Function => none.to_owned(),
        Subject::Parent | Subject::Gpu => {
            format!("{none}; 'virt-vgpu devices' lists PCI functions")
        }
    }
}

/// The value of every field that this version reads for such a device, as a rule would
/// have it; None where the device has no such field.
#[derive(Debug)]
pub struct FieldValues(pub Vec<(Field, Option<String>)>);

impl FieldValues {
    fn read(device: &DeviceFields<'_>, kind: &dyn Kind) -> Self {
        let fields = Field::ALL.iter().filter(|field| kind.reads(**field));
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
