//! One pool with everything that counts for it.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::{
    candidates::{self, Candidate},
    other_pools,
};
use crate::{
    allocate::Look,
    claims,
    config::{self, Class, Defaults, Placement, Pool},
    host::Host,
    kind::Kind,
    model::PoolName,
    plan::Detail,
    rule::{Filter, Operator},
};

/// A pool with everything that counts for it.
#[derive(Debug, Serialize)]
pub struct PoolDetails {
    /// Its name.
    pub name: PoolName,
    /// Its file.
    #[serde(serialize_with = "crate::report::in_json::path")]
    pub file: PathBuf,
    /// The type of its devices.
    pub kind: &'static dyn Kind,
    /// A note for people.
    pub description: Option<String>,
    /// A label to sort by.
    pub class: Option<Class>,
    /// The type that it hands out.
    #[serde(rename = "type")]
    pub device_type: String,
    /// Most devices at once, 0 for as many as fit.
    pub instances: u32,
    /// How its devices are spread.
    pub placement: Placement,
    /// The image of guest drivers that it lends.
    pub guest_driver: Option<String>,
    /// The settings of its kind, by their names in the file; null where libvirt decides.
    pub settings: BTreeMap<&'static str, serde_json::Value>,
    /// By their names in the file; null where the driver decides.
    pub defaults: BTreeMap<&'static str, serde_json::Value>,
    /// Its rules, in the order of the file.
    pub rules: Vec<RuleReport>,
    /// Devices that its rules take.
    pub devices: Vec<Candidate>,
    /// Devices of the pool that domains hold.
    pub in_use: u32,
    /// How many more the pool can hand out as things stand.
    pub free: u32,
    /// Whether so many will fit; else there may be fewer.
    pub exact: bool,
    /// Warnings about values that are accepted but probably wrong.
    pub warnings: Vec<String>,
}

/// One of its rules.
#[derive(Debug, Serialize)]
pub struct RuleReport {
    /// Its name in messages.
    pub label: String,
    /// Its name in the file.
    pub name: Option<String>,
    /// Whether it takes what the host needs too.
    pub allow_critical: bool,
    /// All of these hold for a device that it takes.
    #[serde(rename = "where")]
    pub filters: Vec<FilterReport>,
}

/// A condition of a rule.
#[derive(Debug, Serialize)]
pub struct FilterReport {
    /// The field that is asked.
    pub field: &'static str,
    /// How it is compared.
    #[serde(serialize_with = "op_name")]
    pub op: Operator,
    /// With what.
    pub value: String,
}

fn op_name<S: serde::Serializer>(op: &Operator, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(op.info().name)
}

/// Looks at the pool and its devices.
///
/// # Errors
/// When devices cannot be listed.
pub fn show(host: &Host, pool: Pool) -> anyhow::Result<PoolDetails> {
    let look = Look::new(host);
    let supply = look
        .free_supply(Detail::default(), None)
        .context("cannot look for devices")?;
    let others = other_pools(config::load_all(host), &pool.name);
    let mut devices =
        candidates::candidates(&supply, &pool, &others).context("cannot look for devices")?;
    devices.retain(|candidate| candidate.matches);
    let mut warnings = pool.warnings();
    let (in_use, in_doubt) = match claims::pool_in_use(host, &pool.name) {
        Ok(in_use) => (in_use, false),
        Err(error) => {
            warnings.push(format!("its devices in use cannot be counted: {error}"));
            (0, true)
        }
    };
    let device_type = pool.type_name().to_owned();
    let free = candidates::free(&supply, &pool, in_use, &devices);
    Ok(PoolDetails {
        warnings,
        rules: rules(&pool),
        settings: pool.devices.settings(),
        defaults: defaults(&pool),
        name: pool.name,
        file: pool.origin,
        kind: pool.kind,
        description: pool.description,
        class: pool.class,
        device_type,
        instances: pool.instances,
        placement: pool.placement,
        guest_driver: pool.guest_driver.map(|driver| driver.to_string()),
        devices,
        in_use,
        free: free.most(),
        exact: free.is_exact() && !in_doubt,
    })
}

fn defaults(pool: &Pool) -> BTreeMap<&'static str, serde_json::Value> {
    /// The only one that is ours and no parameter of a driver.
    const OPTIONAL: &str = "optional";
    let Defaults {
        frame_rate_limit,
        console_vnc,
        unified_memory,
        debuggers,
        profilers,
        optional,
    } = &pool.defaults;
    let mut defaults = BTreeMap::from([
        ("frame-rate-limit", (*frame_rate_limit).into()),
        ("console-vnc", (*console_vnc).into()),
        ("unified-memory", (*unified_memory).into()),
        ("debuggers", (*debuggers).into()),
        ("profilers", (*profilers).into()),
        (OPTIONAL, optional.unwrap_or(false).into()),
    ]);
    let of_kind = pool.kind.keys().defaults;
    defaults.retain(|key, _| *key == OPTIONAL || of_kind.contains(key));
    defaults
}

fn rules(pool: &Pool) -> Vec<RuleReport> {
    let filter = |filter: &Filter| FilterReport {
        field: filter.field().name(),
        op: filter.op(),
        value: filter.value().to_owned(),
    };
    let rules = pool.rules.iter().enumerate();
    rules
        .map(|(index, rule)| RuleReport {
            label: rule.label(index),
            name: rule.name.clone(),
            allow_critical: rule.allow_critical,
            filters: rule.filters.iter().map(filter).collect(),
        })
        .collect()
}
