//! Claims written by the last release: their devices are recognised, checked and given
//! back.

use std::path::Path;

use virt_vgpu::{claims::Claim, model::Handle};

use crate::support::{
    domain::Domain,
    machine::{Gpu, Machine, SMALL},
    process::Program,
    scene::Scene,
};

/// A claim as its hook wrote it.
fn fixture(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/claims-0.1.0");
    std::fs::read_to_string(directory.join(name)).unwrap()
}

/// Adds the claim to the scene and returns it.
fn claimed(scene: &Scene, text: &str) -> Claim {
    let claim: Claim = serde_json::from_str(text).unwrap();
    let path = format!("run/virt-vgpu/claims/{}.json", claim.domain);
    scene.file(&path, text);
    claim
}

fn is_in_order(scene: &Scene) {
    let status = Program::command(scene.root(), "status --json").run();
    let report: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    let device = &report["claims"][0]["devices"][0];
    assert_eq!(device["present"], true, "{status:?}");
}

#[test]
fn a_mediated_device() {
    let text = fixture("mdev.json");
    let claim: Claim = serde_json::from_str(&text).unwrap();
    let device = &claim.devices[0];
    assert_eq!(device.handle, Handle::Mdev(device.uuid));
    let machine = Machine::of_boards(1);
    let scene = Scene::new(machine);
    scene.pool("cad", SMALL);
    let uuid = device.uuid.to_string();
    scene
        .kernel
        .make(&uuid, &device.parent.to_string(), device.type_id.as_str());
    claimed(&scene, &text);
    is_in_order(&scene);
    scene.stop(&Domain::with_one(1, "cad"));
    assert_eq!(scene.claims(), []);
    assert!(!scene.kernel.mdevs().contains_key(&uuid));
}

#[test]
fn a_virtual_function() {
    let text = fixture("vendor-vfio.json");
    let claim: Claim = serde_json::from_str(&text).unwrap();
    let device = &claim.devices[0];
    let function = device.handle.to_string();
    assert_eq!(function, "0000:41:00.4");
    assert!(device.can_wedge);
    let gpu = Gpu::l40s("0000:41:00.0").functions(4);
    let scene = Scene::new(Machine::of_gpus([gpu]).with_vgpu(&function, "L40S-12Q"));
    scene.vgpu_pool("cad", "L40S-12Q");
    claimed(&scene, &text);
    is_in_order(&scene);
    scene.stop(&Domain::new(1).function("gpu0", "cad", &function));
    assert_eq!(scene.claims(), []);
    assert!(!scene.kernel.vgpus().contains_key(&function));
}
