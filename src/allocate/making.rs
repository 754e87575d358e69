//! Devices made for a domain under the host lock, whether it starts or runs:
//! planned, announced in its claim, made and checked, all of them or none.

use std::io;

use super::{AllocateError, Demand, io_error};
use crate::{
    apply,
    claims::{self, Claim, ClaimedDevice, DeviceKind, Origin, State},
    events,
    host::{Deadline, Host, HostLock},
    model::DeviceName,
    plan::{self, Failed, Interface, Plan, RefusalKind},
};

/// What the domain has before.
#[derive(Debug)]
pub enum Base {
    /// Nothing: it starts, by that operation.
    Start(Origin),
    /// It runs, and has what this claim says but for what is replaced
    /// ([`Demand::replaced`]).
    Running(Box<Claim>),
}

/// Devices to be made.
#[derive(Debug)]
pub struct Making<'a> {
    /// The host.
    pub host: &'a Host,
    /// Held until the claim says what there is.
    pub lock: &'a HostLock,
    /// What is demanded.
    pub demand: Demand<'a>,
    /// What they come on top of.
    pub base: Base,
    /// When it has to be done.
    pub deadline: Deadline,
}

impl Making<'_> {
    /// Plans and makes the devices and returns the claim that has announced them,
    /// last in its list. When a driver refuses what its attributes promised, plans
    /// again without that parent; when nothing is free, frees what crashes have
    /// left behind and plans once more.
    ///
    /// The claim of a domain that runs stays committed all the time: it speaks of
    /// the other devices too. New ones are leaving in it until its caller knows that
    /// they are there: what a crash in between leaves is dropped by who gives back
    /// what is unused. One that replaces another is, like that one, the VM's and gone.
    ///
    /// # Errors
    /// Why there are none; the claim is then as before.
    pub fn make(&mut self) -> Result<Claim, AllocateError> {
        let mut failed = Failed::default();
        let mut may_reconcile = true;
        loop {
            let plan = match self.plan(&failed) {
                Err(AllocateError::Refused(refusal))
                    if may_reconcile && !matches!(refusal.kind, RefusalKind::Unreadable { .. }) =>
                {
                    may_reconcile = false;
                    if self.reconcile_others() {
                        continue;
                    }
                    return Err(refusal.into());
                }
                other => other?,
            };
            let claim = self.intent(&plan);
            claims::save(self.host, self.lock, &claim)
                .map_err(|cause| io_error("no device was made", cause))?;
            let Err(failure) = apply::apply(&plan.steps, self.host) else {
                return Ok(claim);
            };
            self.after_failure(claim, &plan, &failure)?;
            let number = plan.owners[failure.step];
            let assignment = &plan.assignments[number];
            if !failure.refused_by_driver || self.deadline.left() < Host::PATIENCE {
                return Err(AllocateError::Failed {
                    domain: self.demand.domain.name.to_string(),
                    device: assignment.device.to_string(),
                    cause: failure.cause,
                });
            }
            let domain = &self.demand.domain.name;
            events::log_driver_refusal(domain, &assignment.parent, &failure.cause);
            failed.note(&plan, number, &failure.reason);
        }
    }

    fn plan(&mut self, failed: &Failed) -> Result<Plan, AllocateError> {
        match self.base {
            Base::Start(Origin::Prepare) => self.demand.plan(self.host, failed),
            // The XML is changed on the way, or written after the plan.
            Base::Start(Origin::Migrate) | Base::Running(_) => {
                self.demand.plan_anew(self.host, failed)
            }
        }
    }

    fn intent(&self, plan: &Plan) -> Claim {
        let devices = plan.assignments.iter().map(claimed);
        match &self.base {
            Base::Start(origin) => Claim::intent(
                self.host,
                (self.demand.domain.uuid, self.demand.domain.name.clone()),
                *origin,
                devices.collect(),
            ),
            Base::Running(before) => {
                let mut claim = before.as_ref().clone();
                claim.take_into_run();
                claim
                    .devices
                    .retain(|device| !self.demand.replaced.contains(device));
                for device in devices {
                    if before.devices.iter().all(|one| one.name != device.name) {
                        claim.leaving.push(device.name.clone());
                    }
                    claim.devices.push(device);
                }
                claim.touch();
                claim
            }
        }
    }

    /// Keeps claimed only what could not be taken back, and what there was before.
    fn after_failure(
        &self,
        mut claim: Claim,
        plan: &Plan,
        failure: &apply::Failure,
    ) -> Result<(), AllocateError> {
        let before = match &self.base {
            Base::Start(_) => None,
            Base::Running(before) => Some(before),
        };
        let first = claim.devices.len().saturating_sub(plan.assignments.len());
        let left_behind: Vec<ClaimedDevice> = failure
            .left_behind
            .iter()
            .filter_map(|(step, _)| claim.devices.get(first + *plan.owners.get(*step)?).cloned())
            .collect();
        let io_error = |cause| io_error(&failure.cause, cause);
        if left_behind.is_empty() {
            return match before {
                Some(before) if !before.is_empty() => claims::save(self.host, self.lock, before),
                _ => claims::remove(self.host, self.lock, claim.domain),
            }
            .map_err(io_error);
        }
        events::log_left_behind(&self.demand.domain.name, &failure.left_behind);
        if before.is_none() {
            claim.state = State::Releasing;
        }
        claim.devices.truncate(first);
        claim.devices.extend(left_behind);
        for device in &self.demand.replaced {
            if claim.devices.iter().all(|one| one.name != device.name) {
                claim.devices.push(device.clone());
            }
        }
        let devices = &claim.devices;
        let is_claimed = |name: &DeviceName| devices.iter().any(|one| one.name == *name);
        claim.leaving.retain(is_claimed);
        claims::save(self.host, self.lock, &claim).map_err(io_error)?;
        let (_, why) = &failure.left_behind[0];
        Err(io_error(io::Error::other(format!(
            "it could not be undone yet ({why}); 'virt-vgpu reconcile' tries again"
        ))))
    }

    fn reconcile_others(&self) -> bool {
        let report = claims::reconcile_at_once(
            self.host,
            self.lock,
            Some(self.demand.domain.uuid),
            claims::DEFAULT_GRACE,
            self.deadline,
        );
        match report {
            Ok(report) => {
                events::log_reconciled(&report);
                report.has_freed()
            }
            Err(error) => {
                tracing::warn!("cannot look for devices left behind: {error}");
                false
            }
        }
    }
}

fn claimed(assignment: &plan::Assignment) -> ClaimedDevice {
    ClaimedDevice {
        name: assignment.device.clone(),
        pool: assignment.pool.clone(),
        kind: match assignment.interface {
            Interface::Mdev => DeviceKind::Mdev,
            Interface::VendorVfio(_) => DeviceKind::VendorVfio,
        },
        uuid: assignment.uuid,
        parent: assignment.parent.clone(),
        type_id: assignment.type_id.clone(),
        against_migration: assignment
            .against_migration
            .iter()
            .map(|&name| name.to_owned())
            .collect(),
    }
}
