//! `virt-vgpu devices`: what the host has, as rules and pools see it.

use std::process::ExitCode;

use clap::{
    Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use serde::{Serialize, Serializer};

use super::output::Table;
use crate::{
    device::{Sysfs, gpu_fields::GpuFields, pci::DeviceFields, pci::PciNames},
    host::Host,
    kind::{self, KINDS, Kind, Subject},
    model::{ParentName, PoolName},
    rule::{Field, Fields},
};

mod functions;
mod parents;

/// Show the host's devices, and what rules can say about them.
///
/// By default: the devices that can make mediated devices, with their types and
/// the mediated devices that exist.
#[derive(Debug, Args)]
#[command(after_help = examples())]
pub(super) struct Devices {
    /// Only these: addresses in any notation, or other kernel names.
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<String>,

    /// Which devices; without it those of the pool, or mdev.
    #[arg(long, value_parser = shown())]
    kind: Option<Shown>,

    /// Only devices that the rules of this pool take.
    #[arg(long)]
    pool: Option<PoolName>,

    /// Show each field that rules can test, with its value.
    #[arg(long)]
    fields: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn examples() -> String {
    let of_gpus = kind::names_about(Subject::Gpu);
    format!(
        "Examples:
  virt-vgpu devices
  virt-vgpu devices 0000:3b:00.0    one card; its virtual functions, if it has any
  virt-vgpu devices --pool cad      what the rules of pool 'cad' take
  virt-vgpu devices --fields mtty   each field that a rule can test, with its value
  virt-vgpu devices --kind {FUNCTIONS}      all PCI functions
  virt-vgpu devices --kind {of_gpus} --fields    GPUs, and what rules can test of them
  virt-vgpu devices --json | jq '.devices[].types[] | select(.available > 0).id'

Exit code 0 when the devices were read, 1 when an address is unknown."
    )
}

/// Which devices are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Those that rules of a kind of pool are about.
    Of(&'static dyn Kind),
    /// All PCI functions.
    Functions,
}

/// The name of all PCI functions.
const FUNCTIONS: &str = "pci";

/// A value for each.
fn shown() -> impl TypedValueParser<Value = Shown> {
    let kinds = KINDS
        .iter()
        .map(|kind| PossibleValue::new(kind.name()).help(kind.words().subjects));
    let all = kinds.chain([PossibleValue::new(FUNCTIONS).help("PCI functions")]);
    let parser = PossibleValuesParser::new(all);
    parser.map(|name| kind::named(&name).map_or(Shown::Functions, Shown::Of))
}

impl Shown {
    fn name(self) -> &'static str {
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
    fn has(self, field: Field) -> bool {
        match self {
            Self::Of(kind) => kind.reads(field),
            Self::Functions => kind::PCI_FIELDS.contains(&field),
        }
    }

    /// What an empty list means.
    fn none(self) -> String {
        match self {
            Self::Of(kind) => {
                let none = kind.words().none;
                format!("{none}; 'virt-vgpu devices --kind {FUNCTIONS}' lists PCI functions")
            }
            Self::Functions => "no PCI functions".to_owned(),
        }
    }

    /// What makes mediated devices: shown where nobody asks for anything else.
    fn parents() -> Option<Self> {
        let is_it = |kind: &&&dyn Kind| kind.subject() == Subject::Parent;
        KINDS.iter().find(is_it).map(|kind| Self::Of(*kind))
    }
}

impl Devices {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let pool = match &self.pool {
            Some(name) => Some(super::pool::load(host, name)?),
            None => None,
        };
        let of_pool = pool.as_ref().map(|pool| Shown::Of(pool.kind));
        let shown = match (self.kind, of_pool) {
            (Some(asked), Some(has)) if asked != has => anyhow::bail!(
                "pool '{}' has no devices of kind '{}': it is of kind '{}'; leave out --kind",
                pool.map(|pool| pool.name.to_string()).unwrap_or_default(),
                asked.name(),
                has.name(),
            ),
            (asked, has) => asked.or(has).or(Shown::parents()),
        };
        match shown {
            Some(shown) if shown.subject() != Some(Subject::Parent) => {
                functions::run(self, host, shown, pool.as_ref())
            }
            Some(shown) => parents::run(self, host, shown, pool.as_ref()),
            None => functions::run(self, host, Shown::Functions, pool.as_ref()),
        }
    }
}

/// The value of every field that this version reads for such a device, as a rule would
/// have it; None where the device has no such field.
#[derive(Debug)]
struct FieldValues(Vec<(Field, Option<String>)>);

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

impl std::fmt::Display for FieldValues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut table = Table::new(&["FIELD", "VALUE"]);
        for (field, value) in &self.0 {
            table.row([field.to_string(), value.clone().unwrap_or_default()]);
        }
        write!(f, "{}", table.indented())
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
