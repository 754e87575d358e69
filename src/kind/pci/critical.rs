//! Whether the host needs a function itself, for all pools of one look.

use std::cell::OnceCell;

use crate::{
    device::{group_needs::GroupNeeds, pci},
    kind::HostView,
    model::PciAddress,
};

/// What the host needs, read when the first function is asked about.
#[derive(Debug, Default)]
struct Known(OnceCell<GroupNeeds>);

/// Why the host needs the function, or another one of its IOMMU group.
pub(super) fn why(view: &HostView<'_>, function: PciAddress) -> Option<String> {
    // What the offer says of these is what matters to a person.
    let is_bridge = pci::is_bridge(view.sysfs(), function).unwrap_or_default();
    if is_bridge || view.withheld(function).is_some() {
        return None;
    }
    let known = view.found::<Known>();
    let sysfs = view.sysfs();
    let needs = known.0.get_or_init(|| GroupNeeds::read(sysfs));
    needs.of(sysfs, function).map(|need| need.to_string())
}
