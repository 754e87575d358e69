//! A pool file as written: every key known for the pool's kind and of the right
//! TOML type, with its place, nothing defaulted and no value judged yet.

use super::{
    Defaults,
    document::{Node, Place, Source, Table, Written},
    error::ConfigError,
    keys,
};
use crate::rule::{Field, Kind, Operator, spelling::did_you_mean, spelling::shown};

type Parsed<T> = Result<T, ConfigError>;

/// What a pool file says.
#[derive(Debug)]
pub(super) struct PoolFragment {
    pub(super) kind: Written<Kind>,
    pub(super) description: Option<Written<String>>,
    pub(super) class: Option<Written<String>>,
    pub(super) mdev_type: Option<Written<String>>,
    pub(super) profile: Option<Written<String>>,
    pub(super) instances: Option<u32>,
    pub(super) placement: Option<Written<String>>,
    pub(super) guest_driver: Option<Written<String>>,
    pub(super) defaults: Defaults,
    pub(super) rules: Vec<RuleFragment>,
}

/// What a `[[rule]]` says.
#[derive(Debug)]
pub(super) struct RuleFragment {
    pub(super) at: Place,
    pub(super) name: Option<Written<String>>,
    pub(super) allow_critical: bool,
    pub(super) filters: Vec<FilterFragment>,
}

/// What an element of `where` says.
#[derive(Debug)]
pub(super) struct FilterFragment {
    pub(super) field: Written<String>,
    pub(super) op: Written<String>,
    pub(super) value: Written<String>,
}

impl PoolFragment {
    /// Reads the text of a pool file.
    pub(super) fn read(source: Source<'_>) -> Parsed<Self> {
        let document = source.parse()?;
        let top = source.top(&document);
        // The kind first: it decides which other keys are right.
        let kind = kind(&top)?;
        top.check_keys(keys::POOL, kind.value)?;
        if let Some(node) = top.get("mig") {
            return Err(node.refuse("is not supported by this version", &[]));
        }
        let text = |key| top.get(key).map(Node::text).transpose();
        Ok(Self {
            description: text("description")?,
            class: text("class")?,
            mdev_type: text("type")?,
            profile: text("profile")?,
            instances: top.get("instances").map(Node::number).transpose()?,
            placement: text("placement")?,
            guest_driver: text("guest-driver")?,
            defaults: defaults(&top, kind.value)?,
            rules: rules(&top, kind.value)?,
            kind,
        })
    }
}

fn kind(top: &Table<'_, '_>) -> Parsed<Written<Kind>> {
    let supported = Kind::supported_names();
    let Some(node) = top.get("kind") else {
        return Err(missing(top, "kind", &supported));
    };
    let text = node.text()?;
    let refused = |what: String| node.refuse(&what, &supported);
    let written = shown(&text.value);
    let kind: Kind = text.value.parse().map_err(|_| {
        let meant = did_you_mean(&text.value, &supported);
        refused(format!("unknown kind '{written}'{meant}"))
    })?;
    if !kind.is_supported() {
        let what = format!("kind '{kind}' is not supported by this version");
        return Err(refused(what));
    }
    Ok(Written {
        value: kind,
        at: text.at,
    })
}

fn defaults(top: &Table<'_, '_>, kind: Kind) -> Parsed<Defaults> {
    let Some(node) = top.get("defaults") else {
        return Ok(Defaults::default());
    };
    let table = node.table("a table, [defaults]")?;
    table.check_keys(keys::DEFAULTS, kind)?;
    let flag = |key| table.get(key).map(Node::flag).transpose();
    Ok(Defaults {
        frame_rate_limit: table
            .get("frame-rate-limit")
            .map(Node::number)
            .transpose()?,
        console_vnc: flag("console-vnc")?,
        unified_memory: flag("unified-memory")?,
        debuggers: flag("debuggers")?,
        profilers: flag("profilers")?,
        optional: flag("optional")?,
    })
}

fn rules(top: &Table<'_, '_>, kind: Kind) -> Parsed<Vec<RuleFragment>> {
    let Some(node) = top.get("rule") else {
        return Ok(Vec::new());
    };
    let tables = node.tables("tables, each under its own [[rule]]")?;
    tables.iter().map(|table| rule(table, kind)).collect()
}

fn rule(table: &Table<'_, '_>, kind: Kind) -> Parsed<RuleFragment> {
    table.check_keys(keys::RULE, kind)?;
    let wanted = "a list of filters, [{ field = …, op = …, value = … }]";
    let Some(conditions) = table.get("where") else {
        return Err(missing(table, "where", &[]));
    };
    let filters = conditions.tables(wanted)?;
    Ok(RuleFragment {
        at: conditions.at.clone(),
        name: table.get("name").map(Node::text).transpose()?,
        allow_critical: match table.get("allow-critical") {
            Some(node) => node.flag()?,
            None => false,
        },
        filters: filters
            .iter()
            .map(|table| filter(table, kind))
            .collect::<Parsed<_>>()?,
    })
}

fn filter(table: &Table<'_, '_>, kind: Kind) -> Parsed<FilterFragment> {
    table.check_keys(keys::FILTER, kind)?;
    let node = |key, accepted: &[&str]| {
        let node = table.get(key);
        node.ok_or_else(|| missing(table, key, accepted))
    };
    Ok(FilterFragment {
        field: node("field", Field::NAMES)?.text()?,
        op: node("op", Operator::NAMES)?.text()?,
        value: node("value", &[])?.scalar()?,
    })
}

fn missing(table: &Table<'_, '_>, key: &str, accepted: &[&str]) -> ConfigError {
    let at = table.at.inside(key);
    at.refuse(table.source.file, "is missing", accepted)
}
