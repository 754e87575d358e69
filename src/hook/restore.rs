//! `restore begin`: a domain is restored from its saved state, whose XML names the
//! virtual functions of the time when it was saved.

use super::{HookCall, allocate::moved};
use crate::{
    allocate::{AllocateError, Demand, devices_wanted},
    domain::{self, DomainDef},
    host::Host,
    model::{DeviceName, PciAddress},
    plan::Failed,
};

/// The XML with free functions instead of those that are not free; None if no change is
/// needed, or no other function is free. Nothing is made here: `prepare` follows, and
/// reports what is missing.
pub(super) fn replan(
    host: &Host,
    call: &HookCall,
    xml: &str,
) -> Result<Option<String>, AllocateError> {
    let domain = domain::parse(xml).map_err(|cause| AllocateError::Domain {
        domain: call.domain.to_string(),
        cause,
    })?;
    if domain.functions().next().is_none() {
        return Ok(None);
    }
    let functions = functions(host, &domain)?;
    moved(&domain, xml, &functions)
}

/// The functions that the domain would get now.
fn functions(
    host: &Host,
    domain: &DomainDef,
) -> Result<Vec<(DeviceName, Vec<PciAddress>)>, AllocateError> {
    let mut demand = Demand::load(host, domain, devices_wanted(domain)?)?;
    let plan = demand.replan(host, &Failed::default())?;
    let functions = plan.assignments.into_iter().filter_map(|assignment| {
        let own = assignment.handle.pci()?;
        let all = std::iter::once(own).chain(assignment.along);
        Some((assignment.device, all.collect()))
    });
    Ok(functions.collect())
}
