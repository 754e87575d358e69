//! What `virt-vgpu doctor` looks at: a table of checks, and findings as data. A check reads the
//! host through [`View`] and changes nothing. It takes no lock, so no start waits for it. The
//! checks know neither the terminal nor the command line.

use std::io;

use serde::Serialize;

use crate::host::{Host, is_root};

mod boot_loader;
mod hooks;
mod iommu;
mod limits;
mod logs;
mod modprobe;
mod nvidia;
mod nvidia_driver;
mod outside;
mod pools;
mod registry;
mod rivals;
mod sriov;
mod tokens;
mod versions;
mod view;

pub use outside::{Outside, RunningHost, Silence, Versions};
pub use registry::{CHECKS, check};
use view::View;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Domains cannot get their devices, or will lose them.
    Error,
    /// Something does not work, or will not work after the next boot.
    Warning,
    /// Good to know.
    Note,
}

/// One check: a row of the registry.
#[derive(Debug)]
pub struct Check {
    /// Its name, as in `iommu-off`.
    pub id: &'static str,
    /// How bad its findings are.
    pub severity: Severity,
    /// What a finding of it says, in one line.
    pub about: &'static str,
    /// What it means and what to do, in one paragraph.
    pub explanation: &'static str,
    look: Looks,
}

/// How a check looks at the host.
#[derive(Debug)]
enum Looks {
    /// It reads files.
    At(fn(&View<'_>, &mut Findings) -> Result<(), Trouble>),
    /// It looks for lines in the journal.
    ForLines(&'static logs::Lines),
}

/// Why a check could not be made, or not to its end.
#[derive(Debug)]
enum Trouble {
    /// A file cannot be read. The error names it.
    Unreadable(io::Error),
    /// Somebody could not be asked.
    NotAsked(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// Something that a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What was read, and where.
    pub evidence: Vec<String>,
    /// What to do about it.
    pub advice: String,
    /// Commands that do it. They can be pasted into a shell of root.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// A check that could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotMade {
    /// The check.
    pub check: &'static str,
    /// Why not.
    pub reason: String,
}

/// What all checks have found.
#[derive(Debug, Serialize)]
pub struct DoctorReport {
    /// How many checks were made.
    pub made: usize,
    /// What they have found, the worst first.
    pub findings: Vec<Finding>,
    /// The checks that could not be made.
    pub not_made: Vec<NotMade>,
}

impl DoctorReport {
    /// How many findings there are of that severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        let findings = self.findings.iter();
        findings.filter(|one| one.severity == severity).count()
    }
}

/// The findings of one check.
#[derive(Debug)]
struct Findings {
    check: &'static str,
    severity: Severity,
    found: Vec<Finding>,
}

impl Findings {
    fn add(
        &mut self,
        what: impl Into<String>,
        evidence: impl IntoIterator<Item = String>,
        advice: impl Into<String>,
        commands: impl IntoIterator<Item = String>,
    ) {
        self.found.push(Finding {
            check: self.check,
            severity: self.severity,
            what: what.into(),
            evidence: evidence.into_iter().collect(),
            advice: advice.into(),
            commands: commands.into_iter().collect(),
        });
    }
}

/// Makes all checks.
pub fn examine(host: &Host, outside: &dyn Outside) -> DoctorReport {
    let view = View::new(host, outside);
    let mut report = DoctorReport {
        made: 0,
        findings: Vec::new(),
        not_made: Vec::new(),
    };
    for check in CHECKS {
        let mut findings = Findings {
            check: check.id,
            severity: check.severity,
            found: Vec::new(),
        };
        let looked = match check.look {
            Looks::At(look) => look(&view, &mut findings),
            Looks::ForLines(lines) => lines.look_for(&view, &mut findings),
        };
        match looked {
            Ok(()) => report.made += 1,
            Err(Trouble::Unreadable(error))
                if error.kind() == io::ErrorKind::PermissionDenied && !is_root() =>
            {
                let reason = format!("only root may read it: {error}");
                report.not_made.push(NotMade {
                    check: check.id,
                    reason,
                });
            }
            Err(Trouble::Unreadable(error)) => {
                report.made += 1;
                findings.severity = Severity::Warning;
                findings.add(
                    "a part of the host cannot be read, so this check is not complete",
                    [error.to_string()],
                    "find out why the kernel refuses it, then run 'virt-vgpu doctor' again",
                    [],
                );
            }
            Err(Trouble::NotAsked(reason)) => report.not_made.push(NotMade {
                check: check.id,
                reason,
            }),
        }
        report.findings.extend(findings.found);
    }
    // Stable: findings of one severity stay in the registry's order.
    report.findings.sort_by_key(|finding| finding.severity);
    report
}
