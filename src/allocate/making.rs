//! Devices made for a domain, whether it starts or runs: planned, announced in its claim,
//! made and checked, all of them or none.

use std::{collections::BTreeSet, io, time::Duration};

use super::{AllocateError, Demand, Look, io_error};
use crate::{
    apply,
    claims::{self, Claim, ClaimedDevice, Origin, Seen, State},
    device::{board_of, step::Step},
    events,
    host::{ClaimLock, Deadline, DeviceLock, Host, HostLock, LockError},
    model::{DeviceName, DomainUuid, ParentName},
    plan::{Assignment, Failed, Plan, Refusal, RefusalKind},
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
    pub lock: &'a ClaimLock<'a>,
    /// What is demanded.
    pub demand: Demand<'a>,
    /// What they come on top of.
    pub base: Base,
    /// When it has to be done.
    pub deadline: Deadline,
}

/// What has been tried so far.
#[derive(Debug, Default)]
struct Tries {
    /// What drivers have refused.
    failed: Failed,
    /// Refusals by drivers that others may be the reason of.
    lost_races: u32,
    /// Refusals while claims were being changed.
    unsettled: u32,
    /// Refusals by devices that a look saw unfinished while nobody was at work on them.
    unfinished: u32,
    /// Whether what crashes have left behind was looked for.
    has_reconciled: bool,
    /// Domains whose starts and stops were waited for.
    awaited: BTreeSet<DomainUuid>,
}

impl Making<'_> {
    /// Plans and makes the devices and returns the claim that has announced them,
    /// last in its list. Plans again when a driver refuses what its attributes promised,
    /// or when somebody else was faster; when nothing is free, frees what crashes have
    /// left behind and waits for starts and stops that are under way.
    ///
    /// Drivers are asked for the plan without any lock; it is settled under the host lock,
    /// and made under the locks of its devices.
    ///
    /// The claim of a domain that runs stays committed all the time: it speaks of
    /// the other devices too. New ones are leaving in it until its caller knows that
    /// they are there: what a crash in between leaves is dropped by who gives back
    /// what is unused. One that replaces another is, like that one, the VM's and gone.
    ///
    /// # Errors
    /// Why there are none; the claim is then as before.
    pub fn make(&mut self) -> Result<Claim, AllocateError> {
        /// Races that may be lost before a driver's refusal counts as its last word.
        const RACES: u32 = 16;
        let mut tries = Tries::default();
        loop {
            let look = Look::new(self.host);
            let Some((plan, mut claim)) = self.announce(&look, &mut tries)? else {
                continue;
            };
            let Some(devices) = self.lock_devices(&claim, &plan)? else {
                continue;
            };
            let applied = apply::apply(&plan.steps, self.host);
            drop(devices);
            let Err(failure) = applied else {
                note_nodes(self.host, &mut claim, &plan);
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
            let may_be_race = !failure.timed_out && tries.lost_races < RACES;
            if may_be_race && self.is_crowded(&look, assignment)? {
                tries.lost_races += 1;
                continue;
            }
            let domain = &self.demand.domain.name;
            events::log_driver_refusal(domain, &assignment.parent, &failure.cause);
            tries.failed.note(&plan, number, &failure.reason);
        }
    }

    /// Plans, settles the plan under the host lock, and writes it into the claim. None
    /// where it is worth another look.
    fn announce(
        &mut self,
        look: &Look<'_>,
        tries: &mut Tries,
    ) -> Result<Option<(Plan, Claim)>, AllocateError> {
        let mut seen = self.demand.see_claims(look)?;
        if !seen.announced.is_empty() {
            // Others start too.
            look.look_further();
        }
        let (plan, planning) = loop {
            let plan = match self.plan(look, &seen, &tries.failed) {
                Err(AllocateError::Refused(refusal)) => {
                    self.make_room(&refusal, &seen, tries)?;
                    return Ok(None);
                }
                planned => planned?,
            };
            look.ask_no_driver_any_more();
            let planning = HostLock::acquire(self.host, &self.purpose(), self.lock_deadline())?;
            if seen.is_current(self.host) {
                break (plan, planning);
            }
            seen = self.demand.see_claims(look)?;
            let planned = self.plan(look, &seen, &tries.failed);
            let has_time = self.deadline.left() > Host::PATIENCE;
            match planned {
                Ok(plan) if !look.has_missed() => break (plan, planning),
                // Somebody was faster: at another place, of which more is asked first.
                _ if look.has_missed() && has_time => look.look_further(),
                Err(AllocateError::Refused(_)) if has_time => return Ok(None),
                planned => break (planned?, planning),
            }
        };
        let claim = self.intent(&plan, look);
        claims::announce(self.host, &planning, self.lock, &claim)
            .map_err(|cause| io_error("no device was made", cause))?;
        Ok(Some((plan, claim)))
    }

    /// Whether devices for others were being made on the board since the look began: a
    /// driver's refusal may be about them.
    fn is_crowded(&self, look: &Look<'_>, assignment: &Assignment) -> Result<bool, AllocateError> {
        let board = board_of(&look.sysfs, &assignment.parent);
        let seen = self.demand.see_claims(look)?;
        Ok(seen.announced.iter().any(|device| device.board == board))
    }

    /// Whether it is worth to plan again after a refusal: something was freed, or has
    /// changed, or somebody was at work on what was refused and is done.
    fn make_room(
        &self,
        refusal: &Refusal,
        seen: &Seen,
        tries: &mut Tries,
    ) -> Result<(), AllocateError> {
        /// Far more than anybody needs: claims of others come and go all the time.
        const UNSETTLED: u32 = 64;
        /// What a crash has left unfinished stays so until it is given back.
        const UNFINISHED: u32 = 2;
        let refused = || Err(AllocateError::Refused(refusal.clone()));
        if matches!(refusal.kind, RefusalKind::Unreadable { .. }) {
            return refused();
        }
        if !tries.has_reconciled {
            tries.has_reconciled = true;
            if self.reconcile_others() {
                return Ok(());
            }
        }
        if self.deadline.left() < Host::PATIENCE {
            return refused();
        }
        let own = self.demand.domain.uuid;
        let busy = claims::at_work(self.host, |claim| {
            claim.domain != own
                && !tries.awaited.contains(&claim.domain)
                && is_about(refusal, claim)
        });
        let Some(busy) = busy.map_err(|cause| io_error("cannot read the claims", cause))? else {
            // Devices that were finished after this look began do not show in it: the next one
            // shows them, and the refusal then tells what there is.
            let is_seen_whole = seen.announced.is_empty() || tries.unfinished >= UNFINISHED;
            let is_settled = seen.is_current(self.host) && is_seen_whole;
            if is_settled || tries.unsettled >= UNSETTLED {
                return refused();
            }
            tries.unsettled += 1;
            tries.unfinished += u32::from(!is_seen_whole);
            return Ok(());
        };
        tries.awaited.insert(busy);
        let patience = self.deadline.left().saturating_sub(Host::PATIENCE);
        ClaimLock::wait_until_free(self.host, busy, Deadline::after(patience));
        Ok(())
    }

    fn purpose(&self) -> String {
        format!("devices for domain {}", self.demand.domain.name)
    }

    /// Leaves enough of the deadline to make devices, and to undo them.
    fn lock_deadline(&self) -> Deadline {
        const SHARE: u32 = 2;
        self.deadline.at_most(self.deadline.left() / SHARE)
    }

    /// The locks of all devices whose drivers have something to do. Without them what was
    /// announced is taken out of the claim again; None where it is worth to plan again: a
    /// driver that hangs is asked nothing then.
    fn lock_devices(
        &self,
        claim: &Claim,
        plan: &Plan,
    ) -> Result<Option<Vec<DeviceLock>>, AllocateError> {
        const PATIENCE: Duration = Duration::from_secs(3);
        let new = claim.devices.iter().skip(first_new(claim, plan));
        let boards: BTreeSet<ParentName> = new.map(|device| device.board.clone()).collect();
        let deadline = self.lock_deadline().at_most(PATIENCE);
        let locks = DeviceLock::acquire_all(self.host, &boards, &self.purpose(), deadline);
        let error = match locks {
            Ok(locks) => return Ok(Some(locks)),
            Err(error) => error,
        };
        self.restore_claim(claim.domain)
            .map_err(|cause| io_error(&error.to_string(), cause))?;
        let is_held = matches!(error, LockError::Held { .. });
        if is_held && self.deadline.left() > Host::PATIENCE {
            return Ok(None);
        }
        Err(error.into())
    }

    fn plan(
        &mut self,
        look: &Look<'_>,
        seen: &Seen,
        failed: &Failed,
    ) -> Result<Plan, AllocateError> {
        match self.base {
            Base::Start(Origin::Prepare) => self.demand.plan_from(look, seen, failed),
            // The XML is changed on the way, or written after the plan.
            Base::Start(Origin::Migrate) | Base::Running(_) => {
                self.demand.replan_from(look, seen, failed)
            }
        }
    }

    fn intent(&self, plan: &Plan, look: &Look<'_>) -> Claim {
        let devices = plan
            .assignments
            .iter()
            .enumerate()
            .map(|(number, assignment)| claimed(plan, number, assignment, look));
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

    /// Makes the claim what it was before anything was announced.
    fn restore_claim(&self, domain: DomainUuid) -> io::Result<()> {
        match &self.base {
            Base::Running(before) if !before.is_empty() => {
                claims::save(self.host, self.lock, before)
            }
            Base::Start(_) | Base::Running(_) => claims::remove(self.host, self.lock, domain),
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
        let first = first_new(&claim, plan);
        let left_behind: Vec<ClaimedDevice> = failure
            .left_behind
            .iter()
            .filter_map(|(step, _)| claim.devices.get(first + *plan.owners.get(*step)?).cloned())
            .collect();
        let io_error = |cause| io_error(&failure.cause, cause);
        if left_behind.is_empty() {
            return self.restore_claim(claim.domain).map_err(io_error);
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
                tracing::warn!("cannot look for leftover devices: {error}");
                false
            }
        }
    }
}

/// Whether the claim's devices may be why there was nothing.
fn is_about(refusal: &Refusal, claim: &Claim) -> bool {
    claim.devices.iter().any(|device| match &refusal.kind {
        RefusalKind::Limit { .. } => device.pool == refusal.pool,
        RefusalKind::NoCandidate { candidates } => candidates
            .iter()
            .any(|one| one.candidate == device.parent || one.candidate == device.board),
        RefusalKind::Function { .. } => true,
        RefusalKind::Unreadable { .. } => false,
    })
}

/// What the claim says of a planned device.
fn claimed(plan: &Plan, number: usize, assignment: &Assignment, look: &Look<'_>) -> ClaimedDevice {
    let steps = plan.steps.iter().zip(&plan.owners);
    let its = steps.filter(|(_, owner)| **owner == number);
    let its: Vec<Step> = its.map(|(step, _)| step.clone()).collect();
    let (identity, undo) = claims::undo_of(&its);
    ClaimedDevice {
        name: assignment.device.clone(),
        pool: assignment.pool.clone(),
        kind: assignment.made_as.word.to_owned(),
        uuid: assignment.uuid,
        handle: assignment.handle,
        board: board_of(&look.sysfs, &assignment.parent),
        parent: assignment.parent.clone(),
        type_id: assignment.type_id.clone(),
        placement: assignment.placement,
        nodes: Vec::new(),
        identity,
        undo,
        rests_on: assignment.made_as.rests_on.clone(),
        can_wedge: assignment.made_as.can_wedge,
        against_migration: assignment
            .against_migration
            .iter()
            .map(|&name| name.to_owned())
            .collect(),
    }
}

/// The number of the first of a claim's devices that the plan has added: they stand behind
/// all others, in the order of its assignments.
fn first_new(claim: &Claim, plan: &Plan) -> usize {
    claim.devices.len().saturating_sub(plan.assignments.len())
}

/// Notes by which nodes a holder of the devices shows that were just made.
fn note_nodes(host: &Host, claim: &mut Claim, plan: &Plan) {
    let first = first_new(claim, plan);
    for device in claim.devices.iter_mut().skip(first) {
        // They are looked for again when somebody has to know.
        device.nodes = device.nodes(host).unwrap_or_default();
    }
}
