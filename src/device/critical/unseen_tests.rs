//! Uses that the mount table and the links between devices do not show.

use super::{
    DeviceNode, HostNeeds,
    tests::{Altered, Entry},
};

fn file(text: &str) -> Entry {
    Entry::File(text.to_owned())
}

fn link(target: &str) -> Entry {
    Entry::Link(target.to_owned())
}

/// The machine with more entries.
fn with(name: &str, entries: &[(&str, Entry)]) -> Altered {
    let mut machine = Altered::unaltered(name);
    for (path, entry) in entries {
        machine.with(path, entry.clone());
    }
    machine
}

/// The machine with another mount in the table.
fn with_mount(name: &str, line: &str) -> Altered {
    const TABLE: &str = "/proc/1/mountinfo";
    let mut machine = Altered::unaltered(name);
    let text = machine.text(TABLE).unwrap();
    machine.with(TABLE, file(&format!("{text}\n{line}")));
    machine
}

/// A drive of the desktop that is free.
const DRIVE: &str = "0000:02:00.0";

#[test]
fn a_zfs_pool_with_a_blank_in_its_name_has_its_disks() {
    let label = "E:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=my_pool\nE:ID_FS_LABEL_ENC=my\\x20pool";
    let machine = with(
        "zfs-root",
        &[
            ("/proc/spl/kstat/zfs/my pool", Entry::Folder),
            ("/run/udev/data/b259:9", file(label)),
        ],
    );
    assert_eq!(
        machine.first("0000:04:00.0"),
        "the host needs it: 0000:04:00.0 → nvme2 → nvme2n1 → nvme2n1p1 → ZFS pool my pool"
    );
    assert_eq!(machine.first("0000:05:00.0"), "free");
}

#[test]
fn disks_of_a_zfs_pool_that_are_not_found_may_be_any() {
    let machine = with(
        "zfs-root",
        &[("/proc/spl/kstat/zfs/renamed", Entry::Folder)],
    );
    // A disk with another pool's label, and one of which udev's database knows nothing.
    for (function, disk) in [("0000:04:00.0", "nvme2n1p1"), ("0000:05:00.0", "nvme3n1")] {
        let wanted = format!(
            "it is not known whether the host needs it: {disk} may be a disk of ZFS pool renamed, \
             whose disks are not found"
        );
        assert_eq!(machine.first(function), wanted);
    }
}

#[test]
fn disks_that_the_host_exports_are_needed() {
    let backstore = "/sys/kernel/config/target/core/iblock_0/disk";
    let namespace = "/sys/kernel/config/nvmet/subsystems/test/namespaces/1";
    for (path, text) in [
        (format!("{backstore}/udev_path"), "/dev/nvme0n1"),
        (format!("{namespace}/device_path"), "/dev/nvme0n1"),
    ] {
        let machine = with("desktop", &[(&path, file(text))]);
        assert_eq!(
            machine.first(DRIVE),
            "the host needs it: 0000:02:00.0 → nvme0 → nvme0n1 → exported to other machines",
            "{path}"
        );
    }
}

#[test]
fn a_bcachefs_that_only_a_container_has_mounted_is_needed() {
    let machine = with(
        "desktop",
        &[(
            "/sys/fs/bcachefs/0a1b2c3d/dev-0/block",
            link("/sys/devices/x/block/nvme0n1"),
        )],
    );
    assert_eq!(
        machine.first(DRIVE),
        "the host needs it: 0000:02:00.0 → nvme0 → nvme0n1 → mounted bcachefs"
    );
}

#[test]
fn what_systemd_mounts_when_somebody_looks_is_needed() {
    let automount = "99 30 0:50 / /data rw shared:9 - autofs systemd-1 rw,fd=60,direct";
    let mut machine = with_mount("desktop", automount);
    // Without a line for it, nothing is mounted from a disk.
    assert_eq!(machine.first(DRIVE), "free");
    let list = "# a comment\nUUID=cafe /data ext4 noauto,x-systemd.automount 0 2\n";
    machine.with("/etc/fstab", file(list));
    machine.with("/dev/disk/by-uuid/cafe", link("../../nvme0n1"));
    assert_eq!(
        machine.first(DRIVE),
        "the host needs it: 0000:02:00.0 → nvme0 → nvme0n1 → /data"
    );
}

#[test]
fn a_users_own_file_system_names_no_disk_of_the_host() {
    let line = "99 30 0:50 / /home/u/m rw - fuse.x /dev/nvme0n1 rw,user_id=1000";
    assert_eq!(with_mount("desktop", line).first(DRIVE), "free");
}

#[test]
fn an_interface_that_receives_everything_is_in_use() {
    let free = "0000:19:00.0";
    for (flags, wanted) in [
        ("0x1003", "free"),
        (
            "0x1103",
            "the host needs it: 0000:19:00.0 → ens2f0 → receives everything (promiscuous)",
        ),
    ] {
        let machine = with("server", &[("/sys/class/net/ens2f0/flags", file(flags))]);
        assert_eq!(machine.first(free), wanted, "{flags}");
    }
}

#[test]
fn a_link_local_server_is_behind_the_interface_that_its_address_names() {
    let line = "99 30 0:50 / /srv rw - nfs4 [fe80::1%ens2f0]:/x rw,vers=4.2,addr=fe80::1%ens2f0";
    assert_eq!(
        with_mount("server", line).first("0000:19:00.0"),
        "the host needs it: 0000:19:00.0 → ens2f0 → nfs4 → /srv"
    );
}

#[test]
fn a_device_whose_name_has_line_breaks_hides_no_keyboard() {
    const DEVICES: &str = "/proc/bus/input/devices";
    let mut machine = Altered::unaltered("desktop");
    let text = machine.text(DEVICES).unwrap();
    let hostile = "I: Bus=0003 Vendor=0001 Product=0001 Version=0001\nN: Name=\"a\n\nb\"\nS: \
                   Sysfs=/devices/virtual/input/input99\nB: KEY=0\n\n";
    machine.with(DEVICES, file(&format!("{hostile}{text}")));
    assert_eq!(
        machine.first("0000:00:14.0"),
        Altered::unaltered("desktop").first("0000:00:14.0")
    );
    assert_eq!(machine.first("0000:03:00.0"), "free");
}

/// The paths of the nodes, and the numbers that sysfs gives.
fn nodes(machine: &Altered, function: &str) -> Vec<String> {
    let needs = HostNeeds::read(machine);
    let nodes = needs.nodes(machine, function.parse().unwrap());
    let shown = |node: &DeviceNode| {
        let number = node.number();
        let number = number.map(|(major, minor)| format!(" {major}:{minor}"));
        format!("{}{}", node.path(), number.unwrap_or_default())
    };
    nodes.iter().map(shown).collect()
}

#[test]
fn the_nodes_of_what_is_on_a_function() {
    let server = Altered::unaltered("server");
    assert_eq!(
        nodes(&server, "0000:00:11.5"),
        ["/dev/sda 8:0", "/dev/sda1 8:1", "/dev/sda2 8:2"]
    );
    assert_eq!(nodes(&server, "0000:00:1f.4"), [""; 0]);
    let usb = "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-7";
    let generic =
        "/sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/scsi_generic/sg0";
    let desktop = with(
        "desktop",
        &[
            ("/sys/bus/usb/devices/1-7", link(usb)),
            ("/sys/bus/usb/devices/1-7:1.0", link(usb)),
            (&format!("{usb}/busnum"), file("1")),
            (&format!("{usb}/devnum"), file("12")),
            (&format!("{usb}/dev"), file("189:11")),
            ("/sys/class/scsi_generic/sg0", link(generic)),
            (&format!("{generic}/dev"), file("21:0")),
        ],
    );
    assert_eq!(
        nodes(&desktop, "0000:00:14.0"),
        ["/dev/bus/usb/001/012 189:11"]
    );
    assert!(nodes(&desktop, "0000:00:17.0").contains(&"/dev/sg0 21:0".to_owned()));
    let drive = nodes(&desktop, DRIVE);
    assert!(drive.contains(&"/dev/nvme0".to_owned()), "{drive:?}");
    assert!(
        drive.iter().any(|node| node.starts_with("/dev/nvme0n1 ")),
        "{drive:?}"
    );
}
