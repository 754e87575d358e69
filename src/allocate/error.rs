//! Why a domain gets no devices, in one line that ends in the next step.

use std::io;

use crate::{
    claims::Damaged,
    config::PoolError,
    domain::DomainError,
    host::LockError,
    model::{MdevModel, MdevTypeId, MdevUuid, ParentName, PoolName, proposed},
    plan::Refusal,
};

/// Why a domain does not get its devices. Each reads as one line that ends in
/// the next step.
#[derive(Debug, thiserror::Error)]
pub enum AllocateError {
    /// The domain's own XML.
    #[error(
        "domain '{domain}': {cause}; correct it with {}",
        proposed("virsh edit", domain)
    )]
    Domain {
        /// The domain's name as libvirt gave it.
        domain: String,
        /// What is wrong.
        cause: DomainError,
    },
    /// A requested device has no placeholder in the XML.
    #[error(
        "domain '{domain}' asks for device '{device}' in its metadata but has no <hostdev> with UUID \
         {uuid}; virt-vgpud adds it a moment after the domain is defined, {} by hand; \
         then start it again",
        proposed("virt-vgpu sync", domain)
    )]
    NoPlaceholder {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
        /// Its pool.
        pool: PoolName,
        /// The UUID that the hostdev must have.
        uuid: MdevUuid,
    },
    /// The same of a domain that is restored: no definition helps there.
    #[error(
        "the saved state of domain '{domain}' asks for device '{device}' in its metadata but has no \
         <hostdev> with UUID {uuid}; take the request out of it with {}, or give the state up with \
         {}",
        proposed("virsh managedsave-edit", domain),
        proposed("virsh managedsave-remove", domain)
    )]
    NoPlaceholderSaved {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
        /// The UUID that the hostdev would have.
        uuid: MdevUuid,
    },
    /// A pool that cannot be used.
    #[error("domain '{domain}' asks for a device of pool '{pool}': {cause}")]
    Pool {
        /// The domain.
        domain: String,
        /// The pool.
        pool: PoolName,
        /// Why not; boxed, because it carries a position and a list.
        cause: Box<PoolError>,
    },
    /// A lock that was not had in time.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The domain's former claim.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The domain's former devices are still needed.
    #[error("domain '{domain}' still has devices of an earlier run: {why}; see 'virt-vgpu status'")]
    StillHeld {
        /// The domain.
        domain: String,
        /// Who needs them.
        why: String,
    },
    /// A device of somebody else has the UUID.
    #[error(
        "device '{device}' of domain '{domain}' needs the UUID {uuid}, which a mediated device on \
         {parent} that is not ours has; remove that one, or detach and attach '{device}' under another name"
    )]
    ForeignUuid {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
        /// The UUID.
        uuid: MdevUuid,
        /// The parent of the device that has it.
        parent: String,
    },
    /// Devices that one VM cannot have together.
    #[error(
        "domain '{domain}': {why}; take some out with {}",
        proposed("virt-vgpu detach", domain)
    )]
    Together {
        /// The domain.
        domain: String,
        /// The rule.
        why: String,
    },
    /// A parameter that the device cannot have.
    #[error(
        "device '{device}' of domain '{domain}': {why}; change its request with {} or the pool's \
         [defaults]",
        proposed("virsh edit", domain)
    )]
    Parameter {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
        /// What stands against it.
        why: String,
    },
    /// A placeholder of another model than the type: QEMU could not open the device.
    #[error(
        "device '{device}' of domain '{domain}' has a <hostdev> with model='{found}', but {type_id} \
         of {parent} needs model='{wanted}'; {} puts that right, or {}",
        proposed("virt-vgpu sync", domain),
        proposed("virsh edit", domain)
    )]
    Model {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
        /// The type that it would be.
        type_id: MdevTypeId,
        /// The parent of that type.
        parent: ParentName,
        /// The model in the XML.
        found: String,
        /// The type's.
        wanted: MdevModel,
    },
    /// No device.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A step failed for a reason that another device would not mend.
    #[error("cannot make device '{device}' of domain '{domain}': {cause}")]
    Failed {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
        /// What failed.
        cause: String,
    },
    /// The host or our own files.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// The errno.
        cause: io::Error,
    },
}

impl AllocateError {
    /// The line for XML that need not be a domain's yet: what is to be changed is the
    /// XML, and there may be nothing that 'virsh edit' finds.
    #[must_use]
    pub fn about_xml(&self) -> String {
        match self {
            Self::Domain { domain, cause } => {
                format!("domain '{domain}': {cause}; correct it in the XML")
            }
            Self::NoPlaceholder {
                domain,
                device,
                uuid,
                ..
            } => format!(
                "domain '{domain}' asks for device '{device}' in its metadata but has no <hostdev> \
                 with UUID {uuid}; virt-vgpud adds it a moment after the domain is defined, \
                 'virt-vgpu create' when it creates a transient one"
            ),
            Self::Together { domain, why } => {
                format!("domain '{domain}': {why}; take some out of the XML")
            }
            Self::Parameter {
                domain,
                device,
                why,
            } => format!(
                "device '{device}' of domain '{domain}': {why}; change its request in the XML or the \
                 pool's [defaults]"
            ),
            Self::Model {
                domain,
                device,
                type_id,
                parent,
                found,
                wanted,
            } => format!(
                "device '{device}' of domain '{domain}' has a <hostdev> with model='{found}', but \
                 {type_id} of {parent} needs model='{wanted}'; correct it in the XML"
            ),
            other => other.to_string(),
        }
    }
}

/// An errno of the host or of our own files, with what was tried.
pub(crate) fn io_error(what: &str, cause: io::Error) -> AllocateError {
    AllocateError::Io {
        what: what.to_owned(),
        cause,
    }
}
