//! `virt-vgpu pool show`: one pool with everything that counts for it.

use std::{collections::BTreeMap, fmt, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{
    candidates::{self, Candidate},
    limit, load, other_pools,
};
use crate::{
    allocate::Look,
    claims,
    cli::output,
    config::{self, Class, Defaults, Placement, Pool},
    host::Host,
    kind::Kind,
    model::{PoolName, proposed},
    plan::Detail,
    rule::{Filter, Operator},
};

/// Show a pool: its values, its rules, its devices.
///
/// Shows what counts, with the defaults for what the file leaves out.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu pool show cad
  virt-vgpu pool show cad --json | jq '.free'

Exit code 0 when the pool can be used, 1 when it cannot or does not exist.")]
pub(super) struct Show {
    /// The pool.
    name: PoolName,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    name: PoolName,
    #[serde(serialize_with = "crate::cli::output::path")]
    file: PathBuf,
    kind: &'static dyn Kind,
    description: Option<String>,
    class: Option<Class>,
    #[serde(rename = "type")]
    device_type: String,
    /// Most devices at once, 0 for as many as fit.
    instances: u32,
    placement: Placement,
    guest_driver: Option<String>,
    /// By their names in the file; null where the driver decides.
    defaults: BTreeMap<&'static str, serde_json::Value>,
    rules: Vec<RuleReport>,
    devices: Vec<Candidate>,
    /// Devices of the pool that domains hold.
    in_use: u32,
    /// How many more the pool can hand out as things stand.
    free: u32,
    /// Whether so many will fit; else there may be fewer.
    exact: bool,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RuleReport {
    label: String,
    name: Option<String>,
    allow_critical: bool,
    #[serde(rename = "where")]
    filters: Vec<FilterReport>,
}

#[derive(Debug, Serialize)]
struct FilterReport {
    field: &'static str,
    #[serde(serialize_with = "op_name")]
    op: Operator,
    value: String,
}

fn op_name<S: serde::Serializer>(op: &Operator, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(op.info().name)
}

impl Show {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let report = gather(host, load(host, &self.name)?)?;
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn gather(host: &Host, pool: Pool) -> anyhow::Result<Report> {
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
    Ok(Report {
        warnings,
        rules: rules(&pool),
        defaults: defaults(&pool.defaults),
        name: pool.name,
        file: pool.origin,
        kind: pool.kind,
        description: pool.description,
        class: pool.class,
        device_type,
        instances: pool.instances,
        placement: pool.placement,
        guest_driver: pool.guest_driver,
        devices,
        in_use,
        free: free.most(),
        exact: free.is_exact() && !in_doubt,
    })
}

fn defaults(defaults: &Defaults) -> BTreeMap<&'static str, serde_json::Value> {
    let Defaults {
        frame_rate_limit,
        console_vnc,
        unified_memory,
        debuggers,
        profilers,
        optional,
    } = defaults;
    BTreeMap::from([
        ("frame-rate-limit", (*frame_rate_limit).into()),
        ("console-vnc", (*console_vnc).into()),
        ("unified-memory", (*unified_memory).into()),
        ("debuggers", (*debuggers).into()),
        ("profilers", (*profilers).into()),
        // The only one that is ours and no parameter of a driver.
        ("optional", optional.unwrap_or(false).into()),
    ])
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = || "none".to_owned();
        writeln!(f, "pool '{}'", self.name)?;
        for (key, value) in [
            ("file", self.file.display().to_string()),
            ("kind", self.kind.to_string()),
            ("description", self.description.clone().unwrap_or_else(none)),
            (
                "class",
                self.class.map_or_else(none, |class| class.to_string()),
            ),
            ("type", self.device_type.clone()),
            ("instances", limit(self.instances)),
            ("placement", self.placement.to_string()),
            (
                "guest-driver",
                self.guest_driver.clone().unwrap_or_else(none),
            ),
        ] {
            writeln!(f, "  {key:<18}{}", output::one_line(value))?;
        }
        writeln!(f, "\nfor requests that do not say otherwise:")?;
        for (key, value) in &self.defaults {
            let value = match value {
                serde_json::Value::Null => "as the driver has it".to_owned(),
                serde_json::Value::Bool(true) => "yes".to_owned(),
                serde_json::Value::Bool(false) => "no".to_owned(),
                other => other.to_string(),
            };
            writeln!(f, "  {key:<18}{value}")?;
        }
        writeln!(
            f,
            "\nrules (a device is in the pool when any of them takes it):"
        )?;
        for rule in &self.rules {
            write!(f, "{rule}")?;
        }
        if self.rules.is_empty() {
            writeln!(f, "  none")?;
        }
        let bound = if self.exact { "" } else { "at most " };
        let (in_use, free) = (self.in_use, self.free);
        writeln!(f, "\ndevices ({in_use} in use, {bound}{free} free):")?;
        if self.devices.is_empty() {
            writeln!(
                f,
                "  none; {} says why",
                proposed("virt-vgpu pool preview", &self.name)
            )?;
        } else {
            write!(f, "{}", candidates::members(&self.devices).indented())?;
        }
        for warning in &self.warnings {
            writeln!(f, "\nwarning: {}", output::one_line(warning))?;
        }
        Ok(())
    }
}

impl fmt::Display for RuleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {} takes devices whose", self.label)?;
        for (index, FilterReport { field, op, value }) in self.filters.iter().enumerate() {
            let and = if index > 0 { "and " } else { "" };
            writeln!(f, "    {and}{field} {} '{value}'", op.info().phrase)?;
        }
        if self.allow_critical {
            writeln!(f, "    even if the host stands on them")?;
        }
        Ok(())
    }
}
