//! Devices of domains that run. What a run is without is plugged in when it can be
//! had; what a guest or the administrator has taken out stays out of that run.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    time::Duration,
};

use super::{
    agenda::Agenda,
    keeper::{EDIT_PATIENCE, Lost, is_held},
};
use crate::{
    allocate::{self, AllocateError},
    claims::{self, Claim},
    definition,
    domain::{self, DomainDef, mentions_requests},
    events,
    host::{
        Deadline, Host, LockError,
        libvirt::{Domain, Libvirt, LibvirtError},
        since_boot, tell_alive,
    },
    hotplug::{self, PlugError},
    model::{DeviceName, DomainUuid},
    report::DaemonNotes,
};

/// After this long it is tried again to plug in a device that could not be.
const PLUG_AGAIN: Duration = Duration::from_secs(600);

/// How far libvirt's events may lag behind its answers. The XML of a domain is without
/// a device before it is told that the device was taken out.
const LAG: Duration = Duration::from_secs(5);

/// A device of a run.
type Key = (DomainUuid, DeviceName);

/// What is known of running domains' devices between events.
#[derive(Debug)]
pub(super) struct Runs<'h> {
    host: &'h Host,
    /// Devices that could not be plugged in.
    unpluggable: BTreeMap<Key, Unpluggable>,
    /// Devices that a guest or the administrator has taken out of a run, which get
    /// no other in it.
    let_go: BTreeSet<Key>,
    /// Those of them that are to go back: why they went is known.
    given_up: BTreeSet<Key>,
    /// Devices that are there for a run which is without them, and since when (since boot):
    /// somebody has just taken them out, or a program died that was to plug them in.
    unattached: BTreeMap<Key, Duration>,
    /// Whether something that passes was in the way of a device.
    again: bool,
}

#[derive(Debug)]
struct Unpluggable {
    /// One line for `status`.
    why: String,
    /// Until when it is not tried again; since boot.
    until: Duration,
}

impl<'h> Runs<'h> {
    pub(super) fn new(host: &'h Host) -> Self {
        let notes = DaemonNotes::read(host).unwrap_or_else(|error| {
            tracing::warn!("{error}; what was taken out of domains may be plugged in again");
            None
        });
        Self {
            host,
            unpluggable: BTreeMap::new(),
            let_go: notes.map(|notes| notes.let_go).unwrap_or_default(),
            given_up: BTreeSet::new(),
            unattached: BTreeMap::new(),
            again: false,
        }
    }

    /// After a connection was made. A domain of which nothing can be told is taken to
    /// run on.
    pub(super) fn connected(&mut self, libvirt: &Libvirt) {
        self.unpluggable.clear();
        self.let_go
            .retain(|(domain, _)| match libvirt.domain_by_uuid(*domain) {
                Ok(Some(domain)) => domain.is_active().unwrap_or(true),
                Ok(None) => false,
                Err(_) => true,
            });
    }

    /// Takes down what has happened to runs, before any device is given back.
    pub(super) fn note(&mut self, agenda: &Agenda) {
        let is_over =
            |(domain, _): &Key| agenda.stopped.contains(domain) && !agenda.gone.contains(domain);
        self.keep_let_go(|key| !is_over(key));
        self.unpluggable.retain(|key, _| {
            !agenda.definitions.contains(&key.0) && !agenda.stopped.contains(&key.0)
        });
        self.unattached
            .retain(|key, _| !agenda.stopped.contains(&key.0) && !agenda.let_go.contains(key));
        self.let_go.extend(agenda.let_go.iter().cloned());
        if agenda.host {
            // A guest lets go of what is pulled before the kernel takes it away.
            let host = self.host;
            self.keep_let_go(|key| !was_pulled(host, key));
            self.given_up.clone_from(&self.let_go);
        }
    }

    /// Forgets all others that were let go: what is given up was let go.
    fn keep_let_go(&mut self, keep: impl Fn(&Key) -> bool) {
        self.let_go.retain(&keep);
        self.given_up.retain(&keep);
    }

    /// Whether it is worth a try though nothing has happened.
    pub(super) fn wants_another_try(&self) -> bool {
        self.again
    }

    /// After which time it is to be looked whether a device was taken out, of which
    /// nobody may tell.
    pub(super) fn pause(&self) -> Option<Duration> {
        let since = self.unattached.values().min()?;
        Some((*since + LAG).saturating_sub(since_boot()))
    }

    /// What was taken out of runs on purpose.
    pub(super) fn let_go(&self) -> &BTreeSet<Key> {
        &self.let_go
    }

    /// What could not be plugged in, a line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.unpluggable.values().map(|one| &one.why)
    }

    /// Plugs into running domains what they are without, where something is free.
    pub(super) fn plug(&mut self, libvirt: &Libvirt) -> Result<(), Lost> {
        self.again = false;
        let unattached = std::mem::take(&mut self.unattached);
        let Some(domains) = self.answer(libvirt, libvirt.domains())? else {
            return Ok(());
        };
        for domain in domains {
            if !domain.is_active().unwrap_or(false) {
                continue;
            }
            let Some(xml) = self.answer(libvirt, domain.live_xml())? else {
                continue;
            };
            if !mentions_requests(xml.as_bytes()) {
                continue;
            }
            if let Ok(def) = domain::parse(&xml) {
                self.plug_into(libvirt, &domain, &def, &unattached);
            }
        }
        Ok(())
    }

    /// None for no answer; a domain that has gone meanwhile is none that matters.
    fn answer<T>(
        &mut self,
        libvirt: &Libvirt,
        answer: Result<T, LibvirtError>,
    ) -> Result<Option<T>, Lost> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.is_gone() => Ok(None),
            Err(_) if !libvirt.is_alive() => Err(Lost),
            Err(error) => {
                tracing::warn!("{}", events::one_line(&error.into()));
                self.again = true;
                Ok(None)
            }
        }
    }

    fn plug_into(
        &mut self,
        libvirt: &Libvirt,
        domain: &Domain,
        def: &DomainDef,
        unattached: &BTreeMap<Key, Duration>,
    ) {
        let (uuid, vm) = (def.uuid, &def.name);
        // What was plugged in again by hand is not out of the run any more.
        let has = |name: &DeviceName| {
            let mut requests = def.requests.iter().filter(|request| request.name == *name);
            requests.any(|request| def.placeholder_of(&request.name).is_some())
        };
        self.keep_let_go(|(of, name)| *of != uuid || !has(name));
        let claim = match claims::load(self.host, uuid) {
            Ok(claim) => claim,
            Err(error) => {
                tracing::warn!("domain '{vm}': {error}");
                return;
            }
        };
        let lacking = hotplug::lacking(self.host, def, claim.as_ref());
        self.unpluggable
            .retain(|(of, name), _| *of != uuid || lacking.contains(name));
        let mut taken_out = Vec::new();
        for device in claim.iter().flat_map(|claim| &claim.devices) {
            if self.given_up.contains(&(uuid, device.name.clone())) {
                taken_out.push(device.name.clone());
            }
        }
        if lacking.is_empty() && taken_out.is_empty() {
            return;
        }
        let _lock = match definition::edit_lock_within(self.host, uuid, EDIT_PATIENCE) {
            Ok(lock) => lock,
            Err(error) => {
                // It is that program's turn, and not all that it does is an event.
                if !is_held(&error) {
                    tracing::warn!("domain '{vm}': {}", events::one_line(&error));
                }
                self.again = true;
                return;
            }
        };
        if let Some(claim) = claim.as_ref().filter(|_| !taken_out.is_empty()) {
            self.take_back(claim, &taken_out);
        }
        for name in lacking {
            let key = (uuid, name);
            if self.let_go.contains(&key) || self.may_be_taken_out(&key, claim.as_ref(), unattached)
            {
                continue;
            }
            let until = self.unpluggable.get(&key).map(|one| one.until);
            if until.is_some_and(|until| since_boot() < until) {
                continue;
            }
            tell_alive();
            self.host.be_done_by(Deadline::after(allocate::PATIENCE));
            let name = &key.1;
            let plugged = hotplug::plug(self.host, libvirt, domain, std::slice::from_ref(name));
            self.unpluggable.remove(&key);
            match plugged {
                Ok(plugged) => {
                    for one in plugged {
                        let (pool, place) = (&one.pool, one.place());
                        let what =
                            format!("domain '{vm}': plugged in {name} of pool '{pool}' {place}");
                        events::log_plugged(uuid, &what);
                    }
                }
                // It is tried again whenever something may have become free.
                Err(PlugError::NoRoom(_) | PlugError::NotRunning(_)) => {}
                Err(error) if is_passing(&error) => self.again = true,
                Err(error) => {
                    // To make the device and to take it back are events themselves.
                    let why = format!("domain '{vm}': {name} is not plugged in: {error:#}");
                    events::log_unsettled(uuid, &why);
                    let until = since_boot() + PLUG_AGAIN;
                    self.unpluggable.insert(key, Unpluggable { why, until });
                }
            }
        }
    }

    /// What was taken out of a run goes back at once; what QEMU has not closed yet later.
    fn take_back(&mut self, claim: &Claim, names: &[DeviceName]) {
        tell_alive();
        self.host.be_done_by(Deadline::after(allocate::PATIENCE));
        match hotplug::take_back(self.host, claim, names) {
            Ok(nothing_left) => self.again |= !nothing_left,
            Err(error) => {
                let (vm, why) = (&claim.domain_name, events::one_line(&error));
                tracing::warn!("domain '{vm}': {why}");
                self.again = true;
            }
        }
    }

    /// Whether the device is there for the run, which is without it because somebody may
    /// have taken it out a moment ago: libvirt will tell.
    fn may_be_taken_out(
        &mut self,
        key: &Key,
        claim: Option<&Claim>,
        unattached: &BTreeMap<Key, Duration>,
    ) -> bool {
        let is_there = claim.is_some_and(|claim| {
            let mut devices = claim.devices.iter().filter(|one| one.name == key.1);
            !claim.leaving.contains(&key.1)
                && devices.any(|one| one.is_there(self.host).unwrap_or(false))
        });
        let since = unattached.get(key).copied().unwrap_or_else(since_boot);
        let is_awaited = is_there && since_boot() < since + LAG;
        if is_awaited {
            self.unattached.insert(key.clone(), since);
        }
        is_awaited
    }
}

/// Whether the device went without anybody's having taken it back: the claim still has it.
fn was_pulled(host: &Host, (domain, name): &Key) -> bool {
    let is_lost = |claim: Claim| {
        let mut devices = claim.devices.iter().filter(|device| device.name == *name);
        devices.any(|device| match device.is_there(host) {
            Ok(there) => !there,
            Err(error) => error.kind() == ErrorKind::NotFound,
        })
    };
    claims::load(host, *domain).is_ok_and(|claim| claim.is_some_and(is_lost))
}

/// Whether it may be otherwise in a minute.
fn is_passing(error: &PlugError) -> bool {
    match error {
        PlugError::Lock(LockError::Held { .. }) => true,
        PlugError::Allocate(AllocateError::Lock(LockError::Held { .. })) => true,
        PlugError::Allocate(AllocateError::StillHeld { .. }) => true,
        PlugError::Libvirt(error) | PlugError::NotAttached { cause: error, .. } => error.is_busy(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::model::MdevUuid;

    /// A run's claim of one mediated device, which is there.
    fn made(host: &Host, root: &std::path::Path) -> (Key, Claim) {
        let uuid: DomainUuid = "aaaaaaaa-0000-4000-8000-000000000001".parse().unwrap();
        let name: DeviceName = "gpu0".parse().unwrap();
        let mdev = MdevUuid::for_device(uuid, &name);
        let parent = "sys/devices/pci0000:3a/0000:3b:00.0";
        let directory = root.join(format!("{parent}/{mdev}"));
        fs::create_dir_all(&directory).unwrap();
        symlink(
            "../mdev_supported_types/nvidia-232",
            directory.join("mdev_type"),
        )
        .unwrap();
        let links = root.join("sys/bus/mdev/devices");
        fs::create_dir_all(&links).unwrap();
        let target = format!("../../../../{parent}/{mdev}");
        symlink(target, links.join(mdev.to_string())).unwrap();
        let mut claim = Claim::of_running(host, (uuid, "ws1".parse().unwrap()));
        let device = serde_json::json!({
            "name": name, "pool": "cad", "kind": "mdev", "uuid": mdev,
            "parent": "0000:3b:00.0", "type": "nvidia-232",
        });
        claim.devices = vec![serde_json::from_value(device).unwrap()];
        ((uuid, name), claim)
    }

    /// libvirt's event may come after its answer; when none comes, a program died that
    /// was to plug the device in.
    #[test]
    fn a_device_that_is_there_is_not_plugged_in_before_libvirt_could_tell() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let (key, mut claim) = made(&host, root.path());
        let mut runs = Runs::new(&host);
        assert_eq!(runs.pause(), None);
        let none = BTreeMap::new();
        assert!(runs.may_be_taken_out(&key, Some(&claim), &none));
        assert!(runs.pause().is_some_and(|pause| pause <= LAG));
        let seen = std::mem::take(&mut runs.unattached);
        assert!(runs.may_be_taken_out(&key, Some(&claim), &seen));
        assert_eq!(runs.unattached, seen);

        // Told: it is let go.
        let agenda = Agenda {
            let_go: BTreeSet::from([key.clone()]),
            ..Agenda::default()
        };
        runs.note(&agenda);
        assert_eq!((runs.pause(), &runs.given_up), (None, &BTreeSet::new()));
        assert_eq!(runs.let_go, agenda.let_go);
        // Why is known when the host has come to rest.
        runs.note(&Agenda {
            host: true,
            ..Agenda::default()
        });
        assert_eq!(runs.given_up, agenda.let_go);
        // Plugged in again by hand, and let go once more: why is to be found out anew.
        runs.keep_let_go(|_| false);
        runs.note(&agenda);
        assert_eq!(
            (&runs.let_go, &runs.given_up),
            (&agenda.let_go, &BTreeSet::new())
        );

        // Not told in time, or no such device is there.
        let long_ago = BTreeMap::from([(key.clone(), since_boot().saturating_sub(LAG))]);
        assert!(!runs.may_be_taken_out(&key, Some(&claim), &long_ago));
        assert!(!runs.may_be_taken_out(&key, None, &none));
        claim.leaving = vec![key.1.clone()];
        assert!(!runs.may_be_taken_out(&key, Some(&claim), &none));
        assert_eq!(runs.pause(), None);
    }
}
