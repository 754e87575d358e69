//! What the agents in guests tell. An agent may hang for ever, and the call with it: each is asked
//! by a thread of its own, which is left behind if time runs out.

use std::sync::mpsc;

use virt_vgpu_libvirt_raw as raw;

use super::{GuestDevice, Libvirt, LibvirtError, failed};
use crate::{host::Deadline, model::DomainUuid};

/// The devices of a guest, as its agent tells them; None: it does not answer in time.
///
/// # Errors
/// libvirt's reason. Agents of other systems than Windows do not know their devices, nor does
/// libvirt before 12.7 ask for them.
pub fn guest_devices(
    uri: &str,
    domain: DomainUuid,
    deadline: Deadline,
) -> Result<Option<Vec<GuestDevice>>, LibvirtError> {
    let (sender, receiver) = mpsc::channel();
    let uri = uri.to_owned();
    let ask = move || -> Result<Vec<GuestDevice>, LibvirtError> {
        let found = Libvirt::open(&uri)?.domain_by_uuid(domain)?;
        let devices = found
            .map(|domain| raw::guest_devices(&domain.0))
            .transpose();
        let devices = devices.map_err(failed("ask the guest's agent for its devices"))?;
        Ok(devices.unwrap_or_default())
    };
    let spawned = std::thread::Builder::new().spawn(move || drop(sender.send(ask())));
    if spawned.is_err() {
        return Ok(None);
    }
    match receiver.recv_timeout(deadline.left()) {
        Ok(answer) => answer.map(Some),
        Err(_) => Ok(None),
    }
}
