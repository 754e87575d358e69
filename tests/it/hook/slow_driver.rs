//! A GPU whose driver does not answer delays no other GPU, no other VM and no command
//! that only shows the state.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    domain::Domain,
    kernel::{Fault, Target},
    machine::{Function, Gpu, Machine, SMALL},
    process::Program,
    scene::Scene,
};

/// Longer than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(100);
const SICK: &str = "0000:41:00.0";

/// A pool that packs tries the first board first.
fn mdevs() -> Scene {
    let scene = Scene::new(Machine::with(
        ["41", "61"].map(|bus| Function::sriov_board(bus, 4)),
    ));
    scene.pool("cad", SMALL);
    scene
}

fn functions() -> Scene {
    let gpus = ["41", "61"].map(|bus| Gpu::l40s(&format!("0000:{bus}:00.0")).functions(4));
    let scene = Scene::new(Machine::of_gpus(gpus));
    scene.vgpu_pool("cad", "L40S-12Q");
    scene
}

fn hang(scene: &Scene) {
    scene
        .kernel
        .inject(Fault::delay(Target::Read, FOR_EVER).on(SICK));
}

/// The boards of all devices of ours.
fn boards(scene: &Scene) -> Vec<String> {
    let claims = scene.claims();
    let devices = claims.iter().flat_map(|claim| &claim.devices);
    devices
        .map(|device| device.parent.to_string()[..7].to_owned())
        .collect()
}

#[test]
fn starts_on_another_gpu_go_on() {
    let scene = mdevs();
    hang(&scene);
    let (one, two) = (Domain::with_one(1, "cad"), Domain::with_one(2, "cad"));
    scene.prepare(&one).ends_well();
    // Nobody waits for that GPU again, so this start does not ask it.
    scene.prepare(&two).ends_well();
    assert_eq!(boards(&scene), ["0000:61", "0000:61"]);
    scene.is_settled();
    for domain in [&one, &two] {
        scene.stop(domain);
    }
    scene.is_empty();
}

#[test]
fn who_looks_is_told_which_gpu_it_is() {
    for scene in [mdevs(), functions()] {
        hang(&scene);
        for words in [
            "status --json",
            "devices --json",
            "explain --xml vm1.xml --json",
        ] {
            let domain = Domain::with_one(1, "cad");
            scene.file("vm1.xml", domain.xml());
            let path = scene.path("vm1.xml").display().to_string();
            let words = words.replace("vm1.xml", &path);
            let outcome = Program::command(scene.root(), &words).run();
            let parsed: Value = serde_json::from_str(&outcome.stdout).unwrap();
            assert!(parsed.is_object(), "{words}: {outcome:?}");
            let is_about_functions =
                scene.kernel.mdevs().is_empty() && words.starts_with("devices");
            let said = format!("the driver of {SICK} does not answer");
            assert!(
                outcome.stdout.contains(&said) || is_about_functions,
                "{words}: {outcome:?}"
            );
        }
    }
}

#[test]
fn what_is_on_it_goes_back_when_it_answers_again() {
    let scene = functions();
    let sick = Domain::new(1).function("gpu0", "cad", "0000:41:00.4");
    let well = Domain::new(2).function("gpu0", "cad", "0000:61:00.4");
    for domain in [&sick, &well] {
        scene.prepare(domain).ends_well();
    }
    hang(&scene);
    for domain in [&sick, &well] {
        let outcome = scene.hook(domain, "release end shutdown").run();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    assert_eq!(boards(&scene), ["0000:41"], "the other one went");
    // It is unknown whether the device exists, so it is not reported as missing.
    let status = Program::command(scene.root(), "status").run();
    assert!(
        status
            .stdout
            .contains("whether device 'gpu0' (0000:41:00.4) is there cannot be told")
    );
    assert!(!status.stdout.contains("missing"), "{status:?}");
    let refused = scene.prepare(&sick);
    let line = refused.refusal();
    assert!(
        line.contains(&format!("the driver of {SICK} does not answer")),
        "{line}"
    );
    scene.kernel.heal();
    // It is asked again after some time; the test does not wait for that.
    std::fs::remove_dir_all(scene.path("run/virt-vgpu/slow-drivers")).unwrap();
    scene.stop(&sick);
    scene.is_empty();
}
