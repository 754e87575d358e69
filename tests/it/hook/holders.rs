//! Who has a device open if not every process can be examined, and processes that only
//! claim to run a domain.

use serde_json::Value;

use crate::support::{
    domain::Domain,
    machine::{Function, Gpu, Machine, SMALL},
    process::Program,
    scene::Scene,
};

const FIRST: &str = "0000:41:00.4";
/// Process numbers that differ from all of the test's own.
const HIDDEN: u32 = 77_077;

fn functions() -> (Scene, Domain) {
    let gpu = Gpu::l40s("0000:41:00.0").functions(4);
    let scene = Scene::new(Machine::of_gpus([gpu]));
    scene.vgpu_pool("cad", "L40S-12Q");
    (scene, Domain::new(1).function("gpu0", "cad", FIRST))
}

fn mdevs() -> (Scene, Domain) {
    let scene = Scene::new(Machine::with([Function::sriov_board("41", 4)]));
    scene.pool("cad", SMALL);
    (scene, Domain::with_one(1, "cad"))
}

/// The node of the domain's device's IOMMU group.
fn group(scene: &Scene, domain: &Domain) -> String {
    match scene.kernel.mdevs().get(&domain.mdevs()[0]) {
        Some(mdev) => format!("/dev/vfio/{}", mdev.iommu_group),
        None => scene.kernel.nodes(FIRST)[0].clone(),
    }
}

fn state(scene: &Scene) -> (String, String) {
    let outcome = Program::command(scene.root(), "status --json").run();
    let status: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let claim = &status["claims"][0];
    let text = |key: &str| claim[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

/// A process that cannot be examined may have the device open.
#[test]
fn what_a_hidden_process_may_have_is_kept() {
    for (scene, domain) in [functions(), mdevs()] {
        scene.prepare(&domain).ends_well();
        scene.hides(HIDDEN);
        let node = group(&scene, &domain);
        let outcome = scene.hook(&domain, "release end shutdown").run();
        assert_eq!(outcome.code, Some(0));
        assert_eq!(scene.claims().len(), 1, "{node}");
        assert_eq!(scene.ours().len() + scene.our_vgpus().len(), 1, "{node}");
        let (state, reason) = state(&scene);
        assert_eq!(state, "unknown");
        let (_, said) = reason
            .split_once("process 77077 cannot be looked at (")
            .unwrap();
        assert!(
            said.starts_with("/proc/77077/fd/3: Invalid argument"),
            "{reason}"
        );
        assert!(said.contains(&format!("may have {node}")), "{reason}");
        // This concerns only that device, and no other VM.
        let other = match scene.our_vgpus().is_empty() {
            true => Domain::with_one(2, "cad"),
            false => Domain::new(2).function("gpu0", "cad", "0000:41:00.5"),
        };
        scene.prepare(&other).ends_well();
        scene.ends(HIDDEN);
        scene.stop(&other);
        scene.stop(&domain);
        scene.is_empty();
    }
}

/// The kernel opens a group only once: if it can be opened, no process has it.
#[test]
fn a_node_that_says_that_nobody_has_it_is_believed() {
    for (scene, domain) in [functions(), mdevs()] {
        scene.prepare(&domain).ends_well();
        scene.hides(HIDDEN);
        scene.file(&group(&scene, &domain), "");
        scene.stop(&domain);
        scene.ends(HIDDEN);
        scene.is_empty();
    }
}

/// `reconcile` does not treat a claim as stale if its devices may be in use.
#[test]
fn what_a_hidden_process_may_have_is_not_stale() {
    let (scene, domain) = functions();
    scene.prepare(&domain).ends_well();
    scene.hides(HIDDEN);
    let report: Value = serde_json::from_str(&scene.reconcile().stdout).unwrap();
    assert_eq!(report["claims"][0]["result"], "in-doubt", "{report}");
    assert_eq!(scene.our_vgpus().len(), 1);
    scene.file(&group(&scene, &domain), "");
    let report: Value = serde_json::from_str(&scene.reconcile().stdout).unwrap();
    assert_eq!(report["claims"][0]["result"], "freed", "{report}");
    scene.ends(HIDDEN);
    scene.is_empty();
}

/// Any user can write a UUID into the arguments of a program.
#[test]
fn a_program_of_somebody_else_is_not_the_domains_qemu() {
    for (user, is_believed) in [
        ("1000\t0\t0\t0", false),
        ("64055\t64055\t64055\t64055", true),
    ] {
        let (scene, domain) = functions();
        scene.file(
            "etc/passwd",
            "root:x:0:0::/:/bin/sh\nlibvirt-qemu:x:64055:108::/:/bin/sh\n",
        );
        scene.prepare(&domain).ends_well();
        scene.runs(4711, &domain);
        scene.file("proc/4711/status", format!("Name:\tsleep\nUid:\t{user}\n"));
        let outcome = scene.prepare(&domain);
        if is_believed {
            assert!(outcome.refusal().contains("still has devices"));
        } else {
            outcome.ends_well();
        }
        scene.ends(4711);
        scene.stop(&domain);
        scene.is_empty();
    }
}

/// libvirt gives QEMU its own `/dev`, in its own mount namespace. Neither hides the
/// nodes that QEMU has open, through the group or through the device's own node.
#[test]
fn a_dev_of_its_own_hides_nothing() {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };
    use virt_vgpu::host::{self, Host, Processes};

    let script = "mount -t tmpfs tmpfs /dev && mkdir -p /dev/vfio/devices && \
                  exec 3>/dev/vfio/770771 4>/dev/vfio/devices/vfio770772 && \
                  rm /dev/vfio/770771 && echo ready && read _";
    let mut qemu = Command::new("unshare")
        .args(if host::is_root() {
            &["--mount"][..]
        } else {
            &["--map-root-user", "--mount"]
        })
        .args(["sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(qemu.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    assert_eq!(ready, "ready\n");
    let seen = Processes::scan(&Host::new("/")).unwrap();
    // The first node is gone from that `/dev`, as after libvirt has unplugged it.
    for node in ["/dev/vfio/770771", "/dev/vfio/devices/vfio770772"] {
        assert_eq!(seen.opener(&[node.to_owned()]), Some(qemu.id()), "{node}");
    }
    drop(qemu.stdin.take());
    qemu.wait().unwrap();
}
