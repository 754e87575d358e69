//! Many hooks at once: no device is given twice, no free device is refused, and all hooks
//! end.

use std::collections::BTreeSet;

use crate::support::{
    domain::Domain,
    machine::{Function, Machine, SMALL},
    process::{Outcome, Running},
    scene::Scene,
};

const FOREIGN: &str = "f0e1c000-0000-4000-8000-000000000001";

fn all(running: Vec<Running>) -> Vec<Outcome> {
    let outcomes: Vec<Outcome> = running.into_iter().map(Running::wait).collect();
    for outcome in &outcomes {
        assert_eq!(outcome.stdout, "", "{outcome:?}");
    }
    outcomes
}

fn starts(scene: &Scene, domains: &[Domain]) -> Vec<Running> {
    let start = |domain| scene.hook(domain, "prepare begin -").start();
    domains.iter().map(start).collect()
}

/// Exactly `devices` of the domains have one, and the others got the reason.
fn checks(scene: &Scene, domains: &[Domain], outcomes: &[Outcome], devices: usize) {
    let mut served = BTreeSet::new();
    for (domain, outcome) in domains.iter().zip(outcomes) {
        if outcome.succeeded() {
            assert_eq!(outcome.stderr, "");
            served.insert(domain.mdevs()[0].clone());
        } else {
            let wanted = format!(
                "pool 'cad' has no free {SMALL} for domain '{}': ",
                domain.name
            );
            let line = outcome.refusal();
            let reasons = line.strip_prefix(&wanted).expect(line);
            let (reasons, _) = reasons.split_once("; see 'virt-vgpu explain").expect(line);
            // A start that has just been faster may not have finished.
            let none = format!(": no {SMALL} left");
            let others = format!(": its last {SMALL} is being made for another domain");
            let is_told = |part: &str| part.ends_with(&none) || part.ends_with(&others);
            assert!(reasons.split("; ").all(is_told), "{line}");
        }
    }
    assert_eq!(served.len(), devices);
    assert_eq!(scene.ours(), served);
    assert_eq!(scene.claims().len(), devices);
    scene.is_settled();
}

#[test]
fn thirty_two_starts_share_the_last_eight_devices() {
    let scene = the_last_eight(Machine::of_boards(2));
    // A driver was never asked for a device that it could not make.
    let writes = scene.kernel.writes().into_iter();
    let refused = writes.filter(|write| write.result.is_err());
    assert_eq!(refused.collect::<Vec<_>>(), []);
}

#[test]
fn thirty_two_starts_share_the_last_eight_virtual_functions() {
    // Two boards of eight functions each, but only four fit on each: only the driver
    // knows what functions of one board share.
    let boards = ["41", "42"].map(|bus| Function::sriov_board(bus, 8));
    the_last_eight(Machine::with(boards));
}

fn the_last_eight(mut machine: Machine) -> Scene {
    const STARTS: usize = 32;
    const DEVICES: usize = 8;
    // A third board is full of foreign devices.
    machine.functions.push(Function::board("0000:50:00.0"));
    for number in 1..=4 {
        let uuid = format!("{}{number}", &FOREIGN[..35]);
        machine = machine.with_mdev(&uuid, "0000:50:00.0", SMALL);
    }
    let scene = Scene::new(machine);
    scene.daemon_lives();
    scene.pool("cad", SMALL);
    let domains: Vec<Domain> = (1..=STARTS).map(|n| Domain::with_one(n, "cad")).collect();
    let outcomes = all(starts(&scene, &domains));
    checks(&scene, &domains, &outcomes, DEVICES);
    scene
}

#[test]
fn starts_and_stops_at_once_keep_the_books() {
    const EACH: usize = 16;
    let scene = Scene::new(Machine::of_boards(5).with_mdev(FOREIGN, "0000:3b:00.0", SMALL));
    scene.daemon_lives();
    scene.pool("cad", SMALL);
    let domains: Vec<Domain> = (1..=2 * EACH).map(|n| Domain::with_one(n, "cad")).collect();
    let (leaving, coming) = domains.split_at(EACH);
    for outcome in all(starts(&scene, leaving)) {
        outcome.ends_well();
    }
    let mut running = Vec::new();
    for (leaves, comes) in leaving.iter().zip(coming) {
        running.push(scene.hook(leaves, "stopped end shutdown").start());
        running.push(scene.hook(comes, "prepare begin -").start());
    }
    let outcomes = all(running);
    let (stops, starts): (Vec<_>, Vec<_>) = outcomes
        .into_iter()
        .enumerate()
        .partition(|(number, _)| number % 2 == 0);
    for (_, outcome) in stops {
        outcome.ends_well();
    }
    // Three more could be made, and the others only after one had left.
    let outcomes: Vec<Outcome> = starts.into_iter().map(|(_, outcome)| outcome).collect();
    let served = outcomes.iter().filter(|o| o.succeeded()).count();
    assert!(served >= 3, "{served}");
    checks(&scene, coming, &outcomes, served);
    for domain in coming {
        scene.stop(domain);
    }
    scene.is_empty();
}

/// libvirt does not do this, but an administrator who runs the hook by hand may. The
/// second one finds the claim of the first.
#[test]
fn a_domain_that_starts_twice_has_its_devices_once() {
    let scene = Scene::new(Machine::of_boards(1).with_mdev(FOREIGN, "0000:3b:00.0", SMALL));
    scene.daemon_lives();
    scene.pool("cad", SMALL);
    let domain = Domain::with_one(1, "cad").device("gpu1", "cad");
    let outcomes = all(starts(&scene, &[domain.clone(), domain.clone()]));
    for outcome in outcomes {
        outcome.ends_well();
    }
    assert_eq!(scene.ours().len(), 2);
    assert_eq!(scene.claims().len(), 1);
    scene.is_settled();
    // Both of its ends run at once as well.
    let ends = ["stopped end failed", "release end failed"];
    for outcome in all(ends.map(|words| scene.hook(&domain, words).start()).into()) {
        outcome.ends_well();
    }
    scene.is_empty();
}
