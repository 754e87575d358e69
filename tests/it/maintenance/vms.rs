//! VMs that have devices of GPUs that go into maintenance: against a real libvirt and QEMU.

use std::sync::LazyLock;

use crate::support::{
    domain::Domain,
    libvirtd::Libvirtd,
    machine::{Machine, SMALL},
    scene::Scene,
};

static LIBVIRTD: LazyLock<Libvirtd> = LazyLock::new(Libvirtd::start);

/// libvirt would forget it.
#[test]
fn a_transient_domain_is_not_shut_down() {
    let scene = Scene::new(Machine::of_boards(1));
    scene.pool("cad", SMALL);
    let vm = Domain::with_one(81, "cad");
    scene.prepare(&vm).succeeds();
    LIBVIRTD.make(
        "create",
        &format!(
            "<domain type='qemu'><name>{}</name><uuid>{}</uuid><memory unit='MiB'>32</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
             <memballoon model='none'/></devices></domain>",
            vm.name, vm.uuid
        ),
    );
    let command = |arguments: &str| {
        let connect = format!("{arguments} --connect {}", LIBVIRTD.uri);
        let arguments: Vec<&str> = connect.split(' ').collect();
        LIBVIRTD.virt_vgpu(scene.root(), &arguments)
    };
    let (code, out, _) = command("maintenance enter --shutdown --timeout 0 --yes");
    assert_eq!(code, 1, "{out}");
    insta::assert_snapshot!(out, @"
    in maintenance: 0000:3b:00.0
    in use:
      DOMAIN  DEVICES
      vm81    2e045ec9-8d10-5e50-a8b5-37c7812f5be1
    domain 'vm81': it is transient: libvirt forgets its XML when it ends, so it was not shut down; move it with '--migrate URI', or save its XML ('virsh dumpxml vm81') and end it with 'virsh shutdown vm81'
    ");
    assert_eq!(LIBVIRTD.virsh(&["domstate", &vm.name]).trim(), "running");
    let (_, out, _) = command("maintenance status --json");
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["shut_down"], serde_json::json!([]));
}
