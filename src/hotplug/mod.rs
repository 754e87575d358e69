//! Plugs devices into running domains and unplugs them. libvirt calls no hook for that,
//! so this module does what the hook does at a start: it plans, claims and makes the
//! devices, then attaches them. If any of this fails, all of it is undone.
//!
//! libvirt is never called while a claim's lock or the host lock is held: a hook may
//! wait for that lock while libvirt keeps its domain locked. Callers hold the domain's
//! edit lock, so that two of them do not plug the same device.
//!
//! A crash leaves only devices that the claim names:
//!
//! | crash after | left behind | removed by |
//! |---|---|---|
//! | the claim is written | a name without a device | `reconcile`, the domain's end |
//! | the device is made | a device that nobody has open | the same; or it is used by the next plug |
//! | QEMU has it | nothing | |
//! | the guest has released it | a device that nobody has open | as above |

mod live;
mod medium;
mod plug;
mod unplug;

use serde::Serialize;

use crate::{
    allocate::AllocateError,
    claims::ClaimedDevice,
    host::{LockError, libvirt::LibvirtError},
    model::{DeviceName, DomainName, MdevTypeId, MdevUuid, ParentName, PoolName, proposed_with},
    plan::{Assignment, Refusal, RefusalKind},
};

pub use medium::{DiscState, change_disc, disc_state};
pub use plug::{Optional, foresee, foresee_optional, lacking, plug, plug_optional};
pub use unplug::{held, take_back, unplug};

/// A device that was plugged in or unplugged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plugged {
    pub name: DeviceName,
    pub pool: PoolName,
    pub uuid: MdevUuid,
    /// Its parent, or the function that it is.
    pub parent: ParentName,
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
    /// Whether it is a virtual function.
    #[serde(skip)]
    pub is_function: bool,
}

impl From<&ClaimedDevice> for Plugged {
    fn from(device: &ClaimedDevice) -> Self {
        Self {
            name: device.name.clone(),
            pool: device.pool.clone(),
            uuid: device.uuid,
            parent: device.parent.clone(),
            type_id: device.type_id.clone(),
            is_function: device.function().is_some(),
        }
    }
}

impl From<&Assignment> for Plugged {
    fn from(planned: &Assignment) -> Self {
        Self {
            name: planned.device.clone(),
            pool: planned.pool.clone(),
            uuid: planned.uuid,
            parent: planned.parent.clone(),
            type_id: planned.type_id.clone(),
            is_function: planned.handle.pci().is_some(),
        }
    }
}

impl Plugged {
    /// The source of the guest's hostdev, for people.
    pub fn source(&self) -> String {
        if self.is_function {
            self.parent.to_string()
        } else {
            format!("uuid {}", self.uuid)
        }
    }

    /// Where the source is, as the end of a sentence.
    pub fn place(&self) -> String {
        let preposition = if self.is_function { "as" } else { "on" };
        format!("{preposition} {}", self.parent)
    }
}

/// Why nothing was plugged in.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// No device is free now.
    #[error(transparent)]
    NoRoom(Refusal),
    /// The domain is not running.
    #[error("domain '{0}' is not running: there is nothing to plug a device into; start it first")]
    NotRunning(String),
    /// The domain's metadata does not ask for the device.
    #[error(
        "domain '{domain}' runs without a request for device '{device}'; \
         {} makes one",
        proposed_with("virt-vgpu attach", domain, "--live")
    )]
    NotAsked {
        domain: DomainName,
        device: DeviceName,
    },
    /// No device can be had, for another reason than lack of space.
    #[error(transparent)]
    Allocate(AllocateError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Libvirt(#[from] LibvirtError),
    /// libvirt refused it; everything is unchanged.
    #[error("{cause}{hint}; the device was taken back")]
    NotAttached { cause: LibvirtError, hint: String },
    /// libvirt refused it, and not everything could be undone.
    #[error("{cause}{hint}; undoing the earlier changes failed too: {}", failures.join("; "))]
    HalfDone {
        cause: LibvirtError,
        hint: String,
        failures: Vec<String>,
    },
    #[error("{0:#}")]
    Other(anyhow::Error),
}

impl From<AllocateError> for PlugError {
    fn from(error: AllocateError) -> Self {
        match error {
            AllocateError::Refused(refusal)
                if !matches!(refusal.kind, RefusalKind::Unreadable { .. }) =>
            {
                Self::NoRoom(refusal)
            }
            other => Self::Allocate(other),
        }
    }
}
