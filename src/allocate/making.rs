//! Makes devices for a starting or running domain. The devices are planned, announced in
//! the claim, made and checked: all of them or none.

use std::{collections::BTreeSet, io, time::Duration};

use super::{AllocateError, Demand, Look, io_error, unbinding};
use crate::{
    apply,
    claims::{self, Claim, ClaimedDevice, Origin, Seen, State},
    device::{
        board_of, our_instances,
        step::{Act, Step, Undo},
    },
    events,
    gpu_setup::{Demanded, Made, NotMade, forget_lost_instances, make_instance, start_has_ended},
    host::{ClaimLock, Deadline, DeviceLock, Host, HostLock, LockError},
    model::{DeviceName, DomainUuid, ParentName, PciAddress},
    plan::{Assignment, Failed, Plan, Refusal, RefusalKind},
};

/// The domain's devices before.
#[derive(Debug)]
pub enum Base {
    /// None: the domain is starting, by that operation.
    Start(Origin),
    /// The domain is running and has the devices of this claim, except those that are
    /// replaced ([`Demand::replaced`]).
    Running(Box<Claim>),
}

/// Devices to be made.
#[derive(Debug)]
pub struct Making<'a> {
    /// The host.
    pub host: &'a Host,
    /// The claim's lock, held during the whole work.
    pub lock: &'a ClaimLock<'a>,
    /// The demand.
    pub demand: Demand<'a>,
    /// The domain's devices before.
    pub base: Base,
    /// The end of the time for this.
    pub deadline: Deadline,
}

/// The attempts so far.
#[derive(Debug, Default)]
struct Tries {
    /// The drivers' refusals.
    failed: Failed,
    /// Refusals by drivers that other starts may have caused.
    lost_races: u32,
    /// Refusals while claims were being changed.
    unsettled: u32,
    /// Refusals because of unfinished devices on which no process was working.
    unfinished: u32,
    /// Whether leftovers of crashes have been freed.
    has_reconciled: bool,
    /// Domains whose starts and stops have been waited for.
    awaited: BTreeSet<DomainUuid>,
    /// How many GPU instances were needed in addition.
    instances: u32,
    /// The GPUs on which some were made.
    made_on: Vec<PciAddress>,
    /// Whether it was looked whether noted GPU instances are still there.
    has_looked: bool,
}

impl Making<'_> {
    /// Plans and makes the devices. Returns the claim, with the new devices at the end of its
    /// list. Plans again when a driver refuses, or when another start was faster. If no
    /// device is free, it frees leftovers of crashes and waits for starts and stops that are
    /// in progress.
    ///
    /// Drivers are asked without any lock. The plan is settled under the host lock, and the
    /// devices are made under the locks of their boards.
    ///
    /// The claim of a running domain stays committed all the time, because it also lists the
    /// domain's other devices. New devices are marked as leaving until the caller has
    /// attached them, so that a crash in between leaves devices that are given back as
    /// unused. A device that replaces a lost device is not marked.
    ///
    /// # Errors
    /// Why no devices were made; the claim is then as before.
    pub fn make(&mut self) -> Result<Claim, AllocateError> {
        /// Lost races before a driver's refusal counts as final.
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
            if let Some((number, why)) = unbinding::in_use(self.host, &plan, self.deadline) {
                self.restore_claim(claim.domain)
                    .map_err(|cause| io_error(&why, cause))?;
                let assignment = &plan.assignments[number];
                let domain = &self.demand.domain.name;
                events::log_driver_refusal(domain, &assignment.parent, &why);
                tries.failed.note(&plan, number, &why);
                continue;
            }
            let applied = apply::apply(&plan.steps, self.host);
            drop(devices);
            let Err(failure) = applied else {
                note_made(self.host, &mut claim, &plan);
                self.end_making_instances(&tries);
                events::log_taken_from_host(&claim, &plan.assignments);
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
            let may_have_lost = !failure.timed_out && tries.lost_races < RACES;
            if may_have_lost
                && (self.has_lost(assignment)
                    || self.has_forgotten(assignment, &mut tries.has_looked))
            {
                tries.lost_races += 1;
                continue;
            }
            let domain = &self.demand.domain.name;
            events::log_driver_refusal(domain, &assignment.parent, &failure.cause);
            tries.failed.note(&plan, number, &failure.reason);
        }
    }

    /// GPU instances that this start has made are not kept for it any more.
    fn end_making_instances(&self, tries: &Tries) {
        /// The VM waits, and what is not noted ends by itself.
        const PATIENCE: Duration = Duration::from_millis(500);
        for gpu in &tries.made_on {
            start_has_ended(
                self.host,
                *gpu,
                &self.purpose(),
                self.deadline.at_most(PATIENCE),
            );
        }
    }

    /// Whether the GPU instance that was planned for has been destroyed by somebody else, which is
    /// looked for once.
    fn has_forgotten(&self, assignment: &Assignment, has_looked: &mut bool) -> bool {
        let is_in_one = assignment
            .placement
            .is_some_and(|place| place.instance.is_some());
        let gpu = assignment.board.pci().filter(|_| is_in_one && !*has_looked);
        let Some(gpu) = gpu else {
            return false;
        };
        *has_looked = true;
        forget_lost_instances(self.host, gpu, &self.purpose(), self.lock_deadline())
    }

    /// Whether the GPU instance that was planned for is for no pool any more: it was idle, and
    /// has been destroyed between the plan and the lock.
    fn has_lost(&self, assignment: &Assignment) -> bool {
        let instance = assignment.placement.and_then(|place| place.instance);
        let (Some(id), Some(gpu)) = (instance, assignment.board.pci()) else {
            return false;
        };
        let noted = our_instances::read(self.host, gpu);
        noted.is_ok_and(|noted| noted.used.iter().all(|used| used.id != id))
    }

    /// Plans, settles the plan under the host lock, and writes it into the claim. None if a
    /// new look is needed.
    fn announce(
        &mut self,
        look: &Look<'_>,
        tries: &mut Tries,
    ) -> Result<Option<(Plan, Claim)>, AllocateError> {
        let mut seen = self.demand.see_claims(look)?;
        if !seen.announced.is_empty() {
            // Other domains are starting too.
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
            if let Some(number) = plan.needs_new_instance() {
                self.make_instance(&plan, number, tries)?;
                return Ok(None);
            }
            look.ask_no_driver_any_more();
            let planning = HostLock::acquire(self.host, &self.purpose(), self.lock_deadline())?;
            if seen.is_current(self.host) {
                break (plan, planning);
            }
            seen = self.demand.see_claims(look)?;
            let planned = self.plan(look, &seen, &tries.failed);
            let has_time = self.deadline.left() > Host::PATIENCE;
            match planned {
                // It is made without this lock.
                Ok(plan) if plan.needs_new_instance().is_some() => return Ok(None),
                Ok(plan) if !look.has_missed() => break (plan, planning),
                // Another start was faster, and an unknown device is needed: ask more first.
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

    /// Makes the GPU instance that the assignment with that number needs. If the GPU does not
    /// take one, the next plan does without it.
    fn make_instance(
        &self,
        plan: &Plan,
        number: usize,
        tries: &mut Tries,
    ) -> Result<(), AllocateError> {
        /// Bounds that are never reached in practice: more tries than a host has GPU instances,
        /// and more GPU instances than other starts could take from this one.
        const MOST: u32 = 128;
        const MOST_MADE: usize = 8;
        let assignment = &plan.assignments[number];
        let domain = &self.demand.domain.name;
        tries.instances += 1;
        let is_enough =
            tries.instances >= MOST || tries.made_on.len() >= self.demand.wanted.len() + MOST_MADE;
        let gpu = assignment.board.pci().filter(|_| !is_enough);
        let Some(gpu) = gpu else {
            tries.failed.note(plan, number, "it makes no GPU instances");
            return Ok(());
        };
        let purpose = self.purpose();
        let demanded = Demanded {
            gpu,
            pool: &assignment.pool,
            purpose: &purpose,
            deadline: self.lock_deadline(),
        };
        let is_needed = || {
            let look = Look::new(self.host);
            let seen = self.demand.see_claims(&look)?;
            let failed = &tries.failed;
            match self.demand.plan_in_existing_instances(&look, &seen, failed) {
                Err(AllocateError::Refused(_)) => Ok(true),
                planned => planned.map(|_| false),
            }
        };
        let why = match make_instance(self.host, demanded, is_needed)? {
            Ok(Made::Instance(made)) => {
                events::log_instance_made(domain, &assignment.board, &assignment.pool, &made);
                tries.made_on.push(gpu);
                return Ok(());
            }
            Ok(Made::NotNeeded) => return Ok(()),
            // There may be room by then.
            Err(NotMade::Busy(LockError::Held { .. })) if self.deadline.left() > Host::PATIENCE => {
                return Ok(());
            }
            Err(NotMade::Busy(error)) => return Err(error.into()),
            Err(NotMade::Refused(why)) => why,
        };
        events::log_driver_refusal(domain, &assignment.board, &why);
        tries.failed.note(plan, number, &why);
        if self.deadline.left() < Host::PATIENCE {
            return Err(AllocateError::Failed {
                domain: domain.to_string(),
                device: assignment.device.to_string(),
                cause: why,
            });
        }
        Ok(())
    }

    /// Whether devices of other domains were being made on the board since the look began.
    /// They may be the cause of a driver's refusal.
    fn is_crowded(&self, look: &Look<'_>, assignment: &Assignment) -> Result<bool, AllocateError> {
        let board = board_of(&look.sysfs, &assignment.parent);
        let seen = self.demand.see_claims(look)?;
        Ok(seen.announced.iter().any(|device| device.board == board))
    }

    /// Prepares another plan after a refusal: devices were freed, claims have changed, or
    /// another process has finished its work on the refused devices. Otherwise returns the
    /// refusal.
    fn make_room(
        &self,
        refusal: &Refusal,
        seen: &Seen,
        tries: &mut Tries,
    ) -> Result<(), AllocateError> {
        /// A bound that is never reached in practice: claims change all the time.
        const UNSETTLED: u32 = 64;
        /// Devices that a crash has left unfinished stay unfinished until they are freed.
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
            // This look does not show devices that were finished after it began. The next look
            // shows them, and its refusal gives the right reason.
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

    /// A deadline for locks that leaves time to make devices and to undo them.
    fn lock_deadline(&self) -> Deadline {
        const SHARE: u32 = 2;
        self.deadline.at_most(self.deadline.left() / SHARE)
    }

    /// Takes the locks of all boards of the plan. If that fails, the devices are removed from
    /// the claim. None if a new plan may help: it does not ask a driver that hangs.
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
            // The XML can still be changed, or is written after the plan.
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

    /// Restores the claim as it was before the announcement.
    fn restore_claim(&self, domain: DomainUuid) -> io::Result<()> {
        match &self.base {
            Base::Running(before) if !before.is_empty() => {
                claims::save(self.host, self.lock, before)
            }
            Base::Start(_) | Base::Running(_) => claims::remove(self.host, self.lock, domain),
        }
    }

    /// Keeps in the claim only the earlier devices and those that could not be undone.
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
        let unfit = self.quarantine_unfit(plan, failure);
        // Several steps of one device may be left.
        let steps = failure.left_behind.iter();
        let steps = steps.filter(|(step, _)| Some(*step) != unfit);
        let owners: BTreeSet<usize> = steps
            .filter_map(|(step, _)| plan.owners.get(*step).copied())
            .collect();
        let left_behind: Vec<ClaimedDevice> = owners
            .into_iter()
            .filter_map(|owner| claim.devices.get(first + owner).cloned())
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

    /// Quarantines the function of the failed binding if it is unfit, and returns the number
    /// of its step. The quarantine then stands for the rest of the binding: the driver's late
    /// answer undoes it.
    fn quarantine_unfit(&self, plan: &Plan, failure: &apply::Failure) -> Option<usize> {
        let step = plan.steps.get(failure.step).filter(|_| failure.is_unfit)?;
        let before = match (&step.undo, &step.act) {
            (Some(Undo::Bound(bound)), _) => &bound.before,
            // It stays with the driver for VMs.
            (_, Act::Bind(binding)) => binding,
            (_, Act::Write(_)) => return None,
        };
        let domain = &self.demand.domain.name;
        let why = (failure.cause.as_str(), failure.timed_out);
        let noted = claims::quarantine_whole(self.host, domain, before, why);
        match noted {
            Ok(()) => Some(failure.step),
            Err(error) => {
                tracing::warn!("domain '{domain}': {error}");
                None
            }
        }
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

/// Whether the claim's devices may be the cause of the refusal.
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

/// A planned device as an entry of the claim.
fn claimed(plan: &Plan, number: usize, assignment: &Assignment, look: &Look<'_>) -> ClaimedDevice {
    let its: Vec<Step> = steps_of(plan, number).cloned().collect();
    let (identity, undo) = claims::undo_of(&its);
    ClaimedDevice {
        name: assignment.device.clone(),
        pool: assignment.pool.clone(),
        kind: assignment.made_as.word.to_owned(),
        uuid: assignment.uuid,
        handle: assignment.handle,
        board: board_of(&look.sysfs, &assignment.parent),
        parent: assignment.parent.clone(),
        along: assignment.along.clone(),
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

/// The steps that make the device of the assignment with that number.
fn steps_of(plan: &Plan, number: usize) -> impl Iterator<Item = &Step> {
    let steps = plan.steps.iter().zip(&plan.owners);
    let its = steps.filter(move |(_, owner)| **owner == number);
    its.map(|(step, _)| step)
}

/// The index of the first device that the plan has added to the claim. These devices are at
/// the end, in the order of the assignments.
fn first_new(claim: &Claim, plan: &Plan) -> usize {
    claim.devices.len().saturating_sub(plan.assignments.len())
}

/// Records the device nodes of the new devices, by which a holder can be found, and which
/// steps are undone at the end.
fn note_made(host: &Host, claim: &mut Claim, plan: &Plan) {
    let first = first_new(claim, plan);
    for (number, device) in claim.devices.iter_mut().skip(first).enumerate() {
        device.undo = claims::undo_at_the_end(steps_of(plan, number));
        // If this fails, the nodes are read again when they are needed.
        device.nodes = device.nodes(host).unwrap_or_default();
    }
}
