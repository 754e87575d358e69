//! `virt-vgpu status` tells which of NVIDIA's drivers runs in the guests, and of their licences.

use nix::errno::Errno;
use serde_json::{Value, json};

use crate::support::{
    domain::Domain,
    kernel::{Fault, Target},
    machine::{Gpu, Machine},
    process::Program,
    scene::Scene,
};

const GPU: &str = "0000:41:00.0";
const LICENSED: &str = "5 2 2999 1 31 9 8 7";

fn shown(scene: &Scene, arguments: &str) -> String {
    let outcome = Program::command(scene.root(), &format!("status {arguments}")).run();
    outcome.succeeds();
    outcome.stdout
}

fn report(scene: &Scene) -> Value {
    serde_json::from_str(&shown(scene, "--json")).unwrap()
}

/// A host with a pool, and the functions of its GPU.
fn scene() -> (Scene, Vec<String>) {
    let scene = Scene::new(Machine::of_gpus([Gpu::l40s(GPU).functions(4)]));
    scene.vgpu_pool("cad", "L40S-12Q");
    let functions = scene.kernel.functions(GPU);
    (scene, functions)
}

/// The domain runs, with these of its functions.
fn runs(scene: &Scene, domain: &Domain, pid: u32, functions: &[&str]) {
    scene.prepare(domain).ends_well();
    scene.runs_on(pid, domain, functions);
}

#[test]
fn guests_have_a_table_and_fields() {
    let (scene, functions) = scene();
    let domains: Vec<Domain> = (0..3)
        .map(|number| Domain::new(number + 1).function("gpu0", "cad", &functions[number]))
        .collect();
    for (pid, (domain, function)) in (4711..).zip(domains.iter().zip(&functions)) {
        runs(&scene, domain, pid, &[function]);
    }
    scene
        .kernel
        .set_guest(&functions[0], &format!("580.65.06 {LICENSED}"));
    scene
        .kernel
        .set_guest(&functions[1], "\u{1b}[31m580.88 5 4 0 0 0 0 0 0");
    let text = shown(&scene, "");
    let table = text.split("\n\n").nth(2).unwrap();
    let wanted = "\
DOMAIN  DEVICE  GUEST DRIVER      LICENCE
vm1     gpu0    580.65.06         licensed until 2999-01-31 09:08 UTC
vm2     gpu0    \\u{1b}[31m580.88  permanent
vm3     gpu0    not loaded        -\n";
    assert_eq!(table, wanted);
    let report = report(&scene);
    let guest = |number: usize| &report["claims"][number]["devices"][0]["guest"];
    assert_eq!(
        *guest(0),
        json!({
            "driver_loaded": true,
            "driver": "580.65.06",
            "licence": "licensed",
            "licence_until": "2999-01-31T09:08:07Z",
        })
    );
    assert_eq!(*guest(2), json!({ "driver_loaded": false }));
    assert_eq!(report["problems"], json!([]));
}

#[test]
fn a_licence_that_lacks_and_a_driver_that_does_not_fit_are_problems() {
    let (scene, functions) = scene();
    let domain = Domain::new(1).function("gpu0", "cad", &functions[0]);
    runs(&scene, &domain, 4711, &[&functions[0]]);
    let next = "add a licence token to the guest's driver set with 'virt-vgpu driver token add', \
                see whether the guest's clock is right, and in the guest see 'systemctl status \
                nvidia-gridd' (Windows: the service NVDisplay.ContainerLocalSystem)";
    let unlicensed = format!(
        "domain 'vm1': 'gpu0': the guest has no licence, so NVIDIA's driver slows it down; {next}"
    );
    let lend = "lend the VMs of pool 'cad' a driver set that fits: 'virt-vgpu driver list' shows \
                them, and 'guest-driver' in the pool's file names one";
    let pair = |version: &str, why: &str| {
        format!(
            "domain 'vm1': 'gpu0': NVIDIA does not support the guest's driver {version} with this \
             host's 580.65.05: {why}; {lend}"
        )
    };
    for (guest, wanted) in [
        ("580.65.06 4 0 0 0 0 0 0 0", vec![unlicensed.clone()]),
        ("580.65.06 3 0 0 0 0 0 0 0", vec![unlicensed.clone()]),
        ("580.65.06 2 0 0 0 0 0 0 0", vec![]),
        (
            "570.172.08 5 2 2001 2 3 4 5 6",
            vec![format!(
                "domain 'vm1': 'gpu0': the guest's licence expired 2001-02-03 04:05 UTC; {next}"
            )],
        ),
        (
            "550.54.10 4 0 0 0 0 0 0 0",
            vec![
                unlicensed.clone(),
                pair(
                    "550.54.10",
                    "the guest's driver is more than one release older",
                ),
            ],
        ),
        (
            "595.71.05 5 4 0 0 0 0 0 0",
            vec![pair(
                "595.71.05",
                "the guest's driver is of a newer release than the host's",
            )],
        ),
        ("no-version 5 4 0 0 0 0 0 0", vec![]),
    ] {
        scene.kernel.set_guest(&functions[0], guest);
        assert_eq!(report(&scene)["problems"], json!(wanted), "{guest}");
    }
}

/// NVML does not tell which function a vGPU is.
#[test]
fn of_several_alike_only_what_holds_for_all_is_said() {
    let (scene, functions) = scene();
    let domain = Domain::new(1)
        .function("gpu0", "cad", &functions[0])
        .function("gpu1", "cad", &functions[1]);
    runs(&scene, &domain, 4711, &[&functions[0], &functions[1]]);
    let guests = || {
        let report = report(&scene);
        let devices = report["claims"][0]["devices"].as_array().unwrap().clone();
        let guests = devices.iter().map(|device| device["guest"].clone());
        let problems = report["problems"].as_array().unwrap().len();
        (guests.collect::<Vec<_>>(), problems)
    };
    let none = json!({ "driver_loaded": false });
    assert_eq!(guests(), (vec![none.clone(), none], 0));
    let unlicensed = "580.65.06 4 0 0 0 0 0 0 0";
    scene.kernel.set_guest(&functions[0], unlicensed);
    assert_eq!(guests(), (vec![Value::Null, Value::Null], 0));
    scene.kernel.set_guest(&functions[1], unlicensed);
    let known = json!({
        "driver_loaded": true, "driver": "580.65.06", "licence": "unlicensed",
    });
    assert_eq!(guests(), (vec![known.clone(), known], 1));
    let line = &report(&scene)["problems"][0];
    let line = line.as_str().unwrap();
    assert!(
        line.starts_with("domain 'vm1': 'gpu0', 'gpu1': the guest has no licence"),
        "{line}"
    );
}

#[test]
fn a_driver_that_does_not_answer_costs_only_this() {
    let (scene, functions) = scene();
    assert_eq!(report(&scene)["claims"], json!([]));
    assert_eq!(scene.kernel.guests_asked(), 0);
    let domain = Domain::new(1).function("gpu0", "cad", &functions[0]);
    runs(&scene, &domain, 4711, &[&functions[0]]);
    scene
        .kernel
        .set_guest(&functions[0], &format!("580.65.06 {LICENSED}"));
    assert!(report(&scene)["claims"][0]["devices"][0]["guest"].is_object());
    assert_eq!(scene.kernel.guests_asked(), 1);
    scene.kernel.inject(Fault::errno(Target::Nvml, Errno::EIO));
    let report = report(&scene);
    assert_eq!(report["claims"][0]["devices"][0]["guest"], Value::Null);
    assert_eq!(report["claims"][0]["state"], "in-use");
    assert_eq!(report["problems"], json!([]));
    assert_eq!(shown(&scene, "").matches("DOMAIN").count(), 1);
}
