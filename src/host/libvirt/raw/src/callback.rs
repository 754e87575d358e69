//! What libvirt calls. Each callback copies the event and hands it to the sink: it never
//! unwinds into C, and calls nothing of libvirt but the getters of what it is given, which
//! neither lock nor ask the daemon.
//!
//! libvirt holds a [`Weak`] of the sink, boxed: whoever has subscribed ends delivery by
//! dropping the [`Arc`], also where libvirt forgets to free the box (a driver without close
//! callbacks takes one and drops the pointer).

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

use virt::{error::Error, sys};

use crate::event::{CloseReason, Event, Lifecycle, NodeDeviceChange};

/// Where events go; called by the thread of the event loop, and for the end of a
/// connection perhaps by one that is inside a call.
pub(crate) type Sink = dyn Fn(Event) + Send + Sync;

/// A pointer to give libvirt along with a callback of this module and with [`free`].
pub(crate) fn opaque(sink: &Arc<Sink>) -> *mut c_void {
    Box::into_raw(Box::new(Arc::downgrade(sink))).cast()
}

/// Frees what [`opaque`] has made.
///
/// # Safety
/// The pointer comes from [`opaque`], and nobody uses it after this.
pub(crate) unsafe extern "C" fn free(opaque: *mut c_void) {
    let freed = catch_unwind(|| {
        // SAFETY: opaque() made it from a box of this type, and gave the box away.
        drop(unsafe { Box::from_raw(opaque.cast::<Weak<Sink>>()) });
    });
    drop(freed);
}

/// The id of a registration; when there is none, libvirt has not kept the pointer.
pub(crate) fn registered(code: c_int, opaque: *mut c_void) -> Result<c_int, Error> {
    if code >= 0 {
        return Ok(code);
    }
    let error = Error::last_error();
    // SAFETY: It is this crate's own again.
    unsafe { free(opaque) };
    Err(error)
}

/// Hands an event to the sink, if there still is one.
///
/// # Safety
/// The pointer comes from [`opaque`], and is not freed yet.
unsafe fn deliver(opaque: *mut c_void, event: impl FnOnce() -> Option<Event>) {
    let delivered = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: As above; libvirt frees it only when no callback runs any more.
        let sink = unsafe { &*opaque.cast::<Weak<Sink>>() };
        if let Some(sink) = sink.upgrade() {
            if let Some(event) = event() {
                sink(event);
            }
        }
    }));
    drop(delivered);
}

/// # Safety
/// libvirt's domain, for the time of the call.
unsafe fn uuid(domain: sys::virDomainPtr) -> Option<[u8; 16]> {
    let mut uuid = [0; 16];
    const { assert!(sys::VIR_UUID_BUFLEN == 16) };
    // SAFETY: As above; libvirt writes VIR_UUID_BUFLEN bytes.
    let code = unsafe { sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) };
    (code == 0).then_some(uuid)
}

/// # Safety
/// Null, or a string that lasts for the time of the call.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: As above, and not null.
    let text = unsafe { CStr::from_ptr(pointer) };
    Some(text.to_string_lossy().into_owned())
}

/// `virConnectDomainEventCallback`
///
/// # Safety
/// libvirt calls it, with what [`opaque`] has made.
pub(crate) unsafe extern "C" fn domain(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: libvirt's arguments are valid for the time of the call.
    unsafe {
        deliver(opaque, || {
            let what = Lifecycle::from_numbers(event, detail);
            uuid(domain).map(|uuid| Event::Domain { uuid, what })
        });
    }
    0
}

/// `virConnectDomainEventMetadataChangeCallback`
///
/// # Safety
/// libvirt calls it, with what [`opaque`] has made.
pub(crate) unsafe extern "C" fn metadata(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _kind: c_int,
    namespace: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's arguments are valid for the time of the call; the namespace is null
    // for what has none.
    unsafe {
        deliver(opaque, || {
            let namespace = text(namespace);
            uuid(domain).map(|uuid| Event::MetadataChanged { uuid, namespace })
        });
    }
}

/// `virConnectDomainEventDeviceRemovedCallback`
///
/// # Safety
/// libvirt calls it, with what [`opaque`] has made.
pub(crate) unsafe extern "C" fn device_removed(
    _connection: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's arguments are valid for the time of the call.
    unsafe {
        deliver(opaque, || {
            let alias = text(alias)?;
            uuid(domain).map(|uuid| Event::DeviceRemoved { uuid, alias })
        });
    }
}

/// `virConnectNodeDeviceEventLifecycleCallback`
///
/// # Safety
/// libvirt calls it, with what [`opaque`] has made.
pub(crate) unsafe extern "C" fn node_device(
    _connection: sys::virConnectPtr,
    device: sys::virNodeDevicePtr,
    event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's arguments are valid for the time of the call.
    unsafe {
        deliver(opaque, || {
            let what = NodeDeviceChange::from_number(event)?;
            let name = text(sys::virNodeDeviceGetName(device))?;
            Some(Event::NodeDevice { name, what })
        });
    }
}

/// `virConnectNodeDeviceEventGenericCallback`, of an update.
///
/// # Safety
/// libvirt calls it, with what [`opaque`] has made.
pub(crate) unsafe extern "C" fn node_device_changed(
    _connection: sys::virConnectPtr,
    device: sys::virNodeDevicePtr,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's arguments are valid for the time of the call.
    unsafe {
        deliver(opaque, || {
            let name = text(sys::virNodeDeviceGetName(device))?;
            let what = NodeDeviceChange::Changed;
            Some(Event::NodeDevice { name, what })
        });
    }
}

/// `virConnectCloseFunc`
///
/// # Safety
/// libvirt calls it, with what [`opaque`] has made.
pub(crate) unsafe extern "C" fn closed(
    _connection: sys::virConnectPtr,
    reason: c_int,
    opaque: *mut c_void,
) {
    let reason = CloseReason::from_number(reason);
    // SAFETY: libvirt's arguments are valid for the time of the call.
    unsafe { deliver(opaque, || Some(Event::Closed { reason })) };
}

/// `virEventTimeoutCallback`
///
/// # Safety
/// libvirt calls it, with what [`opaque`] has made.
pub(crate) unsafe extern "C" fn tick(_timer: c_int, opaque: *mut c_void) {
    // SAFETY: libvirt's arguments are valid for the time of the call.
    unsafe { deliver(opaque, || Some(Event::Tick)) };
}
