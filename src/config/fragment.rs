//! A pool file as written. Every key is known for the pool's kind, has the right TOML
//! type, and has its position. Defaults are not filled in and values are not checked
//! yet, except in the kind's own part.

use std::sync::Arc;

use super::{Defaults, keys};
use crate::{
    document::{ConfigError, Position, Table, TomlText, Written},
    kind::{self, Devices, Kind, PLANNED, Part},
    rule::{Field, Operator, spelling::did_you_mean, spelling::shown},
};

type Parsed<T> = Result<T, ConfigError>;

/// The contents of a pool file.
#[derive(Debug)]
pub(super) struct PoolFragment {
    pub(super) kind: Written<&'static dyn Kind>,
    pub(super) devices: Arc<dyn Devices>,
    pub(super) description: Option<Written<String>>,
    pub(super) class: Option<Written<String>>,
    pub(super) instances: Option<u32>,
    pub(super) placement: Option<Written<String>>,
    pub(super) guest_driver: Option<Written<String>>,
    pub(super) defaults: Defaults,
    /// Where `optional` of the defaults is.
    pub(super) optional_at: Option<Position>,
    pub(super) rules: Vec<RuleFragment>,
}

/// The contents of a `[[rule]]`.
#[derive(Debug)]
pub(super) struct RuleFragment {
    pub(super) at: Position,
    pub(super) name: Option<Written<String>>,
    pub(super) allow_critical: bool,
    pub(super) filters: Vec<FilterFragment>,
}

/// The contents of an element of `where`.
#[derive(Debug)]
pub(super) struct FilterFragment {
    pub(super) field: Written<String>,
    pub(super) op: Written<String>,
    pub(super) value: Written<String>,
}

impl PoolFragment {
    /// Reads the text of a pool file.
    pub(super) fn read(source: TomlText<'_>) -> Parsed<Self> {
        let document = source.parse()?;
        let top = source.top(&document);
        // The kind comes first: it decides which other keys are allowed.
        let kind = kind(&top)?;
        let not_here = |key: &str| not_for(kind.value, kind::is_anothers_key(key));
        top.check_keys(&keys::pool(kind.value), not_here)?;
        let part = Part {
            top: &top,
            kind: &kind.at,
        };
        let (defaults, optional_at) = defaults(&top, kind.value)?;
        Ok(Self {
            description: top.text("description")?,
            class: top.text("class")?,
            instances: top.number("instances")?,
            placement: top.text("placement")?,
            guest_driver: top.text("guest-driver")?,
            defaults,
            optional_at,
            rules: rules(&top)?,
            devices: kind.value.parse(&part)?,
            kind,
        })
    }
}

/// Why a key is refused that belongs to another kind.
fn not_for(kind: &dyn Kind, is_anothers: bool) -> Option<String> {
    is_anothers.then(|| format!("not for kind '{kind}'"))
}

fn kind(top: &Table<'_, '_>) -> Parsed<Written<&'static dyn Kind>> {
    let names = kind::names();
    let Some(node) = top.get("kind") else {
        return Err(top.missing("kind", &names));
    };
    let Written { value: text, at } = node.text()?;
    if let Some(value) = kind::named(&text) {
        return Ok(Written { value, at });
    }
    let written = shown(&text);
    let what = if PLANNED.iter().any(|kind| kind.name == text) {
        format!("kind '{written}' is not supported by this version")
    } else {
        let meant = did_you_mean(&text, &names);
        format!("unknown kind '{written}'{meant}")
    };
    Err(node.refuse(&what, &names))
}

/// The defaults, and where `optional` is among them.
fn defaults(top: &Table<'_, '_>, kind: &dyn Kind) -> Parsed<(Defaults, Option<Position>)> {
    let Some(node) = top.get("defaults") else {
        return Ok((Defaults::default(), None));
    };
    let table = node.table("a table, [defaults]")?;
    let not_here = |key: &str| not_for(kind, kind::is_anothers_default(key));
    table.check_keys(&keys::defaults(kind), not_here)?;
    let defaults = Defaults {
        frame_rate_limit: table.number("frame-rate-limit")?,
        console_vnc: table.flag("console-vnc")?,
        unified_memory: table.flag("unified-memory")?,
        debuggers: table.flag("debuggers")?,
        profilers: table.flag("profilers")?,
        optional: table.flag("optional")?,
    };
    let optional = table.get("optional");
    Ok((defaults, optional.map(|node| node.at.clone())))
}

fn rules(top: &Table<'_, '_>) -> Parsed<Vec<RuleFragment>> {
    let Some(node) = top.get("rule") else {
        return Ok(Vec::new());
    };
    let tables = node.tables("tables, each under its own [[rule]]")?;
    tables.iter().map(rule).collect()
}

fn rule(table: &Table<'_, '_>) -> Parsed<RuleFragment> {
    table.check_keys(keys::RULE, |_| None)?;
    let wanted = "a list of filters, [{ field = …, op = …, value = … }]";
    let Some(conditions) = table.get("where") else {
        return Err(table.missing("where", &[]));
    };
    let filters = conditions.tables(wanted)?;
    Ok(RuleFragment {
        at: conditions.at.clone(),
        name: table.text("name")?,
        allow_critical: table.flag("allow-critical")?.unwrap_or_default(),
        filters: filters.iter().map(filter).collect::<Parsed<_>>()?,
    })
}

fn filter(table: &Table<'_, '_>) -> Parsed<FilterFragment> {
    table.check_keys(keys::FILTER, |_| None)?;
    let node = |key, accepted: &[&str]| {
        let node = table.get(key);
        node.ok_or_else(|| table.missing(key, accepted))
    };
    Ok(FilterFragment {
        field: node("field", Field::NAMES)?.text()?,
        op: node("op", Operator::NAMES)?.text()?,
        value: node("value", &[])?.scalar()?,
    })
}
