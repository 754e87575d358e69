//! A card whose functions come along, in definitions of a real libvirt: attached on one slot,
//! moved and detached together.

use virt_vgpu::{
    domain::{self, DomainDef, NAMESPACE},
    model::PciAddress,
};

use crate::support::{
    domain::Domain,
    libvirtd::Libvirtd,
    machine::{Machine, Plain},
    refused::on_host,
    scene::Scene,
};

/// Two cards, one of three functions and one of two, and a function alone.
fn scene() -> Scene {
    let scene = Scene::new(Machine::of_pci([
        Plain::nic("0000:04:00.0", 4),
        Plain::nic("0000:04:00.1", 4),
        Plain::nic("0000:04:00.2", 4),
        Plain::nic("0000:05:00.0", 5),
        Plain::nic("0000:05:00.1", 5),
        Plain::nic("0000:06:00.0", 6),
    ]));
    scene.pci_pool("cards");
    scene
}

/// Defines a stopped domain on that kind of machine.
fn define(libvirtd: &Libvirtd, number: u8, machine: &str, metadata: &str) -> String {
    let name = format!("card{number}");
    libvirtd.make(
        "define",
        &format!(
            "<domain type='qemu'><name>{name}</name>\
             <uuid>dddddddd-0000-4000-8000-0000000000{number:02}</uuid>{metadata}\
             <memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='{machine}'>hvm</type></os><devices/></domain>"
        ),
    );
    name
}

/// What the command prints, on both of its outputs.
fn said(libvirtd: &Libvirtd, scene: &Scene, arguments: &[&str]) -> String {
    let (_, out, err) = libvirtd.virt_vgpu(scene.root(), arguments);
    on_host(scene, &format!("{out}{err}"))
}

fn definition(libvirtd: &Libvirtd, domain: &str) -> DomainDef {
    domain::parse(&libvirtd.virsh(&["dumpxml", "--inactive", domain])).unwrap()
}

/// Each hostdev: its alias, its function, and its place in the guest behind that of the slot of
/// the first one.
fn hostdevs(libvirtd: &Libvirtd, domain: &str) -> Vec<String> {
    let def = definition(libvirtd, domain);
    let slot = def.hostdevs.first().and_then(|one| Some(one.guest?.at));
    let line = |one: &domain::Hostdev| {
        let place = one.guest.unwrap();
        let slot = if Some(place.at) == slot {
            "same slot"
        } else {
            "another slot"
        };
        let more = if place.multifunction { "+" } else { "" };
        let alias = one.alias.as_deref().unwrap_or_default();
        format!("{alias} {} {slot}.{}{more}", one.handle, place.function)
    };
    def.hostdevs.iter().map(line).collect()
}

const WHOLE: [&str; 3] = [
    "ua-vgpu-pci0 0000:04:00.0 same slot.0+",
    "ua-vgpu-pci0_1 0000:04:00.1 same slot.1",
    "ua-vgpu-pci0_2 0000:04:00.2 same slot.2",
];

#[test]
fn a_card_is_attached_and_detached_as_one() {
    // Another domain of the same libvirt would have its addresses.
    let (libvirtd, scene) = (&Libvirtd::start(), scene());
    for (number, machine) in [(1, "q35"), (2, "pc")] {
        let domain = define(libvirtd, number, machine, "");
        assert_eq!(
            said(libvirtd, &scene, &["attach", &domain, "--pool", "cards"]),
            format!(
                "attached pci0 (0000:04:00.0 with 0000:04:00.1, 0000:04:00.2) from pool cards to \
                 {domain}; takes effect at the next start\n"
            )
        );
        assert_eq!(hostdevs(libvirtd, &domain), WHOLE);
        // All is as it should be.
        said(libvirtd, &scene, &["sync", &domain]);
        assert_eq!(hostdevs(libvirtd, &domain), WHOLE);
        let detached = said(libvirtd, &scene, &["detach", &domain, "--all"]);
        assert!(
            detached.contains("0000:04:00.0, 0000:04:00.1, 0000:04:00.2"),
            "{detached}"
        );
        assert_eq!(hostdevs(libvirtd, &domain), Vec::<String>::new());
        libvirtd.virsh(&["undefine", &domain]);
    }
}

#[test]
fn a_card_moves_with_all_its_functions() {
    // Another domain of the same libvirt would have its addresses.
    let (libvirtd, scene) = (&Libvirtd::start(), scene());
    let domain = define(libvirtd, 3, "q35", "");
    said(libvirtd, &scene, &["attach", &domain, "--pool", "cards"]);
    let slot = definition(libvirtd, &domain).hostdevs[0].guest;
    // Another domain has it: the next card has one function less, the next one two.
    let other = |number: usize, function: &str| {
        let other = Domain::new(number).function("pci0", "cards", function);
        scene.prepare(&other).ends_well();
        scene.daemon_lives();
    };
    other(8, "0000:04:00.0");
    let dry = said(libvirtd, &scene, &["start", &domain, "--dry-run"]);
    assert!(
        dry.contains("0000:05:00.0 instead of 0000:04:00.0"),
        "{dry}"
    );
    let moved = said(libvirtd, &scene, &["sync", &domain]);
    assert!(
        moved.contains("pci0 gets 0000:05:00.0 instead of 0000:04:00.0"),
        "{moved}"
    );
    assert_eq!(
        hostdevs(libvirtd, &domain),
        [
            "ua-vgpu-pci0 0000:05:00.0 same slot.0+",
            "ua-vgpu-pci0_1 0000:05:00.1 same slot.1",
        ]
    );
    other(9, "0000:05:00.0");
    said(libvirtd, &scene, &["sync", &domain]);
    let alone = hostdevs(libvirtd, &domain);
    assert_eq!(alone.len(), 1, "{alone:?}");
    assert!(
        alone[0].starts_with("ua-vgpu-pci0 0000:06:00.0 same slot.0"),
        "{alone:?}"
    );
    // The guest finds it where it was.
    let now = definition(libvirtd, &domain).hostdevs[0].guest;
    assert_eq!(now.map(|place| place.at), slot.map(|place| place.at));
}

/// What a person or an older version has written is completed.
#[test]
fn a_definition_is_completed() {
    // Another domain of the same libvirt would have its addresses.
    let (libvirtd, scene) = (&Libvirtd::start(), scene());
    let asking = format!(
        "<metadata><v:devices xmlns:v='{NAMESPACE}'><v:device name='pci0' pool='cards'/>\
         </v:devices></metadata>"
    );
    let domain = define(libvirtd, 4, "q35", &asking);
    scene.pci_pool_with("cards", "[pci]\nmultifunction = false\n");
    said(libvirtd, &scene, &["sync", &domain]);
    let alone = hostdevs(libvirtd, &domain);
    assert_eq!(alone, ["ua-vgpu-pci0 0000:04:00.0 same slot.0"]);
    scene.pci_pool("cards");
    assert_eq!(
        said(libvirtd, &scene, &["sync", &domain]),
        format!(
            "{domain}: pci0 gets the functions 0000:04:00.0, 0000:04:00.1, 0000:04:00.2 on one slot\n"
        )
    );
    assert_eq!(hostdevs(libvirtd, &domain), WHOLE);
    let functions: Vec<PciAddress> = definition(libvirtd, &domain).functions().collect();
    assert_eq!(functions.len(), 3);
    scene.pci_pool_with("cards", "[pci]\nmultifunction = false\n");
    said(libvirtd, &scene, &["sync", &domain]);
    assert_eq!(hostdevs(libvirtd, &domain).len(), 1);
    libvirtd.virsh(&["undefine", &domain]);
}
