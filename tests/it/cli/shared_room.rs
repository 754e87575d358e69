//! Functions of one board share its capacity: every command that counts gives the same
//! number, and not more than can be made.

use serde_json::Value;

use crate::support::{
    domain::Domain,
    machine::{Function, Gpu, Machine, SMALL},
    process::Program,
    scene::Scene,
};

fn json(scene: &Scene, arguments: &str) -> Value {
    let outcome = Program::command(scene.root(), arguments).run();
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

/// The numbers that `status`, `pool show` and `explain` give for the pool's free
/// devices.
fn said(scene: &Scene, pool: &str, domain: &Domain) -> [(u64, bool); 3] {
    scene.file("vm1.xml", domain.xml());
    let xml = scene.path("vm1.xml");
    let explain = json(scene, &format!("explain --json --xml {}", xml.display()));
    let status = json(scene, "status --json");
    let show = json(scene, &format!("pool show {pool} --json"));
    [&status["pools"][0], &show, &explain["pools"][0]].map(|report| {
        let (free, exact) = (&report["free"], &report["exact"]);
        (free.as_u64().unwrap(), exact.as_bool().unwrap())
    })
}

/// Two boards with six functions each. A board holds four of the type, and each already
/// has three.
#[test]
fn of_mediated_devices() {
    let scene = Scene::new(Machine::of_sriov_boards(3));
    scene.pool("small", SMALL);
    let domain = Domain::with_one(1, "small");
    assert_eq!(said(&scene, "small", &domain), [(2, true); 3]);
    // An upper bound is shown as one: it is unknown whether sizes are mixed.
    let empty = Scene::new(Machine::with([Function::sriov_board("41", 6)]));
    empty.pool("small", SMALL);
    assert_eq!(said(&empty, "small", &domain), [(4, false); 3]);
}

#[test]
fn of_vgpus_of_functions() {
    let scene = Scene::new(Machine::of_l40s_with_one_left());
    scene.vgpu_pool("cad", "L40S-12Q");
    let domain = Domain::new(1).function("gpu0", "cad", "0000:41:00.7");
    assert_eq!(said(&scene, "cad", &domain), [(2, true); 3]);
}

/// A pool of mediated devices over the functions of a GPU that NVML knows.
#[test]
fn of_mediated_devices_of_a_gpu() {
    use lab_nvidia::model::Framework;
    let gpu = Gpu::new("a40", Framework::SriovMdev, "0000:41:00.0").functions(16);
    let scene = Scene::new(Machine::of_gpus([gpu]));
    scene.pool("large", "NVIDIA A40-24Q");
    let domain = Domain::with_one(1, "large");
    assert_eq!(said(&scene, "large", &domain), [(2, true); 3]);
}
