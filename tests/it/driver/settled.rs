//! A plan under the host lock asks no driver: the answer of one function counts for the
//! others of its board, and a function that has a device is not asked.

use std::{cell::RefCell, io, path::Path};

use virt_vgpu::{
    config::{self, Pool},
    device::{Remembered, Sysfs, parameters::Parameters},
    kind::{Announced, HostView},
    model::{DeviceName, DomainName},
    plan::{
        Answers, Detail, Failed, HostSupply, Nearness, Placeholder, Plan, PlanRequest, Refusal,
        plan,
    },
};

use super::NoNames;
use crate::support::{
    kernel::Kernel,
    machine::{Function, Machine, SMALL},
};

const UUID: &str = "00000000-0000-4000-8000-000000000001";
const OTHER: &str = "00000000-0000-4000-8000-000000000002";

/// The kernel, and a record of the parents whose drivers were asked.
struct Asked<'k> {
    kernel: &'k Kernel,
    parents: RefCell<Vec<String>>,
}

impl Asked<'_> {
    fn of(kernel: &Kernel) -> Asked<'_> {
        let parents = RefCell::default();
        Asked { kernel, parents }
    }

    /// The parents asked since the last call.
    fn take(&self) -> Vec<String> {
        self.parents.take()
    }
}

impl Sysfs for Asked<'_> {
    fn read(&self, path: &str) -> io::Result<String> {
        if self.is_of_driver(path) {
            let parent = path.split('/').nth(4).unwrap();
            self.parents.borrow_mut().push(parent.to_owned());
        }
        self.kernel.read(path)
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        self.kernel.read_link(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.kernel.list(path)
    }

    fn exists(&self, path: &str) -> bool {
        self.kernel.exists(path)
    }

    fn is_of_driver(&self, path: &str) -> bool {
        path.ends_with("/available_instances")
    }
}

/// One board with four virtual functions.
fn board() -> Machine {
    Machine::with([Function::sriov_board("41", 4)])
}

fn pool(rules: &str) -> Pool {
    let text = format!("kind = \"mdev\"\ntype = \"{SMALL}\"\n\n[[rule]]\nwhere = [{rules}]\n");
    config::parse("cad".parse().unwrap(), Path::new("/cad.toml"), &text).unwrap()
}

const ALL: &str = r#"{ field = "vendor-id", op = "equal", value = "10de" }"#;

fn announced(function: &str) -> Announced {
    Announced {
        parent: function.parse().unwrap(),
        board: "0000:41:00.0".parse().unwrap(),
        type_id: SMALL.parse().unwrap(),
        placement: None,
    }
}

/// A plan for one device of the pool, from that look.
fn planned(
    sysfs: &Remembered<'_>,
    answers: Option<&Answers>,
    pool: &Pool,
    others: &[&str],
    is_settled: bool,
) -> Result<Plan, Refusal> {
    let detail = Detail {
        is_settled,
        ..Detail::default()
    };
    let view = HostView::open(sysfs, &NoNames, detail).unwrap();
    let others = others.iter().map(|function| announced(function)).collect();
    let mut supply = HostSupply::of(view.with_announced(others));
    if let Some(answers) = answers {
        supply = supply.with_answers(answers);
    }
    let device: DeviceName = "gpu0".parse().unwrap();
    let wanted = [PlanRequest {
        device: &device,
        uuid: UUID.parse().unwrap(),
        placeholder: Placeholder::Mdev,
        pool,
        pool_in_use: 0,
        parameters: Parameters::default(),
        together: None,
    }];
    let domain: DomainName = "vm1".parse().unwrap();
    let (nearness, failed) = (Nearness::default(), Failed::default());
    plan(&domain, &wanted, &supply, &nearness, &failed)
}

fn parent(planned: Result<Plan, Refusal>) -> String {
    planned.unwrap().assignments[0].parent.to_string()
}

#[test]
fn one_function_answers_for_its_neighbours() {
    let kernel = Kernel::new(board());
    let asked = Asked::of(&kernel);
    let sysfs = Remembered::new(&asked);
    let (answers, pool) = (Answers::default(), pool(ALL));
    let first = planned(&sysfs, Some(&answers), &pool, &[], false);
    assert_eq!(parent(first), "0000:41:00.4");
    assert_eq!(asked.take(), ["0000:41:00.4"]);
    // Others were faster, and took two of them.
    sysfs.ask_no_driver_any_more();
    let others = ["0000:41:00.4", "0000:41:00.5"];
    let second = planned(&sysfs, Some(&answers), &pool, &others, true);
    assert_eq!(parent(second), "0000:41:00.6");
    assert!(!sysfs.has_missed());
    assert_eq!(asked.take(), [""; 0]);
}

/// Without an answer there is no plan, and the next look knows that it must ask.
#[test]
fn nobody_answers_for_a_board_that_was_not_asked() {
    let kernel = Kernel::new(board());
    let asked = Asked::of(&kernel);
    let sysfs = Remembered::new(&asked);
    sysfs.ask_no_driver_any_more();
    let answers = Answers::default();
    let refused = planned(&sysfs, Some(&answers), &pool(ALL), &[], true);
    assert!(refused.is_err());
    assert!(sysfs.has_missed());
    assert_eq!(asked.take(), [""; 0]);
}

/// The rules of a pool apply to each function separately.
#[test]
fn a_function_that_the_rules_do_not_take_gets_no_answer() {
    let kernel = Kernel::new(board());
    let asked = Asked::of(&kernel);
    let sysfs = Remembered::new(&asked);
    let not = |digit| {
        format!(r#"{{ field = "address", op = "not-equal", value = "0000:41:00.{digit}" }}"#)
    };
    let some = [not('5'), not('6')].join(", ");
    let (answers, pool) = (Answers::default(), pool(&some));
    let first = planned(&sysfs, Some(&answers), &pool, &[], false);
    assert_eq!(parent(first), "0000:41:00.4");
    sysfs.ask_no_driver_any_more();
    let second = planned(&sysfs, Some(&answers), &pool, &["0000:41:00.4"], true);
    assert_eq!(parent(second), "0000:41:00.7");
}

#[test]
fn a_function_with_its_device_is_not_asked() {
    let machine = board().with_mdev(OTHER, "0000:41:00.4", SMALL);
    let kernel = Kernel::new(machine);
    let asked = Asked::of(&kernel);
    let sysfs = Remembered::new(&asked);
    let first = planned(&sysfs, None, &pool(ALL), &[], false);
    assert_eq!(parent(first), "0000:41:00.5");
    assert_eq!(asked.take(), ["0000:41:00.5"]);
}
