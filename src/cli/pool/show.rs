//! `virt-vgpu pool show`: one pool with everything that counts for it.

use std::{collections::BTreeMap, fmt, process::ExitCode};

use clap::Args;

use super::{candidates, limit};
use crate::{
    cli::output,
    host::Host,
    model::{PoolName, proposed},
    report::pool::{self, FilterReport, PoolDetails, RuleReport},
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

impl Show {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let report = pool::show(host, pool::load(host, &self.name)?)?;
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl fmt::Display for PoolDetails {
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
        if !self.settings.is_empty() {
            writeln!(f, "\nsettings of kind '{}':", self.kind)?;
        }
        values(f, &self.settings, "as libvirt has it")?;
        writeln!(f, "\nfor requests that do not say otherwise:")?;
        values(f, &self.defaults, "as the driver has it")?;
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

/// A line for each key; `unset` says who decides about a value that nobody set.
fn values(
    f: &mut fmt::Formatter<'_>,
    values: &BTreeMap<&'static str, serde_json::Value>,
    unset: &str,
) -> fmt::Result {
    let longest = values.keys().map(|key| key.len()).max();
    let width = longest.unwrap_or_default().max(16) + 2;
    for (key, value) in values {
        let value = match value {
            serde_json::Value::Null => unset.to_owned(),
            serde_json::Value::Bool(true) => "yes".to_owned(),
            serde_json::Value::Bool(false) => "no".to_owned(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        writeln!(f, "  {key:<width$}{}", output::one_line(value))?;
    }
    Ok(())
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
