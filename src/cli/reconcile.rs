//! `virt-vgpu reconcile`: frees what crashes and failures left behind.

use std::{io, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::output;
use crate::{
    claims::{self, ClaimedDevice, DEFAULT_GRACE, DeviceOutcome, Doubt, Liveness},
    events,
    host::{Deadline, Host, HostLock},
    model::{DomainName, DomainUuid, MdevUuid, ParentName, PciAddress},
};

/// Free devices whose domain is no longer running.
///
/// A claim is freed only when its domain provably does not run (according to QEMU's
/// pidfile and the running processes), no process has one of its devices open, and
/// the domain cannot be starting right now. A single device of a running domain is
/// freed when no process has it open any more. When in doubt, nothing is freed.
/// Devices that no claim names are never touched.
///
/// Quarantined functions that work again leave the quarantine: a virtual function
/// when it has been recreated since then, a whole PCI device when it answers and the
/// driver that it had takes it back. This command tries that.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu reconcile --dry-run     say what would be freed
  virt-vgpu reconcile               free it
  virt-vgpu reconcile --json | jq '.claims[] | select(.result == \"freed\")'

  virt-vgpu reconcile --json | jq -r '.claims[].devices[] | select(.outcome != \"claimed\")'

Exit code 0 when nothing is left to free, 1 when a device could not be
removed, a claim cannot be read, or there was no time to check all claims.")]
pub(super) struct Reconcile {
    /// Only say what would be freed.
    #[arg(long)]
    dry_run: bool,

    /// Seconds after a step of a start during which a claim is left alone.
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_GRACE.as_secs())]
    grace: u64,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    claims: Vec<ClaimReport>,
    damaged: Vec<String>,
    /// Functions that are no longer quarantined.
    repaired: Vec<PciAddress>,
}

#[derive(Debug, Serialize)]
struct ClaimReport {
    domain: DomainName,
    domain_uuid: DomainUuid,
    result: ClaimResult,
    /// The reason for the state.
    reason: String,
    devices: Vec<DeviceReport>,
    /// Whether a device of a running domain could not be removed.
    #[serde(skip)]
    has_failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum ClaimResult {
    InUse,
    InDoubt,
    WouldBeFreed,
    Freed,
    NotFreed,
    NotLookedAt,
}

#[derive(Debug, Serialize)]
struct DeviceReport {
    uuid: MdevUuid,
    parent: ParentName,
    outcome: String,
}

/// How long to wait for the host lock: longer than any process holds it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time limit for one check of all claims: a driver that hangs is not waited
/// for.
const WORK: Duration = Duration::from_secs(5);

impl Reconcile {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let report = self.gather(host)?;
        output::report(self.json, &report)?;
        let has_failed = |claim: &ClaimReport| {
            let result = claim.result;
            matches!(result, ClaimResult::NotFreed | ClaimResult::NotLookedAt) || claim.has_failed
        };
        let failed = !report.damaged.is_empty() || report.claims.iter().any(has_failed);
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    fn gather(&self, host: &Host) -> anyhow::Result<Report> {
        let deadline = Deadline::after(WORK);
        host.be_done_by(deadline);
        let grace = Duration::from_secs(self.grace);
        let report = claims::reconcile(host, None, grace, self.dry_run, deadline)
            .context("nothing was freed")?;
        events::log_reconciled(&report);
        let repaired = if self.dry_run {
            claims::repaired(host)
        } else {
            HostLock::acquire(host, "virt-vgpu reconcile", Deadline::after(PATIENCE))
                .map_err(io::Error::other)
                .and_then(|lock| claims::forget_repaired(host, &lock))
        }
        .context("cannot check which functions are still quarantined")?;
        if !self.dry_run {
            events::log_repaired(&repaired);
        }
        Ok(Report {
            dry_run: self.dry_run,
            claims: report.claims.iter().map(claim_report).collect(),
            damaged: report.damaged.iter().map(ToString::to_string).collect(),
            repaired,
        })
    }
}

fn claim_report(one: &claims::Reconciled) -> ClaimReport {
    let (result, reason) = match (&one.liveness, &one.released) {
        (Liveness::InUse(why), _) => (ClaimResult::InUse, why.clone()),
        (Liveness::Unknown(Doubt::NotReached), _) => (
            ClaimResult::NotLookedAt,
            "others took too long; run it again".to_owned(),
        ),
        (Liveness::Unknown(doubt), _) => (ClaimResult::InDoubt, doubt.to_string()),
        (Liveness::Stale, None) => (
            ClaimResult::WouldBeFreed,
            "the domain is not running".to_owned(),
        ),
        (Liveness::Stale, Some(released)) if released.is_complete() => {
            let quarantined = one.quarantined.as_ref();
            let quarantined =
                quarantined.map(|why| format!("; its functions are quarantined: {why}"));
            let reason = format!(
                "the domain is not running{}",
                quarantined.unwrap_or_default()
            );
            (ClaimResult::Freed, reason)
        }
        (Liveness::Stale, Some(released)) => {
            let error = released.claim_error.as_ref().map(ToString::to_string);
            (
                ClaimResult::NotFreed,
                error.unwrap_or_else(|| "a device could not be removed".to_owned()),
            )
        }
    };
    let devices = match (&one.liveness, &one.released) {
        (Liveness::Stale, Some(released)) => released
            .devices
            .iter()
            .map(|(device, outcome)| device_report(device, outcome_text(outcome)))
            .collect(),
        _ => one
            .claim
            .devices
            .iter()
            .map(|device| device_report(device, outcome_alone(one, device)))
            .collect(),
    };
    let is_partial = one.liveness != Liveness::Stale;
    let has_failed = one
        .released
        .iter()
        .any(|released| is_partial && !released.is_complete());
    ClaimReport {
        domain: one.claim.domain_name.clone(),
        domain_uuid: one.claim.domain,
        result,
        reason,
        devices,
        has_failed,
    }
}

fn device_report(device: &ClaimedDevice, outcome: String) -> DeviceReport {
    DeviceReport {
        uuid: device.uuid,
        parent: device.parent.clone(),
        outcome,
    }
}

/// The result for a device whose claim stays.
fn outcome_alone(one: &claims::Reconciled, device: &ClaimedDevice) -> String {
    const UNUSED: &str = "the running domain has lost it";
    if !one.unused.contains(&device.name) {
        return "claimed".to_owned();
    }
    let Some(released) = &one.released else {
        return format!("would be removed: {UNUSED}");
    };
    let mut outcomes = released.devices.iter();
    match (
        outcomes.find(|(given_back, _)| given_back.name == device.name),
        &released.claim_error,
    ) {
        (Some((_, DeviceOutcome::Removed)), None) => format!("removed: {UNUSED}"),
        (Some((_, outcome)), None) => outcome_text(outcome),
        (Some((_, outcome)), Some(error)) => format!("{}: {error}", outcome_text(outcome)),
        (None, Some(error)) => format!("kept: {error}"),
        (None, None) => "claimed".to_owned(),
    }
}

fn outcome_text(outcome: &DeviceOutcome) -> String {
    match outcome {
        DeviceOutcome::Removed => "removed".to_owned(),
        DeviceOutcome::Absent => "did not exist".to_owned(),
        DeviceOutcome::Foreign(why) => format!("not touched: {why}"),
        DeviceOutcome::Kept(why) => format!("kept: {why}"),
        DeviceOutcome::Unfit(why) => format!("quarantined: {why}"),
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.claims.is_empty() && self.damaged.is_empty() {
            writeln!(f, "no claims: nothing to free")?;
        }
        for claim in &self.claims {
            let word = match claim.result {
                ClaimResult::InUse => "in use",
                ClaimResult::InDoubt => "in doubt, kept",
                ClaimResult::WouldBeFreed => "would be freed",
                ClaimResult::Freed => "freed",
                ClaimResult::NotFreed => "NOT freed",
                ClaimResult::NotLookedAt => "NOT checked",
            };
            writeln!(
                f,
                "{} ({}): {word}: {}",
                claim.domain, claim.domain_uuid, claim.reason
            )?;
            for device in &claim.devices {
                writeln!(
                    f,
                    "  {} on {}: {}",
                    device.uuid, device.parent, device.outcome
                )?;
            }
        }
        for damaged in &self.damaged {
            writeln!(f, "{damaged}")?;
        }
        for function in &self.repaired {
            writeln!(f, "{function}: repaired, no longer quarantined")?;
        }
        Ok(())
    }
}
