//! GPUs that are not divided into GPU instances as their pools want it. The change is made by
//! `virt-vgpu host apply` in a unit of its own, which may do what the daemon may not; the daemon
//! only starts the unit, and does not wait for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::agenda::Agenda;
use crate::{
    events,
    gpu_setup::{Survey, When, due, uses_mig},
    host::{Deadline, Host, since_boot},
    model::PciAddress,
};

/// How long others may use NVIDIA's driver as a whole before the look is left for later.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a look is good: NVML is asked for each.
const FRESH: Duration = Duration::from_secs(30);

/// For how long a GPU instance that a start has made is kept for the next one.
const GRACE: Duration = Duration::from_secs(120);

/// For how long it is kept at most while others on its GPU come and go.
const LONGEST: Duration = Duration::from_secs(600);

/// What the daemon knows of them.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    /// Whether a change waits for VMs, or the last look failed.
    is_waiting: bool,
    /// Whether claims have changed since the last look.
    has_changed: bool,
    /// When that was, since boot.
    last: Option<Duration>,
    /// Sentences that are in the log already.
    said: BTreeSet<String>,
    /// Since when GPU instances that starts have made are not in use, by their GPU and names.
    idle: BTreeMap<(PciAddress, String), Duration>,
}

impl Gpus {
    /// Starts what can be done now: when VMs may have ended for which a change waits, and once
    /// in a while, because drivers and people undo what was done.
    pub(super) fn look(&mut self, host: &Host, agenda: &Agenda, is_round: bool) {
        let has_changed = agenda.claims || !agenda.stopped.is_empty();
        // A start that has failed, or a stop, may show what others have undone.
        let is_fresh = self.last.is_some_and(|last| since_boot() < last + FRESH);
        self.has_changed |= has_changed;
        let is_due = match self.is_waiting {
            true => has_changed || agenda.tick,
            false if agenda.tick && self.has_overdue() => true,
            false => (has_changed || agenda.tick) && self.has_changed && !is_fresh,
        };
        if is_round || is_due {
            self.look_now(host);
        }
    }

    /// The same without a reason.
    pub(super) fn look_now(&mut self, host: &Host) {
        self.is_waiting = false;
        self.has_changed = false;
        self.last = Some(since_boot());
        if !uses_mig(host) {
            return;
        }
        host.be_patient_again();
        let survey = match Survey::read(host) {
            Ok(survey) => survey,
            Err(error) => return self.come_again(events::one_line(&error)),
        };
        let found = match due(host, &survey, Deadline::after(PATIENCE)) {
            Ok(found) => found,
            Err(error) => return self.come_again(error.to_string()),
        };
        let mut said = BTreeSet::new();
        let before = std::mem::take(&mut self.idle);
        for one in found {
            let gpu = one.gpu;
            match one.when {
                When::Now => set_up(host, gpu, "is not divided as its pools want it"),
                When::Idle(instances) => {
                    let since = instances.into_iter().map(|name| {
                        let key = (gpu, name);
                        let since = before.get(&key).copied();
                        (key, since.unwrap_or_else(since_boot))
                    });
                    self.idle.extend(since);
                }
                When::Later(why) => {
                    self.is_waiting = true;
                    said.insert(format!("{gpu} is changed later: {why}"));
                }
                When::Never(why) => {
                    said.insert(format!("{gpu} is not as its pools want it: {why}"));
                }
            }
        }
        self.give_back_overdue(host);
        for new in said.difference(&self.said) {
            tracing::warn!("{new}");
        }
        self.said = said;
    }

    fn has_overdue(&self) -> bool {
        self.idle.values().any(|since| is_overdue(*since))
    }

    /// Gives back GPU instances that nobody has used for long.
    fn give_back_overdue(&mut self, host: &Host) {
        // A run takes all idle ones of a GPU, so it waits for the last one; not for ever.
        let waits = |gpu: PciAddress| {
            let mut its = self.idle.iter().filter(|((other, _), _)| *other == gpu);
            its.clone().any(|(_, since)| !is_overdue(*since))
                && !its.any(|(_, since)| since_boot() >= *since + LONGEST)
        };
        let overdue = self.idle.iter().filter(|(_, since)| is_overdue(**since));
        let gpus: BTreeSet<PciAddress> = overdue.map(|((gpu, _), _)| *gpu).collect();
        let gpus: BTreeSet<PciAddress> = gpus.into_iter().filter(|gpu| !waits(*gpu)).collect();
        for gpu in gpus {
            set_up(host, gpu, "has GPU instances that VMs do not use any more");
            // Those that are still there at the next look begin anew.
            self.idle.retain(|(other, _), _| *other != gpu);
        }
    }

    fn come_again(&mut self, why: String) {
        tracing::warn!("cannot tell whether GPUs are divided as pools want it: {why}");
        self.is_waiting = true;
    }
}

fn is_overdue(since: Duration) -> bool {
    since_boot() >= since + GRACE
}

fn set_up(host: &Host, gpu: PciAddress, why: &str) {
    const SYSTEMCTL: &str = "/usr/bin/systemctl";
    const PATIENCE: Duration = Duration::from_secs(10);
    let unit = format!("virt-vgpu-host@{gpu}.service");
    let arguments = ["start", "--no-block", &unit];
    match host.run_program(SYSTEMCTL, &arguments, Deadline::after(PATIENCE)) {
        Ok(ended) if ended.status.success() => {
            tracing::info!("{gpu} {why}: started {unit}");
        }
        Ok(ended) => tracing::warn!(
            "{gpu} {why}, and {unit} cannot be started: {}; \
             'virt-vgpu host apply {gpu}' does its work",
            ended.said.trim()
        ),
        Err(error) => tracing::warn!("cannot start {unit}: {SYSTEMCTL}: {error}"),
    }
}
