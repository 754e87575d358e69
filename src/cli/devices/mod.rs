//! `virt-vgpu devices`: what the host has, as rules and pools see it.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};

use super::output::Table;
use crate::{
    device::{Sysfs, gpu_fields::GpuFields, pci::DeviceFields, pci::PciNames},
    host::Host,
    model::{ParentName, PoolName},
    rule::{Field, Fields, Kind},
};

mod functions;
mod parents;

/// Show the host's devices, and what rules can say about them.
///
/// By default: the devices that can make mediated devices, with their types and
/// the mediated devices that exist.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu devices
  virt-vgpu devices 0000:3b:00.0    one card; its virtual functions, if it has any
  virt-vgpu devices --pool cad      what the rules of pool 'cad' take
  virt-vgpu devices --fields mtty   each field that a rule can test, with its value
  virt-vgpu devices --kind pci      all PCI functions
  virt-vgpu devices --kind nvidia-vgpu --fields    GPUs, and what rules can test of them
  virt-vgpu devices --json | jq '.devices[].types[] | select(.available > 0).id'

Exit code 0 when the devices were read, 1 when an address is unknown.")]
pub(super) struct Devices {
    /// Only these: addresses in any notation, or other kernel names.
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<String>,

    /// Which devices; without it those of the pool, or mdev.
    #[arg(long, value_enum)]
    kind: Option<ShownKind>,

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShownKind {
    /// GPUs of NVIDIA's driver.
    NvidiaVgpu,
    /// Parents of mediated devices.
    Mdev,
    /// PCI functions.
    Pci,
}

impl ShownKind {
    const fn kind(self) -> Kind {
        match self {
            Self::NvidiaVgpu => Kind::NvidiaVgpu,
            Self::Mdev => Kind::Mdev,
            Self::Pci => Kind::Pci,
        }
    }

    /// What a pool of that kind takes; None where this version shows none.
    const fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::NvidiaVgpu => Some(Self::NvidiaVgpu),
            Kind::Mdev => Some(Self::Mdev),
            Kind::Pci => Some(Self::Pci),
            Kind::SriovNic | Kind::Usb => None,
        }
    }
}

impl Devices {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let pool = match &self.pool {
            Some(name) => Some(super::pool::load(host, name)?),
            None => None,
        };
        let of_pool = pool.as_ref().map(|pool| pool.kind);
        let kind = match (self.kind, of_pool) {
            (Some(asked), Some(kind)) if asked.kind() != kind => anyhow::bail!(
                "pool '{}' has no devices of kind '{}': it is of kind '{kind}'; leave out --kind",
                pool.map(|pool| pool.name.to_string()).unwrap_or_default(),
                asked.kind(),
            ),
            (Some(asked), _) => Some(asked),
            (None, Some(kind)) => ShownKind::of(kind),
            (None, None) => Some(ShownKind::Mdev),
        };
        match kind {
            Some(ShownKind::Mdev) => parents::run(self, host, pool.as_ref()),
            Some(kind) => functions::run(self, host, kind, pool.as_ref()),
            None => anyhow::bail!("devices of such a pool are not shown by this version"),
        }
    }
}

/// The value of every field that this version reads for a kind, as a rule would
/// have it; None where the device has no such field.
#[derive(Debug)]
struct FieldValues(Vec<(Field, Option<String>)>);

impl FieldValues {
    fn read(device: &DeviceFields<'_>, kind: Kind) -> Self {
        let fields = Field::ALL.iter().filter(|field| field.is_read_for(kind));
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
