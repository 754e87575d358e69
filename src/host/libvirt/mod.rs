//! libvirt, for command and daemon only: domains found as virsh finds them, edits to
//! definitions and runs, and events. It passes XML through and knows nothing of what is
//! in it. The hook cannot reach this module: it exists only with feature `cli`.

use std::{collections::BTreeSet, sync::mpsc::Sender, time::Duration};

use virt::{
    connect::Connect,
    error::{ErrorNumber, clear_error_callback},
    sys,
};

use crate::model::DomainUuid;

mod domain;
mod events;
mod guest_info;

pub use domain::{Destination, Domain};
pub use events::{CloseReason, Event, EventLoop, Lifecycle, NodeDeviceChange, Subscription};
pub use guest_info::guest_devices;
pub use virt_vgpu_libvirt_raw::GuestDevice;

/// What virsh takes for its `--connect` when none is given, and what libvirt's
/// library does (`virsh(1)`, `virConnectOpen`).
const URI_VARIABLES: [&str; 2] = ["VIRSH_DEFAULT_CONNECT_URI", "LIBVIRT_DEFAULT_URI"];

/// The hook serves domains of the system's daemon only, so that is the default
/// for every user.
const SYSTEM_URI: &str = "qemu:///system";

/// A call that libvirt has refused, with libvirt's own words.
#[derive(Debug, thiserror::Error)]
pub enum LibvirtError {
    /// No connection.
    #[error("cannot connect to libvirt at {uri}: {}; is libvirtd (or virtqemud) running?", .error.message())]
    Connect {
        /// The URI that was tried.
        uri: String,
        /// libvirt's error.
        error: virt::error::Error,
    },
    /// No such domain, by ID, UUID or name.
    #[error("there is no domain '{domain}' at {uri}; see 'virsh list --all'")]
    NoDomain {
        /// What was looked for.
        domain: String,
        /// Where.
        uri: String,
    },
    /// Any other call.
    #[error("cannot {what}: {}", .error.message())]
    Call {
        /// What was tried.
        what: String,
        /// libvirt's error.
        error: virt::error::Error,
    },
    /// No thread that waits for events.
    #[error("cannot start libvirt's event loop: {why}")]
    EventLoop {
        /// In the words of libvirt or the system.
        why: String,
    },
}

impl LibvirtError {
    /// The domain is not there any more, or was not there at all.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NoDomain { .. }) || self.is(ErrorNumber::NoDomain)
    }

    /// libvirt has waited for another operation on the domain and given up (30 s in its QEMU
    /// driver). It may succeed later.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is(ErrorNumber::OperationTimeout)
    }

    fn is(&self, number: ErrorNumber) -> bool {
        matches!(self, Self::Call { error, .. } if error.code().is(number))
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(virt::error::Error) -> LibvirtError {
    |error| LibvirtError::Call {
        what: what.into(),
        error,
    }
}

/// A domain that has a definition and does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoppedDomain {
    /// Its UUID.
    pub uuid: DomainUuid,
    /// Whether libvirt starts it when the host boots.
    pub autostart: bool,
    /// Whether its next start resumes a saved state.
    pub saved: bool,
}

/// A connection to a libvirt daemon.
#[derive(Debug)]
pub struct Libvirt {
    connection: Connect,
    uri: String,
}

/// The URI to connect to: the one given, else where virsh would, else the
/// system's QEMU daemon.
#[must_use]
pub fn uri_or_default(uri: Option<&str>) -> String {
    let from_environment = || {
        let set = URI_VARIABLES.into_iter().map(std::env::var);
        set.flatten().find(|value| !value.is_empty())
    };
    uri.map(ToOwned::to_owned)
        .or_else(from_environment)
        .unwrap_or_else(|| SYSTEM_URI.to_owned())
}

impl Libvirt {
    /// Connects to that URI.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn open(uri: &str) -> Result<Self, LibvirtError> {
        // By default libvirt also prints every error that it returns.
        clear_error_callback();
        let uri = uri.to_owned();
        match Connect::open(Some(&uri)) {
            Ok(connection) => Ok(Self { connection, uri }),
            Err(error) => Err(LibvirtError::Connect { uri, error }),
        }
    }

    /// The URI as libvirt completes it; that of the arguments where it does not
    /// say.
    #[must_use]
    pub fn uri(&self) -> String {
        self.connection.uri().unwrap_or_else(|_| self.uri.clone())
    }

    /// The version of the daemon: major × 1,000,000 + minor × 1000 + release.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn version(&self) -> Result<u32, LibvirtError> {
        self.connection
            .lib_version()
            .map_err(failed("ask for libvirt's version"))
    }

    /// The version of QEMU, counted in the same way.
    ///
    /// # Errors
    /// libvirt's reason, as on a host without QEMU.
    pub fn qemu_version(&self) -> Result<u32, LibvirtError> {
        self.connection
            .hyp_version()
            .map_err(failed("ask for QEMU's version"))
    }

    /// Whether the connection has not broken yet; asks nobody. Calls on one that has broken
    /// fail with many codes (`RPC`, `SYSTEM_ERROR`, `INTERNAL_ERROR`), so ask this after a
    /// call has failed.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.connection.is_alive().unwrap_or(false)
    }

    /// Has the connection closed when its other end is silent: after `interval` without a
    /// word it is asked for one, and after `count` questions without an answer it is taken
    /// for dead ([`CloseReason::KeepAlive`]); calls that wait for it fail then. Without
    /// this a daemon that hangs is waited for without end. Whole seconds, a part of one
    /// counts as one; zero turns it off.
    ///
    /// The [`EventLoop`] asks and listens, so it has to be running. A daemon that knows no
    /// such questions is none that this fails for.
    ///
    /// # Errors
    /// libvirt's reason, as for a connection that has no other end (`test:///`).
    pub fn set_keep_alive(&self, interval: Duration, count: u32) -> Result<(), LibvirtError> {
        let seconds = interval.as_secs() + u64::from(interval.subsec_nanos() > 0);
        self.connection
            .set_keep_alive(i32::try_from(seconds).unwrap_or(i32::MAX), count)
            .map_err(failed("watch over the connection"))
    }

    /// Whether libvirt answers about the host's devices. Where they are another daemon's
    /// (virtnodedevd), a connection never gets over a restart of it, and does not say so.
    ///
    /// # Errors
    /// libvirt's reason; a daemon that knows no devices at all is none.
    pub fn check_node_devices(&self) -> Result<(), LibvirtError> {
        match self.connection.num_of_node_devices(None, 0) {
            Ok(_) => Ok(()),
            Err(error) if error.code().is(ErrorNumber::NoSupport) => Ok(()),
            Err(error) => Err(failed("count the host's devices")(error)),
        }
    }

    /// Sends the connection's events to the channel, as whatever its other end takes, until
    /// the subscription is dropped. A connection has one subscription; it must have been
    /// opened after the [`EventLoop`] was started.
    ///
    /// A subscription begins with nothing: what is as it should be has to be seen from
    /// [`Self::domains`] after it.
    ///
    /// # Errors
    /// libvirt's reason; a daemon without node devices is none.
    pub fn subscribe<E>(&self, sink: Sender<E>) -> Result<Subscription, LibvirtError>
    where
        E: From<Event> + Send + 'static,
    {
        Subscription::new(&self.connection, events::into_channel(sink))
            .map_err(failed("subscribe to libvirt's events"))
    }

    /// The XML that the next start of each domain uses; that of its run for a
    /// domain without a definition. A domain that goes meanwhile is left out.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn definitions(&self) -> Result<Vec<String>, LibvirtError> {
        let xml = |domain: Domain| domain.inactive_xml().ok();
        Ok(self.domains()?.into_iter().filter_map(xml).collect())
    }

    /// All domains: those that run, and those that are defined.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn domains(&self) -> Result<Vec<Domain>, LibvirtError> {
        let domains = self.connection.list_all_domains(0);
        let domains = domains.map_err(failed("list the domains"))?;
        Ok(domains.into_iter().map(Domain).collect())
    }

    /// The domains that have a definition and do not run.
    ///
    /// # Errors
    /// libvirt's reason.
    pub fn stopped(&self) -> Result<Vec<StoppedDomain>, LibvirtError> {
        let list = |more: u32| {
            let flags = sys::VIR_CONNECT_LIST_DOMAINS_INACTIVE
                | sys::VIR_CONNECT_LIST_DOMAINS_PERSISTENT
                | more;
            let domains = self.connection.list_all_domains(flags);
            let domains = domains.map_err(failed("list the domains"))?;
            let uuids = domains
                .into_iter()
                .filter_map(|one| Domain(one).uuid().ok());
            Ok(uuids.collect::<BTreeSet<DomainUuid>>())
        };
        let autostart = list(sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART)?;
        let saved = list(sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)?;
        let stopped = list(0)?.into_iter().map(|uuid| StoppedDomain {
            uuid,
            autostart: autostart.contains(&uuid),
            saved: saved.contains(&uuid),
        });
        Ok(stopped.collect())
    }

    /// The domain of that UUID; None when there is none, or none any more.
    ///
    /// # Errors
    /// When libvirt cannot tell.
    pub fn domain_by_uuid(&self, uuid: DomainUuid) -> Result<Option<Domain>, LibvirtError> {
        match self.connection.lookup_domain_by_uuid(uuid.as_uuid()) {
            Ok(found) => Ok(Some(Domain(found))),
            Err(error) if error.code().is(ErrorNumber::NoDomain) => Ok(None),
            Err(error) => Err(failed(format!("look for domain {uuid}"))(error)),
        }
    }

    /// Starts a domain without a definition: it is gone when it stops
    /// (`virDomainCreateXML`).
    ///
    /// # Errors
    /// libvirt's reason, with what a hook printed in it; there is no such domain then.
    pub fn create_transient(&self, xml: &str) -> Result<Domain, LibvirtError> {
        self.connection
            .create_domain_xml(xml, 0)
            .map(Domain)
            .map_err(failed("create the domain"))
    }

    /// Starts a stopped domain, of the name and UUID in the XML, from that XML. Its
    /// definition comes back when it stops (`virDomainObjAssignDef`), and its autostart,
    /// snapshots and NVRAM stay as they are. A saved state of it is ignored.
    ///
    /// # Errors
    /// libvirt's reason, with what a hook printed in it; the domain is stopped then.
    pub fn start_from(&self, xml: &str) -> Result<Domain, LibvirtError> {
        self.connection
            .create_domain_xml(xml, 0)
            .map(Domain)
            .map_err(failed("start the domain"))
    }

    /// The domain of that ID, UUID or name, in virsh's order.
    ///
    /// # Errors
    /// When there is none, or libvirt cannot tell.
    pub fn domain(&self, domain: &str) -> Result<Domain, LibvirtError> {
        const UUID_LENGTH: usize = 36;
        let by_id = domain.parse().ok().and_then(|id| {
            let found = self.connection.lookup_domain_by_id(id);
            found.ok()
        });
        let by_uuid = || {
            let is_uuid = domain.len() == UUID_LENGTH;
            let found = is_uuid.then(|| self.connection.lookup_domain_by_uuid_string(domain));
            found?.ok()
        };
        if let Some(found) = by_id.or_else(by_uuid) {
            return Ok(Domain(found));
        }
        match self.connection.lookup_domain_by_name(domain) {
            Ok(found) => Ok(Domain(found)),
            Err(error) if error.code().is(ErrorNumber::NoDomain) => Err(LibvirtError::NoDomain {
                domain: domain.to_owned(),
                uri: self.uri.clone(),
            }),
            Err(error) => Err(failed(format!("look for domain '{domain}'"))(error)),
        }
    }
}
