//! Whole hosts: the commands for each boot loader, the machines, and what cannot be read.

use std::fs;

use virt_vgpu::{
    host::Host,
    report::doctor::{Outside, RunningHost, Silence, examine},
};

use super::{Stored, Tree, findings, text, written};
use crate::support::machines::{MACHINES, machine};

/// What to do about an IOMMU that is off, on a host with that boot loader.
fn commands(loader: &str) -> Vec<String> {
    let host = Tree::base()
        .with("without /sys/kernel/iommu_groups")
        .with("without /etc/default/grub")
        .with("without /usr/sbin/update-grub")
        .with("file /proc/cmdline\n  root=/dev/sda2 quiet");
    let mut host = host;
    // What the boot loader has is not taken away again.
    host.without.retain(|path| !loader.contains(path.as_str()));
    let report = host.with(loader).examine();
    let found = findings(&report, "iommu-off");
    assert_eq!(found.len(), 1, "{report:?}");
    let mut lines = vec![found[0].advice.clone()];
    lines.extend(found[0].commands.clone());
    lines
}

#[test]
fn the_parameter_is_set_as_the_boot_loader_wants_it() {
    let grub = "file /etc/default/grub\n  GRUB_CMDLINE_LINUX=\"\"\n";
    let add = "add 'intel_iommu=on' to the kernel's command line";
    assert_eq!(
        commands(&format!("{grub}file /usr/sbin/update-grub\n  #!")),
        [
            &format!("{add} in GRUB's settings, then reboot the host"),
            "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on /' /etc/default/grub",
            "update-grub",
        ]
    );
    assert_eq!(
        commands(&format!("{grub}file /usr/sbin/grubby\n  #!"))[1..],
        ["grubby --update-kernel=ALL --args=\"intel_iommu=on\""]
    );
    assert_eq!(
        commands(&format!("{grub}folder /boot/grub2"))[2..],
        ["grub2-mkconfig -o /boot/grub2/grub.cfg"]
    );
    assert_eq!(
        commands("folder /boot/efi/loader/loader.conf\nfile /etc/kernel/cmdline\n  root=/dev/sda2"),
        [
            &format!("{add} for systemd-boot, then reboot the host"),
            "sed -i '1s/$/ intel_iommu=on/' /etc/kernel/cmdline",
            "kernel-install add \"$(uname -r)\" \"/boot/vmlinuz-$(uname -r)\"",
        ]
    );
    assert_eq!(
        commands("file /etc/kernelstub/configuration\n  {}"),
        [
            &format!("{add} with kernelstub, then reboot the host"),
            "kernelstub --add-options \"intel_iommu=on\"",
        ]
    );
    assert_eq!(
        commands("file /etc/kernel/proxmox-boot-uuids\n  A\nfile /etc/kernel/cmdline\n  root=x")
            [1..],
        [
            "sed -i '1s/$/ intel_iommu=on/' /etc/kernel/cmdline",
            "proxmox-boot-tool refresh",
        ]
    );
    assert_eq!(
        commands(""),
        [format!(
            "{add} as your boot loader wants it, then reboot the host"
        )]
    );
}

#[test]
fn what_turns_the_iommu_off_is_told_apart() {
    let found = |more: &str| {
        let host = Tree::base()
            .with("without /sys/kernel/iommu_groups")
            .with(more);
        let report = host.examine();
        let found = findings(&report, "iommu-off");
        found.iter().map(|one| one.what.clone()).collect::<Vec<_>>()
    };
    let amd = "file /proc/cpuinfo\n  vendor_id : AuthenticAMD\n  flags : fpu svm\n";
    assert_eq!(
        found("without /sys/firmware/acpi/tables/DMAR"),
        ["the IOMMU (VT-d) is off in the firmware"]
    );
    assert_eq!(found(amd), ["the IOMMU (AMD-Vi) is off in the firmware"]);
    assert_eq!(
        found(&amd.replace("svm", "svm hypervisor")),
        ["this host is a VM without an IOMMU"]
    );
    assert_eq!(
        found(&format!(
            "{amd}file /sys/firmware/acpi/tables/IVRS\n  table\nfile /proc/cmdline\n  amd_iommu=off"
        )),
        ["the IOMMU is turned off by 'amd_iommu=off' on the kernel's command line"]
    );
    assert_eq!(
        found(""),
        ["the IOMMU is off although the kernel's command line turns it on"]
    );
    assert_eq!(
        found("file /proc/cpuinfo\n  CPU implementer : 0x41"),
        ["the IOMMU is off"]
    );
}

/// The machines are no hosts of virt-vgpu, so only their hardware is judged.
#[test]
fn machines_after_real_ones() {
    let mut all = String::new();
    for name in MACHINES {
        let root = machine(name);
        let host = Host::new(root.path());
        let report = examine(
            &host,
            &RunningHost {
                host: &host,
                libvirt: &|| Err("not asked".to_owned()),
            },
        );
        let found: Vec<_> = report.findings.iter().collect();
        all += &format!("# {name}\n{}", written(&found));
    }
    insta::assert_snapshot!("machines", all);
}

/// Nobody is asked on a directory, and the report says so.
#[test]
fn a_directory_asks_nobody() {
    let root = Tree::base().directory();
    let host = Host::new(root.path());
    let running = RunningHost {
        host: &host,
        libvirt: &|| panic!("asked"),
    };
    let why = "this is a directory that stands in for a host".to_owned();
    assert_eq!(running.run("/bin/true", &[]), Err(why.clone()));
    assert_eq!(running.versions(), Err(Silence::NotAsked(why.clone())));
    let report = examine(&host, &running);
    assert_eq!(report.findings, []);
    let silent = report
        .not_made
        .iter()
        .find(|one| one.check == "libvirt-silent");
    assert_eq!(silent.unwrap().reason, why);
}

/// Files in whose place there is a directory: reading fails also for root.
#[test]
fn what_cannot_be_read_is_named() {
    const FILES: &[(&str, &str)] = &[
        ("/proc/cmdline", "vfio-ids-fixed"),
        ("/proc/meminfo", "hugepages-none-free"),
        ("/proc/stat", "hook-unseen"),
        ("/etc/modprobe.d/x.conf", "driver-softdep"),
        ("/etc/libvirt/hooks/qemu.d/60-x", ""),
        (
            "/sys/bus/pci/devices/0000:3b:00.0/sriov_totalvfs",
            "sriov-off",
        ),
        (
            "/sys/bus/pci/devices/0000:04:00.0/resource",
            "bars-unassigned",
        ),
        (
            "/sys/bus/pci/devices/0000:04:00.0/class",
            "iommu-group-shared",
        ),
        ("/run/virt-vgpu/daemon.json", "daemon-down"),
        ("/proc/sys/kernel/osrelease", "kernel-modules-gone"),
        ("/lib/modules/6.12.9/modules.dep", ""),
    ];
    for (path, check) in FILES {
        let root = Tree::base().with(&text("vgpu")).directory();
        let place = root.path().join(path.trim_start_matches('/'));
        let _ = fs::remove_file(&place);
        fs::create_dir_all(&place).unwrap();
        let host = Host::new(root.path());
        let report = examine(&host, &Stored { host: &host });
        if check.is_empty() {
            continue;
        }
        let found = findings(&report, check);
        assert_eq!(found.len(), 1, "{path}: {report:?}");
        let evidence = &found[0].evidence;
        assert!(evidence[0].contains(path), "{path}: {evidence:?}");
    }
}

/// libvirt's versions only matter to those who use them.
#[test]
fn a_host_without_pools_does_not_mind_an_old_libvirt() {
    let old = "file /outside/versions\n  libvirt 7000000\n  qemu 5002000";
    let report = Tree::base().with(old).examine();
    assert_eq!(report.findings, []);
}
