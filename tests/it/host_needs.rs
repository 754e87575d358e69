//! What each of the machines in `tests/fixtures/machines` stands on: every endpoint with
//! all reasons, or `free`.

use std::{cell::Cell, fmt::Write, io};

use virt_vgpu::{
    device::{Sysfs, critical::HostNeeds, group_needs::GroupNeeds, pci},
    host::{Host, PciIds},
    kind::{self, Detail, HostView},
    model::PciAddress,
};

use crate::support::machines::{self, MACHINES, machine};

/// All functions but bridges to other buses, with the class and the reasons.
fn needs(name: &str) -> String {
    let root = machine(name);
    let host = Host::new(root.path());
    let needs = HostNeeds::read(&host);
    let mut text = String::new();
    for (function, directory) in pci::functions(&host).unwrap() {
        let class = host.read(&format!("{directory}/class")).unwrap();
        if class.starts_with("0x0600") || class.starts_with("0x0604") {
            assert!(needs.of(&host, function).is_some(), "{function}");
            continue;
        }
        writeln!(text, "{function} {class}").unwrap();
        let all = needs.all(&host, function);
        assert_eq!(needs.of(&host, function).as_ref(), all.first());
        for need in &all {
            writeln!(text, "  {need}").unwrap();
        }
        if all.is_empty() {
            writeln!(text, "  free").unwrap();
        }
    }
    text
}

/// Whichever function of a group is asked about first, and whichever are bridges.
#[test]
fn groups_have_the_answers_of_their_functions() {
    for name in MACHINES {
        let root = machine(name);
        let host = Host::new(root.path());
        let functions = pci::functions(&host).unwrap().into_iter();
        let functions = functions.map(|(function, _)| function);
        let mut functions: Vec<PciAddress> = functions
            .filter(|one| !pci::is_bridge(&host, *one).unwrap())
            .collect();
        for _ in 0..2 {
            functions.reverse();
            let (needs, of_groups) = (HostNeeds::read(&host), GroupNeeds::read(&host));
            for &function in &functions {
                let all = needs.all(&host, function);
                assert_eq!(
                    of_groups.of(&host, function).as_ref(),
                    all.first(),
                    "{name}"
                );
                assert_eq!(of_groups.all(&host, function), all, "{name} {function}");
            }
        }
    }
}

/// Counts what is asked of a host.
struct Counting<'a> {
    host: &'a Host,
    asked: Cell<usize>,
}

impl Counting<'_> {
    fn ask(&self) -> &Host {
        self.asked.set(self.asked.get() + 1);
        self.host
    }
}

impl Sysfs for Counting<'_> {
    fn read(&self, path: &str) -> io::Result<String> {
        self.ask().read(path)
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        self.ask().read_link(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.ask().list(path)
    }

    fn exists(&self, path: &str) -> bool {
        self.ask().exists(path)
    }
}

/// A host without isolation has one group of all its functions, hundreds of them.
#[test]
fn a_large_group_is_looked_at_once() {
    let questions = |count: usize| {
        let mut text = machines::text("zfs-root");
        for number in 0..count {
            let (bus, slot, part) = (0x40 + number / 256, number / 8 % 32, number % 8);
            writeln!(
                text,
                "pci 0000:{bus:02x}:{slot:02x}.{part} 010802 144d:a80a group=99"
            )
            .unwrap();
        }
        let root = tempfile::tempdir().unwrap();
        machines::write(&machines::unfolded(&text), root.path());
        let host = Host::new(root.path());
        let sysfs = Counting {
            host: &host,
            asked: Cell::default(),
        };
        let names = PciIds::new(&host);
        let view = HostView::open(&sysfs, &names, Detail::default()).unwrap();
        let needs = GroupNeeds::read(&sysfs);
        let pci = kind::named("pci").unwrap();
        for (function, _) in pci::functions(&sysfs).unwrap() {
            let _ = needs.all(&sysfs, function);
            let _ = pci.withheld(&view, function);
        }
        sysfs.asked.get()
    };
    let (small, large) = (questions(50), questions(200));
    assert!(large < 5 * small, "{small} {large}");
}

#[test]
fn every_machine_is_in_the_list() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/machines");
    let files = std::fs::read_dir(fixtures).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    files.sort_unstable();
    let mut machines = MACHINES.to_vec();
    machines.sort_unstable();
    assert_eq!(files, machines);
}

#[test]
fn a_desktop_with_one_gpu() {
    insta::assert_snapshot!(needs("desktop"), @r#"
    0000:00:14.0 0x0c0330
      the host needs it: 0000:00:14.0 → usb1 → 1-5.3 → last keyboard (Logitech USB Keyboard)
      the host needs 0000:00:14.2, which is in the same IOMMU group (4): 0000:00:14.2 → controller of the chipset
    0000:00:14.2 0x050000
      the host needs it: 0000:00:14.2 → controller of the chipset
      the host needs 0000:00:14.0, which is in the same IOMMU group (4): 0000:00:14.0 → usb1 → 1-5.3 → last keyboard (Logitech USB Keyboard)
    0000:00:16.0 0x078000
      the host needs it: 0000:00:16.0 → management engine
    0000:00:17.0 0x010601
      the host needs it: 0000:00:17.0 → ata1 → sda → sda2 → /
      the host needs it: 0000:00:17.0 → ata1 → sda → sda1 → /boot/efi
      the host needs it: 0000:00:17.0 → ata1 → sda → sda3 → swap
    0000:00:1f.0 0x060100
      the host needs it: 0000:00:1f.0 → ISA bridge
      the host needs 0000:00:1f.4, which is in the same IOMMU group (9): 0000:00:1f.4 → SMBus controller
      the host needs 0000:00:1f.5, which is in the same IOMMU group (9): 0000:00:1f.5 → controller of the chipset
      the host needs 0000:00:1f.6, which is in the same IOMMU group (9): 0000:00:1f.6 → enp0s31f6 → address 192.0.2.23, default route
    0000:00:1f.3 0x040300
      the host needs 0000:00:1f.0, which is in the same IOMMU group (9): 0000:00:1f.0 → ISA bridge
      the host needs 0000:00:1f.4, which is in the same IOMMU group (9): 0000:00:1f.4 → SMBus controller
      the host needs 0000:00:1f.5, which is in the same IOMMU group (9): 0000:00:1f.5 → controller of the chipset
      the host needs 0000:00:1f.6, which is in the same IOMMU group (9): 0000:00:1f.6 → enp0s31f6 → address 192.0.2.23, default route
    0000:00:1f.4 0x0c0500
      the host needs it: 0000:00:1f.4 → SMBus controller
      the host needs 0000:00:1f.0, which is in the same IOMMU group (9): 0000:00:1f.0 → ISA bridge
      the host needs 0000:00:1f.5, which is in the same IOMMU group (9): 0000:00:1f.5 → controller of the chipset
      the host needs 0000:00:1f.6, which is in the same IOMMU group (9): 0000:00:1f.6 → enp0s31f6 → address 192.0.2.23, default route
    0000:00:1f.5 0x0c8000
      the host needs it: 0000:00:1f.5 → controller of the chipset
      the host needs 0000:00:1f.0, which is in the same IOMMU group (9): 0000:00:1f.0 → ISA bridge
      the host needs 0000:00:1f.4, which is in the same IOMMU group (9): 0000:00:1f.4 → SMBus controller
      the host needs 0000:00:1f.6, which is in the same IOMMU group (9): 0000:00:1f.6 → enp0s31f6 → address 192.0.2.23, default route
    0000:00:1f.6 0x020000
      the host needs it: 0000:00:1f.6 → enp0s31f6 → address 192.0.2.23, default route
      the host needs 0000:00:1f.0, which is in the same IOMMU group (9): 0000:00:1f.0 → ISA bridge
      the host needs 0000:00:1f.4, which is in the same IOMMU group (9): 0000:00:1f.4 → SMBus controller
      the host needs 0000:00:1f.5, which is in the same IOMMU group (9): 0000:00:1f.5 → controller of the chipset
    0000:01:00.0 0x030000
      the host needs it: 0000:01:00.0 → boot display
      the host needs it: 0000:01:00.0 → fb0 (console)
    0000:01:00.1 0x040300
      the host needs 0000:01:00.0, which is in the same IOMMU group (1): 0000:01:00.0 → boot display
      the host needs 0000:01:00.0, which is in the same IOMMU group (1): 0000:01:00.0 → fb0 (console)
    0000:01:00.2 0x0c0330
      the host needs 0000:01:00.0, which is in the same IOMMU group (1): 0000:01:00.0 → boot display
      the host needs 0000:01:00.0, which is in the same IOMMU group (1): 0000:01:00.0 → fb0 (console)
    0000:01:00.3 0x0c8000
      the host needs 0000:01:00.0, which is in the same IOMMU group (1): 0000:01:00.0 → boot display
      the host needs 0000:01:00.0, which is in the same IOMMU group (1): 0000:01:00.0 → fb0 (console)
    0000:02:00.0 0x010802
      free
    0000:03:00.0 0x0c0330
      free
    "#);
}

#[test]
fn a_server_with_bonded_ports_and_raid() {
    insta::assert_snapshot!(needs("server"), @r#"
    0000:00:04.0 0x088000
      free
    0000:00:05.2 0x088000
      the host needs it: 0000:00:05.2 → controller of the chipset
    0000:00:11.5 0x010601
      the host needs it: 0000:00:11.5 → ata1 → sda → sda2 → md1 → dm-0 (vg0-root) → /
      the host needs it: 0000:00:11.5 → ata1 → sda → sda1 → md0 → /boot
      the host needs it: 0000:00:11.5 → ata1 → sda → sda2 → md1 → dm-1 (vg0-swap) → swap
      the host needs it: 0000:00:11.5 → ata1 → sda → sda2 → md1 → dm-2 (vg0-vm1) → active
    0000:00:14.0 0x0c0330
      the host needs it: 0000:00:14.0 → usb1 → 1-14.1 → last keyboard (American Megatrends Inc. Virtual Keyboard and Mouse)
    0000:00:16.0 0x078000
      the host needs it: 0000:00:16.0 → management engine
    0000:00:17.0 0x010601
      the host needs it: 0000:00:17.0 → ata9 → sdb → sdb2 → md1 → dm-0 (vg0-root) → /
      the host needs it: 0000:00:17.0 → ata9 → sdb → sdb1 → md0 → /boot
      the host needs it: 0000:00:17.0 → ata9 → sdb → sdb2 → md1 → dm-1 (vg0-swap) → swap
      the host needs it: 0000:00:17.0 → ata9 → sdb → sdb2 → md1 → dm-2 (vg0-vm1) → active
    0000:00:1f.0 0x060100
      the host needs it: 0000:00:1f.0 → ISA bridge
      the host needs 0000:00:1f.2, which is in the same IOMMU group (9): 0000:00:1f.2 → controller of the chipset
      the host needs 0000:00:1f.4, which is in the same IOMMU group (9): 0000:00:1f.4 → SMBus controller
    0000:00:1f.2 0x058000
      the host needs it: 0000:00:1f.2 → controller of the chipset
      the host needs 0000:00:1f.0, which is in the same IOMMU group (9): 0000:00:1f.0 → ISA bridge
      the host needs 0000:00:1f.4, which is in the same IOMMU group (9): 0000:00:1f.4 → SMBus controller
    0000:00:1f.4 0x0c0500
      the host needs it: 0000:00:1f.4 → SMBus controller
      the host needs 0000:00:1f.0, which is in the same IOMMU group (9): 0000:00:1f.0 → ISA bridge
      the host needs 0000:00:1f.2, which is in the same IOMMU group (9): 0000:00:1f.2 → controller of the chipset
    0000:03:00.0 0x030000
      the host needs it: 0000:03:00.0 → boot display
      the host needs it: 0000:03:00.0 → fb0 (console)
      the host needs it: 0000:03:00.0 → management controller (BMC)
    0000:18:00.0 0x020000
      the host needs it: 0000:18:00.0 → eno1 → bond0 → br0 → address 192.0.2.10, address 2001:db8::10, default route
    0000:18:00.1 0x020000
      the host needs it: 0000:18:00.1 → eno2 → bond0 → br0 → address 192.0.2.10, address 2001:db8::10, default route
    0000:19:00.0 0x020000
      free
    0000:19:00.1 0x020000
      the host needs it: 0000:19:00.1 → ens2f1 → macvtap0 → macvtap
    0000:19:00.2 0x020000
      the host needs it: 0000:19:00.2 → ens2f2 → ens2f2.40 → VLAN
    0000:19:00.3 0x020000
      the host needs it: 0000:19:00.3 → network interface in another network namespace
    0000:3b:00.0 0x030200
      free
    0000:3c:00.0 0x010700
      the host needs it: 0000:3c:00.0 → host10 → sdc → dm-3 (mpatha) → active
      the host needs it: 0000:3c:00.0 → host10 → sdd → dm-3 (mpatha) → active
    0000:5e:00.0 0x020000
      the host needs it: 0000:5e:00.0 → virtual function → 0000:5e:00.2 → driver vfio-pci
    0000:5e:00.1 0x020000
      the host needs it: 0000:5e:00.1 → virtual function → 0000:5e:01.2 → ens4f1v0 → address 198.51.100.7
    0000:5e:00.2 0x020000
      free
    0000:5e:00.3 0x020000
      free
    0000:5e:01.2 0x020000
      the host needs it: 0000:5e:01.2 → ens4f1v0 → address 198.51.100.7
    0000:5e:01.3 0x020000
      free
    0000:80:05.2 0x088000
      the host needs it: 0000:80:05.2 → controller of the chipset
    0000:af:00.0 0x010802
      free
    0000:b0:00.0 0x030200
      free
    0000:b1:00.0 0x010802
      free
    "#);
}

#[test]
fn a_laptop_with_shared_groups() {
    insta::assert_snapshot!(needs("laptop"), @r#"
    0000:00:02.0 0x030000
      the host needs it: 0000:00:02.0 → boot display
      the host needs it: 0000:00:02.0 → fb0 (console)
    0000:00:0d.2 0x0c0340
      free
    0000:00:14.0 0x0c0330
      free
    0000:00:15.0 0x0c8000
      the host needs it: 0000:00:15.0 → controller of the chipset
    0000:00:1f.0 0x060100
      the host needs it: 0000:00:1f.0 → ISA bridge
      the host needs 0000:00:1f.4, which is in the same IOMMU group (8): 0000:00:1f.4 → SMBus controller
      the host needs 0000:00:1f.5, which is in the same IOMMU group (8): 0000:00:1f.5 → tpm0
      the host needs 0000:00:1f.5, which is in the same IOMMU group (8): 0000:00:1f.5 → controller of the chipset
    0000:00:1f.3 0x040100
      the host needs 0000:00:1f.0, which is in the same IOMMU group (8): 0000:00:1f.0 → ISA bridge
      the host needs 0000:00:1f.4, which is in the same IOMMU group (8): 0000:00:1f.4 → SMBus controller
      the host needs 0000:00:1f.5, which is in the same IOMMU group (8): 0000:00:1f.5 → tpm0
      the host needs 0000:00:1f.5, which is in the same IOMMU group (8): 0000:00:1f.5 → controller of the chipset
    0000:00:1f.4 0x0c0500
      the host needs it: 0000:00:1f.4 → SMBus controller
      the host needs 0000:00:1f.0, which is in the same IOMMU group (8): 0000:00:1f.0 → ISA bridge
      the host needs 0000:00:1f.5, which is in the same IOMMU group (8): 0000:00:1f.5 → tpm0
      the host needs 0000:00:1f.5, which is in the same IOMMU group (8): 0000:00:1f.5 → controller of the chipset
    0000:00:1f.5 0x0c8000
      the host needs it: 0000:00:1f.5 → tpm0
      the host needs it: 0000:00:1f.5 → controller of the chipset
      the host needs 0000:00:1f.0, which is in the same IOMMU group (8): 0000:00:1f.0 → ISA bridge
      the host needs 0000:00:1f.4, which is in the same IOMMU group (8): 0000:00:1f.4 → SMBus controller
    0000:01:00.0 0x030000
      free
    0000:01:00.1 0x040300
      free
    0000:02:00.0 0x010802
      the host needs it: 0000:02:00.0 → nvme0 → nvme0n1 → nvme0n1p2 → dm-0 (cryptroot) → /
      the host needs it: 0000:02:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → /boot/efi
    0000:03:00.0 0x028000
      the host needs it: 0000:03:00.0 → wlp3s0 → address 198.51.100.44, default route
    0000:04:00.0 0xff0000
      the host needs 0000:03:00.0, which is in the same IOMMU group (7): 0000:03:00.0 → wlp3s0 → address 198.51.100.44, default route
    "#);
}

#[test]
fn a_host_with_its_root_on_nvme() {
    insta::assert_snapshot!(needs("nvme-root"), @r#"
    0000:00:00.2 0x080600
      the host needs it: 0000:00:00.2 → system controller
    0000:00:0e.0 0x010400
      the host needs it: 0000:00:0e.0 → 10000:e1:00.0 → nvme2 → nvme2n1 → nvme2n1p1 → /srv
      the host needs 10000:e1:00.0, which is in the same IOMMU group (3): 10000:e1:00.0 → nvme2 → nvme2n1 → nvme2n1p1 → /srv
    0000:01:00.0 0x010802
      the host needs it: 0000:01:00.0 → nvme0 → nvme0n1 → nvme0n1p2 → /
      the host needs it: 0000:01:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → /boot/efi
      the host needs it: 0000:01:00.0 → nvme0 → nvme0n1 → nvme0n1p2 → swap file /swap.img
    0000:02:00.0 0x010802
      free
    0000:41:00.0 0x020000
      the host needs it: 0000:41:00.0 → ens1f0np0 → nfs4 → /iso
      the host needs it: 0000:41:00.0 → ens1f0np0 → nvme3 → nvme3n1 → /var/lib/libvirt/images
      the host needs it: 0000:41:00.0 → ens1f0np0 → session1 → sda → /backup
      the host needs it: 0000:41:00.0 → ens1f0np0 → address 198.51.100.7, default route
    0000:41:00.1 0x020000
      free
    0000:42:00.0 0x070002
      the host needs it: 0000:42:00.0 → ttyS4 (console)
    0000:43:00.2 0x108000
      the host needs it: 0000:43:00.2 → secure processor (TPM)
    0000:43:00.3 0x0c0330
      free
    0000:44:00.0 0x120000
      free
    10000:e1:00.0 0x010802
      the host needs it: 10000:e1:00.0 → nvme2 → nvme2n1 → nvme2n1p1 → /srv
      the host needs 0000:00:0e.0, which is in the same IOMMU group (3): 0000:00:0e.0 → 10000:e1:00.0 → nvme2 → nvme2n1 → nvme2n1p1 → /srv
    "#);
}

#[test]
fn a_host_with_its_root_on_zfs() {
    insta::assert_snapshot!(needs("zfs-root"), @r#"
    0000:01:00.0 0x010802
      the host needs it: 0000:01:00.0 → nvme0 → nvme0n1 → nvme0n1p3 → /
      the host needs it: 0000:01:00.0 → nvme0 → nvme0n1 → nvme0n1p3 → ZFS pool rpool
    0000:02:00.0 0x010802
      the host needs it: 0000:02:00.0 → nvme1 → nvme1n1 → nvme1n1p3 → /
      the host needs it: 0000:02:00.0 → nvme1 → nvme1n1 → nvme1n1p3 → ZFS pool rpool
    0000:03:00.0 0x010601
      the host needs it: 0000:03:00.0 → ata3 → sda → sda1 → /tank
      the host needs it: 0000:03:00.0 → ata3 → sda → sda1 → ZFS pool tank
    0000:04:00.0 0x010802
      free
    0000:05:00.0 0x010802
      free
    0000:06:00.0 0x010802
      it is not known whether the host needs it: /run/udev/data/b259:16: No such file or directory (os error 2), and a ZFS pool is imported
    0000:07:00.0 0x020000
      the host needs it: 0000:07:00.0 → enp7s0 → vmbr0 → address 192.0.2.50, default route
    0000:08:00.0 0x030000
      the host needs it: 0000:08:00.0 → boot display
      the host needs it: 0000:08:00.0 → fb0 (console)
    0000:08:00.1 0x040300
      free
    "#);
}

#[test]
fn a_board_without_acs() {
    insta::assert_snapshot!(needs("no-acs"), @r#"
    0000:00:14.0 0x0c0500
      the host needs it: 0000:00:14.0 → SMBus controller
      the host needs 0000:00:14.3, which is in the same IOMMU group (8): 0000:00:14.3 → ISA bridge
    0000:00:14.3 0x060100
      the host needs it: 0000:00:14.3 → ISA bridge
      the host needs 0000:00:14.0, which is in the same IOMMU group (8): 0000:00:14.0 → SMBus controller
    0000:01:00.0 0x0c0330
      the host needs 0000:03:00.0, which is in the same IOMMU group (1): 0000:03:00.0 → nvme0 → nvme0n1 → nvme0n1p2 → /
      the host needs 0000:03:00.0, which is in the same IOMMU group (1): 0000:03:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → /boot/efi
      the host needs 0000:04:00.0, which is in the same IOMMU group (1): 0000:04:00.0 → enp4s0 → address 203.0.113.9, default route
    0000:01:00.1 0x010601
      the host needs 0000:03:00.0, which is in the same IOMMU group (1): 0000:03:00.0 → nvme0 → nvme0n1 → nvme0n1p2 → /
      the host needs 0000:03:00.0, which is in the same IOMMU group (1): 0000:03:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → /boot/efi
      the host needs 0000:04:00.0, which is in the same IOMMU group (1): 0000:04:00.0 → enp4s0 → address 203.0.113.9, default route
    0000:03:00.0 0x010802
      the host needs it: 0000:03:00.0 → nvme0 → nvme0n1 → nvme0n1p2 → /
      the host needs it: 0000:03:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → /boot/efi
      the host needs 0000:04:00.0, which is in the same IOMMU group (1): 0000:04:00.0 → enp4s0 → address 203.0.113.9, default route
    0000:04:00.0 0x020000
      the host needs it: 0000:04:00.0 → enp4s0 → address 203.0.113.9, default route
      the host needs 0000:03:00.0, which is in the same IOMMU group (1): 0000:03:00.0 → nvme0 → nvme0n1 → nvme0n1p2 → /
      the host needs 0000:03:00.0, which is in the same IOMMU group (1): 0000:03:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → /boot/efi
    0000:05:00.0 0x030000
      the host needs 0000:03:00.0, which is in the same IOMMU group (1): 0000:03:00.0 → nvme0 → nvme0n1 → nvme0n1p2 → /
      the host needs 0000:03:00.0, which is in the same IOMMU group (1): 0000:03:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → /boot/efi
      the host needs 0000:04:00.0, which is in the same IOMMU group (1): 0000:04:00.0 → enp4s0 → address 203.0.113.9, default route
    0000:05:00.1 0x040300
      the host needs 0000:03:00.0, which is in the same IOMMU group (1): 0000:03:00.0 → nvme0 → nvme0n1 → nvme0n1p2 → /
      the host needs 0000:03:00.0, which is in the same IOMMU group (1): 0000:03:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → /boot/efi
      the host needs 0000:04:00.0, which is in the same IOMMU group (1): 0000:04:00.0 → enp4s0 → address 203.0.113.9, default route
    0000:06:00.0 0x030000
      the host needs it: 0000:06:00.0 → boot display
      the host needs it: 0000:06:00.0 → fb0 (console)
    0000:06:00.1 0x040300
      the host needs 0000:06:00.0, which is in the same IOMMU group (3): 0000:06:00.0 → boot display
      the host needs 0000:06:00.0, which is in the same IOMMU group (3): 0000:06:00.0 → fb0 (console)
    0000:07:00.0 0x130000
      free
    0000:07:00.2 0x108000
      the host needs it: 0000:07:00.2 → secure processor (TPM)
    0000:07:00.3 0x0c0330
      free
    "#);
}
