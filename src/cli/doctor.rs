//! `virt-vgpu doctor`: looks for what keeps VMs from their devices.

use std::{collections::BTreeMap, fmt, process::ExitCode, sync::mpsc, time::Duration};

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;

use super::output::{self, Table};
use crate::{
    host::{
        Host,
        libvirt::{Libvirt, uri_or_default},
    },
    report::doctor::{self, CHECKS, Check, DoctorReport, Finding, RunningHost, Severity, Versions},
    rule::spelling,
};

/// Look for what keeps VMs from their devices.
///
/// Checks firmware, kernel, modules, libvirt, NVIDIA's driver, other programs that
/// take the same devices, and the pools. Each finding says what was read, and what
/// to do. Nothing is changed, and no start or stop has to wait for it. Run it as
/// root: others cannot read the whole journal.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu doctor
  virt-vgpu doctor --explain iommu-off
  virt-vgpu doctor --list
  virt-vgpu doctor --json | jq -r '.findings[] | .check'

Exit code 0 when there is no error (warnings and notes do not count), else 1.")]
pub(super) struct Doctor {
    /// Print JSON.
    #[arg(long)]
    json: bool,

    /// Explain a check and its findings.
    #[arg(long, value_name = "ID", conflicts_with = "list")]
    explain: Option<String>,

    /// List all checks.
    #[arg(long)]
    list: bool,
}

/// A check, as `--explain` and `--list` show it.
#[derive(Serialize)]
struct Explained {
    id: &'static str,
    severity: Severity,
    about: &'static str,
    explanation: &'static str,
}

impl From<&Check> for Explained {
    fn from(check: &Check) -> Self {
        Self {
            id: check.id,
            severity: check.severity,
            about: check.about,
            explanation: check.explanation,
        }
    }
}

/// All checks.
#[derive(Serialize)]
struct List {
    checks: Vec<Explained>,
}

impl Doctor {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        if let Some(id) = &self.explain {
            let check = doctor::check(id).ok_or_else(|| unknown(id))?;
            output::report(self.json, &Explained::from(check))?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.list {
            let checks = CHECKS.iter().map(Explained::from).collect();
            output::report(self.json, &List { checks })?;
            return Ok(ExitCode::SUCCESS);
        }
        let running = RunningHost {
            host,
            libvirt: &ask_libvirt,
        };
        let report = doctor::examine(host, &running);
        output::report(self.json, &report)?;
        Ok(match report.count(Severity::Error) {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

fn unknown(id: &str) -> anyhow::Error {
    let ids: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
    let meant = spelling::nearest(id, &ids);
    let meant = meant.map_or_else(String::new, |meant| format!("; did you mean '{meant}'?"));
    anyhow!("there is no check '{id}'{meant} ('virt-vgpu doctor --list' lists them)")
}

/// Asks libvirt for the versions. A daemon that hangs is not waited for: the thread that asks
/// ends with the command.
fn ask_libvirt() -> Result<Versions, String> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || {
        let ask = || {
            let libvirt = Libvirt::open(&uri_or_default(None))?;
            Ok(Versions {
                libvirt: libvirt.version()?,
                qemu: libvirt.qemu_version().ok(),
            })
        };
        let asked = ask().map_err(|error: crate::host::libvirt::LibvirtError| error.to_string());
        // Nobody listens any more when it came too late.
        let _ = answer.send(asked);
    });
    answered
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = output::one_line(&self.what);
        writeln!(f, "{}: {what} [{}]", self.severity, self.check)?;
        for evidence in &self.evidence {
            writeln!(f, "  read: {}", output::one_line(evidence))?;
        }
        writeln!(f, "  to do: {}", output::one_line(&self.advice))?;
        for command in &self.commands {
            writeln!(f, "    {}", output::one_line(command))?;
        }
        Ok(())
    }
}

fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

impl fmt::Display for DoctorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let made = counted(self.made, "check");
        if self.findings.is_empty() {
            writeln!(f, "all is well: {made} made, nothing found")?;
        } else {
            writeln!(
                f,
                "{made} made: {}, {}, {}; 'virt-vgpu doctor --explain ID' tells more",
                counted(self.count(Severity::Error), "error"),
                counted(self.count(Severity::Warning), "warning"),
                counted(self.count(Severity::Note), "note"),
            )?;
        }
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for one in &self.not_made {
            by_reason.entry(&one.reason).or_default().push(one.check);
        }
        for (reason, checks) in by_reason {
            let (reason, checks) = (output::one_line(reason), checks.join(", "));
            writeln!(f, "not made, because {reason}: {checks}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}): {}\n", self.id, self.severity, self.about)?;
        writeln!(f, "{}", folded(self.explanation))
    }
}

/// The text in lines that fit a terminal.
fn folded(text: &str) -> String {
    const WIDTH: usize = 78;
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_ascii_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["CHECK", "SEVERITY", "FINDS"]);
        for check in &self.checks {
            table.row([
                check.id.to_owned(),
                check.severity.to_string(),
                check.about.to_owned(),
            ]);
        }
        write!(f, "{table}")
    }
}
