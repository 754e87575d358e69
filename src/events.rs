//! The events in the journal. Every kind of event has an id that never changes
//! (`journalctl MESSAGE_ID=…`) and fields that scripts can select by.

use crate::{
    claims::{Claim, ClaimedDevice, DeviceOutcome, Liveness, Released, Report},
    model::{DomainName, DomainUuid, DriverSetName, ParentName, PciAddress, PoolName},
    plan::Assignment,
};

macro_rules! message_ids {
    ($($(#[$doc:meta])* $name:ident = $id:literal;)+) => {
        $($(#[$doc])* const $name: &str = $id;)+

        /// Every event's name and id, for documentation and tests.
        pub const MESSAGE_IDS: &[(&str, &str)] = &[$((stringify!($name), $id)),+];
    };
}

message_ids! {
    /// A device was made for a domain that is starting.
    ALLOCATED = "2dcbce7b88c946e285aa25efc5c795fa";
    /// A domain gets a device that the host needs, because a rule allows it.
    TAKEN_FROM_HOST = "8a4f0c37d2be4cf19d5e6b70a1c3f82e";
    /// A domain was refused its devices.
    REFUSED = "3309374b3e234889ba559b1e2ea6af90";
    /// A device was given back.
    RELEASED = "1e2adc4f567e41468802f45711b825b0";
    /// A device could not be given back yet.
    KEPT = "72cf7eb663bd4aa5822523b0282530f4";
    /// A guest-driver medium cannot be used.
    MEDIA = "e52a7df6d08f49b2b1cef4db1f49197c";
    /// A GPU instance was made for a domain that is starting.
    INSTANCE = "6c1f0a8e27d94b53a1e4907bd5c8f36a";
    /// A driver refused a device that its attributes had offered.
    DRIVER = "4f18f3cd4b3a47f4af9e302d8922ee0a";
    /// A virtual function is quarantined until it is repaired.
    QUARANTINED = "0b7de5a8c0a44d2f9c1f8c1fbd0e6a57";
    /// The daemon has corrected a domain's definition.
    SYNCED = "9b0c6d1f2a5e4c0f8f6d3a7b1e94c258";
    /// The daemon cannot correct a domain's definition, or has no device for it.
    UNSETTLED = "c4e1a07d95b84a3e8d20f6b7395c1ea6";
    /// A device was plugged into a running domain.
    PLUGGED = "5f7a3e9c08d14b6b9a42c1de6073fb85";
    /// The daemon has connected to libvirt, or lost the connection.
    LIBVIRT = "e82d94b6107f4c5da3b96e50f1c7d428";
    /// A quarantined function works again and can be handed out.
    REPAIRED = "f833173a85d2409792eb2ff0c7cde6c0";
    /// GPUs are kept from VMs for maintenance, or VMs can have them again.
    MAINTENANCE = "a1d7c52e90b34f6f8e7b6d0c43f29158";
    /// A step of a change of the host's driver begins, or the change has ended.
    LOADED = "3be0f96d17c8452ab5d24a8e61790cf3";
    /// An operation that never refuses a start has failed.
    TROUBLE = "4d03df1a653f482bb92e3a53da288f29";
}

/// Logs a GPU instance that was made for a domain that is starting.
pub fn log_instance_made(domain: &DomainName, gpu: &ParentName, pool: &PoolName, made: &str) {
    tracing::info!(
        message_id = INSTANCE,
        domain_name = %domain,
        pool = %pool,
        parent = %gpu,
        "made GPU instance {made} on {gpu} for domain '{domain}'"
    );
}

/// Logs devices that were made for a claim's domain by an operation.
pub fn log_allocated(operation: &str, claim: &Claim, devices: &[ClaimedDevice]) {
    for device in devices {
        tracing::info!(
            message_id = ALLOCATED,
            domain_uuid = %claim.domain,
            domain_name = %claim.domain_name,
            pool = %device.pool,
            device = %device.uuid,
            device_name = %device.name,
            parent = %device.parent,
            device_type = %device.type_id,
            operation,
            "domain '{}': made {} on {} as '{}' from pool '{}'",
            claim.domain_name, device.type_id, device.parent, device.name, device.pool
        );
    }
}

/// Says at each start that a device is handed out although the host needs it.
pub(crate) fn log_taken_from_host(claim: &Claim, assignments: &[Assignment]) {
    for device in assignments {
        let Some(why) = &device.from_host else {
            continue;
        };
        tracing::warn!(
            message_id = TAKEN_FROM_HOST,
            domain_uuid = %claim.domain,
            domain_name = %claim.domain_name,
            pool = %device.pool,
            device_name = %device.device,
            parent = %device.parent,
            "domain '{}' gets {} as '{}': a rule of pool '{}' has allow-critical: {why}",
            claim.domain_name, device.parent, device.device, device.pool
        );
    }
}

pub(crate) fn log_quarantined(claim: &Claim, reason: &str) {
    for (device, function) in claim.wedging() {
        tracing::warn!(
            message_id = QUARANTINED,
            domain_uuid = %claim.domain,
            domain_name = %claim.domain_name,
            device_name = %device.name,
            parent = %function,
            "domain '{}': {function} is quarantined: {reason}; 'virt-vgpu status' shows the remedy",
            claim.domain_name
        );
    }
}

/// Logs which functions are no longer quarantined.
pub fn log_repaired(functions: &[PciAddress]) {
    for function in functions {
        tracing::info!(
            message_id = REPAIRED,
            parent = %function,
            "{function} works again and is no longer quarantined"
        );
    }
}

/// Logs that a GPU is kept from VMs, or not any more.
pub fn log_maintenance(gpu: PciAddress, begins: bool) {
    let what = match begins {
        true => "is in maintenance: no VM gets anything of it",
        false => "is not in maintenance any more",
    };
    tracing::info!(message_id = MAINTENANCE, parent = %gpu, "{gpu} {what}");
}

/// Logs how far a change of the host's driver has come. `failed` says that it does not go on.
pub fn log_driver_load(set: &DriverSetName, line: &str, failed: bool) {
    if failed {
        tracing::error!(message_id = LOADED, driver_set = %set, "driver set '{set}': {line}");
    } else {
        tracing::info!(message_id = LOADED, driver_set = %set, "driver set '{set}': {line}");
    }
}

/// Logs that an operation failed, and whether that refuses a start.
pub(crate) fn log_failure(domain: &DomainName, operation: &str, refuses: bool, line: &str) {
    if refuses {
        tracing::error!(message_id = REFUSED, domain_name = %domain, operation, "{line}");
    } else {
        tracing::error!(message_id = TROUBLE, domain_name = %domain, operation, "{line}");
    }
}

/// An error with its causes on one line, whatever characters they contain.
#[must_use]
pub fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace(['\n', '\r'], " ")
}

pub(crate) fn log_driver_refusal(domain: &DomainName, parent: &ParentName, cause: &str) {
    tracing::warn!(
        message_id = DRIVER,
        domain_name = %domain,
        parent = %parent,
        "domain '{domain}': {cause}; looking for another device"
    );
}

pub(crate) fn log_left_behind(domain: &DomainName, left_behind: &[(usize, String)]) {
    for (_, why) in left_behind {
        tracing::error!(
            message_id = KEPT,
            domain_name = %domain,
            "domain '{domain}': a device could not be taken back: {why}"
        );
    }
}

/// Logs the results for a claim's devices.
pub fn log_released(domain_name: &DomainName, domain: DomainUuid, released: &Released) {
    for (device, outcome) in &released.devices {
        let failed = |source: &dyn std::fmt::Display, what: &str| {
            tracing::error!(
                message_id = KEPT,
                domain_uuid = %domain,
                domain_name = %domain_name,
                pool = %device.pool,
                device = %source,
                parent = %device.parent,
                "domain '{domain_name}': device '{}' {what}",
                device.name
            );
        };
        let text = match outcome {
            DeviceOutcome::Removed => format!("removed {} from {}", device.type_id, device.parent),
            DeviceOutcome::Absent => continue,
            DeviceOutcome::Foreign(why) => format!("not removed, because it is not ours: {why}"),
            DeviceOutcome::Unfit(why) => {
                failed(&device.handle, &format!("is quarantined: {why}"));
                continue;
            }
            DeviceOutcome::Kept(why) => {
                failed(&device.uuid, &format!("cannot be given back yet: {why}"));
                continue;
            }
        };
        tracing::info!(
            message_id = RELEASED,
            domain_uuid = %domain,
            domain_name = %domain_name,
            pool = %device.pool,
            device = %device.uuid,
            device_name = %device.name,
            parent = %device.parent,
            "domain '{domain_name}': {text} ('{}' of pool '{}')", device.name, device.pool
        );
    }
    if let Some(error) = &released.claim_error {
        tracing::error!(
            message_id = KEPT,
            domain_uuid = %domain,
            domain_name = %domain_name,
            "domain '{domain_name}': {error}"
        );
    }
    if let Some(error) = &released.media_error {
        tracing::warn!(
            message_id = MEDIA,
            domain_uuid = %domain,
            domain_name = %domain_name,
            "domain '{domain_name}': {error}"
        );
    }
}

/// The first reason why devices could not be given back.
#[must_use]
pub fn kept_reason(released: &Released) -> String {
    let kept = released
        .devices
        .iter()
        .find_map(|(device, outcome)| match outcome {
            DeviceOutcome::Kept(why) => Some(format!(
                "device '{}' cannot be given back yet: {why}",
                device.name
            )),
            _ => None,
        });
    kept.or_else(|| released.claim_error.as_ref().map(ToString::to_string))
        .unwrap_or_default()
}

/// Logs what a check of all claims has freed, and what it could not decide.
pub fn log_reconciled(report: &Report) {
    for one in &report.claims {
        if let Some(reason) = &one.quarantined {
            log_quarantined(&one.claim, reason);
        }
        if let Some(released) = &one.released {
            if one.liveness != Liveness::Stale && !released.devices.is_empty() {
                let name = &one.claim.domain_name;
                tracing::info!(
                    domain_uuid = %one.claim.domain,
                    domain_name = %name,
                    "domain '{name}' is running but has lost some of its devices"
                );
            }
            log_released(&one.claim.domain_name, one.claim.domain, released);
        } else if let Liveness::Unknown(doubt) = &one.liveness {
            tracing::debug!(domain_name = %one.claim.domain_name, "claim kept: {doubt}");
        }
    }
    for damaged in &report.damaged {
        tracing::error!(message_id = TROUBLE, "{damaged}");
    }
}

/// Logs an edit that brings a definition in line with its requests.
pub fn log_synced(domain_name: &DomainName, domain: DomainUuid, done: &str) {
    tracing::info!(
        message_id = SYNCED,
        domain_uuid = %domain,
        domain_name = %domain_name,
        "domain '{domain_name}': {done}"
    );
}

/// Logs why a domain does not get what it asks for.
pub fn log_unsettled(domain: DomainUuid, why: &str) {
    tracing::warn!(message_id = UNSETTLED, domain_uuid = %domain, "{why}");
}

/// Logs a device that was plugged into a running domain.
pub fn log_plugged(domain: DomainUuid, what: &str) {
    tracing::info!(message_id = PLUGGED, domain_uuid = %domain, "{what}");
}

/// Logs whether libvirt can be reached.
pub fn log_libvirt(what: &str) {
    tracing::info!(message_id = LIBVIRT, "{what}");
}

/// Logs why a domain's guest-driver drive stays empty.
pub fn log_media_problem(
    domain_name: &DomainName,
    domain: DomainUuid,
    pool: &PoolName,
    problem: &str,
) {
    tracing::warn!(
        message_id = MEDIA,
        domain_uuid = %domain,
        domain_name = %domain_name,
        pool = %pool,
        "domain '{domain_name}': its guest-driver CD-ROM is empty: {problem}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_are_distinct_and_as_journald_wants_them() {
        let mut seen = std::collections::BTreeSet::new();
        for (name, id) in MESSAGE_IDS {
            assert_eq!(id.len(), 32, "{name}");
            assert!(
                id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
                "{name}"
            );
            assert!(seen.insert(id), "{name}");
        }
    }
}
