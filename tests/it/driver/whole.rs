//! Whole PCI functions: the steps that bind a function and its IOMMU group to `vfio-pci` and
//! give them back, on the model of the kernel's driver core.

use std::{collections::BTreeMap, path::Path};

use nix::errno::Errno;
use virt_vgpu::{
    apply::{Failure, apply, take_back},
    config::{self, Pool},
    device::{
        parameters::Parameters,
        step::{Act, Step, Undo},
    },
    kind::{Detail, HostView, Placeholder, ToMake},
    model::PciAddress,
};

use super::NoNames;
use crate::support::{
    kernel::{Bound, Fault, Kernel, Meanwhile, Target},
    machine::{Machine, Plain},
};

const PORT: &str = "0000:00:01.0";
const FRONT: &str = "0000:05:00.0";
const BESIDE: &str = "0000:05:00.1";

/// Two functions and a bridge in one group; the second has a driver that the kernel would
/// not choose.
fn kernel() -> Kernel {
    Kernel::new(Machine::of_pci([
        Plain::bridge(PORT, 5),
        Plain::nic(FRONT, 5),
        Plain::nic(BESIDE, 5)
            .with_driver(Some("e1000e"))
            .reserved_for("igb"),
    ]))
}

fn pool(keys: &str) -> Pool {
    let text = format!("kind = 'pci'\n{keys}");
    config::parse("cards".parse().unwrap(), Path::new("/cards.toml"), &text).unwrap()
}

/// What a start does for the function, apart from what earlier devices of it did.
fn steps_after(kernel: &Kernel, pool: &Pool, at: &str, along: &[PciAddress]) -> Vec<Step> {
    let detail = Detail {
        functions_only: true,
        ..Detail::default()
    };
    let view = HostView::open(kernel, &NoNames, detail).unwrap();
    let named = Placeholder::Function(at.parse().unwrap());
    let candidates = pool.devices.candidates(&view, &named).unwrap();
    let made = ToMake {
        type_id: &"8086:1533".parse().unwrap(),
        uuid: "00000000-0000-4000-8000-000000000000".parse().unwrap(),
        placement: None,
        parameters: &Parameters::default(),
        along,
    };
    pool.devices.steps(&view, &candidates[0], &made).unwrap()
}

fn steps(kernel: &Kernel) -> Vec<Step> {
    steps_after(kernel, &pool(""), FRONT, &[])
}

fn undos(steps: &[Step]) -> Vec<&Undo> {
    steps
        .iter()
        .rev()
        .filter_map(|step| step.undo.as_ref())
        .collect()
}

fn fails(kernel: &Kernel, steps: &[Step]) -> Failure {
    apply(steps, kernel).unwrap_err()
}

fn written(kernel: &Kernel) -> String {
    let writes = kernel.writes().into_iter();
    let lines = writes.map(|write| format!("{:?} {:?}", write.what, write.value));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_group_is_bound_and_given_back_function_by_function() {
    let kernel = kernel();
    let before = kernel.bound();
    let steps = steps(&kernel);
    let said: Vec<&str> = steps.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(
        said,
        [
            "bind 0000:05:00.0 to vfio-pci instead of igb",
            "bind 0000:05:00.1 to vfio-pci instead of e1000e"
        ]
    );
    apply(&steps, &kernel).unwrap();
    insta::assert_snapshot!(written(&kernel), @r#"
    Unbind { driver: "igb" } "0000:05:00.0"
    Override { at: "0000:05:00.0" } "vfio-pci"
    Probe "0000:05:00.0"
    Unbind { driver: "e1000e" } "0000:05:00.1"
    Override { at: "0000:05:00.1" } "vfio-pci"
    Probe "0000:05:00.1"
    "#);
    let first = kernel.writes().len();
    for undo in undos(&steps) {
        take_back(undo, &kernel).unwrap();
    }
    let back = written(&kernel)
        .lines()
        .skip(first)
        .collect::<Vec<_>>()
        .join("\n");
    insta::assert_snapshot!(back, @r#"
    Unbind { driver: "vfio-pci" } "0000:05:00.1"
    Override { at: "0000:05:00.1" } "e1000e"
    Probe "0000:05:00.1"
    Override { at: "0000:05:00.1" } "igb"
    Unbind { driver: "vfio-pci" } "0000:05:00.0"
    Override { at: "0000:05:00.0" } "igb"
    Probe "0000:05:00.0"
    Override { at: "0000:05:00.0" } "\n"
    "#);
    assert_eq!(kernel.bound(), before);
    // What is free is left alone.
    let all = kernel.writes().len();
    for undo in undos(&steps) {
        take_back(undo, &kernel).unwrap();
    }
    assert_eq!(kernel.writes().len(), all);
}

/// A hook may die after any write of the way there or back.
#[test]
fn what_is_left_of_a_binding_is_given_back() {
    let before = Bound {
        driver: Some("e1000e".to_owned()),
        reserved: Some("igb".to_owned()),
    };
    let left = [
        (None, "igb"),
        (None, "vfio-pci"),
        (Some("vfio-pci"), "vfio-pci"),
        (None, "e1000e"),
        (Some("e1000e"), "e1000e"),
        // The kernel looked for a driver before any was reserved.
        (Some("igb"), "vfio-pci"),
    ];
    for (driver, reserved) in left {
        let there = kernel();
        let steps = steps(&there);
        let beside = Plain::nic(BESIDE, 5)
            .with_driver(driver)
            .reserved_for(reserved);
        let kernel = Kernel::new(Machine::of_pci([Plain::nic(FRONT, 5), beside]));
        for undo in undos(&steps) {
            take_back(undo, &kernel).unwrap();
        }
        assert_eq!(kernel.bound()[BESIDE], before, "{driver:?} {reserved}");
        assert_eq!(kernel.bound()[FRONT].driver.as_deref(), Some("igb"));
    }
}

#[test]
fn a_refusal_of_any_driver_leaves_nothing() {
    for (step, target, at, text) in [
        (
            0,
            Target::Unbind,
            FRONT,
            "/sys/bus/pci/drivers/igb/unbind: Device or resource busy (os error 16)",
        ),
        (
            0,
            Target::Probe,
            FRONT,
            "the driver vfio-pci does not take 0000:05:00.0; 'journalctl -k' shows its messages",
        ),
        (
            1,
            Target::Unbind,
            BESIDE,
            "/sys/bus/pci/drivers/e1000e/unbind: Device or resource busy (os error 16)",
        ),
        (
            1,
            Target::Probe,
            BESIDE,
            "the driver vfio-pci does not take 0000:05:00.1; 'journalctl -k' shows its messages",
        ),
    ] {
        let kernel = kernel();
        let before = kernel.bound();
        kernel.inject(Fault::errno(target, Errno::EBUSY).on(at).times(1));
        let failure = fails(&kernel, &steps(&kernel));
        assert_eq!(failure.step, step, "{target:?} of {at}");
        assert!(failure.refused_by_driver, "{failure:?}");
        assert!(failure.cause.ends_with(text), "{}", failure.cause);
        assert!(failure.left_behind.is_empty(), "{failure:?}");
        assert_eq!(kernel.bound(), before, "{target:?} of {at}");
    }
}

#[test]
fn what_cannot_be_given_back_is_named() {
    let kernel = kernel();
    for driver in ["igb", "e1000e"] {
        kernel.inject(Fault::errno(Target::Probe, Errno::EIO).on(driver));
    }
    kernel.inject(Fault::errno(Target::Probe, Errno::EIO).on(BESIDE));
    let failure = fails(&kernel, &steps(&kernel));
    let why = |driver: &str, at: &str| {
        format!("the driver {driver} does not take {at}; 'journalctl -k' shows its messages")
    };
    assert_eq!(
        failure.left_behind,
        [(1, why("e1000e", BESIDE)), (0, why("igb", FRONT))]
    );
}

#[test]
fn what_has_changed_since_the_plan_is_left_alone() {
    for change in [
        (|kernel: &Kernel| kernel.rebind(BESIDE, "igb")) as fn(&Kernel),
        |kernel| kernel.rebind(BESIDE, "vfio-pci"),
    ] {
        let kernel = kernel();
        let steps = steps(&kernel);
        change(&kernel);
        let before = kernel.bound();
        let failure = fails(&kernel, &steps);
        assert_eq!(failure.step, 1);
        assert_eq!(
            failure.cause,
            "0000:05:00.1 has another driver than a moment ago"
        );
        assert!(!failure.refused_by_driver);
        assert_eq!(kernel.bound(), before);
    }
}

#[test]
fn a_driver_that_is_unloaded_meanwhile_is_named() {
    let kernel = kernel();
    let steps = steps(&kernel);
    kernel.unload("vfio-pci");
    let failure = fails(&kernel, &steps);
    assert_eq!(
        failure.cause,
        "bind 0000:05:00.0 to vfio-pci instead of igb: the driver vfio-pci is not loaded; \
         'modprobe vfio-pci' loads it"
    );
    assert!(
        !failure.refused_by_driver,
        "no other function can be had either"
    );
    assert_eq!(kernel.writes(), []);
}

#[test]
fn a_function_that_does_not_answer_is_refused_and_given_back() {
    let kernel = kernel();
    let before = kernel.bound();
    kernel.inject(Fault::then(Target::Probe, Meanwhile::Dies).on(FRONT));
    let failure = fails(&kernel, &steps(&kernel));
    assert_eq!(
        failure.cause,
        "bind 0000:05:00.0 to vfio-pci instead of igb: 0000:05:00.0 does not answer: its \
         configuration space reads as all ones; 'journalctl -k' shows the kernel's messages"
    );
    assert_eq!(kernel.bound(), before);
}

/// The first device of the plan takes the second along.
#[test]
fn the_second_function_of_a_group_needs_nothing_more() {
    let kernel = kernel();
    let taken = [FRONT, BESIDE].map(|at| at.parse().unwrap());
    assert_eq!(steps_after(&kernel, &pool(""), BESIDE, &taken), []);
}

/// Undone if the start fails, and not undone when the VM has stopped.
#[test]
fn what_a_pool_keeps_bound_has_a_reason_to_stay() {
    let kernel = kernel();
    let kept = steps_after(&kernel, &pool("[pci]\nkeep-bound = true\n"), FRONT, &[]);
    for step in &kept {
        assert!(step.undo.is_some());
        assert_eq!(
            step.needs_no_undo,
            Some("its pool keeps its devices bound to vfio-pci")
        );
    }
    apply(&kept, &kernel).unwrap();
    // Now it is only checked.
    let again = steps_after(&kernel, &pool(""), FRONT, &[]);
    let said: Vec<&str> = again.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(
        said,
        [
            "keep 0000:05:00.0 bound to vfio-pci",
            "keep 0000:05:00.1 bound to vfio-pci"
        ]
    );
    let writes = kernel.writes().len();
    apply(&again, &kernel).unwrap();
    assert_eq!(kernel.writes().len(), writes);
}

#[test]
fn steps_are_read_as_they_were_written() {
    for step in steps(&kernel()) {
        let text = serde_json::to_string(&step).unwrap();
        let read: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        let act: Act = serde_json::from_value(serde_json::json!({ "bind": read["bind"] })).unwrap();
        assert_eq!(act, step.act);
        let undo: Option<Undo> = serde_json::from_value(read["undo"].clone()).unwrap();
        assert_eq!(undo, step.undo);
    }
}
