//! Rules on what a GPU is: its name, its UUID, its memory, the number of the pool's
//! profile. NVML is asked only for what the driver's files do not say.

use crate::support::{
    domain::Domain,
    machine::{Gpu, Machine},
    process::Program,
    scene::Scene,
};

const L40S: &str = "0000:41:00.0";
const L4: &str = "0000:51:00.0";

fn scene() -> Scene {
    Scene::new(Machine::of_gpus([
        Gpu::l40s(L40S).functions(2),
        Gpu::new("l4", lab_nvidia::model::Framework::VendorVfio, L4).functions(2),
    ]))
}

fn pool(scene: &Scene, profile: &str, field: &str, op: &str, value: &str) {
    let text = format!(
        "kind = 'nvidia-vgpu'\nprofile = '{profile}'\n[[rule]]\n\
         where = [{{ field = '{field}', op = '{op}', value = '{value}' }}]\n"
    );
    scene.file("etc/virt-vgpu/pools.d/cad.toml", text);
}

fn information(scene: &Scene, gpu: &str, name: &str, uuid: &str) {
    let text = format!("Model: \t\t {name}\nIRQ:   \t\t 86\nGPU UUID: \t {uuid}\n");
    scene.file(&format!("proc/driver/nvidia/gpus/{gpu}/information"), text);
}

/// The GPUs that the pool takes.
fn taken(scene: &Scene) -> Vec<String> {
    let outcome = Program::command(scene.root(), "pool preview cad --json").run();
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let devices = report["devices"].as_array().unwrap().iter();
    devices
        .filter(|one| one["matches"] == true)
        .map(|one| one["address"].as_str().unwrap().to_owned())
        .collect()
}

/// A domain of the pool starts, on the function of an L40S.
fn serves(scene: &Scene) {
    let domain = Domain::new(1).function("gpu0", "cad", "0000:41:00.4");
    scene.prepare(&domain).ends_well();
    let vgpu = scene.our_vgpus().remove("0000:41:00.4").unwrap();
    assert_eq!(vgpu.profile, "L40S-12Q");
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn names_and_uuids_are_the_drivers_own_without_nvml() {
    let scene = scene();
    scene.without_nvml();
    information(&scene, L40S, "NVIDIA L40S", "GPU-aaaa");
    information(&scene, L4, "NVIDIA L4", "GPU-bbbb");
    for (field, op, value) in [
        ("gpu-name", "equal", "NVIDIA L40S"),
        ("gpu-name", "ends-with", "40S"),
        ("gpu-uuid", "equal", "GPU-aaaa"),
    ] {
        pool(&scene, "L40S-12Q", field, op, value);
        assert_eq!(taken(&scene), [L40S], "{field}");
        serves(&scene);
    }
    pool(&scene, "L40S-12Q", "gpu-name", "contains", "L4");
    assert_eq!(taken(&scene), [L40S, L4]);
    pool(&scene, "L40S-12Q", "gpu-uuid", "equal", "GPU-cccc");
    assert_eq!(taken(&scene), [""; 0]);
}

#[test]
fn what_the_driver_does_not_say_nvml_does() {
    let scene = scene();
    for (field, op, value) in [
        ("gpu-name", "equal", "NVIDIA L40S"),
        ("gpu-memory-mib", "greater-than", "40000"),
        ("profile-id", "equal", "1153"),
    ] {
        pool(&scene, "L40S-12Q", field, op, value);
        assert_eq!(taken(&scene), [L40S], "{field}");
        serves(&scene);
    }
    pool(&scene, "L40S-12Q", "gpu-memory-mib", "less-than", "40000");
    assert_eq!(taken(&scene), [L4]);
    // A number that another profile has.
    pool(&scene, "L40S-24Q", "profile-id", "equal", "1153");
    assert_eq!(taken(&scene), [""; 0]);
    // Without NVML nobody tells it, and preview says why nothing matches.
    scene.without_nvml();
    pool(&scene, "L40S-12Q", "profile-id", "equal", "1153");
    assert_eq!(
        taken(&scene),
        [L40S],
        "the functions list what they can become"
    );
    pool(
        &scene,
        "L40S-12Q",
        "gpu-memory-mib",
        "greater-than",
        "40000",
    );
    assert_eq!(taken(&scene), [""; 0]);
    let preview = Program::command(scene.root(), "pool preview cad")
        .run()
        .stdout;
    let warning = "warning: 'gpu-memory-mib' is not known now: cannot ask NVML through \
                   /usr/sbin/virt-vgpu-nvml: ";
    assert!(preview.contains(warning), "{preview}");
}

#[test]
fn the_fields_of_gpus_are_shown() {
    let scene = scene();
    pool(&scene, "L40S-12Q", "address", "equal", L40S);
    let arguments = "devices --pool cad --fields";
    let shown = Program::command(scene.root(), arguments).run().stdout;
    let value = |field: &str| {
        let mut lines = shown.lines().map(str::trim);
        let line = lines.find(|line| line.starts_with(field));
        line.map(|line| line[field.len()..].trim().to_owned())
    };
    assert_eq!(value("gpu-name").as_deref(), Some("NVIDIA L40S"), "{shown}");
    assert_eq!(value("profile-id").as_deref(), Some("1153"));
    assert!(value("gpu-memory-mib").is_some_and(|mib| mib.parse::<u32>().is_ok()));
    assert!(value("gpu-uuid").is_some_and(|uuid| uuid.starts_with("GPU-")));
}
