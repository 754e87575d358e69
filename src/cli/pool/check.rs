//! `virt-vgpu pool check`: mistakes in pool files, each with its place.

use std::{fmt, process::ExitCode};

use clap::Args;

use crate::{
    cli::output,
    host::Host,
    report::pool::{self, Change, ChangedGpu, Checked, Level, Problem},
};

/// Check pool files.
///
/// Tells every mistake with file, line and key, and what is accepted but surely
/// not meant. Without arguments all pools are checked.
///
/// A file is also compared with the installed pool of its name: for each key that
/// changes, it tells what has to happen until the change takes effect.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu pool check
  virt-vgpu pool check cad
  virt-vgpu pool check ./cad.toml              before the file is installed
  virt-vgpu pool check --json | jq '.problems[] | select(.level == \"error\")'
  virt-vgpu pool check ./cad.toml --json | jq '.changes[]? | {key, effect}'

Exit code 0 when there are no errors (warnings do not count), else 1.")]
pub(super) struct Check {
    /// Names of pools, or files: what has a '/' or ends in '.toml'.
    #[arg(value_name = "NAME|FILE")]
    pools: Vec<String>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let report = pool::check(host, &self.pools);
        output::report(self.json, &report)?;
        Ok(if report.count(Level::Error) > 0 {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{}", output::one_line(problem))?;
        }
        for change in &self.changes {
            writeln!(f, "{}", output::one_line(change))?;
        }
        let counted = |count: usize, noun: &str| match count {
            1 => format!("1 {noun}"),
            count => format!("{count} {noun}s"),
        };
        writeln!(
            f,
            "{} checked: {}, {}",
            counted(self.checked, "pool"),
            counted(self.count(Level::Error), "error"),
            counted(self.count(Level::Warning), "warning")
        )
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pool,
            key,
            from,
            to,
            ..
        } = self;
        write!(f, "change: pool '{pool}': {key}")?;
        if !key.starts_with("rule.") {
            write!(f, " ({} to {})", value(from), value(to))?;
        }
        write!(f, ": {}; {}", self.about, self.effect.in_words())?;
        let gpus: Vec<String> = self.gpus.iter().map(in_words).collect();
        if !gpus.is_empty() {
            write!(f, " (now: {})", gpus.join("; "))?;
        }
        Ok(())
    }
}

fn value(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "none".to_owned(),
        value => value.to_string(),
    }
}

fn in_words(gpu: &ChangedGpu) -> String {
    let ChangedGpu {
        gpu,
        domains,
        in_use,
    } = gpu;
    let names: Vec<String> = domains.iter().map(|name| format!("'{name}'")).collect();
    match (names.is_empty(), in_use) {
        (false, _) => format!("{gpu} is used by {}", names.join(", ")),
        (true, true) => format!("{gpu} is in use, but not by VMs with devices from us"),
        (true, false) => format!("{gpu} is free"),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        write!(f, "{level}: ")?;
        if let Some(file) = &self.file {
            match self.line {
                Some(line) => write!(f, "{}:{line}: ", file.display())?,
                None => write!(f, "{}: ", file.display())?,
            }
        }
        if let Some(key) = &self.key {
            write!(f, "key '{key}': ")?;
        }
        f.write_str(&self.message)
    }
}
