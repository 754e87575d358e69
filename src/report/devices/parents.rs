//! Parents of mediated devices, their types, and the devices on them.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use serde::Serialize;

use super::{FieldValues, Query, fields_of, none_of};
use crate::{
    allocate::Look,
    claims::{self, Claim},
    config::Pool,
    device::{
        mdev::{self, MdevHost, MdevType, Parent},
        near,
    },
    host::Host,
    model::{DeviceName, DomainName, MdevTypeId, MdevUuid, ParentName, PoolName, proposed},
    plan::{Detail, HostSupply},
    rule::Verdict,
};

/// Parents of mediated devices.
#[derive(Debug, Serialize)]
pub struct ParentList {
    /// In the order of their names.
    pub devices: Vec<ParentReport>,
    /// Claims that cannot be read.
    pub problems: Vec<String>,
    /// Whether devices that are alike may be shown as one: not those asked for.
    #[serde(skip)]
    pub may_fold: bool,
    /// The text for an empty list.
    #[serde(skip)]
    pub if_none: String,
}

/// A parent, its types, and the devices on it.
#[derive(Debug, Serialize)]
pub struct ParentReport {
    /// Its kernel name.
    pub address: ParentName,
    /// The board, for a virtual function.
    pub physical_function: Option<ParentName>,
    /// Its types.
    pub types: Vec<MdevType>,
    /// All mediated devices on it, ours or not.
    pub mdevs: Vec<MdevReport>,
    /// Why its types are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Each field that rules can test, where they are wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<FieldValues>,
}

/// A mediated device that exists.
#[derive(Debug, Serialize)]
pub struct MdevReport {
    /// Its UUID.
    pub uuid: MdevUuid,
    /// Its type.
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
    /// Its domain; null if no claim names the device.
    pub claim: Option<OwnerReport>,
}

/// The holder of the device.
#[derive(Debug, Clone, Serialize)]
pub struct OwnerReport {
    /// The domain.
    pub domain: DomainName,
    /// Its name in the domain.
    pub device: DeviceName,
    /// The pool that it is from.
    pub pool: PoolName,
}

pub(super) fn gather(host: &Host, query: &Query<'_>) -> anyhow::Result<ParentList> {
    let &Query { kind, pool, .. } = query;
    let look = Look::new(host);
    let supply = look
        .supply(Detail::default())
        .context("cannot look for mdev parents")?;
    let mut problems = Vec::new();
    let mut on_parents = mdevs(host, supply.mdev(), &mut problems)?;
    let mut devices = Vec::new();
    for parent in chosen(&supply, query)? {
        let board = supply.mdev().board(parent);
        let (types, problem) = match supply.mdev().types(parent) {
            Ok(types) => (types, None),
            Err(error) => (Vec::new(), Some(format!("cannot read its types: {error}"))),
        };
        let fields = query.fields.then(|| {
            let path = parent.path();
            let device = fields_of(host, &look.names, &parent.name, &path, None);
            FieldValues::read(&device, kind)
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
    Ok(ParentList {
        devices,
        problems,
        may_fold: query.addresses.is_empty(),
        if_none: match pool {
            None => none_of(kind),
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
fn chosen<'s>(supply: &'s HostSupply<'_>, query: &Query<'_>) -> anyhow::Result<Vec<&'s Parent>> {
    let mdev = supply.mdev();
    let mut keep: Vec<bool> = match query.pool {
        None => vec![true; mdev.parents().len()],
        Some(pool) => supply
            .standings(pool)
            .context("cannot look for devices")?
            .iter()
            .map(|standing| matches!(standing.verdict, Verdict::Match { .. }))
            .collect(),
    };
    if !query.addresses.is_empty() {
        let mut named = vec![false; mdev.parents().len()];
        for address in query.addresses {
            let found = near::parents_named(mdev, address)?;
            if found.is_empty() {
                return Err(anyhow!(near::unknown_parent(
                    mdev,
                    address,
                    query.kind.name()
                )));
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
