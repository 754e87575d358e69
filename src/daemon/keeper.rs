//! The daemon's work: it corrects definitions, gives devices back, and records problems
//! for `status`. Every part can be interrupted at any point and repeated.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{agenda::Agenda, gpus::Gpus, guard::Guard, runs::Runs};
use crate::{
    claims::{self, DEFAULT_GRACE, Liveness, State},
    definition::{self, AtRest, Done, Manner, Move, Named, Synced},
    domain::{self, ALIAS_PREFIX, mentions_requests},
    events,
    host::{
        Deadline, Host, HostLock, LockError,
        libvirt::{Domain, Libvirt, LibvirtError},
        since_boot, tell_alive,
    },
    model::DomainUuid,
    report::DaemonNotes,
};

/// How long to wait for the host lock: longer than any process holds it.
const PATIENCE: Duration = Duration::from_secs(25);

/// The time limit for one check of all claims; the remaining claims are checked next
/// time.
const WORK: Duration = Duration::from_secs(5);

/// How long to wait for another process that edits a domain; the domain is tried again
/// later.
pub(super) const EDIT_PATIENCE: Duration = Duration::from_secs(1);

/// The connection is lost; the remaining work is done after the next scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

/// Whether stopped domains may name devices that they could not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unrest {
    No,
    /// Edits are left: the look at the host is too old for them.
    Now,
    /// Something failed.
    AtTick,
}

/// How long a look at the host is good for edits.
const FRESH: Duration = Duration::from_secs(1);

/// The state that is kept between events.
#[derive(Debug)]
pub(super) struct Keeper<'h> {
    host: &'h Host,
    named: Named,
    guard: Guard,
    gpus: Gpus,
    /// The problems of domains, one line each.
    problems: BTreeMap<DomainUuid, Vec<String>>,
    /// Domains that name a function that another domain has, for which no other is free;
    /// one line each.
    stuck: BTreeMap<DomainUuid, Vec<String>>,
    /// When stopped domains must be looked at again although nothing happens.
    unrest: Unrest,
    /// Domains to check again at the next tick, and whether they have continued to run
    /// since the last check.
    again: BTreeMap<DomainUuid, bool>,
    /// Whether all domains must be checked again at the next tick.
    rescan: bool,
    runs: Runs<'h>,
    /// Whether there are claims that should be gone.
    unreleased: bool,
    /// Until when to look for devices that a guest has released.
    let_go_until: Duration,
    ticks: u32,
    published: Option<DaemonNotes>,
}

impl Manner {
    /// All domains are checked, and their functions together afterwards.
    fn of_scan(continued: bool) -> Self {
        Self {
            moves: false,
            ..Self::of_event(continued)
        }
    }

    /// One domain was changed. Of two domains that name one function, this one gets
    /// another.
    fn of_event(continued: bool) -> Self {
        Self {
            dry_run: false,
            follow: continued,
            moves: true,
            patience: EDIT_PATIENCE,
        }
    }
}

impl<'h> Keeper<'h> {
    pub(super) fn new(host: &'h Host) -> Self {
        Self {
            host,
            named: Named::default(),
            guard: Guard::default(),
            gpus: Gpus::default(),
            problems: BTreeMap::new(),
            stuck: BTreeMap::new(),
            unrest: Unrest::No,
            again: BTreeMap::new(),
            rescan: false,
            runs: Runs::new(host),
            unreleased: true,
            let_go_until: Duration::ZERO,
            ticks: 0,
            published: None,
        }
    }

    /// Called after connecting: anything may have changed meanwhile.
    pub(super) fn connected(&mut self, libvirt: &Libvirt) -> Result<(), Lost> {
        self.runs.connected(libvirt);
        self.reconcile();
        self.forget_repaired();
        self.scan(libvirt)?;
        self.runs.plug(libvirt)?;
        self.gpus.look_now(self.host);
        self.publish(true);
        Ok(())
    }

    /// Checks the definitions of all domains.
    fn scan(&mut self, libvirt: &Libvirt) -> Result<(), Lost> {
        self.rescan = false;
        // Without this list, a function could be chosen that another domain names.
        let Some(named) = self.asked(libvirt, Named::read(libvirt))? else {
            return Ok(());
        };
        self.named = named;
        let domains = libvirt.domains().map_err(anyhow::Error::from);
        let Some(domains) = self.asked(libvirt, domains)? else {
            return Ok(());
        };
        let there: BTreeSet<_> = domains
            .iter()
            .filter_map(|domain| domain.uuid().ok())
            .collect();
        self.problems.retain(|domain, _| there.contains(domain));
        let mut again = std::mem::take(&mut self.again);
        for domain in domains {
            let uuid = domain.uuid().ok();
            let continued = uuid.and_then(|uuid| again.remove(&uuid)).unwrap_or(false);
            self.sync(libvirt, domain, Manner::of_scan(continued))?;
        }
        self.settle_all(libvirt)
    }

    /// Does the pending work.
    pub(super) fn work(&mut self, libvirt: &Libvirt, agenda: &Agenda) -> Result<(), Lost> {
        if agenda.tick && self.rescan {
            self.scan(libvirt)?;
        }
        for &domain in &agenda.gone {
            self.forget(domain);
        }
        self.runs.note(agenda);
        let has_claim = |domain: &DomainUuid| !matches!(claims::load(self.host, *domain), Ok(None));
        self.unreleased |= agenda.stopped.iter().any(has_claim);
        if !agenda.let_go.is_empty() {
            // Another device may be in progress in the same claim, so this takes a tick
            // or two.
            self.let_go_until = since_boot() + 4 * DEFAULT_GRACE;
        }
        self.unreleased |= since_boot() < self.let_go_until;
        self.unreleased |= agenda.tick && self.has_unfinished_start();
        let is_round = self.is_round(agenda);
        if agenda.host || is_round {
            self.forget_repaired();
        }
        if is_round {
            if let Err(error) = libvirt.check_node_devices() {
                tracing::warn!("{error}; connecting to libvirt again");
                return Err(Lost);
            }
        }
        if self.unreleased && (agenda.tick || !agenda.stopped.is_empty()) || is_round {
            self.reconcile();
        }
        let domains = self.domains_of(agenda);
        let is_due = match self.unrest {
            Unrest::No => false,
            Unrest::Now => true,
            Unrest::AtTick => agenda.tick,
        };
        let has_changed = agenda.functions || agenda.claims || agenda.host;
        let settles = has_changed || is_due || is_round || !domains.is_empty();
        for (uuid, continued) in domains {
            let found = libvirt.domain_by_uuid(uuid).map_err(anyhow::Error::from);
            match self.asked(libvirt, found)? {
                Some(Some(domain)) => self.sync(libvirt, domain, Manner::of_event(continued))?,
                Some(None) => self.forget(uuid),
                None => self.come_again(uuid, continued),
            }
        }
        if settles {
            self.settle_all(libvirt)?;
        }
        let try_again = agenda.tick && self.runs.wants_another_try();
        if agenda.plug || agenda.host || is_round || try_again {
            self.runs.plug(libvirt)?;
        }
        self.gpus.look(self.host, agenda, is_round);
        self.publish(true);
        Ok(())
    }

    /// After what time there is work even if nothing happens.
    pub(super) fn pause(&self) -> Option<Duration> {
        match self.unrest {
            Unrest::Now => Some(Duration::ZERO),
            Unrest::No | Unrest::AtTick => self.runs.pause(),
        }
    }

    /// Gives stopped domains devices that they could have if they were the next to
    /// start, and notes those for which there are none.
    fn settle_all(&mut self, libvirt: &Libvirt) -> Result<(), Lost> {
        tell_alive();
        self.host.be_patient_again();
        self.unrest = Unrest::No;
        if self.named.definitions().next().is_none() {
            self.stuck.clear();
            return Ok(());
        }
        let Some(stopped) = self.asked(libvirt, libvirt.stopped().map_err(Into::into))? else {
            self.unrest = Unrest::AtTick;
            return Ok(());
        };
        let found = match definition::at_rest(self.host, &self.named, &stopped) {
            Ok(found) => found,
            Err(error) => {
                let why = events::one_line(&error);
                tracing::warn!("cannot tell which devices stopped domains could have: {why}");
                self.unrest = Unrest::AtTick;
                return Ok(());
            }
        };
        self.note_stuck(&found);
        // A look may take longer than that: each look carries out one move at least.
        let looked = since_boot();
        for (uuid, moves) in found.moves {
            if since_boot().saturating_sub(looked) > FRESH {
                self.unrest = Unrest::Now;
                return Ok(());
            }
            let found = libvirt.domain_by_uuid(uuid).map_err(anyhow::Error::from);
            match self.asked(libvirt, found)? {
                Some(Some(domain)) => self.carry_out(libvirt, &domain, (uuid, &moves))?,
                Some(None) => self.forget(uuid),
                None => self.unrest = Unrest::AtTick,
            }
        }
        for uuid in found.others {
            let found = libvirt.domain_by_uuid(uuid).map_err(anyhow::Error::from);
            if let Some(Some(domain)) = self.asked(libvirt, found)? {
                self.sync(libvirt, domain, Manner::of_event(false))?;
            }
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        libvirt: &Libvirt,
        domain: &Domain,
        (uuid, moves): (DomainUuid, &[Move]),
    ) -> Result<(), Lost> {
        tell_alive();
        if !self.guard.allows(uuid, since_boot()) {
            self.unrest = Unrest::AtTick;
            return Ok(());
        }
        let named = &mut self.named;
        let done =
            definition::carry_out_moves(self.host, libvirt, domain, named, moves, EDIT_PATIENCE);
        match done {
            Ok(true) => {
                self.guard.note(uuid, since_boot());
                if let Some(def) = self.named.definition(uuid) {
                    for one in moves {
                        let line = Done::Moved(one.clone()).to_string();
                        events::log_synced(&def.name, uuid, &line);
                    }
                }
            }
            // It has started meanwhile, or somebody has edited it: an event says so.
            Ok(false) => {}
            Err(_) if !libvirt.is_alive() => return Err(Lost),
            Err(error) if is_gone(&error) => self.forget(uuid),
            Err(error) => {
                self.unrest = Unrest::AtTick;
                if !is_held(&error) {
                    self.guard.note(uuid, since_boot());
                    tracing::warn!("{}", events::one_line(&error));
                }
            }
        }
        Ok(())
    }

    fn note_stuck(&mut self, found: &AtRest) {
        let mut stuck: BTreeMap<DomainUuid, Vec<String>> = BTreeMap::new();
        for (uuid, one) in &found.stuck {
            if let Some(def) = self.named.definition(*uuid) {
                let line = format!("domain '{}': {one}", def.name);
                stuck.entry(*uuid).or_default().push(line);
            }
        }
        for (uuid, lines) in &stuck {
            let known = self.stuck.get(uuid);
            for line in lines {
                if !known.is_some_and(|known| known.contains(line)) {
                    events::log_unsettled(*uuid, line);
                }
            }
        }
        self.stuck = stuck;
    }

    /// The domains whose definitions must be checked, and whether they have continued to
    /// run.
    fn domains_of(&mut self, agenda: &Agenda) -> BTreeMap<DomainUuid, bool> {
        let has_continued = |domain: &DomainUuid| (*domain, agenda.continued.contains(domain));
        let mut domains: BTreeMap<_, _> = agenda.definitions.iter().map(has_continued).collect();
        let mut more = |domain, continued| *domains.entry(domain).or_default() |= continued;
        if agenda.tick {
            for (domain, continued) in std::mem::take(&mut self.again) {
                more(domain, continued);
            }
        }
        if agenda.host || agenda.tick {
            // A device or a pool may have been added; no event reports the latter.
            self.problems.keys().for_each(|domain| more(*domain, false));
        }
        domains
    }

    fn come_again(&mut self, domain: DomainUuid, continued: bool) {
        *self.again.entry(domain).or_default() |= continued;
    }

    /// Does the work that needs no libvirt. Without libvirt no event reports a domain's
    /// end.
    pub(super) fn work_alone(&mut self, agenda: &Agenda) {
        if agenda.tick {
            self.reconcile();
            self.forget_repaired();
        }
        self.publish(false);
    }

    /// Whether a claim belongs to a domain that is not running, or not yet. libvirt
    /// does not report failed starts.
    fn has_unfinished_start(&self) -> bool {
        claims::load_all(self.host).is_ok_and(|(claims, _)| {
            let mut claims = claims.iter();
            claims.any(|claim| claim.state != State::Committed || claim.daemon.is_some())
        })
    }

    /// Whether it is time to check the claims although no event asked for it.
    fn is_round(&mut self, agenda: &Agenda) -> bool {
        const TICKS: u32 = 10;
        if !agenda.tick {
            return false;
        }
        self.ticks = (self.ticks + 1) % TICKS;
        self.ticks == 0
    }

    fn forget(&mut self, domain: DomainUuid) {
        self.named.forget(domain);
        self.guard.forget(domain);
        self.problems.remove(&domain);
        self.stuck.remove(&domain);
        self.again.remove(&domain);
    }

    /// libvirt's answer; None for an error, which is logged.
    fn asked<T>(
        &mut self,
        libvirt: &Libvirt,
        answer: anyhow::Result<T>,
    ) -> Result<Option<T>, Lost> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(_) if !libvirt.is_alive() => Err(Lost),
            Err(error) => {
                tracing::warn!("{}", events::one_line(&error));
                self.rescan = true;
                Ok(None)
            }
        }
    }

    /// Corrects one domain.
    fn sync(&mut self, libvirt: &Libvirt, domain: Domain, manner: Manner) -> Result<(), Lost> {
        let continued = manner.follow;
        // With many domains this may take longer than the watchdog waits.
        tell_alive();
        // The deadline of earlier work under a lock no longer applies.
        self.host.be_patient_again();
        let Ok(uuid) = domain.uuid() else {
            return Ok(());
        };
        let xml = match domain.inactive_xml() {
            Ok(xml) => xml,
            Err(error) if error.is_gone() => {
                self.forget(uuid);
                return Ok(());
            }
            Err(_) if !libvirt.is_alive() => return Err(Lost),
            Err(error) => {
                // The domain is checked again as long as it has a problem.
                let what = error.to_string();
                self.note_problems(uuid, vec![format!("domain {uuid}: {what}")]);
                if continued {
                    self.come_again(uuid, continued);
                }
                return Ok(());
            }
        };
        if !mentions_requests(xml.as_bytes()) && !xml.contains(ALIAS_PREFIX) {
            // Functions of a domain without requests are not free for our domains either.
            match domain::parse(&xml) {
                Ok(def) => self.named.note(&def),
                Err(_) => self.named.forget(uuid),
            }
            let name = domain.name().unwrap_or_else(|_| uuid.to_string());
            let problems = definition::asks_for_nothing(&xml).into_iter();
            let problems = problems.map(|line| format!("domain '{name}': {line}"));
            self.note_problems(uuid, problems.collect());
            return Ok(());
        }
        if !domain.is_persistent().unwrap_or(false) {
            return Ok(());
        }
        let allowed = self.guard.allows(uuid, since_boot());
        let manner = Manner {
            dry_run: !allowed,
            ..manner
        };
        let mut sync = || definition::sync(self.host, libvirt, &domain, &mut self.named, manner);
        let mut synced = sync();
        if synced.as_ref().is_err_and(|error| !is_held(error))
            && self.guard.allows(uuid, since_boot())
        {
            // Another process may have edited it at the same time.
            self.guard.note(uuid, since_boot());
            synced = sync();
        }
        let problems = match synced {
            Ok(synced) => self.settle(&synced, allowed, continued),
            Err(_) if !libvirt.is_alive() => return Err(Lost),
            Err(error) if is_gone(&error) => {
                self.forget(uuid);
                return Ok(());
            }
            Err(error) => {
                self.come_again(uuid, continued);
                if is_held(&error) {
                    return Ok(());
                }
                self.guard.note(uuid, since_boot());
                vec![events::one_line(&error)]
            }
        };
        self.note_problems(uuid, problems);
        Ok(())
    }

    /// Logs what was done and returns the remaining problems.
    fn settle(&mut self, synced: &Synced, allowed: bool, continued: bool) -> Vec<String> {
        let (name, uuid) = (&synced.domain, synced.domain_uuid);
        // Devices that cannot be had are noted for all domains at once.
        let mut problems: Vec<String> = synced
            .problems
            .iter()
            .map(|line| format!("domain '{name}': {line}"))
            .collect();
        if synced.done.is_empty() {
            return problems;
        }
        let done: Vec<String> = synced.done.iter().map(ToString::to_string).collect();
        if allowed {
            for line in &done {
                events::log_synced(name, uuid, line);
            }
            if self.guard.note(uuid, since_boot()) {
                self.come_again(uuid, false);
            }
        } else {
            self.come_again(uuid, continued);
            problems.push(format!(
                "domain '{name}': another program keeps undoing the changes of virt-vgpud ({}); \
                 virt-vgpud waits a minute; stop that program, or make its changes in the domain's \
                 metadata",
                done.join("; ")
            ));
        }
        problems
    }

    fn note_problems(&mut self, domain: DomainUuid, problems: Vec<String>) {
        let known = self.problems.get(&domain);
        for problem in &problems {
            if !known.is_some_and(|known| known.contains(problem)) {
                events::log_unsettled(domain, problem);
            }
        }
        if problems.is_empty() {
            self.problems.remove(&domain);
        } else {
            self.problems.insert(domain, problems);
        }
    }

    /// Frees leftovers. Without a claim and a quarantine this only lists two directories.
    pub(super) fn reconcile(&mut self) {
        let has_none = claims::domains(self.host).is_ok_and(|domains| domains.is_empty());
        if has_none && claims::unfit(self.host).is_ok_and(|unfit| unfit.is_empty()) {
            self.unreleased = false;
            return;
        }
        let deadline = Deadline::after(WORK);
        self.host.be_done_by(deadline);
        match claims::reconcile(self.host, None, DEFAULT_GRACE, false, deadline) {
            Ok(report) => {
                events::log_reconciled(&report);
                self.unreleased = report.claims.iter().any(|one| {
                    let freed = one
                        .released
                        .as_ref()
                        .is_some_and(claims::Released::is_complete);
                    !matches!(one.liveness, Liveness::InUse(_)) && !freed
                });
            }
            Err(error) => tracing::warn!("cannot look for leftover devices: {error}"),
        }
    }

    /// Ends the quarantine of virtual functions that were recreated.
    fn forget_repaired(&self) {
        if !claims::repaired(self.host).is_ok_and(|repaired| !repaired.is_empty()) {
            return;
        }
        let forgotten = HostLock::acquire(self.host, "virt-vgpud", Deadline::after(PATIENCE))
            .map_err(anyhow::Error::from)
            .and_then(|lock| Ok(claims::forget_repaired(self.host, &lock)?));
        match forgotten {
            Ok(functions) => events::log_repaired(&functions),
            Err(error) => tracing::warn!(
                "cannot end the quarantine of functions that were recreated: {}",
                events::one_line(&error)
            ),
        }
    }

    /// Ends a piece of work: updates the data for `status` if anything has changed.
    pub(super) fn publish(&mut self, connected: bool) {
        self.host.be_done_writing();
        let problems = self.problems.values().chain(self.stuck.values()).flatten();
        let problems = problems.chain(self.runs.problems()).cloned().collect();
        let notes = DaemonNotes::new(self.host, connected, problems, self.runs.let_go().clone());
        if self.published.as_ref() == Some(&notes) {
            return;
        }
        match notes.publish(self.host) {
            Ok(()) => self.published = Some(notes),
            Err(error) => tracing::warn!("cannot write the notes for 'virt-vgpu status': {error}"),
        }
    }
}

/// Whether another process is working on the domain.
pub(super) fn is_held(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LockError::Held { .. }))
}

fn is_gone(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<LibvirtError>()
        .is_some_and(LibvirtError::is_gone)
}
