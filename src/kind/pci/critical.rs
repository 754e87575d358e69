//! Whether the host needs a function itself, for all pools of one look.

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
};

use crate::{
    device::{critical::HostNeeds, pci},
    kind::HostView,
    model::PciAddress,
};

/// What the host needs, read when the first function is asked about, and the answers.
#[derive(Debug, Default)]
struct Known {
    needs: OnceCell<HostNeeds>,
    answers: RefCell<BTreeMap<PciAddress, Option<String>>>,
}

/// Why the host needs the function, or another one of its IOMMU group.
pub(super) fn why(view: &HostView<'_>, function: PciAddress) -> Option<String> {
    // What the offer says of these is what matters to a person.
    let is_bridge = pci::is_bridge(view.sysfs(), function).unwrap_or_default();
    if is_bridge || view.withheld(function).is_some() {
        return None;
    }
    let known = view.found::<Known>();
    if let Some(answer) = known.answers.borrow().get(&function) {
        return answer.clone();
    }
    let sysfs = view.sysfs();
    let needs = known.needs.get_or_init(|| HostNeeds::read(sysfs));
    let answer = needs.of(sysfs, function).map(|need| need.to_string());
    let mut answers = known.answers.borrow_mut();
    answers.insert(function, answer.clone());
    answer
}
