//! `virt-vgpu sync` killed after each of its effects while it exchanges a clone's
//! devices. The next run completes the definition as an undisturbed run would, and
//! keeps all settings of the devices.

use virt_vgpu::model::MdevUuid;

use super::{LIBVIRTD, stage::Stage};
use crate::support::{domain::Domain, process::Program, scene::Scene};

/// Defines a clone: it has its original's placeholder and medium, with guest addresses
/// and a model that a person has set.
fn clone(number: usize) -> Domain {
    let (clone, original) = (Domain::new(number), Domain::new(number + 1));
    let (name, uuid) = (&clone.name, clone.uuid);
    let (mdev, other) = (gpu0(&original), original.uuid);
    LIBVIRTD.make(
        "define",
        &format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><metadata>\
             <v:devices xmlns:v='urn:virt-vgpu:devices:1'>\
             <v:device name='gpu0' pool='cad' guest-drivers='yes'/></v:devices></metadata>\
             <memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>\
             <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='off'>\
             <source><address uuid='{mdev}'/></source><alias name='ua-vgpu-gpu0'/>\
             <address type='pci' domain='0x0000' bus='0x00' slot='0x1b' function='0x0'/></hostdev>\
             <disk type='file' device='cdrom'><source file='/var/lib/virt-vgpu/media/{other}.iso' \
             startupPolicy='optional'/><target dev='sdc' bus='usb'/><readonly/>\
             <alias name='ua-vgpu-guest-drivers'/></disk>\
             <controller type='usb' model='qemu-xhci'/><memballoon model='none'/>\
             </devices></domain>"
        ),
    );
    clone
}

fn gpu0(domain: &Domain) -> String {
    MdevUuid::for_device(domain.uuid, &"gpu0".parse().unwrap()).to_string()
}

fn sync(scene: &Scene, domain: &Domain) -> Program {
    let uri = &LIBVIRTD.uri;
    Program::command(
        scene.root(),
        &format!("sync {} --connect {uri}", domain.name),
    )
}

fn definition(domain: &Domain) -> Vec<String> {
    let xml = LIBVIRTD.definition(&domain.name);
    let mut lines: Vec<String> = xml.lines().map(|line| line.trim().to_owned()).collect();
    // Devices of one kind are in the order in which they were added.
    lines.sort();
    lines
}

#[test]
fn an_exchange_that_is_cut_short_loses_nothing() {
    let scene = Stage::Mdev.scene();
    let domain = clone(11);
    let trace = scene.path("trace");
    let undisturbed = sync(&scene, &domain).trace(&trace).run();
    assert_eq!(undisturbed.code, Some(0), "{undisturbed:?}");
    let wanted = definition(&domain);
    let has = |what: &str| wanted.iter().any(|line| line.contains(what));
    assert!(has("slot='0x1b'") && has(&gpu0(&domain)));
    assert!(has(&format!("media/{}.iso", domain.uuid)), "{wanted:?}");
    let effects = std::fs::read_to_string(&trace).unwrap();
    let edits = effects.lines().filter(|line| line.contains(" edit "));
    assert_eq!(edits.count(), 4, "{effects}");

    for effect in effects.lines() {
        let scene = Stage::Mdev.scene();
        let domain = clone(11);
        let number = effect.split(' ').next().unwrap();
        let killed = sync(&scene, &domain).fault(&format!("kill:{number}")).run();
        assert_eq!(killed.signal, Some(9), "{killed:?}");
        let next = sync(&scene, &domain).run();
        next.succeeds();
        assert_eq!(definition(&domain), wanted, "killed after {effect}");
        let again = sync(&scene, &domain).run();
        assert_eq!(again.stdout, "nothing to do\n", "killed after {effect}");
        let left = std::fs::read_dir(scene.path("run/virt-vgpu/edits")).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left: Vec<_> = left.filter(|name| name.ends_with(".json")).collect();
        assert_eq!(left, Vec::<String>::new(), "killed after {effect}");
    }
}
