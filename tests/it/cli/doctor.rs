//! `virt-vgpu doctor`: its output, its exit code, and its explanations.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{
    domain::Domain,
    machine::{Gpu, Machine},
    plain_tree::Tree,
    process::Program,
    scene::Scene,
};

/// A host with an IOMMU and the hook.
fn sound() -> Tree {
    Tree::new()
        .pci("0000:04:00.0", "8086", "1533", "020000", Some("igb"))
        .with_link(
            "/sys/kernel/iommu_groups/3/devices/0000:04:00.0",
            "../../../../devices/pci0000:00/0000:04:00.0",
        )
        .with("/etc/libvirt/hooks/qemu.d/50-virt-vgpu", "#!/bin/sh\n")
        .executable("/etc/libvirt/hooks/qemu.d/50-virt-vgpu")
}

/// The same with an error, a warning and a note.
fn ill() -> Tree {
    sound()
        .with(
            "/etc/virt-vgpu/pools.d/cad.toml",
            "kind = \"nvidia-vgpu\"\n",
        )
        .with(
            "/etc/modprobe.d/vfio.conf",
            "options vfio-pci ids=10de:26b9\n",
        )
        .with("/proc/meminfo", "HugePages_Total: 4\nHugePages_Free: 0\n")
}

#[test]
fn a_sound_host_gets_one_line() {
    let outcome = sound().run(&["doctor"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    let mut lines = outcome.out.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("all is well: "), "{first}");
    assert!(first.ends_with(" checks made, nothing found"), "{first}");
    // The journal and libvirt of a directory cannot be asked.
    let rest: Vec<&str> = lines.collect();
    assert_eq!(rest.len(), 1, "{rest:?}");
    let why = "not made, because this is a directory that stands in for a host: ";
    assert!(rest[0].starts_with(why), "{rest:?}");
}

#[test]
fn findings_for_people() {
    let outcome = ill().run(&["doctor"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (1, ""));
    insta::assert_snapshot!("doctor", outcome.out);
}

#[test]
fn findings_for_programs() {
    let outcome = ill().run(&["doctor", "--json"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (1, ""));
    insta::assert_snapshot!("doctor-json", outcome.out);
}

#[test]
fn warnings_are_no_failure() {
    let tree = sound().with("/etc/modprobe.d/x.conf", "options vfio-pci ids=10de:26b9\n");
    let report: Value = serde_json::from_str(&tree.shown(&["doctor", "--json"])).unwrap();
    assert_eq!(report["findings"][0]["check"], "vfio-ids-fixed");
    assert_eq!(report["findings"][0]["severity"], "warning");
}

#[test]
fn a_check_is_explained() {
    insta::assert_snapshot!(
        "doctor-explain",
        sound().shown(&["doctor", "--explain", "iommu-off"])
    );
    let json = sound().shown(&["doctor", "--explain", "iommu-off", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["severity"], "error");
    assert_eq!(
        sound().refused(&["doctor", "--explain", "iommu-of"]),
        "there is no check 'iommu-of'; did you mean 'iommu-off'? ('virt-vgpu doctor --list' lists \
         them)"
    );
}

#[test]
fn all_checks_are_listed() {
    insta::assert_snapshot!("doctor-list", sound().shown(&["doctor", "--list"]));
}

/// Somebody else's text stays on its line.
#[test]
fn what_others_have_written_does_not_act_on_the_terminal() {
    let tree = sound().with(
        "/etc/modprobe.d/x.conf",
        "options vfio-pci ids=\u{1b}[2J\u{202e}\n",
    );
    let text = tree.shown(&["doctor"]);
    assert!(text.contains(r"\u{1b}[2J\u{202e}"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

/// What the command finds on a host with a GPU.
fn found(scene: &Scene) -> Vec<String> {
    let outcome = Program::command(scene.root(), "doctor --json").run();
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let check = |finding: &Value| finding["check"].as_str().unwrap().to_owned();
    findings.iter().map(check).collect()
}

const GPU: &str = "0000:41:00.0";

/// A host with a GPU that makes vGPUs, and libvirt's hook.
fn with_gpu() -> Scene {
    let scene = Scene::new(Machine::of_gpus([Gpu::l40s(GPU).functions(12)]));
    let hook = "etc/libvirt/hooks/qemu.d/50-virt-vgpu";
    scene.file(hook, "#!/bin/sh\n");
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(scene.path(hook), mode).unwrap();
    scene
}

#[test]
fn mixed_sizes_that_are_lost_are_found_until_they_are_applied() {
    let scene = with_gpu();
    scene.vgpu_pool_with("cad", "L40S-4Q", "heterogeneous = true");
    assert_eq!(found(&scene), ["gpu-settings-differ"]);
    let apply = Program::command(scene.root(), &format!("host apply {GPU}"));
    assert!(apply.run().succeeded());
    assert_eq!(found(&scene), [""; 0]);
}

fn locks(directory: &Path) -> Vec<fs::File> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(locks(&path)),
            // A file that is about to be replaced may be gone.
            false => files.extend(fs::File::open(path)),
        }
    }
    files
}

/// All files of virt-vgpu are locked, as by starts under way.
#[test]
fn who_examines_waits_for_no_lock() {
    use fs2::FileExt;
    let scene = with_gpu();
    scene.vgpu_pool("cad", "L40S-4Q");
    let function = scene.kernel.functions(GPU)[0].clone();
    let domain = Domain::new(1).function("gpu0", "cad", &function);
    scene.prepare(&domain).ends_well();
    let locks = locks(&scene.path("run/virt-vgpu"));
    assert!(locks.len() > 1, "{locks:?}");
    for lock in &locks {
        lock.lock_exclusive().unwrap();
    }
    // On a busy machine NVML may not answer in time, which is a finding and no fault.
    let outcome = Program::command(scene.root(), "doctor --json").run();
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let made = report["made"].as_u64().unwrap();
    assert!(made >= 48, "{report}");
    for lock in &locks {
        FileExt::unlock(lock).unwrap();
    }
    scene.stop(&domain);
    scene.is_empty();
}
