//! `virt-vgpu devices`: what the host has, as rules and pools see it.

use std::process::ExitCode;

use anyhow::Context;
use clap::{
    Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};

use super::output::{self, Table};
use crate::{
    host::Host,
    kind::{self, KINDS, Kind, Subject},
    model::PoolName,
    report::{
        devices::{self, DeviceList, FieldValues, Query},
        pool,
    },
};

mod functions;
mod parents;

/// Show the host's devices, and what rules can say about them.
///
/// By default: all PCI functions, with who or what has each of them. A GPU's
/// companions, such as audio and USB, stand indented below it whether they were asked
/// for or not. A star marks an IOMMU group of several devices. Names are from
/// udev's hardware database, else from pci.ids; a rule compares with the name that
/// --fields shows. With --kind mdev: the devices that make mediated devices, with
/// their types and the mediated devices that exist.
#[derive(Debug, Args)]
#[command(after_help = examples())]
pub(super) struct Devices {
    /// Only these: PCI addresses in any notation, or names of other devices that make
    /// mediated devices (mtty).
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<String>,

    /// Which devices; without it those of the pool, or all PCI functions.
    #[arg(long, value_parser = kinds())]
    kind: Option<&'static dyn Kind>,

    /// Only devices that the rules of this pool take.
    #[arg(long)]
    pool: Option<PoolName>,

    /// Only PCI devices that a VM could have now, and that the host does not need. Not for
    /// devices that are made.
    #[arg(long)]
    free: bool,

    /// Show each field that rules can test, with its value.
    #[arg(long)]
    fields: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn examples() -> String {
    let of_gpus = kind::names_about(Subject::Gpu);
    let parents = kind::names_about(Subject::Parent);
    format!(
        "Examples:
  virt-vgpu devices                       group, reset, who has them
  virt-vgpu devices --free                those that a VM could have
  virt-vgpu devices --fields 0000:3b:00.0 each field that a rule can test
  virt-vgpu devices --pool cad            what the rules of pool 'cad' take
  virt-vgpu devices --kind {parents}           what makes mediated devices
  virt-vgpu devices --kind {parents} 3b:00.0   one card, or its virtual functions
  virt-vgpu devices --kind {of_gpus} --fields   what rules can test of GPUs
  virt-vgpu devices --kind {parents} --json |
      jq '.devices[].types[] | select(.available > 0).id'

Exit code 0 when the devices were read, 1 when an address is unknown."
    )
}

/// A value for each kind.
fn kinds() -> impl TypedValueParser<Value = &'static dyn Kind> {
    let kinds = KINDS
        .iter()
        .map(|kind| PossibleValue::new(kind.name()).help(kind.words().subjects));
    let parser = PossibleValuesParser::new(kinds);
    parser.try_map(|name| kind::named(&name).ok_or("no such kind"))
}

impl Devices {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let pool = match &self.pool {
            Some(name) => Some(pool::load(host, name)?),
            None => None,
        };
        let of_pool = pool.as_ref().map(|pool| pool.kind);
        let kind = match (self.kind, of_pool) {
            (Some(asked), Some(has)) if asked != has => anyhow::bail!(
                "pool '{}' has no devices of kind '{}': it is of kind '{}'; leave out --kind",
                pool.map(|pool| pool.name.to_string()).unwrap_or_default(),
                asked.name(),
                has.name(),
            ),
            (asked, has) => asked
                .or(has)
                .or_else(|| devices::usual_kind(host, &self.addresses)),
        };
        let kind = kind.context("this version has no kinds of devices")?;
        if self.free && kind.subject() != Subject::Function {
            anyhow::bail!(
                "--free is about whole PCI devices; 'virt-vgpu status' says what pools of other \
                 kinds have free"
            );
        }
        let query = Query {
            addresses: &self.addresses,
            kind,
            pool: pool.as_ref(),
            free: self.free,
            fields: self.fields,
        };
        output::report(self.json, &devices::devices(host, &query)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl std::fmt::Display for DeviceList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Functions(list) => list.fmt(f),
            Self::Parents(list) => list.fmt(f),
        }
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
