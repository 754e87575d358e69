//! PCI functions of the host: all, or NVIDIA's GPUs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow};
use serde::Serialize;

use super::{
    FieldValues, Query, WholeFunction, fields_of, names::Names, none_of, whole::WholeFunctions,
};
use crate::{
    allocate::Look,
    claims,
    config::{self, Pool},
    device::{
        gpu_fields::GpuFields,
        near,
        pci::{self, DeviceFields},
    },
    host::{Host, HwdbNames},
    kind::{HostView, Kind, Subject},
    model::{PciAddress, proposed},
    plan::{Detail, HostSupply},
    rule::{Field, Fields, Verdict, spelling},
};

/// PCI functions of the host: all, or those of a kind or a pool.
#[derive(Debug, Serialize)]
pub struct FunctionList {
    /// In ascending order.
    pub devices: Vec<FunctionReport>,
    /// Companions of these that are not among them.
    #[serde(skip)]
    pub beside: Vec<FunctionReport>,
    /// What could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// How many devices of the host can make mediated devices; None where that was not the
    /// question. Not all of them are PCI functions.
    #[serde(skip)]
    pub parents: Option<usize>,
    /// The text for an empty list.
    #[serde(skip)]
    pub if_none: String,
}

/// A PCI function; null is what it does not say.
#[derive(Debug, Serialize)]
pub struct FunctionReport {
    /// Its address.
    pub address: PciAddress,
    /// Its class, as rules name it.
    pub class: Option<String>,
    /// The name of its class and subclass.
    pub class_name: Option<String>,
    /// The number of its vendor.
    pub vendor_id: Option<String>,
    /// Its vendor's number for it.
    pub device_id: Option<String>,
    /// The vendor's name, for people: rules may know another one.
    pub vendor: Option<String>,
    /// The device's name, for people.
    pub device: Option<String>,
    /// The driver that is bound to it.
    pub driver: Option<String>,
    /// The function whose virtual one it is.
    pub physical_function: Option<String>,
    /// What matters to those who hand out whole functions; left out for other kinds.
    #[serde(flatten)]
    pub whole: Option<WholeFunction>,
    /// Of a GPU: whether MIG mode is on; left out where NVML does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mig: Option<bool>,
    /// Of a GPU in MIG mode: how many GPU instances it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_instances: Option<usize>,
    /// The properties that udev's rules gave it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// Each field that rules can test, where they are wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<FieldValues>,
}

pub(super) fn gather(host: &Host, query: &Query<'_>) -> anyhow::Result<FunctionList> {
    let &Query { kind, pool, .. } = query;
    let look = Look::new(host);
    let mut functions = pci::functions(host).context("cannot list PCI functions")?;
    functions.sort_unstable();
    let all = functions.clone();
    let supply = look
        .free_supply(Detail::default(), None)
        .context("cannot look for devices")?;
    let view = supply.view();
    let of_kind: Vec<PciAddress> = match pool {
        Some(pool) => in_pool(&supply, pool)?,
        None => {
            let all = kind.subjects(view);
            let all = all.with_context(|| format!("cannot look for {}", kind.words().subjects))?;
            all.iter().filter_map(|one| one.name.pci()).collect()
        }
    };
    if !query.addresses.is_empty() {
        let mut wanted = Vec::new();
        for text in query.addresses {
            let parsed = text.parse::<PciAddress>();
            match parsed {
                Ok(address) if functions.iter().any(|(have, _)| *have == address) => {
                    wanted.push(address);
                }
                _ => return Err(unknown(text, &functions)),
            }
        }
        functions.retain(|(address, _)| wanted.contains(address));
    }
    let mut named = functions.iter().filter(|_| !query.addresses.is_empty());
    if let Some((other, _)) = named.find(|(address, _)| !of_kind.contains(address)) {
        return Err(anyhow!("{}", not_among(*other, kind, pool)));
    }
    functions.retain(|(address, _)| of_kind.contains(address));
    let whole = match kind.subject() {
        Subject::Function => Some(WholeFunctions::look(host, kind, &look, &supply)?),
        Subject::Parent | Subject::Gpu => None,
    };
    let names = Names::of(host, &look.names);
    let report = |(address, path): &(PciAddress, String)| {
        let name = (*address).into();
        let of_gpu = GpuFields {
            nvml: Some(view),
            profile: pool.and_then(|pool| pool.devices.selector()),
        };
        let device = fields_of(host, &look.names, &name, path, Some(of_gpu));
        let fields = query.fields.then(|| FieldValues::read(&device, kind));
        let mut report = function_report(*address, &device, &names);
        report.fields = fields;
        report.whole = whole.as_ref().map(|whole| whole.of(*address));
        if kind.subject() == Subject::Gpu && !query.fields {
            add_mig(&mut report, view);
        }
        report
    };
    let mut devices: Vec<FunctionReport> = functions.iter().map(report).collect();
    let all_of_these = devices.len();
    if query.free {
        let is_free = |one: &FunctionReport| one.whole.as_ref().is_none_or(|whole| whole.free);
        devices.retain(is_free);
    }
    let companions = devices.iter().filter_map(|one| one.whole.as_ref());
    let companions = companions.flat_map(|whole| &whole.companions);
    let companions: BTreeSet<PciAddress> = companions.copied().collect();
    let is_beside = |one: &PciAddress| {
        companions.contains(one) && devices.iter().all(|device| device.address != *one)
    };
    let beside = all.iter().filter(|(one, _)| is_beside(one));
    let is_of_all = kind.subject() == Subject::Function && pool.is_none() && !query.free;
    let is_of_all = is_of_all && query.addresses.is_empty();
    Ok(FunctionList {
        parents: is_of_all.then(|| view.mdev().parents().len()),
        beside: beside.map(report).collect(),
        devices,
        problems: problems(host)?,
        if_none: match all_of_these {
            0 => if_none(kind, pool, view),
            count => none_free(host, kind, count)?,
        },
    })
}

/// MIG mode and GPU instances of a GPU, as NVML tells them.
fn add_mig(report: &mut FunctionReport, view: &HostView<'_>) {
    let facts = view.facts().unwrap_or_default();
    let Some(facts) = facts.iter().find(|one| one.address == report.address) else {
        return;
    };
    report.mig = facts.mig.value().copied();
    let instances = facts.instances.value().filter(|_| report.mig == Some(true));
    report.gpu_instances = instances.map(|told| told.instances.len());
}

/// What keeps parts of the list from being complete: claims and pools that cannot be read.
fn problems(host: &Host) -> anyhow::Result<Vec<String>> {
    let (_, damaged) = claims::load_all(host).context("cannot read the claims")?;
    let broken = config::load_all(host).pools.into_values();
    let broken = broken.filter_map(Result::err);
    let broken = broken.map(|error| format!("the pools are not all shown: {error}"));
    let damaged = damaged.iter().map(ToString::to_string);
    Ok(damaged.chain(broken).collect())
}

/// The text for a list of which nothing is free.
fn none_free(host: &Host, kind: &dyn Kind, count: usize) -> anyhow::Result<String> {
    let lacking = kind.lacking(host).context("cannot look for devices")?;
    Ok(match (lacking, count) {
        (Some(why), _) => format!("none is free: {why}"),
        (None, 1) => "it is not free; the list without --free says why".to_owned(),
        (None, _) => format!("none of the {count} is free; the list without --free says why"),
    })
}

/// The GPUs that a pool's rules take.
fn in_pool(supply: &HostSupply<'_>, pool: &Pool) -> anyhow::Result<Vec<PciAddress>> {
    let standings = supply.standings(pool).context("cannot look for devices")?;
    let taken = standings
        .iter()
        .filter(|one| matches!(one.verdict, Verdict::Match { .. }));
    Ok(taken.filter_map(|one| one.parent.name.pci()).collect())
}

fn not_among(address: PciAddress, kind: &dyn Kind, pool: Option<&Pool>) -> String {
    match pool {
        Some(Pool { name, .. }) => format!(
            "pool '{name}' does not take {address}; {} says why",
            proposed("virt-vgpu pool preview", name)
        ),
        None => format!(
            "{address} is not a {}; 'virt-vgpu devices {address}' shows what it is",
            kind.words().subject,
        ),
    }
}

fn if_none(kind: &dyn Kind, pool: Option<&Pool>, view: &HostView<'_>) -> String {
    match pool {
        Some(Pool { name, .. }) => {
            format!(
                "pool '{name}' takes none; {} says why",
                proposed("virt-vgpu pool preview", name)
            )
        }
        None => match (kind.unbound(view).first(), kind.words().unbound) {
            (Some((device, why)), Some(words)) => {
                format!("{}; {device}: {why}", words.none_bound)
            }
            _ => none_of(kind),
        },
    }
}

fn unknown(text: &str, functions: &[(PciAddress, String)]) -> anyhow::Error {
    let have: Vec<String> = functions
        .iter()
        .map(|(address, _)| address.to_string())
        .collect();
    anyhow!(
        "there is no PCI function '{}': {}; 'virt-vgpu devices' lists all",
        spelling::shown(text),
        near::what_there_is(&near::canonical(text), &have)
    )
}

fn function_report(
    address: PciAddress,
    device: &DeviceFields<'_>,
    names: &Names<'_>,
) -> FunctionReport {
    let HwdbNames {
        vendor,
        device: device_name,
        class: class_name,
    } = names.at(device.path);
    let value = |field: Field| {
        let value = device.field(field)?;
        Some(field.info().value_type.print(&value))
    };
    FunctionReport {
        address,
        class: value(Field::Class),
        class_name,
        vendor_id: value(Field::VendorId),
        device_id: value(Field::DeviceId),
        vendor,
        device: device_name,
        driver: value(Field::Driver),
        physical_function: value(Field::PhysicalFunction),
        whole: None,
        mig: None,
        gpu_instances: None,
        properties: names.database.properties(address),
        fields: None,
    }
}
