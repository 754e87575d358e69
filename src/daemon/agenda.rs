//! The work that events make necessary: plain data, filled by events and emptied by the
//! work. Many events of one kind become one piece of work.

use std::collections::BTreeSet;

use crate::{
    domain::{ALIAS_PREFIX, NAMESPACE},
    host::libvirt::{Event, Lifecycle},
    model::{DeviceName, DomainUuid},
};

/// Pending work.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Agenda {
    /// Domains whose definition may not match their metadata.
    pub(super) definitions: BTreeSet<DomainUuid>,
    /// Domains that run after a restore or a migration. They may have other functions
    /// than their definition names.
    pub(super) continued: BTreeSet<DomainUuid>,
    /// Domains that no longer exist.
    pub(super) gone: BTreeSet<DomainUuid>,
    /// Domains that have stopped. Their claims should disappear soon.
    pub(super) stopped: BTreeSet<DomainUuid>,
    /// Devices that a running guest has released.
    pub(super) let_go: BTreeSet<(DomainUuid, DeviceName)>,
    /// Whether functions may have moved to other domains.
    pub(super) functions: bool,
    /// Whether a claim or the quarantine has changed.
    pub(super) claims: bool,
    /// Whether a device may have become free, or a domain may need one.
    pub(super) plug: bool,
    /// Whether devices of the host have appeared or disappeared, so that waiting
    /// domains may get one now.
    pub(super) host: bool,
    /// Whether a tick must be answered.
    pub(super) tick: bool,
    /// Whether the connection is lost.
    pub(super) closed: bool,
}

impl Agenda {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Records an event.
    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::Domain { uuid, what } => self.note_lifecycle(*uuid, *what),
            Event::MetadataChanged { uuid, namespace } => {
                let is_ours = |namespace: &String| namespace == NAMESPACE;
                if namespace.as_ref().is_none_or(is_ours) {
                    self.definitions.insert(*uuid);
                    self.plug = true;
                }
            }
            Event::DeviceRemoved { uuid, alias } => {
                let name = alias.strip_prefix(ALIAS_PREFIX);
                if let Some(name) = name.and_then(|name| name.parse().ok()) {
                    self.let_go.insert((*uuid, name));
                    // The reason is known when the host's devices have stopped
                    // changing.
                    self.host = true;
                }
            }
            Event::NodeDevice { name, .. } if is_of_no_pool(name) => {}
            Event::NodeDevice { .. } => self.note_devices(),
            Event::Closed { .. } => self.closed = true,
            Event::Tick => self.tick = true,
        }
    }

    /// Records that devices of the host have appeared, disappeared or changed. The kernel's
    /// events and libvirt's tell the same.
    pub(super) fn note_devices(&mut self) {
        self.host = true;
    }

    fn note_lifecycle(&mut self, domain: DomainUuid, what: Lifecycle) {
        match what {
            Lifecycle::Defined => {
                self.definitions.insert(domain);
            }
            Lifecycle::Undefined => {
                self.definitions.remove(&domain);
                self.gone.insert(domain);
                self.stopped.insert(domain);
                self.functions = true;
            }
            Lifecycle::Started | Lifecycle::Continued => {
                self.definitions.insert(domain);
                if what == Lifecycle::Continued {
                    self.continued.insert(domain);
                }
                self.functions = true;
                self.plug = true;
            }
            Lifecycle::Stopped => {
                self.definitions.insert(domain);
                self.stopped.insert(domain);
                self.functions = true;
                self.plug = true;
            }
            Lifecycle::Other(_) => {}
        }
    }
}

/// Devices that no pool hands out and that change all the time: interfaces of
/// containers, disks (`udevGenDeviceName` in libvirt).
fn is_of_no_pool(name: &str) -> bool {
    const KINDS: [&str; 5] = ["net_", "block_", "scsi_", "drm_", "usb_"];
    KINDS.iter().any(|kind| name.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::libvirt::NodeDeviceChange;

    fn domain(number: u8) -> DomainUuid {
        format!("aaaaaaaa-0000-4000-8000-0000000000{number:02}")
            .parse()
            .unwrap()
    }

    fn noted(events: &[Event]) -> Agenda {
        let mut agenda = Agenda::default();
        for event in events {
            agenda.note(event);
        }
        agenda
    }

    fn lifecycle(number: u8, what: Lifecycle) -> Event {
        Event::Domain {
            uuid: domain(number),
            what,
        }
    }

    #[test]
    fn a_burst_of_events_is_one_piece_of_work() {
        let events = [Lifecycle::Defined; 9].map(|what| lifecycle(1, what));
        let agenda = noted(&events);
        assert_eq!(agenda.definitions, BTreeSet::from([domain(1)]));
        assert!(!agenda.functions && !agenda.plug && !agenda.host);
    }

    #[test]
    fn what_is_gone_is_not_looked_at() {
        let agenda = noted(&[
            lifecycle(1, Lifecycle::Defined),
            lifecycle(1, Lifecycle::Undefined),
        ]);
        assert!(agenda.definitions.is_empty());
        assert_eq!(agenda.gone, BTreeSet::from([domain(1)]));
        assert_eq!(agenda.stopped, BTreeSet::from([domain(1)]));
    }

    #[test]
    fn only_metadata_of_ours_and_aliases_of_ours_count() {
        let metadata = |namespace: &str| Event::MetadataChanged {
            uuid: domain(2),
            namespace: Some(namespace.to_owned()),
        };
        assert!(noted(&[metadata("urn:other")]).is_empty());
        let ours = noted(&[metadata(NAMESPACE)]);
        assert_eq!(ours.definitions, BTreeSet::from([domain(2)]));
        let removed = |alias: &str| Event::DeviceRemoved {
            uuid: domain(2),
            alias: alias.to_owned(),
        };
        assert!(noted(&[removed("hostdev0"), removed("ua-vgpu-"), removed("ua-mine")]).is_empty());
        let ours = noted(&[removed("ua-vgpu-gpu0")]);
        let gpu0: DeviceName = "gpu0".parse().unwrap();
        assert_eq!(ours.let_go, BTreeSet::from([(domain(2), gpu0)]));
        assert!(ours.host && !ours.plug);
    }

    #[test]
    fn only_devices_that_pools_may_have_are_worth_a_look() {
        let device = |name: &str| Event::NodeDevice {
            name: name.to_owned(),
            what: NodeDeviceChange::Created,
        };
        for name in ["net_veth1_aa", "block_sda", "scsi_0_0_0_0", "usb_1_2"] {
            assert!(noted(&[device(name)]).is_empty(), "{name}");
        }
        for name in ["pci_0000_3b_00_0", "mdev_aaaaaaaa_0000_3b_00_0", "computer"] {
            assert!(noted(&[device(name)]).host, "{name}");
        }
    }

    #[test]
    fn what_the_kernel_and_libvirt_both_tell_is_one_piece_of_work() {
        let mut agenda = Agenda::default();
        agenda.note_devices();
        agenda.note(&Event::NodeDevice {
            name: "pci_0000_3b_00_0".to_owned(),
            what: NodeDeviceChange::Deleted,
        });
        agenda.note_devices();
        let wanted = Agenda {
            host: true,
            ..Agenda::default()
        };
        assert_eq!(agenda, wanted);
    }

    #[test]
    fn a_start_and_a_stop_concern_other_domains_too() {
        for what in [Lifecycle::Started, Lifecycle::Continued, Lifecycle::Stopped] {
            let agenda = noted(&[lifecycle(3, what)]);
            assert!(agenda.functions && agenda.plug, "{what:?}");
            assert_eq!(agenda.definitions, BTreeSet::from([domain(3)]));
            // Only these can run with other functions than their definition names,
            // without anybody having wanted that.
            let is_continued = what == Lifecycle::Continued;
            assert_eq!(agenda.continued.contains(&domain(3)), is_continued);
        }
        assert!(noted(&[lifecycle(3, Lifecycle::Other(4))]).is_empty());
    }
}
