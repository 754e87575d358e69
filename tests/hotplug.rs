//! `attach --live`, `detach --live`, optional devices of `start`, `create`: against a real
//! libvirt and the model of the kernel. That libvirtd knows nothing of the model's
//! devices, so plugging one in always fails there: what is looked at is that it is
//! asked for the right thing and that everything is as before afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

mod libvirtd;
mod support;

use std::process::Command;

use libvirtd::libvirtd;
use support::{
    machine::{LARGE, Machine, SMALL},
    scene::Scene,
};
use virt_vgpu::{claims, domain::NAMESPACE, model::MdevUuid};

fn scene() -> Scene {
    let scene = Scene::new(Machine::of_boards(1));
    scene.pool("cad", SMALL);
    scene.pool_with("spare", SMALL, "[defaults]\noptional = true");
    scene.pool_with("none", LARGE, "instances = 1");
    scene
}

fn uuid(number: u8) -> String {
    format!("cccccccc-0000-4000-8000-0000000000{number:02}")
}

fn device(number: u8, name: &str) -> String {
    let name = name.parse().unwrap();
    MdevUuid::for_device(uuid(number).parse().unwrap(), &name).to_string()
}

fn xml(number: u8, machine: &str, metadata: &str, devices: &str) -> String {
    format!(
        "<domain type='qemu'><name>hot{number}</name><uuid>{}</uuid><metadata>{metadata}</metadata>\
         <memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='{machine}'>hvm</type></os>\
         <devices>{devices}<memballoon model='none'/></devices></domain>",
        uuid(number)
    )
}

fn requests(requests: &str) -> String {
    format!("<vgpu:devices xmlns:vgpu='{NAMESPACE}'>{requests}</vgpu:devices>")
}

/// Exit code, standard output and standard error.
fn run(scene: &Scene, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_virt-vgpu"))
        .args(arguments)
        .env("VIRT_VGPU_ROOT", scene.root())
        .env("VIRSH_DEFAULT_CONNECT_URI", &libvirtd().uri)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

/// The line of a command that fails, and leaves definition, run, claims and devices as
/// they were.
#[track_caller]
fn refused(scene: &Scene, number: u8, arguments: &[&str]) -> String {
    let domain = format!("hot{number}");
    let look = || {
        let libvirtd = libvirtd();
        let both = [
            libvirtd.definition(&domain),
            libvirtd.virsh(&["dumpxml", &domain]),
        ];
        (both, scene.claims(), scene.ours())
    };
    let before = look();
    let (code, out, error) = run(scene, arguments);
    assert_eq!((code, &*out), (1, ""), "{arguments:?}: {error}");
    assert_eq!(look(), before);
    let line = error.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{line}");
    line.strip_prefix("virt-vgpu: ").unwrap().to_owned()
}

#[test]
fn what_libvirt_does_not_take_leaves_nothing_behind() {
    let scene = scene();
    libvirtd().make("define", &xml(1, "pc", "", ""));
    libvirtd().virsh(&["start", "hot1"]);
    // Twice: the first time has left nothing that would be in the way.
    for _ in 0..2 {
        assert_eq!(
            refused(&scene, 1, &["attach", "hot1", "--pool", "cad", "--live"]),
            format!("cannot attach to domain 'hot1': {}", not_plugged("gpu0"))
        );
    }
    scene.is_empty();
    libvirtd().virsh(&["destroy", "hot1"]);
}

/// What libvirt says where the kernel has no VFIO.
fn not_plugged(device: &str) -> String {
    format!(
        "cannot plug in hostdev '{device}': unsupported configuration: Mediated host device \
         assignment requires VFIO support; the device was taken back"
    )
}
