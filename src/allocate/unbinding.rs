//! What a plan would take from the host when it unbinds functions from their drivers: devices
//! that the host needs by now, and devices that a process has open.

use std::time::Duration;

use crate::{
    device::{
        critical::{DeviceNode, HostNeeds},
        step::{Binding, Undo},
    },
    host::{Deadline, Host, opener_of},
    model::PciAddress,
    plan::Plan,
    rule::spelling,
};

/// The first device of the plan that the host needs by now, or that a process has open, and a
/// sentence about it. Unbinding its driver would take it from the process without a question.
#[must_use]
pub fn in_use(host: &Host, plan: &Plan, deadline: Deadline) -> Option<(usize, String)> {
    let steps = plan.steps.iter().zip(&plan.owners);
    let unbound: Vec<(&Binding, usize)> = steps
        .filter_map(|(step, &number)| match &step.undo {
            Some(Undo::Bound(bound)) => Some((&bound.before, number)),
            _ => None,
        })
        .collect();
    if unbound.is_empty() {
        return None;
    }
    let needs = HostNeeds::read(host);
    let needed = needed_by_host(host, plan, &needs, &unbound);
    needed.or_else(|| opened(host, &needs, &unbound, deadline))
}

/// The first device that a process has open.
fn opened(
    host: &Host,
    needs: &HostNeeds,
    unbound: &[(&Binding, usize)],
    deadline: Deadline,
) -> Option<(usize, String)> {
    /// udev looks at each new disk for a moment.
    const MOMENT: Duration = Duration::from_secs(1);
    for (before, number) in unbound {
        if before.driver.is_none() {
            continue;
        }
        let nodes = needs.nodes(host, before.function);
        if nodes.is_empty() {
            continue;
        }
        let mut holder = None;
        deadline.at_most(MOMENT).wait_until(|| {
            holder = opener_of(host, &nodes);
            holder.is_none()
        });
        if let Some((pid, command)) = holder {
            let function = before.function;
            let names: Vec<&str> = nodes.iter().map(DeviceNode::path).collect();
            let command = spelling::shown(&command);
            let why = format!(
                "process {pid} ({command}) has a device of {function} open ({})",
                names.join(", ")
            );
            return Some((*number, why));
        }
    }
    None
}

/// The first device of the plan that the host needs by now, and why: a file system may
/// have been mounted since the plan was made, and of two keyboards one has to stay.
/// A device that a rule takes although the host needs it may be such a one.
fn needed_by_host(
    host: &Host,
    plan: &Plan,
    needs: &HostNeeds,
    unbound: &[(&Binding, usize)],
) -> Option<(usize, String)> {
    let allows = |number: usize| {
        let assignment = plan.assignments.get(number);
        assignment.is_some_and(|assignment| assignment.may_be_critical)
    };
    let taken = unbound.iter().filter(|(_, number)| !allows(*number));
    let taken: Vec<(PciAddress, usize)> = taken
        .map(|(before, number)| (before.function, *number))
        .collect();
    let functions: Vec<PciAddress> = taken.iter().map(|(function, _)| *function).collect();
    let needs = needs.together(host, &functions);
    let need = needs.first()?;
    let mut owners = taken.iter();
    let owner = owners.find(|(function, _)| *function == need.function);
    let (_, number) = owner.or_else(|| taken.first())?;
    Some((*number, need.to_string()))
}
