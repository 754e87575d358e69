//! Sets that pools lend to VMs.

use super::*;
use crate::support::{
    domain::Domain,
    machine::{Machine, SMALL},
    scene::Scene,
};

/// A host with a pool that lends a set.
fn lending() -> (Scene, Domain) {
    let scene = Scene::new(Machine::of_boards(2));
    scene.daemon_lives();
    let key = "guest-driver = 'nvidia-580.65.05'";
    scene.pool_with("cad", SMALL, key);
    let vm = Domain::new(1).request("gpu0", "pool='cad' guest-drivers='yes'", true);
    (scene, vm)
}

fn problems(scene: &Scene) -> String {
    let outcome = Program::command(scene.root(), "status --json").run();
    let status: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let problems = status["problems"].as_array().unwrap().iter();
    let problems: Vec<&str> = problems.map(|one| one.as_str().unwrap()).collect();
    problems.join("\n")
}

#[test]
fn a_vm_gets_the_disc_of_its_pools_set() {
    let (scene, vm) = lending();
    insta::assert_snapshot!(problems(&scene), @"pool 'cad': guest-driver: there is no driver set 'nvidia-580.65.05'; 'virt-vgpu driver add' stores one, 'virt-vgpu driver list' lists those that there are");
    // The VM starts all the same, with an empty drive.
    scene.prepare(&vm).succeeds();
    assert!(scene.media().is_empty());
    scene.stop(&vm);
    fs::create_dir_all(scene.path("usr/bin")).unwrap();
    for program in ["env", "xorriso"] {
        let program = format!("/usr/bin/{program}");
        std::os::unix::fs::symlink(&program, scene.path(&program)).unwrap();
    }
    let bundle = scene.path("bundle.zip");
    fs::write(&bundle, Archive::of_nvidia().bytes()).unwrap();
    let driver =
        |arguments: &str| Program::command(scene.root(), &format!("driver {arguments}")).run();
    driver(&format!("add {}", bundle.display())).succeeds();
    let disc = "/var/lib/virt-vgpu/drivers/nvidia-580.65.05/guest.iso";
    fs::rename(scene.path(disc), scene.path("away")).unwrap();
    insta::assert_snapshot!(problems(&scene), @"pool 'cad': guest-driver: driver set 'nvidia-580.65.05' has no disc; 'virt-vgpu driver iso nvidia-580.65.05' makes it");
    driver("iso nvidia-580.65.05").succeeds();
    assert_eq!(problems(&scene), "");
    scene.prepare(&vm).succeeds();
    let link = fs::read_link(scene.path(&vm.media())).unwrap();
    assert_eq!(link, Path::new(disc));
    insta::assert_snapshot!(driver("remove nvidia-580.65.05 --yes").stderr, @"virt-vgpu: driver set 'nvidia-580.65.05' was not removed: pool 'cad' lends it to VMs (guest-driver); give the pools another one first");
    fs::remove_file(scene.path("etc/virt-vgpu/pools.d/cad.toml")).unwrap();
    insta::assert_snapshot!(driver("remove nvidia-580.65.05 --yes").stderr, @"virt-vgpu: driver set 'nvidia-580.65.05' was not removed: domain 'vm1' runs with its disc; shut it down first");
    scene.stop(&vm);
    driver("remove nvidia-580.65.05 --yes").succeeds();
    assert!(
        !scene
            .path("var/lib/virt-vgpu/drivers/nvidia-580.65.05")
            .exists()
    );
}
