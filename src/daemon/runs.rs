//! Devices of running domains. A missing device is plugged in when one is free. A
//! device that a guest or the administrator has removed stays out of that run.

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

/// How long to wait before trying again to plug in a device after an error.
const PLUG_AGAIN: Duration = Duration::from_secs(600);

/// How late libvirt's events may be. The XML of a domain can lack a device before the
/// event says that the device was removed.
const LAG: Duration = Duration::from_secs(5);

/// A device of a run.
type Key = (DomainUuid, DeviceName);

/// The state of running domains' devices between events.
#[derive(Debug)]
pub(super) struct Runs<'h> {
    host: &'h Host,
    /// Devices that could not be plugged in.
    unpluggable: BTreeMap<Key, Unpluggable>,
    /// Devices that a guest or the administrator has removed from a run. They are not
    /// replaced in that run.
    let_go: BTreeSet<Key>,
    /// Those of them that must be given back: the reason for their removal is known.
    given_up: BTreeSet<Key>,
    /// Devices that exist for a run but are not attached to it, and since when (since
    /// boot): somebody has just removed them, or the program that was to plug them in
    /// has died.
    unattached: BTreeMap<Key, Duration>,
    /// Whether a temporary obstacle prevented plugging in a device.
    again: bool,
}

#[derive(Debug)]
struct Unpluggable {
    /// One line for `status`.
    why: String,
    /// When to try again; since boot.
    until: Duration,
}

impl<'h> Runs<'h> {
    pub(super) fn new(host: &'h Host) -> Self {
        let notes = DaemonNotes::read(host).unwrap_or_else(|error| {
            tracing::warn!(
                "{error}; devices that were removed from domains may be plugged in again"
            );
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

    /// Called after connecting. A domain whose state is unknown is assumed to be still
    /// running.
    pub(super) fn connected(&mut self, libvirt: &Libvirt) {
        self.unpluggable.clear();
        self.let_go
            .retain(|(domain, _)| match libvirt.domain_by_uuid(*domain) {
                Ok(Some(domain)) => domain.is_active().unwrap_or(true),
                Ok(None) => false,
                Err(_) => true,
            });
    }

    /// Records what has happened to runs, before any device is given back.
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
            // A guest releases a pulled device before the kernel removes it.
            let host = self.host;
            self.keep_let_go(|key| !was_pulled(host, key));
            self.given_up.clone_from(&self.let_go);
        }
    }

    /// Forgets all other released devices; given-up devices are always released ones.
    fn keep_let_go(&mut self, keep: impl Fn(&Key) -> bool) {
        self.let_go.retain(&keep);
        self.given_up.retain(&keep);
    }

    /// Whether to try again although nothing has happened.
    pub(super) fn wants_another_try(&self) -> bool {
        self.again
    }

    /// After what time to check whether a device was removed without an event.
    pub(super) fn pause(&self) -> Option<Duration> {
        let since = self.unattached.values().min()?;
        Some((*since + LAG).saturating_sub(since_boot()))
    }

    /// The devices that were removed from runs on purpose.
    pub(super) fn let_go(&self) -> &BTreeSet<Key> {
        &self.let_go
    }

    /// The devices that could not be plugged in, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.unpluggable.values().map(|one| &one.why)
    }

    /// Plugs missing devices into running domains if something is free.
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

    /// libvirt's answer, or None for an error; the disappearance of a domain is no
    /// error.
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
        // A device that was plugged in again by hand is no longer missing.
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
                // The other program is at work, and not all that it does causes an
                // event.
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
                // Tried again whenever something may have become free.
                Err(PlugError::NoRoom(_) | PlugError::NotRunning(_)) => {}
                Err(error) if is_passing(&error) => self.again = true,
                Err(error) => {
                    // Making the device and taking it back cause events themselves.
                    let why = format!("domain '{vm}': {name} is not plugged in: {error:#}");
                    events::log_unsettled(uuid, &why);
                    let until = since_boot() + PLUG_AGAIN;
                    self.unpluggable.insert(key, Unpluggable { why, until });
                }
            }
        }
    }

    /// Gives back devices that were removed from a run; a device that QEMU still has
    /// open, later.
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

    /// Whether the device exists for the run, but is missing from it because somebody
    /// may have just removed it: libvirt's event will say so.
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

/// Whether the device disappeared although nobody took it back: the claim still lists
/// it.
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

/// Whether this may change within a minute.
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

    /// A run's claim with one mediated device, which exists.
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

    /// libvirt's event may come after its answer. If no event comes, the program that
    /// was to plug the device in has died.
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

        // The event came: the device was released.
        let agenda = Agenda {
            let_go: BTreeSet::from([key.clone()]),
            ..Agenda::default()
        };
        runs.note(&agenda);
        assert_eq!((runs.pause(), &runs.given_up), (None, &BTreeSet::new()));
        assert_eq!(runs.let_go, agenda.let_go);
        // The reason is known when the host's devices have stopped changing.
        runs.note(&Agenda {
            host: true,
            ..Agenda::default()
        });
        assert_eq!(runs.given_up, agenda.let_go);
        // Plugged in again by hand and released again: the reason must be found again.
        runs.keep_let_go(|_| false);
        runs.note(&agenda);
        assert_eq!(
            (&runs.let_go, &runs.given_up),
            (&agenda.let_go, &BTreeSet::new())
        );

        // No event came in time, or the device does not exist.
        let long_ago = BTreeMap::from([(key.clone(), since_boot().saturating_sub(LAG))]);
        assert!(!runs.may_be_taken_out(&key, Some(&claim), &long_ago));
        assert!(!runs.may_be_taken_out(&key, None, &none));
        claim.leaving = vec![key.1.clone()];
        assert!(!runs.may_be_taken_out(&key, Some(&claim), &none));
        assert_eq!(runs.pause(), None);
    }
}
