//! What libvirt says unasked. The calls themselves are in `raw`, a crate of its own: they
//! take unsafe code.

use std::{sync::mpsc::Sender, time::Duration};

use uuid::Uuid;
use virt_vgpu_libvirt_raw as raw;
pub use virt_vgpu_libvirt_raw::{CloseReason, Lifecycle, NodeDeviceChange, Subscription};

use super::LibvirtError;
use crate::model::DomainUuid;

/// What has happened. Events say that something is worth a look: by the time that they are
/// read it may have changed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A domain's definition or run. libvirt 9.0 says nothing of a definition that was
    /// changed by attaching or detaching.
    Domain {
        /// The domain's.
        uuid: DomainUuid,
        /// What happened to it.
        what: Lifecycle,
    },
    /// A domain's title, description or metadata was written by `virDomainSetMetadata`.
    MetadataChanged {
        /// The domain's.
        uuid: DomainUuid,
        /// That of the metadata element; None for title and description.
        namespace: Option<String>,
    },
    /// A device has left a domain's run.
    DeviceRemoved {
        /// The domain's.
        uuid: DomainUuid,
        /// The device's alias.
        alias: String,
    },
    /// A device of the host, as libvirt sees it.
    NodeDevice {
        /// libvirt's name, as `pci_0000_3b_00_0`.
        name: String,
        /// What happened to it.
        what: NodeDeviceChange,
    },
    /// The connection is lost: no event comes from it any more.
    Closed {
        /// Why.
        reason: CloseReason,
    },
    /// The [`EventLoop`]'s period is over.
    Tick,
}

impl From<raw::Event> for Event {
    fn from(event: raw::Event) -> Self {
        let domain = |uuid| DomainUuid::from(Uuid::from_bytes(uuid));
        match event {
            raw::Event::Domain { uuid, what } => Self::Domain {
                uuid: domain(uuid),
                what,
            },
            raw::Event::MetadataChanged { uuid, namespace } => Self::MetadataChanged {
                uuid: domain(uuid),
                namespace,
            },
            raw::Event::DeviceRemoved { uuid, alias } => Self::DeviceRemoved {
                uuid: domain(uuid),
                alias,
            },
            raw::Event::NodeDevice { name, what } => Self::NodeDevice { name, what },
            raw::Event::Closed { reason } => Self::Closed { reason },
            raw::Event::Tick => Self::Tick,
        }
    }
}

/// A sink for `raw`. Nobody is left to be told when the channel's other end is gone.
pub(super) fn into_channel<E>(sink: Sender<E>) -> impl Fn(raw::Event) + Send + Sync + 'static
where
    E: From<Event> + Send + 'static,
{
    move |event| drop(sink.send(E::from(Event::from(event))))
}

/// libvirt's event loop in a thread of its own, until this is dropped. Between two events it
/// costs nothing.
#[derive(Debug)]
pub struct EventLoop {
    _loop: raw::EventLoop,
}

impl EventLoop {
    /// Starts it. This must come before the first [`Libvirt::open`](super::Libvirt::open):
    /// only connections opened later have events. The channel gets a tick whenever the
    /// period, of whole milliseconds and at least one, is over.
    ///
    /// # Errors
    /// When the process has one, or there is no thread for it.
    pub fn start<E>(period: Duration, sink: Sender<E>) -> Result<Self, LibvirtError>
    where
        E: From<Event> + Send + 'static,
    {
        let started = raw::EventLoop::start(period, into_channel(sink));
        started
            .map(|_loop| Self { _loop })
            .map_err(|error| LibvirtError::EventLoop {
                why: error.to_string(),
            })
    }
}
