//! Concurrent starts and stops: boards work at the same time, one board does one thing
//! after the other, and planned devices count for everybody.

use std::time::Duration;

use nix::errno::Errno;
use virt_vgpu::claims::State;

use crate::support::{
    domain::Domain,
    eventually,
    kernel::{Fault, Target},
    machine::{Gpu, Machine, SMALL},
    process::Running,
    scene::Scene,
};

/// Longer than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(100);
/// A slow driver.
const SLOW: Duration = Duration::from_secs(1);
const FOREIGN: &str = "f0e1c000-0000-4000-8000-00000000000";

fn start(scene: &Scene, domain: &Domain) -> Running {
    scene.hook(domain, "prepare begin -").start()
}

/// Starts the domain and returns when its claim has that state.
fn start_until(scene: &Scene, domain: &Domain, state: State) -> Running {
    let running = start(scene, domain);
    eventually("the claim", || {
        let claims = scene.claims();
        let mut claims = claims.iter().filter(|claim| claim.domain == domain.uuid);
        claims.any(|claim| claim.state == state)
    });
    running
}

fn parents(scene: &Scene) -> Vec<String> {
    let claims = scene.claims();
    let devices = claims.iter().flat_map(|claim| &claim.devices);
    let mut parents: Vec<String> = devices.map(|device| device.board.to_string()).collect();
    parents.sort();
    parents
}

/// One board that fits a single device.
fn last_one() -> Scene {
    let mut machine = Machine::of_boards(1);
    for number in 1..=3 {
        machine = machine.with_mdev(&format!("{FOREIGN}{number}"), "0000:3b:00.0", SMALL);
    }
    let scene = Scene::new(machine);
    scene.daemon_lives();
    scene.pool("cad", SMALL);
    scene
}

const NO_ROOM: &str = "pool 'cad' has no free nvidia-231 for domain 'vm2': 0000:3b:00.0: no \
                       nvidia-231 left; see 'virt-vgpu explain vm2'";

/// With one lock for all of them, the first would wait for the others until it times out.
#[test]
fn boards_make_devices_at_the_same_time() {
    const BOARDS: usize = 4;
    let scene = Scene::new(Machine::of_boards(BOARDS));
    scene.daemon_lives();
    scene.pool_with("cad", SMALL, "placement = \"spread\"");
    let together = Fault::together(Target::Create, BOARDS);
    scene.kernel.inject(together);
    let domains: Vec<Domain> = (1..=BOARDS).map(|n| Domain::with_one(n, "cad")).collect();
    let running: Vec<Running> = domains.iter().map(|domain| start(&scene, domain)).collect();
    for one in running {
        one.wait().ends_well();
    }
    let boards = [
        "0000:3b:00.0",
        "0000:3c:00.0",
        "0000:3d:00.0",
        "0000:3e:00.0",
    ];
    assert_eq!(parents(&scene), boards);
    scene.is_settled();
    // And they take them back at the same time.
    scene.kernel.inject(Fault::together(Target::Remove, BOARDS));
    let end = |domain| scene.hook(domain, "release end shutdown").start();
    let running: Vec<Running> = domains.iter().map(end).collect();
    for one in running {
        one.wait().ends_well();
    }
    scene.is_empty();
}

#[test]
fn gpus_set_functions_at_the_same_time() {
    let buses = ["41", "61", "81"];
    let gpus = buses.map(|bus| Gpu::l40s(&format!("0000:{bus}:00.0")).functions(4));
    let scene = Scene::new(Machine::of_gpus(gpus));
    scene.daemon_lives();
    scene.vgpu_pool("cad", "L40S-12Q");
    let together = Fault::together(Target::SetType, buses.len());
    scene.kernel.inject(together);
    let domain = |(number, bus): (usize, &str)| {
        Domain::new(number + 1).function("gpu0", "cad", &format!("0000:{bus}:00.4"))
    };
    let domains: Vec<Domain> = buses.into_iter().enumerate().map(domain).collect();
    let running: Vec<Running> = domains.iter().map(|domain| start(&scene, domain)).collect();
    for one in running {
        one.wait().ends_well();
    }
    assert_eq!(
        parents(&scene),
        ["0000:41:00.0", "0000:61:00.0", "0000:81:00.0"]
    );
    for domain in &domains {
        scene.stop(domain);
    }
    scene.is_empty();
}

#[test]
fn one_board_makes_one_after_the_other() {
    let scene = Scene::new(Machine::of_boards(1));
    scene.daemon_lives();
    scene.pool("cad", SMALL);
    scene
        .kernel
        .inject(Fault::delay(Target::Create, Duration::from_millis(100)));
    let domains: Vec<Domain> = (1..=4).map(|n| Domain::with_one(n, "cad")).collect();
    let running: Vec<Running> = domains.iter().map(|domain| start(&scene, domain)).collect();
    for one in running {
        one.wait().ends_well();
    }
    assert_eq!(scene.kernel.most_at_once(), 1);
    assert_eq!(scene.ours().len(), 4);
    scene.is_settled();
}

/// The start on the hanging board moves to the other board in the end; the next start
/// does not wait for that.
#[test]
fn a_board_that_hangs_is_left_to_whoever_waits_for_it() {
    let scene = Scene::new(Machine::of_boards(2));
    scene.daemon_lives();
    scene.pool("cad", SMALL);
    let (first, next) = (Domain::with_one(1, "cad"), Domain::with_one(2, "cad"));
    let hang = Fault::delay(Target::Create, FOR_EVER).on("0000:3b:00.0");
    scene.kernel.inject(hang.times(1));
    let hangs = start_until(&scene, &first, State::Intent);
    eventually("the driver", || scene.kernel.under_way() == 1);
    scene.prepare(&next).ends_well();
    assert!(
        parents(&scene).contains(&"0000:3c:00.0".to_owned()),
        "{:?}",
        scene.claims()
    );
    hangs.wait();
}

#[test]
fn what_is_being_made_counts() {
    let scene = last_one();
    let (first, second) = (Domain::with_one(1, "cad"), Domain::with_one(2, "cad"));
    scene.kernel.inject(Fault::delay(Target::Create, SLOW));
    let running = start_until(&scene, &first, State::Intent);
    assert_eq!(scene.prepare(&second).refusal(), NO_ROOM);
    running.wait().ends_well();
    // The driver was never asked for a device that it could not make.
    assert_eq!(scene.kernel.writes().len(), 1);
    scene.is_settled();
}

#[test]
fn what_could_not_be_made_is_there_for_the_next() {
    let scene = last_one();
    let (first, second) = (Domain::with_one(1, "cad"), Domain::with_one(2, "cad"));
    let fails = Fault {
        delay: SLOW,
        ..Fault::errno(Target::Create, Errno::EIO)
    };
    scene.kernel.inject(fails.times(1));
    let running = start_until(&scene, &first, State::Intent);
    scene.prepare(&second).ends_well();
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(scene.ours().len(), 1);
    scene.is_settled();
}

#[test]
fn a_device_that_is_being_given_back_is_waited_for() {
    let scene = last_one();
    let (leaves, comes) = (Domain::with_one(1, "cad"), Domain::with_one(2, "cad"));
    scene.prepare(&leaves).ends_well();
    assert_eq!(scene.prepare(&comes).refusal(), NO_ROOM);
    scene.kernel.inject(Fault::delay(Target::Remove, SLOW));
    let leaving = scene.hook(&leaves, "release end shutdown").start();
    eventually("the claim", || {
        let claims = scene.claims();
        claims.iter().all(|claim| claim.state == State::Releasing)
    });
    scene.prepare(&comes).ends_well();
    leaving.wait().ends_well();
    scene.is_settled();
    assert_eq!(scene.ours().len(), 1);
}

/// Otherwise the locks of transient domains would accumulate until the next boot.
#[test]
fn nothing_is_left_of_the_lock_of_a_claim() {
    let scene = last_one();
    let domain = Domain::with_one(1, "cad");
    let locks = || {
        let locks = std::fs::read_dir(scene.path("run/virt-vgpu/locks")).unwrap();
        let names = locks.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let board = "0000:3b:00.0".to_owned();
    scene.prepare(&domain).ends_well();
    assert_eq!(locks(), [board.clone(), domain.uuid.to_string()]);
    scene.prepare(&Domain::with_one(2, "cad")).refusal();
    assert_eq!(locks(), [board.clone(), domain.uuid.to_string()]);
    scene.stop(&domain);
    assert_eq!(locks(), [board]);
}
