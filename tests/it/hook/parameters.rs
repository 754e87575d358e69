//! The parameters of a vGPU of NVIDIA's driver: the request's value, otherwise the
//! pool's, in one write that is read back; nothing is left if the driver refuses them.

use nix::errno::Errno;

use crate::support::{
    domain::Domain,
    kernel::{Fault, Target},
    machine::{Machine, SMALL},
    scene::Scene,
    tree::OnWrite,
};

const DEFAULTS: &str = "\n[defaults]\nframe-rate-limit = 60\nconsole-vnc = false\n";

fn scene(keys: &str) -> Scene {
    let scene = Scene::new(Machine::of_boards(2));
    scene.pool_with("cad", SMALL, keys);
    scene
}

/// The parameters of the domain's devices.
fn parameters(scene: &Scene, domain: &Domain) -> Vec<String> {
    let mdevs = scene.kernel.mdevs();
    let of = |uuid: &String| mdevs[uuid].parameters.clone();
    domain.mdevs().iter().map(of).collect()
}

#[test]
fn the_request_goes_before_the_pool() {
    let scene = scene(DEFAULTS);
    let domain = Domain::new(1).device("gpu0", "cad").request(
        "gpu1",
        "pool='cad' frame-rate-limit='0' profilers='yes'",
        true,
    );
    scene.prepare(&domain).ends_well();
    assert_eq!(
        parameters(&scene, &domain),
        [
            "frame_rate_limiter=1,disable_vnc=1",
            "frame_rate_limiter=0,disable_vnc=1,enable_profiling=1"
        ]
    );
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn what_nobody_asks_for_is_left_to_the_driver() {
    let scene = scene("");
    let domain = Domain::with_one(1, "cad");
    scene.prepare(&domain).ends_well();
    assert_eq!(parameters(&scene, &domain), [""]);
    let written = scene.kernel.writes();
    let is_parameters = |what: &OnWrite| matches!(what, OnWrite::Parameters { .. });
    assert!(!written.iter().any(|write| is_parameters(&write.what)));
}

#[test]
fn a_driver_that_refuses_them_refuses_the_start() {
    let scene = scene(DEFAULTS);
    let domain = Domain::with_one(1, "cad");
    scene
        .kernel
        .inject(Fault::errno(Target::Parameters, Errno::EPERM));
    let uuid = &domain.mdevs()[0];
    let outcome = scene.prepare(&domain);
    assert_eq!(
        outcome.refusal(),
        format!(
            "cannot make device 'gpu0' of domain '{}': \
             /sys/bus/mdev/devices/{uuid}/nvidia/vgpu_params: Operation not permitted (os error 1)",
            domain.name
        )
    );
    scene.is_empty();
    scene.kernel.heal();
    scene.prepare(&domain).ends_well();
    assert_eq!(
        parameters(&scene, &domain),
        ["frame_rate_limiter=1,disable_vnc=1"]
    );
}

/// One board's driver fails: the other board serves.
#[test]
fn another_board_is_tried() {
    let scene = scene(DEFAULTS);
    let domain = Domain::with_one(1, "cad");
    let fault = Fault::errno(Target::Parameters, Errno::EIO).on("0000:3b:00.0");
    scene.kernel.inject(fault);
    scene.prepare(&domain).ends_well();
    let mdevs = scene.kernel.mdevs();
    assert_eq!(mdevs[&domain.mdevs()[0]].parent, "0000:3c:00.0");
    assert_eq!(mdevs.len(), 1);
}
