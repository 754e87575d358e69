//! The steps that bind a function, and all that is in its IOMMU group, to `vfio-pci`.

use super::{
    function::{self, Group},
    settings::Settings,
};
use crate::{
    device::{
        PCI_DEVICES, Sysfs,
        driver::{Driver, VFIO_PCI},
        step::{Act, Binding, Bound, Check, Step, Undo},
    },
    model::{DriverName, PciAddress},
};

/// The steps for a function, without those for functions of `already`.
///
/// # Errors
/// When something about a driver cannot be a driver's name.
pub(super) fn steps(
    sysfs: &dyn Sysfs,
    group: &Group,
    function: PciAddress,
    already: &[PciAddress],
    settings: &Settings,
) -> Result<Vec<Step>, String> {
    let target: DriverName = VFIO_PCI.parse().map_err(|wrong| format!("{wrong}"))?;
    let mut steps = Vec::new();
    for (one, driver) in &group.endpoints {
        if already.contains(one) {
            continue;
        }
        let mut step = match &driver.bound {
            Some(present) if function::is_vfio(sysfs, *one, driver) => kept(*one, present, driver),
            _ => binding(*one, &target, driver, settings),
        };
        step.checks.push(Check::Answers { function: *one });
        if *one == function {
            let device = format!("{PCI_DEVICES}/{one}");
            step.checks.push(Check::Openable { device });
        }
        steps.push(step);
    }
    Ok(steps)
}

/// A function that VFIO has already: it is only checked.
fn kept(function: PciAddress, present: &DriverName, driver: &Driver) -> Step {
    Step {
        what: format!("keep {function} bound to {present}"),
        act: Act::Bind(Binding {
            function,
            driver: Some(present.clone()),
            driver_override: driver.reserved.clone(),
        }),
        undo: None,
        needs_no_undo: Some("it had this driver before"),
        checks: vec![Check::Bound {
            function,
            driver: present.clone(),
        }],
    }
}

fn binding(
    function: PciAddress,
    target: &DriverName,
    driver: &Driver,
    settings: &Settings,
) -> Step {
    let before = driver.bound.as_ref();
    let from = before.map_or_else(String::new, |driver| format!(" instead of {driver}"));
    let undo = Undo::Bound(Bound {
        bound_to: target.clone(),
        before: Binding {
            function,
            driver: driver.bound.clone(),
            driver_override: driver.reserved.clone(),
        },
    });
    Step {
        what: format!("bind {function} to {target}{from}"),
        act: Act::Bind(Binding {
            function,
            driver: Some(target.clone()),
            driver_override: Some(target.clone()),
        }),
        undo: Some(undo),
        needs_no_undo: settings
            .keep_bound
            .then_some("its pool keeps its devices bound to vfio-pci"),
        checks: vec![Check::Bound {
            function,
            driver: target.clone(),
        }],
    }
}
