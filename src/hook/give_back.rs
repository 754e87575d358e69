//! The operations after `prepare`: recording a start's progress, checking, giving back.
//! None of them reads configuration, and none of them may fail.

use anyhow::Context;

use super::{HookCall, Operation};
use crate::{
    claims::{self, Claim, ClaimedDevice, State},
    domain, events,
    host::{ClaimLock, Deadline, Host},
    model::DomainUuid,
};

/// Returns the devices of a domain that has stopped.
pub(super) fn give_back(
    host: &Host,
    call: &HookCall,
    xml: &[u8],
    deadline: Deadline,
) -> anyhow::Result<()> {
    let Some((lock, claim)) = locked_claim(host, call, xml, deadline)? else {
        return Ok(());
    };
    let given_back = give_back_claim(host, call, &lock, claim, deadline);
    claims::unlock(host, lock);
    given_back
}

fn give_back_claim(
    host: &Host,
    call: &HookCall,
    lock: &ClaimLock<'_>,
    mut claim: Claim,
    deadline: Deadline,
) -> anyhow::Result<()> {
    let may_be_wedged = claim.may_be_wedged() || claim.suspicion.is_some();
    // Only `release`, which follows at once, says how the domain ended.
    if may_be_wedged && call.operation == Operation::Stopped {
        return Ok(());
    }
    if may_be_wedged && is_suspicious(&claim, &call.reason) {
        let reason = claim
            .suspicion
            .clone()
            .unwrap_or_else(|| claim.killed_early());
        if let Err(error) = claims::quarantine(host, lock, &claim, &reason) {
            // Whoever gives the devices back later must quarantine them first.
            claim.suspicion = Some(reason);
            let noted = claims::save(host, lock, &claim);
            return Err(error).context(match noted {
                Ok(()) => "the claim stays and 'virt-vgpu reconcile' tries again".to_owned(),
                Err(error) => format!("the claim stays as it is: {error}"),
            });
        }
        events::log_quarantined(&claim, &reason);
    }
    let released = claims::give_back(host, lock, &claim, deadline);
    events::log_released(&claim.domain_name, claim.domain, &released);
    if released.is_complete() {
        Ok(())
    } else {
        anyhow::bail!(
            "domain '{}': {}; the claim stays and 'virt-vgpu reconcile' tries again",
            call.domain,
            events::kept_reason(&released)
        )
    }
}

/// Whether a killed QEMU ends for this reason. A domain that ended while libvirt was
/// away has a suspicion; libvirt's reason is then only a guess, unless it is one of
/// these.
fn is_suspicious(claim: &Claim, reason: &str) -> bool {
    let is_certain = matches!(reason, "shutdown" | "destroyed" | "migrated" | "saved");
    reason == "crashed" || (claim.suspicion.is_some() && !is_certain)
}

/// Records in the claim how far the start has come.
pub(super) fn note_progress(
    host: &Host,
    call: &HookCall,
    xml: &[u8],
    deadline: Deadline,
) -> anyhow::Result<()> {
    let Some((lock, mut claim)) = locked_claim(host, call, xml, deadline)? else {
        return Ok(());
    };
    claim.launched = true;
    claim.touch();
    if call.operation == Operation::Started {
        // QEMU runs: from here on its process counts, not the daemon.
        claim.daemon = None;
    }
    claims::save(host, &lock, &claim).context("cannot record the start in the claim")
}

/// Checks whether the claim still agrees with the host, and only logs the result: a
/// failure here would kill the running VM.
pub(super) fn check(host: &Host, call: &HookCall, xml: &[u8]) -> anyhow::Result<()> {
    let Some(domain) = identify(call, xml) else {
        return Ok(());
    };
    let claim = claims::load(host, domain)?;
    // Devices that could not be removed when an earlier run ended do not belong to this
    // run.
    let Some(claim) = claim.filter(|claim| claim.state != State::Releasing) else {
        anyhow::ensure!(
            !names_devices(xml),
            "domain '{}' asks for devices but has no claim",
            call.domain
        );
        return Ok(());
    };
    anyhow::ensure!(
        claim.state == State::Committed,
        "domain '{}' runs but its claim was never committed",
        call.domain
    );
    for device in &claim.devices {
        anyhow::ensure!(
            device.is_there(host)? || is_leaving(host, domain, device)?,
            "domain '{}': device '{}' ({}) is not as claimed on {}",
            call.domain,
            device.name,
            device.handle,
            device.parent
        );
    }
    Ok(())
}

/// Whether the XML has a device for one of its requests. Without any, all have been
/// detached from the running VM. Unreadable XML counts as having one.
fn names_devices(xml: &[u8]) -> bool {
    let xml = String::from_utf8_lossy(xml);
    domain::parse(&xml).map_or(true, |domain| {
        let mut requests = domain.requests.iter();
        requests.any(|request| domain.placeholder_of(&request.name).is_some())
    })
}

/// Whether the device is being taken back. The claim is read again, because it is not
/// locked here and lists the device before the device is removed.
fn is_leaving(host: &Host, domain: DomainUuid, device: &ClaimedDevice) -> anyhow::Result<bool> {
    let claim = claims::load(host, domain)?;
    Ok(claim.is_none_or(|claim| {
        claim.leaving.contains(&device.name) || !claim.devices.contains(device)
    }))
}

/// The claim of the call's domain, read under its lock; None when there is none.
fn locked_claim<'a>(
    host: &'a Host,
    call: &HookCall,
    xml: &[u8],
    deadline: Deadline,
) -> anyhow::Result<Option<(ClaimLock<'a>, Claim)>> {
    let Some(domain) = claimed_domain(host, call, xml)? else {
        return Ok(None);
    };
    let purpose = format!("{} of domain {}", call.operation.words(), call.domain);
    let lock = ClaimLock::acquire(host, domain, &purpose, deadline)?;
    match claims::load(host, domain)? {
        Some(claim) => Ok(Some((lock, claim))),
        None => {
            claims::unlock(host, lock);
            Ok(None)
        }
    }
}

/// The domain of the call, if it has a claim: without a claim nothing is locked.
fn claimed_domain(host: &Host, call: &HookCall, xml: &[u8]) -> anyhow::Result<Option<DomainUuid>> {
    use crate::device::Sysfs;
    if let Some(domain) = identify(call, xml) {
        return Ok(host.exists(&Claim::path(domain)).then_some(domain));
    }
    // The XML is unreadable, but libvirt's argument still names the domain.
    let (claims, damaged) = claims::load_all(host)?;
    let claim = claims.iter().find(|claim| claim.domain_name == call.domain);
    let cannot = || format!("cannot determine the UUID of domain '{}'", call.domain);
    // An unreadable claim may belong to it.
    match (claim, damaged.into_iter().next()) {
        (Some(claim), _) => Ok(Some(claim.domain)),
        (None, Some(damaged)) => Err(damaged).with_context(cannot),
        (None, None) if claims.is_empty() => Ok(None),
        (None, None) => anyhow::bail!(cannot()),
    }
}

/// The domain's UUID, also from XML with invalid requests: its devices must be given
/// back anyway.
fn identify(call: &HookCall, xml: &[u8]) -> Option<DomainUuid> {
    let xml = String::from_utf8_lossy(xml);
    match domain::identity(&xml) {
        Ok(Some((uuid, name))) if name == call.domain => Some(uuid),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_cannot_be_read_may_be_that_of_a_domain_without_a_uuid() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let call = HookCall {
            domain: "ws1".parse().unwrap(),
            operation: Operation::Release,
            reason: "shutdown".to_owned(),
        };
        let found = || {
            let found = claimed_domain(&host, &call, b"<domain>");
            found.map_err(|error| format!("{error:#}"))
        };
        assert_eq!(found(), Ok(None));
        let uuid = "aaaaaaaa-0000-4000-8000-000000000001".parse().unwrap();
        let path = Claim::path(uuid);
        host.make_directory(claims::DIRECTORY, 0o755).unwrap();
        host.replace_file(&path, b"{}", 0o644).unwrap();
        let error = found().unwrap_err();
        let start =
            format!("cannot determine the UUID of domain 'ws1': claim {path}: missing field");
        assert!(error.starts_with(&start), "{error}");

        let claim = |name: &str| Claim::of_running(&host, (uuid, name.parse().unwrap()));
        let put = |claim: Claim| {
            let text = serde_json::to_vec(&claim).unwrap();
            host.replace_file(&path, &text, 0o644).unwrap();
        };
        put(claim("ws1"));
        assert_eq!(found(), Ok(Some(uuid)));
        put(claim("ws2"));
        let other = "cannot determine the UUID of domain 'ws1'";
        assert_eq!(found(), Err(other.to_owned()));
    }
}
