use proptest::prelude::*;

use super::*;
use crate::domain::parse;

const UUID: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const PATH: &str = "/var/lib/virt-vgpu/media/aaaaaaaa-0000-4000-8000-000000000001.iso";

fn domain(arch: &str, machine: &str, devices: &str) -> DomainDef {
    let xml = format!(
        "<domain><name>d</name><uuid>{UUID}</uuid>\
         <os><type arch='{arch}' machine='{machine}'>hvm</type></os>\
         <devices>{devices}</devices></domain>"
    );
    parse(&xml).unwrap()
}

fn disks(targets: &[(&str, &str)]) -> String {
    targets
        .iter()
        .map(|(bus, target)| format!("<disk><target dev='{target}' bus='{bus}'/></disk>"))
        .collect()
}

#[test]
fn the_disk_is_as_libvirt_wants_it() {
    let q35 = domain("x86_64", "pc-q35-10.0", &disks(&[("sata", "sda")]));
    assert_eq!(media_path(q35.uuid), PATH);
    let cdrom = cdrom(&q35, PATH).unwrap();
    assert_eq!((cdrom.target.as_str(), cdrom.bus), ("sdb", "sata"));
    assert_eq!(
        cdrom.xml,
        "<disk type='file' device='cdrom'>
  <driver name='qemu' type='raw'/>
  <source file='/var/lib/virt-vgpu/media/aaaaaaaa-0000-4000-8000-000000000001.iso' startupPolicy='optional'>
    <seclabel model='dac' relabel='no'/>
  </source>
  <target dev='sdb' bus='sata'/>
  <readonly/>
  <alias name='ua-vgpu-guest-drivers'/>
  <address type='drive' controller='0' bus='0' target='0' unit='1'/>
</disk>"
    );
}

#[test]
fn each_machine_gets_what_it_can_have() {
    let ide_full = [
        ("ide", "hda"),
        ("ide", "hdb"),
        ("ide", "hdc"),
        ("ide", "hdd"),
    ];
    let usb_cdrom = "<disk device='cdrom'><target dev='sda' bus='usb'/></disk>";
    let scsi = "<controller type='scsi' index='0' model='virtio-scsi'/>";
    for (arch, machine, devices, bus, target, address) in [
        ("x86_64", "q35", String::new(), "sata", "sda", "0 0 0"),
        (
            "x86_64",
            "pc-q35-rhel9.6.0",
            String::new(),
            "sata",
            "sda",
            "0 0 0",
        ),
        (
            "x86_64",
            "pc-i440fx-10.0",
            String::new(),
            "ide",
            "hda",
            "0 0 0",
        ),
        (
            "i686",
            "pc",
            disks(&[("ide", "hda"), ("virtio", "vda")]),
            "ide",
            "hdb",
            "0 0 1",
        ),
        ("x86_64", "pc", disks(&ide_full[..2]), "ide", "hdc", "0 1 0"),
        ("x86_64", "pc-1.3", disks(&ide_full), "sata", "sda", "0 0 0"),
        (
            "aarch64",
            "virt-10.0",
            String::new(),
            "scsi",
            "sda",
            "0 0 0",
        ),
        ("aarch64", "virt", usb_cdrom.to_owned(), "usb", "sdb", ""),
        (
            "aarch64",
            "virt",
            format!("{usb_cdrom}{scsi}"),
            "scsi",
            "sdb",
            "0 0 0",
        ),
        ("riscv64", "virt", String::new(), "scsi", "sda", "0 0 0"),
        (
            "s390x",
            "s390-ccw-virtio-10.0",
            String::new(),
            "scsi",
            "sda",
            "0 0 0",
        ),
        (
            "ppc64",
            "pseries-10.0",
            String::new(),
            "scsi",
            "sda",
            "0 0 0",
        ),
        // A name that is used on another bus is in use; a place there is not.
        (
            "x86_64",
            "q35",
            disks(&[("scsi", "sda"), ("usb", "sdb")]),
            "sata",
            "sdc",
            "0 0 0",
        ),
        (
            "x86_64",
            "q35",
            disks(&[("sata", "sdb")]),
            "sata",
            "sda",
            "0 0 0",
        ),
        // The seventh SATA drive is on a second controller.
        (
            "x86_64",
            "q35",
            disks(&["sda", "sdb", "sdc", "sdd", "sde", "sdf"].map(|target| ("sata", target))),
            "sata",
            "sdg",
            "1 0 0",
        ),
        // The address counts, not the name.
        (
            "x86_64",
            "q35",
            "<disk><target dev='sdz' bus='sata'/><address type='drive' unit='0'/></disk>"
                .to_owned(),
            "sata",
            "sda",
            "0 0 1",
        ),
        // A host's SCSI device has a place too.
        (
            "aarch64",
            "virt",
            "<hostdev mode='subsystem' type='scsi'><source/><address type='drive' unit='0'/></hostdev>".to_owned(),
            "scsi",
            "sda",
            "0 0 1",
        ),
        // Unit 7 of a SCSI bus is the controller.
        (
            "s390x",
            "s390-ccw-virtio",
            disks(
                &["sda", "sdb", "sdc", "sdd", "sde", "sdf", "sdg"].map(|target| ("scsi", target)),
            ),
            "scsi",
            "sdh",
            "0 0 8",
        ),
    ] {
        let found = cdrom(&domain(arch, machine, &devices), PATH).unwrap();
        let place = (found.bus, found.target.as_str());
        assert_eq!(place, (bus, target), "{arch} {machine} {devices}");
        let wanted = address.split(' ').collect::<Vec<_>>();
        if let [controller, bus, unit] = wanted.as_slice() {
            let wanted =
                format!("controller='{controller}' bus='{bus}' target='0' unit='{unit}'/>");
            assert!(found.xml.contains(&wanted), "{devices}: {}", found.xml);
        } else {
            assert!(!found.xml.contains("<address"), "{}", found.xml);
        }
    }
}

#[test]
fn ours_is_found_again_and_only_ours() {
    let q35 = |devices: &str| domain("x86_64", "q35", devices);
    let other = "<disk type='file' device='cdrom'><source file='/x.iso'/>\
                 <target dev='sda' bus='sata'/></disk>";
    assert_eq!(find_cdrom(&q35(other)), None);
    assert_eq!(detach_cdrom(&q35(other)), None);
    let attached = cdrom(&q35(other), PATH).unwrap();
    let with_ours = q35(&format!("{other}{}", attached.xml));
    assert_eq!(find_cdrom(&with_ours).unwrap().target, "sdb");
    assert_eq!(
        cdrom(&with_ours, PATH).unwrap_err().to_string(),
        "the domain already has the CD-ROM with guest drivers, at target 'sdb'"
    );
    assert_eq!(
        detach_cdrom(&with_ours).unwrap(),
        attached
            .xml
            .replace("  <alias name='ua-vgpu-guest-drivers'/>\n", "")
    );
    // One CD-ROM was ejected by the guest and has no source. One has lost its alias and
    // is found by its source.
    for ours in [
        "<disk device='cdrom'><target dev='sdc' bus='sata'/><alias name='ua-vgpu-guest-drivers'/></disk>".to_owned(),
        format!("<disk device='cdrom'><source file='{PATH}'/><target dev='sdc' bus='sata'/></disk>"),
    ] {
        let domain = q35(&format!("{other}{ours}"));
        assert_eq!(find_cdrom(&domain).unwrap().target, "sdc");
        let xml = detach_cdrom(&domain).unwrap();
        assert!(xml.contains(PATH) && xml.contains("dev='sdc'"), "{xml}");
    }
    let disk = format!("<disk><source file='{PATH}'/><target dev='sdc' bus='sata'/></disk>");
    assert_eq!(find_cdrom(&q35(&disk)), None);
}

#[test]
fn paths_are_escaped() {
    let q35 = domain("x86_64", "q35", "");
    let path = "/a'b\"&<c>.iso";
    let xml = cdrom(&q35, path).unwrap().xml;
    assert_eq!(
        domain("x86_64", "q35", &xml).disks[0].source.as_deref(),
        Some(path)
    );
}

#[test]
fn target_names_count_as_libvirt_counts() {
    for (index, name) in [
        (0, "a"),
        (25, "z"),
        (26, "aa"),
        (51, "az"),
        (52, "ba"),
        (701, "zz"),
    ] {
        assert_eq!(letters(index), name);
        assert_eq!(
            implied(Bus::Sata, &format!("sd{name}")),
            Bus::Sata.position(index)
        );
    }
    for bad in ["sd", "vda", "sdA", "sd1", "sdzzzzzzzzzz", ""] {
        assert_eq!(implied(Bus::Sata, bad), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn a_new_cdrom_collides_with_nothing(
        disks_there in prop::collection::vec(
            (prop::sample::select(vec!["ide", "sata", "scsi", "usb", "virtio"]), "(hd|sd|vd)[a-h]", any::<bool>(), 0u32..7),
            0..24,
        ),
        machine in prop::sample::select(vec![("x86_64", "q35"), ("x86_64", "pc"), ("aarch64", "virt")]),
    ) {
        let devices: String = disks_there
            .iter()
            .map(|(bus, target, address, unit)| {
                let address = if *address {
                    format!("<address type='drive' controller='0' bus='0' target='0' unit='{unit}'/>")
                } else {
                    String::new()
                };
                format!("<disk><target dev='{target}' bus='{bus}'/>{address}</disk>")
            })
            .collect();
        let before = domain(machine.0, machine.1, &devices);
        let found = cdrom(&before, PATH).unwrap();
        prop_assert!(before.disks.iter().all(|disk| disk.target != found.target));
        let after = domain(machine.0, machine.1, &format!("{devices}{}", found.xml));
        let ours = find_cdrom(&after).unwrap();
        prop_assert_eq!(&ours.target, &found.target);
        let collides = |disk: &Disk| {
            disk.bus == ours.bus && disk.position.is_some() && disk.position == ours.position
        };
        prop_assert!(!before.disks.iter().any(collides));
    }
}
