//! All events of a connection, from [`Subscription::new`] to its end.

use std::{ffi::c_int, fmt, mem::transmute, ptr::null_mut, sync::Arc};

use virt::{connect::Connect, error::Error, sys};

use crate::{
    callback::{self, Sink},
    event::Event,
};

type DomainCallback = sys::virConnectDomainEventGenericCallback;
type NodeDeviceCallback = sys::virConnectNodeDeviceEventGenericCallback;

/// A connection's events go to a sink until this is dropped. Then everything is
/// deregistered, but the connection stays open for those who hold it.
pub struct Subscription {
    connection: Connect,
    sink: Arc<Sink>,
    domains: Vec<c_int>,
    node_devices: Vec<c_int>,
    without_node_devices: Option<String>,
    closing: bool,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Subscription")
            .field("connection", &self.connection)
            .field("without_node_devices", &self.without_node_devices)
            .finish_non_exhaustive()
    }
}

impl Subscription {
    /// Subscribes to all of [`Event`] but ticks. The connection must have been opened after
    /// the event loop was started; libvirt takes one subscription a connection.
    ///
    /// The sink is called by the thread of the event loop; where the connection breaks
    /// under a call, perhaps by the thread that is inside that call
    /// (`virNetClientCloseLocked`). It must neither wait nor call libvirt, nor take a lock
    /// that anybody holds during a call. When it panics that event is lost, and no other.
    ///
    /// # Errors
    /// libvirt's reason, except for node devices.
    pub fn new(
        connection: &Connect,
        sink: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let mut subscription = Self {
            connection: connection.clone(),
            sink: Arc::new(sink),
            domains: Vec::new(),
            node_devices: Vec::new(),
            without_node_devices: None,
            closing: false,
        };
        // On an error what is registered by then is deregistered by the drop.
        subscription.add_closing()?;
        subscription.add_domains()?;
        let node_devices = subscription.add_node_devices();
        subscription.without_node_devices = node_devices.err().map(|e| e.message().to_owned());
        Ok(subscription)
    }

    /// Why no events of node devices come: libvirt's words. A daemon may have no driver for
    /// them. None where they come.
    #[must_use]
    pub fn without_node_devices(&self) -> Option<String> {
        self.without_node_devices.clone()
    }

    fn pointer(&self) -> sys::virConnectPtr {
        // SAFETY: Only passed to libvirt in the calls below, while the reference is held.
        unsafe { self.connection.as_ptr() }
    }

    fn add_closing(&mut self) -> Result<(), Error> {
        let opaque = callback::opaque(&self.sink);
        // SAFETY: The callback and free take what opaque() makes.
        let code = unsafe {
            sys::virConnectRegisterCloseCallback(
                self.pointer(),
                Some(callback::closed),
                opaque,
                Some(callback::free),
            )
        };
        callback::registered(code, opaque)?;
        self.closing = true;
        Ok(())
    }

    fn add_domains(&mut self) -> Result<(), Error> {
        type Lifecycle = sys::virConnectDomainEventCallback;
        type Metadata = sys::virConnectDomainEventMetadataChangeCallback;
        type Removed = sys::virConnectDomainEventDeviceRemovedCallback;
        // SAFETY: libvirt casts each back to the type of its event before it calls it
        // (VIR_DOMAIN_EVENT_CALLBACK).
        let callbacks: [(_, DomainCallback); 3] = unsafe {
            [
                (
                    sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                    transmute::<Lifecycle, DomainCallback>(Some(callback::domain)),
                ),
                (
                    sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
                    transmute::<Metadata, DomainCallback>(Some(callback::metadata)),
                ),
                (
                    sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
                    transmute::<Removed, DomainCallback>(Some(callback::device_removed)),
                ),
            ]
        };
        for (event, callback) in callbacks {
            let opaque = callback::opaque(&self.sink);
            // SAFETY: The callback is that of the event; it and free take what opaque()
            // makes. No domain means all.
            let code = unsafe {
                sys::virConnectDomainEventRegisterAny(
                    self.pointer(),
                    null_mut(),
                    event as c_int,
                    callback,
                    opaque,
                    Some(callback::free),
                )
            };
            self.domains.push(callback::registered(code, opaque)?);
        }
        Ok(())
    }

    fn add_node_devices(&mut self) -> Result<(), Error> {
        type Lifecycle = sys::virConnectNodeDeviceEventLifecycleCallback;
        // SAFETY: libvirt casts it back to the type of its event before it calls it
        // (VIR_NODE_DEVICE_EVENT_CALLBACK).
        let lifecycle =
            unsafe { transmute::<Lifecycle, NodeDeviceCallback>(Some(callback::node_device)) };
        let update: NodeDeviceCallback = Some(callback::node_device_changed);
        for (event, callback) in [
            (sys::VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE, lifecycle),
            (sys::VIR_NODE_DEVICE_EVENT_ID_UPDATE, update),
        ] {
            let opaque = callback::opaque(&self.sink);
            // SAFETY: The callback is that of the event; it and free take what opaque()
            // makes. No device means all.
            let code = unsafe {
                sys::virConnectNodeDeviceEventRegisterAny(
                    self.pointer(),
                    null_mut(),
                    event as c_int,
                    callback,
                    opaque,
                    Some(callback::free),
                )
            };
            self.node_devices.push(callback::registered(code, opaque)?);
        }
        Ok(())
    }
}

impl Drop for Subscription {
    /// On a lost connection libvirt forgets its callbacks, too, and then says that it could
    /// not tell the daemon: what it returns is of no use.
    fn drop(&mut self) {
        // SAFETY: The ids are those of this connection, which is open while it is held.
        unsafe {
            for id in self.node_devices.drain(..) {
                sys::virConnectNodeDeviceEventDeregisterAny(self.connection.as_ptr(), id);
            }
            for id in self.domains.drain(..) {
                sys::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), id);
            }
            if self.closing {
                let callback = Some(callback::closed as _);
                sys::virConnectUnregisterCloseCallback(self.connection.as_ptr(), callback);
            }
        }
    }
}
