//! Devices for a domain that starts: all that it asks for, or none and the reason.

use super::{HookCall, Operation};
use crate::{
    allocate::{
        AllocateError, Base, Demand, Making, choose as choose_medium, devices_wanted, io_error,
        provide as provide_medium,
    },
    claims::{self, Claim, ClaimedDevice, Liveness, Origin, State},
    device::Sysfs,
    domain::{Card, DomainDef, Hostdev, with_card},
    events,
    host::{ClaimLock, Deadline, Host, Processes},
    model::{DeviceName, Handle, PciAddress},
    plan::Placeholder,
};

/// Makes the domain's devices and commits its claim. For a domain from another host,
/// returns its XML as needed here, if it differs.
pub(super) fn allocate(
    host: &Host,
    call: &HookCall,
    xml: &str,
    deadline: Deadline,
) -> Result<Option<String>, AllocateError> {
    let domain = crate::domain::parse(xml).map_err(|cause| AllocateError::Domain {
        domain: call.domain.to_string(),
        cause,
    })?;
    let wanted = devices_wanted(&domain)
        .map_err(|error| of_saved_state(host, call, error.with_pool(host)))?;
    if wanted.is_empty() {
        return Ok(None);
    }
    let demand = Demand::load(host, &domain, wanted)?;
    // Leaves enough of the deadline to make devices, and to undo them.
    const LOCK_SHARE: u32 = 2;
    let lock_deadline = deadline.at_most(deadline.left() / LOCK_SHARE);
    let purpose = format!("{} of domain {}", call.operation.words(), domain.name);
    let lock = ClaimLock::acquire(host, domain.uuid, &purpose, lock_deadline)?;
    let origin = match call.operation {
        Operation::Migrate => Origin::Migrate,
        _ => Origin::Prepare,
    };
    let mut allocation = Allocation {
        call,
        making: Making {
            host,
            lock: &lock,
            demand,
            base: Base::Start(origin),
            deadline,
        },
    };
    let functions = allocation.run();
    claims::unlock(host, lock);
    if call.operation == Operation::Migrate {
        moved(&domain, xml, &functions?)
    } else {
        functions.map(|_| None)
    }
}

/// A start with a managed save is a restore, but `prepare` is not told so: libvirt
/// removes the file once the domain runs (`qemuDomainObjStart`).
fn of_saved_state(host: &Host, call: &HookCall, error: AllocateError) -> AllocateError {
    let saved = format!("/var/lib/libvirt/qemu/save/{}.save", call.domain);
    match error {
        AllocateError::NoPlaceholder {
            domain,
            device,
            lacks,
            ..
        } if call.operation == Operation::Prepare && host.exists(&saved) => {
            AllocateError::NoPlaceholderSaved {
                domain,
                device,
                lacks,
            }
        }
        other => other,
    }
}

/// The XML with the functions that the devices have here; None if it names them
/// already.
pub(super) fn moved(
    domain: &DomainDef,
    xml: &str,
    functions: &[(DeviceName, Vec<PciAddress>)],
) -> Result<Option<String>, AllocateError> {
    let mut changed: Option<String> = None;
    for (name, functions) in functions {
        let Some((function, others)) = functions.split_first() else {
            continue;
        };
        let handle = Handle::Pci(*function);
        let Some(named) = domain.function_of(name).filter(|one| one.handle != handle) else {
            continue;
        };
        let before = changed.as_deref().unwrap_or(xml);
        let on_slot = |one: &&PciAddress| one.slot() == function.slot() && *one > function;
        let card = Card {
            first: Hostdev::placeholder(handle, name),
            // The state of the guest has these functions, and no other.
            others: match domain.others_of_card(name).next() {
                Some(_) => others.iter().filter(on_slot).copied().collect(),
                None => Vec::new(),
            },
        };
        let after = with_card(before, domain, name, named, &card);
        let after = after.map_err(|cause| AllocateError::Exchange {
            domain: domain.name.to_string(),
            cause,
        })?;
        changed = Some(after);
    }
    Ok(changed)
}

struct Allocation<'a> {
    call: &'a HookCall,
    making: Making<'a>,
}

impl Allocation<'_> {
    /// Makes the devices and returns the functions that they are on, if any.
    fn run(&mut self) -> Result<Vec<(DeviceName, Vec<PciAddress>)>, AllocateError> {
        let (host, lock) = (self.making.host, self.making.lock);
        let demand = &self.making.demand;
        if let Some(former) = claims::load(host, demand.domain.uuid)? {
            if self.is_for_this_start(&former) {
                return self.take_over(former);
            }
            self.clear_away(&former)?;
        }
        demand.check_uuids_are_free(host, None)?;
        let mut claim = self.making.make()?;
        let demand = &self.making.demand;
        claim.state = State::Committed;
        claim.media = choose_medium(host, demand.domain.uuid, &demand.wanted, &demand.pools);
        claim.touch();
        if let Err(cause) = claims::save(host, lock, &claim) {
            self.undo_all(&claim);
            return Err(io_error("the devices were taken back", cause));
        }
        provide_medium(host, &claim);
        events::log_allocated(&self.call.operation.words(), &claim, &claim.devices);
        Ok(functions_of(&claim))
    }

    /// An incoming migration has just made the devices, and this is its `prepare`.
    fn is_for_this_start(&self, claim: &Claim) -> bool {
        let Making { host, demand, .. } = &self.making;
        let made_just_now = self.call.operation == Operation::Prepare
            && claim.origin != Origin::Prepare
            && claim.state == State::Committed
            && !claim.launched;
        let same = claim.devices.len() == demand.wanted.len()
            && claim
                .devices
                .iter()
                .zip(&demand.wanted)
                .all(|(device, placed)| {
                    device.name == placed.request.name
                        && device.pool == placed.request.pool
                        && device.uuid == placed.uuid
                        && is_named(device, &placed.placeholder)
                });
        let is_there = |device: &ClaimedDevice| matches!(device.is_there(host), Ok(true));
        made_just_now && same && claim.devices.iter().all(is_there)
    }

    fn take_over(
        &self,
        mut claim: Claim,
    ) -> Result<Vec<(DeviceName, Vec<PciAddress>)>, AllocateError> {
        let Making {
            host, lock, demand, ..
        } = &self.making;
        claim.origin = Origin::Prepare;
        claim.domain_name = demand.domain.name.clone();
        claim.media = choose_medium(host, demand.domain.uuid, &demand.wanted, &demand.pools);
        claim.touch();
        claims::save(host, lock, &claim)
            .map_err(|cause| io_error("cannot take over the claim", cause))?;
        // The run that committed the claim may have ended before this step.
        provide_medium(host, &claim);
        Ok(functions_of(&claim))
    }

    /// Frees what an earlier run of this domain left behind.
    fn clear_away(&self, former: &Claim) -> Result<(), AllocateError> {
        let making = &self.making;
        let still_held = |why: String| AllocateError::StillHeld {
            domain: making.demand.domain.name.to_string(),
            why,
        };
        let processes = Processes::scan_to_free(making.host)
            .map_err(|cause| io_error("cannot look for processes that use the devices", cause))?;
        // libvirt starts a domain only once at a time, so an earlier start is over: no
        // grace.
        match former.liveness(making.host, &processes, std::time::Duration::ZERO) {
            Liveness::Stale => {}
            Liveness::InUse(why) => return Err(still_held(why)),
            Liveness::Unknown(doubt) => return Err(still_held(doubt.to_string())),
        }
        let quarantined = claims::quarantine_suspects(making.host, making.lock, former)
            .map_err(|cause| still_held(cause.to_string()))?;
        if let Some(reason) = quarantined {
            events::log_quarantined(former, &reason);
        }
        let released = claims::give_back(making.host, making.lock, former, making.deadline);
        events::log_released(&former.domain_name, former.domain, &released);
        if released.is_complete() {
            Ok(())
        } else {
            Err(still_held(events::kept_reason(&released)))
        }
    }

    /// Takes back devices that all exist but could not be committed.
    fn undo_all(&self, claim: &Claim) {
        let making = &self.making;
        let released = claims::give_back(making.host, making.lock, claim, making.deadline);
        events::log_released(&claim.domain_name, claim.domain, &released);
    }
}

/// The devices that are functions, each with those that it takes along.
pub(super) fn functions_of(claim: &Claim) -> Vec<(DeviceName, Vec<PciAddress>)> {
    let devices = claim.functions().map(|(device, _)| device);
    devices
        .map(|device| (device.name.clone(), device.functions().collect()))
        .collect()
}

/// Whether the domain's XML names that device.
fn is_named(device: &ClaimedDevice, source: &Placeholder) -> bool {
    match (device.handle, source) {
        (Handle::Mdev(_), Placeholder::Mdev) => true,
        (Handle::Pci(_), Placeholder::Function(name)) => device.parent == *name,
        _ => false,
    }
}
