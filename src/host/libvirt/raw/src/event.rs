//! Events as plain data: what libvirt hands to a callback is gone when that returns.

use virt::sys;

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A domain's definition or run (`VIR_DOMAIN_EVENT_ID_LIFECYCLE`).
    Domain {
        /// The domain's.
        uuid: [u8; 16],
        /// What happened to it.
        what: Lifecycle,
    },
    /// A domain's title, description or metadata was written, live or in its definition
    /// (`VIR_DOMAIN_EVENT_ID_METADATA_CHANGE`).
    MetadataChanged {
        /// The domain's.
        uuid: [u8; 16],
        /// That of the metadata element; None for title and description.
        namespace: Option<String>,
    },
    /// The guest has let go of a device (`VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED`).
    DeviceRemoved {
        /// The domain's.
        uuid: [u8; 16],
        /// The device's alias.
        alias: String,
    },
    /// A device of the host (`VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE` and `_UPDATE`).
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
    /// The event loop's period is over.
    Tick,
}

/// `virDomainEventType`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// There is a new or a changed definition.
    Defined,
    /// The definition is gone.
    Undefined,
    /// It runs from its definition, or from XML that somebody gave for this run.
    Started,
    /// It runs from the XML of a saved state, a snapshot or an incoming migration.
    Continued,
    /// It does not run any more: also after a save or an outgoing migration.
    Stopped,
    /// Any other number.
    Other(i32),
}

/// What happened to a device of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeDeviceChange {
    /// It has appeared.
    Created,
    /// It has gone.
    Deleted,
    /// Its description has changed.
    Changed,
}

/// `virConnectCloseReason`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// An error of the transport.
    Error,
    /// The daemon has ended, or closed the connection.
    EndOfFile,
    /// The daemon has not answered for too long.
    KeepAlive,
    /// This side has closed it.
    Client,
    /// Any other number.
    Other(i32),
}

impl Lifecycle {
    /// `detail` is a `virDomainEventStartedDetailType` where the domain has started.
    pub(crate) fn from_numbers(number: i32, detail: i32) -> Self {
        let is_continued = matches!(
            u32::try_from(detail),
            Ok(sys::VIR_DOMAIN_EVENT_STARTED_RESTORED
                | sys::VIR_DOMAIN_EVENT_STARTED_FROM_SNAPSHOT
                | sys::VIR_DOMAIN_EVENT_STARTED_MIGRATED)
        );
        match u32::try_from(number) {
            Ok(sys::VIR_DOMAIN_EVENT_STARTED) if is_continued => Self::Continued,
            Ok(sys::VIR_DOMAIN_EVENT_DEFINED) => Self::Defined,
            Ok(sys::VIR_DOMAIN_EVENT_UNDEFINED) => Self::Undefined,
            Ok(sys::VIR_DOMAIN_EVENT_STARTED) => Self::Started,
            Ok(sys::VIR_DOMAIN_EVENT_STOPPED) => Self::Stopped,
            _ => Self::Other(number),
        }
    }
}

impl NodeDeviceChange {
    /// None for what happens to mdevctl's definition of a device that is not there.
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        match u32::try_from(number) {
            Ok(sys::VIR_NODE_DEVICE_EVENT_CREATED) => Some(Self::Created),
            Ok(sys::VIR_NODE_DEVICE_EVENT_DELETED) => Some(Self::Deleted),
            _ => None,
        }
    }
}

impl CloseReason {
    pub(crate) fn from_number(number: i32) -> Self {
        match u32::try_from(number) {
            Ok(sys::VIR_CONNECT_CLOSE_REASON_ERROR) => Self::Error,
            Ok(sys::VIR_CONNECT_CLOSE_REASON_EOF) => Self::EndOfFile,
            Ok(sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE) => Self::KeepAlive,
            Ok(sys::VIR_CONNECT_CLOSE_REASON_CLIENT) => Self::Client,
            _ => Self::Other(number),
        }
    }
}
