//! The work itself: definitions put right, devices given back, what is wrong noted
//! for `status`. Every piece can be broken off at any point and done again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{agenda::Agenda, guard::Guard, notes::Notes};
use crate::{
    claims::{self, DEFAULT_GRACE, Liveness, State},
    definition::{self, Manner, Named, Synced},
    domain::{self, ALIAS_PREFIX, DomainDef, mentions_requests},
    hook,
    host::{
        Deadline, Host, HostLock, LockError,
        libvirt::{Domain, Libvirt, LibvirtError},
        since_boot, tell_alive,
    },
    hotplug::{self, PlugError},
    model::{DeviceName, DomainUuid, ParentName},
};

/// How long the lock is waited for: as long as a hook may hold it.
const PATIENCE: Duration = Duration::from_secs(25);

/// How long the work under the lock may take: hooks wait for it.
const WORK: Duration = Duration::from_secs(5);

/// How long somebody else who edits a domain is waited for; the domain comes again.
const EDIT_PATIENCE: Duration = Duration::from_secs(1);

/// After this long it is tried again to plug in a device that could not be.
const PLUG_AGAIN: Duration = Duration::from_secs(600);

/// The connection is lost: what was to be done is done after the next scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

/// What is known between events.
#[derive(Debug)]
pub(super) struct Keeper<'h> {
    host: &'h Host,
    named: Named,
    guard: Guard,
    /// What is wrong with domains, a line each.
    problems: BTreeMap<DomainUuid, Vec<String>>,
    /// Domains to look at again with the next tick.
    again: BTreeSet<DomainUuid>,
    /// Whether everything has to be looked at again with the next tick.
    rescan: bool,
    /// Devices that could not be plugged in, until when it is not tried again.
    unpluggable: BTreeMap<(DomainUuid, DeviceName), Duration>,
    /// Whether claims are left that should be gone.
    unreleased: bool,
    /// Until when devices are looked for that a guest has let go of.
    let_go_until: Duration,
    /// Devices that a guest or the administrator has taken out of a run, which get
    /// no other in it.
    let_go: BTreeSet<(DomainUuid, DeviceName)>,
    ticks: u32,
    published: Option<Notes>,
}

impl<'h> Keeper<'h> {
    pub(super) fn new(host: &'h Host) -> Self {
        Self {
            host,
            named: Named::default(),
            guard: Guard::default(),
            problems: BTreeMap::new(),
            again: BTreeSet::new(),
            rescan: false,
            unpluggable: BTreeMap::new(),
            unreleased: true,
            let_go_until: Duration::ZERO,
            let_go: Notes::read(host)
                .map(|notes| notes.let_go)
                .unwrap_or_default(),
            ticks: 0,
            published: None,
        }
    }

    /// Looks at everything: after a connection was made, anything may have happened.
    pub(super) fn scan(&mut self, libvirt: &Libvirt) -> Result<(), Lost> {
        self.problems.clear();
        self.again.clear();
        self.reconcile();
        self.rescan = false;
        self.unpluggable.clear();
        let runs = |domain: &DomainUuid| {
            let found = libvirt.domain_by_uuid(*domain).ok().flatten();
            found.is_some_and(|domain| domain.is_active().unwrap_or(true))
        };
        self.let_go.retain(|(domain, _)| runs(domain));
        self.named = self
            .asked(libvirt, Named::read(libvirt))?
            .unwrap_or_default();
        let domains = libvirt.domains().map_err(anyhow::Error::from);
        let domains = self.asked(libvirt, domains)?.unwrap_or_default();
        for domain in domains {
            self.sync(libvirt, domain, false)?;
        }
        self.plug(libvirt)?;
        self.publish(true);
        Ok(())
    }

    /// Does what has come up.
    pub(super) fn work(&mut self, libvirt: &Libvirt, agenda: &Agenda) -> Result<(), Lost> {
        if agenda.tick && self.rescan {
            self.scan(libvirt)?;
        }
        for &domain in &agenda.gone {
            self.forget(domain);
        }
        // Before a device is given back, which is as if it had been pulled.
        self.note_let_go(agenda);
        if agenda.host {
            self.forget_repaired();
        }
        let has_claim = |domain: &DomainUuid| !matches!(claims::load(self.host, *domain), Ok(None));
        self.unreleased |= agenda.stopped.iter().any(has_claim);
        if !agenda.let_go.is_empty() {
            // Another device may be on its way into the same claim, so it takes a while.
            self.let_go_until = since_boot() + 2 * DEFAULT_GRACE;
        }
        self.unreleased |= since_boot() < self.let_go_until;
        self.unreleased |= agenda.tick && self.has_unfinished_start();
        let is_round = self.is_round(agenda);
        if self.unreleased && (agenda.tick || !agenda.stopped.is_empty()) || is_round {
            self.reconcile();
        }
        let mut domains = agenda.definitions.clone();
        if agenda.tick {
            domains.append(&mut self.again);
        }
        if agenda.functions || agenda.host {
            domains.extend(self.displaced());
        }
        if agenda.functions || agenda.host || agenda.tick {
            // A function may be free again; a pool may be there now, which nobody tells.
            domains.extend(self.problems.keys());
        }
        self.unpluggable
            .retain(|(domain, _), _| !agenda.definitions.contains(domain));
        for uuid in domains {
            let found = libvirt.domain_by_uuid(uuid).map_err(anyhow::Error::from);
            match self.asked(libvirt, found)? {
                Some(Some(domain)) => {
                    let started = agenda.started.contains(&uuid);
                    self.sync(libvirt, domain, started)?;
                }
                Some(None) => self.forget(uuid),
                None => {
                    self.again.insert(uuid);
                }
            }
        }
        if agenda.plug || agenda.host || is_round {
            self.plug(libvirt)?;
        }
        self.publish(true);
        Ok(())
    }

    /// What can be done without libvirt, which then tells of no domain's end.
    pub(super) fn work_alone(&mut self, agenda: &Agenda) {
        if agenda.tick {
            self.reconcile();
        }
        self.publish(false);
    }

    /// Whether a claim is not, or not yet, that of a domain that runs. libvirt tells
    /// nobody of a start that has failed.
    fn has_unfinished_start(&self) -> bool {
        claims::load_all(self.host).is_ok_and(|(claims, _)| {
            let mut claims = claims.iter();
            claims.any(|claim| claim.state != State::Committed || claim.daemon.is_some())
        })
    }

    /// Whether it is time to look at the claims though no event has said so.
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
        self.again.remove(&domain);
    }

    /// An answer of libvirt's; None for one that is no answer, which is logged.
    fn asked<T>(
        &mut self,
        libvirt: &Libvirt,
        answer: anyhow::Result<T>,
    ) -> Result<Option<T>, Lost> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(_) if !libvirt.is_alive() => Err(Lost),
            Err(error) => {
                tracing::warn!("{}", hook::one_line(&error));
                self.rescan = true;
                Ok(None)
            }
        }
    }

    /// Puts one domain right.
    fn sync(&mut self, libvirt: &Libvirt, domain: Domain, started: bool) -> Result<(), Lost> {
        // Many domains may take longer than the watchdog waits.
        tell_alive();
        let read = domain
            .uuid()
            .and_then(|uuid| Ok((uuid, domain.inactive_xml()?)));
        let Some((uuid, xml)) = self.asked(libvirt, settled(read))?.flatten() else {
            return Ok(());
        };
        if !mentions_requests(xml.as_bytes()) && !xml.contains(ALIAS_PREFIX) {
            // Somebody else's function that it has is still none for ours.
            match domain::parse(&xml) {
                Ok(def) => self.named.note(&def),
                Err(_) => self.named.forget(uuid),
            }
            self.problems.remove(&uuid);
            return Ok(());
        }
        if !domain.is_persistent().unwrap_or(false) {
            return Ok(());
        }
        let allowed = self.guard.allows(uuid, since_boot());
        let manner = Manner {
            dry_run: !allowed,
            follow: started,
            patience: EDIT_PATIENCE,
        };
        let mut sync = || definition::sync(self.host, libvirt, &domain, &mut self.named, manner);
        let mut synced = sync();
        if synced.as_ref().is_err_and(|error| !is_held(error))
            && self.guard.allows(uuid, since_boot())
        {
            // Somebody else may have edited it at the same time.
            self.guard.note(uuid, since_boot());
            synced = sync();
        }
        let problems = match synced {
            Ok(synced) => self.settle(&synced, allowed),
            Err(_) if !libvirt.is_alive() => return Err(Lost),
            Err(error) if is_gone(&error) => {
                self.forget(uuid);
                return Ok(());
            }
            Err(error) => {
                self.again.insert(uuid);
                if is_held(&error) {
                    return Ok(());
                }
                self.guard.note(uuid, since_boot());
                vec![hook::one_line(&error)]
            }
        };
        self.note_problems(uuid, problems);
        Ok(())
    }

    /// A device that is still there was taken out on purpose; one that is gone was
    /// pulled, and may come back.
    fn note_let_go(&mut self, agenda: &Agenda) {
        let has_stopped =
            |domain: &DomainUuid| agenda.stopped.contains(domain) && !agenda.gone.contains(domain);
        self.let_go.retain(|(domain, _)| !has_stopped(domain));
        for (domain, name) in &agenda.let_go {
            let Ok(Some(claim)) = claims::load(self.host, *domain) else {
                continue;
            };
            let mut devices = claim.devices.iter().filter(|device| device.name == *name);
            if devices.any(|device| matches!(device.is_there(self.host), Ok(true))) {
                self.let_go.insert((*domain, name.clone()));
            }
        }
    }

    /// Plugs into running domains what they are without, where something is free.
    fn plug(&mut self, libvirt: &Libvirt) -> Result<(), Lost> {
        let domains = libvirt.domains().map_err(anyhow::Error::from);
        for domain in self.asked(libvirt, domains)?.unwrap_or_default() {
            if !domain.is_active().unwrap_or(false) {
                continue;
            }
            let Some(xml) = self.asked(libvirt, settled(domain.live_xml()))?.flatten() else {
                continue;
            };
            if !mentions_requests(xml.as_bytes()) {
                continue;
            }
            if let Ok(def) = domain::parse(&xml) {
                self.plug_into(libvirt, &domain, &def);
            }
        }
        Ok(())
    }

    fn plug_into(&mut self, libvirt: &Libvirt, domain: &Domain, def: &DomainDef) {
        let (uuid, vm) = (def.uuid, &def.name);
        let Ok(lacking) = hotplug::lacking(self.host, def) else {
            return;
        };
        if lacking.is_empty() {
            return;
        }
        let _lock = match definition::edit_lock_within(self.host, uuid, EDIT_PATIENCE) {
            Ok(lock) => lock,
            // It is that program's turn, whose edits are events.
            Err(_) => return,
        };
        for name in lacking {
            let key = (uuid, name);
            let not_before = self.unpluggable.get(&key).copied().unwrap_or_default();
            if self.let_go.contains(&key) || since_boot() < not_before {
                continue;
            }
            tell_alive();
            self.host.be_done_by(Deadline::after(hook::PATIENCE));
            let name = &key.1;
            match hotplug::plug(self.host, libvirt, domain, std::slice::from_ref(name)) {
                Ok(plugged) => {
                    for one in plugged {
                        let (pool, place) = (&one.pool, one.place());
                        let what =
                            format!("domain '{vm}': plugged in {name} of pool '{pool}' {place}");
                        hook::log_plugged(uuid, &what);
                    }
                }
                // It is tried again whenever something may have become free.
                Err(PlugError::NoRoom(_) | PlugError::NotRunning(_)) => {}
                Err(error) => {
                    // To make the device and to take it back are events themselves.
                    hook::log_unsettled(uuid, &format!("domain '{vm}': {error}"));
                    self.unpluggable.insert(key, since_boot() + PLUG_AGAIN);
                }
            }
        }
    }

    /// Logs what was done; what is left to complain about.
    fn settle(&mut self, synced: &Synced, allowed: bool) -> Vec<String> {
        let (name, uuid) = (&synced.domain, synced.domain_uuid);
        let mut problems: Vec<String> = { synced.complaints().into_iter() }
            .map(|line| format!("domain '{name}': {line}"))
            .collect();
        if synced.done.is_empty() {
            return problems;
        }
        let done: Vec<String> = synced.done.iter().map(ToString::to_string).collect();
        if allowed {
            for line in &done {
                hook::log_synced(name, uuid, line);
            }
            if self.guard.note(uuid, since_boot()) {
                self.again.insert(uuid);
            }
        } else {
            self.again.insert(uuid);
            problems.push(format!(
                "domain '{name}': something undoes again and again what virt-vgpud does ({}); it \
                 waits a minute",
                done.join("; ")
            ));
        }
        problems
    }

    fn note_problems(&mut self, domain: DomainUuid, problems: Vec<String>) {
        let known = self.problems.get(&domain);
        for problem in &problems {
            if !known.is_some_and(|known| known.contains(problem)) {
                hook::log_unsettled(domain, problem);
            }
        }
        if problems.is_empty() {
            self.problems.remove(&domain);
        } else {
            self.problems.insert(domain, problems);
        }
    }

    /// The domains that name a function which another domain runs with.
    fn displaced(&self) -> Vec<DomainUuid> {
        let Ok((claims, _)) = claims::load_all(self.host) else {
            return Vec::new();
        };
        let mut holders: BTreeMap<ParentName, DomainUuid> = BTreeMap::new();
        for claim in claims {
            let functions = claim.functions();
            holders.extend(functions.map(|device| (device.parent.clone(), claim.domain)));
        }
        let is_held = |function: &ParentName, domain: DomainUuid| {
            let holder = holders.get(function);
            holder.is_some_and(|holder| *holder != domain)
        };
        self.named.domains_with(is_held)
    }

    /// Frees what is left behind. Without a claim it costs one look at a directory.
    fn reconcile(&mut self) {
        if claims::domains(self.host).is_ok_and(|domains| domains.is_empty()) {
            self.unreleased = false;
            return;
        }
        let lock = match HostLock::acquire(self.host, "virt-vgpud", Deadline::after(PATIENCE)) {
            Ok(lock) => lock,
            Err(error) => {
                tracing::warn!("{error}");
                return;
            }
        };
        let deadline = Deadline::after(WORK);
        self.host.be_done_by(deadline);
        match claims::reconcile(self.host, &lock, None, DEFAULT_GRACE, false, deadline) {
            Ok(report) => {
                hook::log_reconciled(&report);
                self.unreleased = report.claims.iter().any(|one| {
                    let freed =
                        { one.released.as_ref() }.is_some_and(claims::Released::is_complete);
                    !matches!(one.liveness, Liveness::InUse(_)) && !freed
                });
            }
            Err(error) => tracing::warn!("cannot look for devices left behind: {error}"),
        }
    }

    /// Virtual functions that were made anew need not be kept back any more.
    fn forget_repaired(&self) {
        if !claims::repaired(self.host).is_ok_and(|repaired| !repaired.is_empty()) {
            return;
        }
        let forgotten = HostLock::acquire(self.host, "virt-vgpud", Deadline::after(PATIENCE))
            .map_err(anyhow::Error::from)
            .and_then(|lock| Ok(claims::forget_repaired(self.host, &lock)?));
        match forgotten {
            Ok(functions) => hook::log_repaired(&functions),
            Err(error) => tracing::warn!("{}", hook::one_line(&error)),
        }
    }

    /// Ends a piece of work: tells `status`, where anything has changed.
    pub(super) fn publish(&mut self, connected: bool) {
        self.host.be_done_writing();
        let problems = self.problems.values().flatten().cloned().collect();
        let notes = Notes::new(self.host, connected, problems, self.let_go.clone());
        if self.published.as_ref() == Some(&notes) {
            return;
        }
        match notes.publish(self.host) {
            Ok(()) => self.published = Some(notes),
            Err(error) => tracing::warn!("cannot tell 'virt-vgpu status': {error}"),
        }
    }
}

/// Whether somebody else is at work on the domain.
fn is_held(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LockError::Held { .. }))
}

fn is_gone(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<LibvirtError>()
        .is_some_and(LibvirtError::is_gone)
}

/// A domain that goes while it is looked at is no failure.
fn settled<T>(read: Result<T, LibvirtError>) -> anyhow::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
