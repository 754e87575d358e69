//! Parents of mediated devices, their types, and the devices on them.

use std::{collections::BTreeMap, fmt, process::ExitCode};

use anyhow::Context;
use serde::Serialize;

use super::{Devices, FieldValues, Shown, fields_of};
use crate::{
    allocate::Look,
    claims::{self, Claim},
    cli::{
        near,
        output::{self, Table},
    },
    config::Pool,
    device::mdev::{self, MdevHost, MdevType, Parent},
    host::Host,
    model::{DeviceName, DomainName, MdevTypeId, MdevUuid, ParentName, PoolName, proposed},
    plan::{Detail, HostSupply},
    rule::Verdict,
};

#[derive(Debug, Serialize)]
struct Report {
    devices: Vec<ParentReport>,
    problems: Vec<String>,
    /// Whether devices that are alike may be shown as one: not those asked for.
    #[serde(skip)]
    may_fold: bool,
    /// What an empty list means.
    #[serde(skip)]
    if_none: String,
}

#[derive(Debug, Serialize)]
struct ParentReport {
    address: ParentName,
    /// The board, for a virtual function.
    physical_function: Option<ParentName>,
    types: Vec<MdevType>,
    mdevs: Vec<MdevReport>,
    /// Why its types are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<FieldValues>,
}

#[derive(Debug, Serialize)]
struct MdevReport {
    uuid: MdevUuid,
    #[serde(rename = "type")]
    type_id: MdevTypeId,
    /// Whose it is; null when no claim names it.
    claim: Option<OwnerReport>,
}

#[derive(Debug, Clone, Serialize)]
struct OwnerReport {
    domain: DomainName,
    device: DeviceName,
    pool: PoolName,
}

pub(super) fn run(
    verb: &Devices,
    host: &Host,
    shown: Shown,
    pool: Option<&Pool>,
) -> anyhow::Result<ExitCode> {
    let report = gather(verb, host, shown, pool)?;
    output::report(verb.json, &report)?;
    Ok(ExitCode::SUCCESS)
}

fn gather(
    verb: &Devices,
    host: &Host,
    shown: Shown,
    pool: Option<&Pool>,
) -> anyhow::Result<Report> {
    let look = Look::new(host);
    let supply = look
        .supply(Detail::default())
        .context("cannot look for mdev parents")?;
    let mut problems = Vec::new();
    let mut on_parents = mdevs(host, supply.mdev(), &mut problems)?;
    let mut devices = Vec::new();
    for parent in chosen(verb, host, &supply, pool)? {
        let board = supply.mdev().board(parent);
        let (types, problem) = match supply.mdev().types(parent) {
            Ok(types) => (types, None),
            Err(error) => (Vec::new(), Some(format!("cannot read its types: {error}"))),
        };
        let fields = verb.fields.then(|| {
            let path = parent.path();
            let device = fields_of(host, &look.names, &parent.name, &path, None);
            FieldValues::read(&device, shown)
        });
        devices.push(ParentReport {
            physical_function: (board != parent.name).then_some(board),
            types,
            mdevs: on_parents.remove(&parent.name).unwrap_or_default(),
            address: parent.name.clone(),
            problem,
            fields,
        });
    }
    Ok(Report {
        devices,
        problems,
        may_fold: verb.addresses.is_empty(),
        if_none: match pool {
            None => shown.none(),
            Some(Pool { name, .. }) => {
                format!(
                    "pool '{name}' takes none; {} says why",
                    proposed("virt-vgpu pool preview", name)
                )
            }
        },
    })
}

/// The parents that the arguments name, or all.
fn chosen<'s>(
    verb: &Devices,
    host: &Host,
    supply: &'s HostSupply<'_>,
    pool: Option<&Pool>,
) -> anyhow::Result<Vec<&'s Parent>> {
    let mdev = supply.mdev();
    let mut keep: Vec<bool> = match pool {
        None => vec![true; mdev.parents().len()],
        Some(pool) => supply
            .standings(pool)
            .context("cannot look for devices")?
            .iter()
            .map(|standing| matches!(standing.verdict, Verdict::Match { .. }))
            .collect(),
    };
    if !verb.addresses.is_empty() {
        let mut named = vec![false; mdev.parents().len()];
        for address in &verb.addresses {
            let found = near::parents_named(mdev, address)?;
            if found.is_empty() {
                return Err(near::unknown_parent(host, mdev, address));
            }
            found.into_iter().for_each(|index| named[index] = true);
        }
        for (keep, named) in keep.iter_mut().zip(named) {
            *keep &= named;
        }
    }
    let kept = mdev.parents().iter().zip(keep);
    Ok(kept
        .filter_map(|(parent, keep)| keep.then_some(parent))
        .collect())
}

/// All mediated devices of the host by parent. No lock is held, so that anybody
/// may look: claims are read before the devices and after them, and a device
/// that comes or goes meanwhile is not taken for a foreign one.
fn mdevs(
    host: &Host,
    mdev: &MdevHost<'_>,
    problems: &mut Vec<String>,
) -> anyhow::Result<BTreeMap<ParentName, Vec<MdevReport>>> {
    let (before, _) = claims::load_all(host).context("cannot read the claims")?;
    let mut found = Vec::new();
    for (uuid, _) in mdev.parents_in_use().context("cannot list mdevs")? {
        found.extend(mdev::find(host, uuid).with_context(|| mdev::path(uuid))?);
    }
    let (after, damaged) = claims::load_all(host).context("cannot read the claims")?;
    problems.extend(damaged.iter().map(ToString::to_string));
    let owners: BTreeMap<MdevUuid, OwnerReport> =
        before.iter().chain(&after).flat_map(owners).collect();
    let mut by_parent: BTreeMap<ParentName, Vec<MdevReport>> = BTreeMap::new();
    for device in found {
        by_parent
            .entry(device.parent)
            .or_default()
            .push(MdevReport {
                uuid: device.uuid,
                type_id: device.type_id,
                claim: owners.get(&device.uuid).cloned(),
            });
    }
    Ok(by_parent)
}

fn owners(claim: &Claim) -> impl Iterator<Item = (MdevUuid, OwnerReport)> {
    claim.devices.iter().map(|device| {
        let owner = OwnerReport {
            domain: claim.domain_name.clone(),
            device: device.name.clone(),
            pool: device.pool.clone(),
        };
        (device.uuid, owner)
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.devices.is_empty() {
            writeln!(f, "{}", self.if_none)?;
        }
        for (index, alike) in self.folded().iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write_alike(f, alike)?;
        }
        for problem in &self.problems {
            writeln!(f, "\nproblem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}

impl Report {
    /// Idle virtual functions of one board that offer the same are shown once: a
    /// card with 32 of them and 25 types each would fill 800 lines.
    fn folded(&self) -> Vec<Vec<&ParentReport>> {
        let mut groups: Vec<Vec<&ParentReport>> = Vec::new();
        for device in &self.devices {
            let group = groups
                .iter_mut()
                .find(|group| self.may_fold && group.iter().all(|other| is_alike(other, device)));
            match group {
                Some(group) => group.push(device),
                None => groups.push(vec![device]),
            }
        }
        groups
    }
}

fn is_alike(one: &ParentReport, other: &ParentReport) -> bool {
    let is_idle =
        |device: &ParentReport| device.mdevs.is_empty() && device.physical_function.is_some();
    is_idle(one)
        && is_idle(other)
        && one.fields.is_none()
        && one.problem == other.problem
        && one.physical_function == other.physical_function
        && one.types == other.types
}

fn write_alike(f: &mut fmt::Formatter<'_>, alike: &[&ParentReport]) -> fmt::Result {
    /// Addresses of one group that are written out.
    const NAMED: usize = 4;
    let Some(first) = alike.first() else {
        return Ok(());
    };
    let named: Vec<String> = alike
        .iter()
        .take(NAMED)
        .map(|device| device.address.to_string())
        .collect();
    write!(f, "{}", named.join(", "))?;
    if let Some(more @ 1..) = alike.len().checked_sub(NAMED) {
        write!(f, " and {more} more")?;
    }
    match (&first.physical_function, alike.len()) {
        (None, _) => writeln!(f)?,
        (Some(board), 1) => writeln!(f, " (virtual function of {board})")?,
        (Some(board), _) => writeln!(f, " (virtual functions of {board}), each:")?,
    }
    if let Some(fields) = &first.fields {
        return write!(f, "{fields}");
    }
    match &first.problem {
        Some(problem) => writeln!(f, "  {}", output::one_line(problem))?,
        None => write_types(f, &first.types)?,
    }
    write_mdevs(f, &first.mdevs)
}

fn write_types(f: &mut fmt::Formatter<'_>, types: &[MdevType]) -> fmt::Result {
    let mut table = Table::new(&["TYPE", "NAME", "AVAILABLE", "DESCRIPTION"]);
    for one in types {
        let text = |text: &Option<String>| {
            // Drivers of integrated GPUs describe a type in several lines.
            let lines: Vec<&str> = text
                .iter()
                .flat_map(|text| text.lines())
                .map(|line| line.trim().trim_end_matches(','))
                .collect();
            lines.join(", ")
        };
        table.row([
            one.id.to_string(),
            text(&one.name),
            one.available.to_string(),
            text(&one.description),
        ]);
    }
    if table.is_empty() {
        return writeln!(f, "  no types");
    }
    write!(f, "{}", table.indented())
}

fn write_mdevs(f: &mut fmt::Formatter<'_>, mdevs: &[MdevReport]) -> fmt::Result {
    let mut table = Table::new(&["MDEV", "TYPE", "OWNER"]);
    for mdev in mdevs {
        let owner = match &mdev.claim {
            Some(OwnerReport {
                domain,
                device,
                pool,
            }) => {
                format!("domain '{domain}' ('{device}' from pool '{pool}')")
            }
            None => "not ours".to_owned(),
        };
        table.row([mdev.uuid.to_string(), mdev.type_id.to_string(), owner]);
    }
    if table.is_empty() {
        return Ok(());
    }
    write!(f, "{}", table.indented())
}
