//! Why a domain gets no devices, in one line that ends in the next step.

use std::io;

use crate::{
    claims::Damaged,
    config::{self, PoolError},
    domain::{ALIAS_PREFIX, DomainError, ExchangeError},
    host::{Host, LockError},
    model::{MdevModel, MdevTypeId, MdevUuid, ParentName, PciAddress, PoolName, proposed},
    plan::Refusal,
};

/// Why a domain does not get its devices. Each reads as one line that ends in
/// the next step.
#[derive(Debug, thiserror::Error)]
pub enum AllocateError {
    /// The domain's own XML is invalid.
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
    /// The XML cannot have the functions that were chosen.
    #[error("domain '{domain}': {cause}")]
    Exchange {
        /// The domain.
        domain: String,
        /// Why not.
        cause: ExchangeError,
    },
    /// The XML passes a function with a device that does not belong to the device.
    #[error(
        "domain '{domain}': the hostdev '{alias}' passes {function}, which does not go together \
         with {device}, {first}; {} corrects it",
        proposed("virt-vgpu sync", domain)
    )]
    OtherCard {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
        /// The function that it has.
        first: PciAddress,
        /// The alias of the other hostdev.
        alias: String,
        /// The function that it names.
        function: PciAddress,
    },
    /// A requested device has no placeholder in the XML.
    #[error(
        "domain '{domain}' asks for device '{device}' in its metadata but {lacks}; virt-vgpud adds it a \
         moment after the domain is defined, {} by hand; then start it again",
        proposed("virt-vgpu sync", domain)
    )]
    NoPlaceholder {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
        /// Its pool.
        pool: PoolName,
        /// What is not there, after "but".
        lacks: String,
    },
    /// The same for a domain that is being restored: changing its definition does not
    /// help.
    #[error(
        "the saved state of domain '{domain}' asks for device '{device}' in its metadata but {lacks}; \
         remove the request with {}, or discard the state with {}",
        proposed("virsh managedsave-edit", domain),
        proposed("virsh managedsave-remove", domain)
    )]
    NoPlaceholderSaved {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
        /// What is not there, after "but".
        lacks: String,
    },
    /// The pool cannot be used.
    #[error("domain '{domain}' asks for a device of pool '{pool}': {cause}")]
    Pool {
        /// The domain.
        domain: String,
        /// The pool.
        pool: PoolName,
        /// Why not; boxed, because it carries a position and a list.
        cause: Box<PoolError>,
    },
    /// A lock could not be taken in time.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The domain's former claim is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The domain's former devices are still needed.
    #[error("domain '{domain}' still has devices of an earlier run: {why}; see 'virt-vgpu status'")]
    StillHeld {
        /// The domain.
        domain: String,
        /// The process that needs them.
        why: String,
    },
    /// A foreign device has the UUID.
    #[error(
        "device '{device}' of domain '{domain}' needs the UUID {uuid}, but a mediated device on \
         {parent} that is not ours has it; remove that device, or detach '{device}' and attach it \
         under another name"
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
    /// One VM cannot have these devices together.
    #[error(
        "domain '{domain}': {why}; remove some with {}",
        proposed("virt-vgpu detach", domain)
    )]
    Together {
        /// The domain.
        domain: String,
        /// The rule.
        why: String,
    },
    /// The device cannot have a parameter.
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
        /// The reason.
        why: String,
    },
    /// The request has a parameter that devices of its pool do not have.
    #[error(
        "device '{device}' of domain '{domain}' has '{key}', which is not for kind '{kind}' of pool \
         '{pool}'; remove it from the request with {}",
        proposed("virsh edit", domain)
    )]
    NotForKind {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
        /// The parameter.
        key: &'static str,
        /// The pool's kind.
        kind: String,
        /// The pool.
        pool: PoolName,
    },
    /// libvirt would give the function another driver.
    #[error(
        "device '{device}' of domain '{domain}': its hostdev has managed='yes', so libvirt would \
         unbind the function from the driver that it needs; set managed='no' with {}",
        proposed("virsh edit", domain)
    )]
    Managed {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
    },
    /// The placeholder has another model than the type: QEMU could not open the device.
    #[error(
        "device '{device}' of domain '{domain}' has a <hostdev> with model='{found}', but {type_id} \
         of {parent} needs model='{wanted}'; {} corrects that, or {}",
        proposed("virt-vgpu sync", domain),
        proposed("virsh edit", domain)
    )]
    Model {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
        /// The type that the device would get.
        type_id: MdevTypeId,
        /// The parent of that type.
        parent: ParentName,
        /// The model in the XML.
        found: String,
        /// The type's model.
        wanted: MdevModel,
    },
    /// No device is available.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A step failed for a reason that another device would not solve.
    #[error("cannot make device '{device}' of domain '{domain}': {cause}")]
    Failed {
        /// The domain.
        domain: String,
        /// The request.
        device: String,
        /// What failed.
        cause: String,
    },
    /// An error of the host or of our own files.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// The errno.
        cause: io::Error,
    },
}

impl AllocateError {
    /// With what the pool of a request without a placeholder needs: a whole function is found
    /// by its alias and has no UUID, and a device that is plugged in later has no placeholder.
    #[must_use]
    pub fn with_pool(self, host: &Host) -> Self {
        let Self::NoPlaceholder {
            domain,
            device,
            pool,
            lacks,
        } = self
        else {
            return self;
        };
        match config::load_pool(host, &pool) {
            Err(cause) => Self::Pool {
                domain,
                pool,
                cause: Box::new(cause),
            },
            Ok(its) => Self::NoPlaceholder {
                lacks: if its.devices.is_plugged_in_later() {
                    "its request has no optional='yes', which this pool needs".to_owned()
                } else if its.kind.is_of_whole_functions() {
                    format!("has no <hostdev> with alias '{ALIAS_PREFIX}{device}'")
                } else {
                    lacks
                },
                domain,
                device,
                pool,
            },
        }
    }

    /// The line for XML that may not belong to a defined domain: it says what to change
    /// in the XML, because 'virsh edit' may not find the domain.
    #[must_use]
    pub fn about_xml(&self) -> String {
        match self {
            Self::Domain { domain, cause } => {
                format!("domain '{domain}': {cause}; correct it in the XML")
            }
            Self::NoPlaceholder {
                domain,
                device,
                lacks,
                ..
            } => format!(
                "domain '{domain}' asks for device '{device}' in its metadata but {lacks}; virt-vgpud adds \
                 it a moment after the domain is defined, 'virt-vgpu create' when it creates a transient one"
            ),
            Self::Together { domain, why } => {
                format!("domain '{domain}': {why}; remove some from the XML")
            }
            Self::Parameter {
                domain,
                device,
                why,
            } => format!(
                "device '{device}' of domain '{domain}': {why}; change its request in the XML or the \
                 pool's [defaults]"
            ),
            Self::NotForKind {
                domain,
                device,
                key,
                kind,
                pool,
            } => format!(
                "device '{device}' of domain '{domain}' has '{key}', which is not for kind '{kind}' of \
                 pool '{pool}'; remove it from the request in the XML"
            ),
            Self::Managed { domain, device } => format!(
                "device '{device}' of domain '{domain}': its hostdev has managed='yes', so libvirt \
                 would unbind the function from the driver that it needs; set managed='no' in the XML"
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

/// An error of the host or of our own files, with what was tried.
pub(crate) fn io_error(what: &str, cause: io::Error) -> AllocateError {
    AllocateError::Io {
        what: what.to_owned(),
        cause,
    }
}
