//! A PCI device as a person names it for a new pool.

use super::{critical, function, pool::PciPool};
use crate::{
    device::{mdev::Offer, near, pci},
    kind::{HostView, Named, NewDevice},
    model::PciAddress,
    rule::spelling,
};

/// The device of that address.
///
/// # Errors
/// Why there is none, or why it cannot be in a pool.
pub(super) fn named(pool: &PciPool, view: &HostView<'_>, text: &str) -> Result<Named, String> {
    let sysfs = view.sysfs();
    let functions = pci::functions(sysfs).map_err(|e| format!("cannot list PCI devices: {e}"))?;
    let wanted = text.parse::<PciAddress>().ok();
    let found = functions.iter().find(|(one, _)| Some(*one) == wanted);
    let Some((function, _)) = found else {
        return Err(no_function(&functions, text));
    };
    if pci::is_bridge(sysfs, *function).map_err(|error| error.to_string())? {
        return Err(format!(
            "{function} is a bridge, which cannot be passed to a VM"
        ));
    }
    let first = pool.stands_for(view, *function);
    let instead = (first != *function).then(|| {
        format!("{function} goes with {first}, the first function of its card; the rule takes that")
    });
    let notes: Vec<String> = instead.into_iter().chain(note(view, first)).collect();
    Ok(Named {
        device: NewDevice::Itself(first.to_string()),
        note: (!notes.is_empty()).then(|| notes.join("; ")),
    })
}

fn no_function(functions: &[(PciAddress, String)], text: &str) -> String {
    let have: Vec<String> = functions.iter().map(|(one, _)| one.to_string()).collect();
    format!(
        "there is no PCI device '{}': {}; 'virt-vgpu devices' lists all",
        spelling::shown(text),
        near::what_there_is(&near::canonical(text), &have)
    )
}

/// What else a VM that gets the device takes from the host, and what may go wrong.
fn note(view: &HostView<'_>, function: PciAddress) -> Option<String> {
    let mut notes = Vec::new();
    if let Ok(group) = function::group(view, function) {
        let others = group.endpoints.iter().map(|(one, _)| one);
        let others: Vec<String> = others
            .filter(|one| **one != function)
            .map(ToString::to_string)
            .collect();
        if !others.is_empty() {
            notes.push(format!(
                "{function} shares IOMMU group {} with {}: while a VM has one of them, the host \
                 has none",
                group.number,
                others.join(", ")
            ));
        }
    }
    if let Offer::Taken(why) = function::offer(view, function) {
        notes.push(format!("{function} cannot be handed out now: {why}"));
    } else if let Some(why) = critical::why(view, function) {
        notes.push(format!(
            "{function} is not handed out: {why}; 'allow-critical = true' in its rule overrides that"
        ));
    }
    let has_no_reset = pci::reset_methods(view.sysfs(), function).is_ok_and(|ways| ways.is_empty());
    if has_no_reset {
        notes.push(format!("{function}: {}", pci::NO_RESET));
    }
    (!notes.is_empty()).then(|| notes.join("; "))
}
