//! What cannot be read makes functions needed, and no text is a reason to panic.

use std::{cell::RefCell, collections::BTreeMap, io};

use proptest::prelude::*;

use super::*;
use crate::{
    device::{InterfaceAddress, pci},
    host::Host,
};

#[path = "../../../tests/it/support/machines.rs"]
mod machines;

pub(super) use machines::Entry;
use machines::{MACHINES, unfolded};

/// A machine in memory, on which one path has another answer.
pub(super) struct Altered {
    entries: BTreeMap<String, Entry>,
    path: String,
    answer: Answer,
    reads: RefCell<Vec<String>>,
}

/// The other answer.
#[derive(Debug, Clone)]
enum Answer {
    Error(io::ErrorKind),
    Text(String),
}

impl Altered {
    fn new(name: &str, path: &str, answer: Answer) -> Self {
        let mut entries = unfolded(&machines::text(name));
        let paths: Vec<String> = entries.keys().cloned().collect();
        for path in paths {
            for (end, _) in path.match_indices('/') {
                let above = path[..end].to_owned();
                entries.entry(above).or_insert(Entry::Folder);
            }
        }
        Self {
            entries,
            path: path.to_owned(),
            answer,
            reads: RefCell::default(),
        }
    }

    fn denied(name: &str, path: &str) -> Self {
        Self::new(name, path, Answer::Error(io::ErrorKind::PermissionDenied))
    }

    pub(super) fn unaltered(name: &str) -> Self {
        Self::denied(name, "/nowhere")
    }

    pub(super) fn with(&mut self, path: &str, entry: Entry) {
        for (end, _) in path.match_indices('/') {
            let above = self.real(&path[..end]).unwrap_or(path[..end].to_owned());
            self.entries.entry(above).or_insert(Entry::Folder);
        }
        let (above, name) = path.rsplit_once('/').unwrap();
        let path = format!("{}/{name}", self.real(above).unwrap());
        self.entries.insert(path, entry);
    }

    /// The path with all links followed.
    fn real(&self, path: &str) -> io::Result<String> {
        let mut at = String::new();
        let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_str() {
                "" | "." => {}
                ".." => at.truncate(at.rfind('/').unwrap_or(0)),
                name => {
                    let next = format!("{at}/{name}");
                    match self.entries.get(&next) {
                        None => return Err(io::ErrorKind::NotFound.into()),
                        Some(Entry::Link(_)) if links > 40 => {
                            return Err(io::ErrorKind::InvalidInput.into());
                        }
                        Some(Entry::Link(target)) => {
                            links += 1;
                            rest.extend(target.split('/').rev().map(str::to_owned));
                        }
                        Some(_) => at = next,
                    }
                }
            }
        }
        Ok(at)
    }

    pub(super) fn text(&self, path: &str) -> io::Result<String> {
        match self.entries.get(&self.real(path)?) {
            Some(Entry::File(text)) => Ok(text.trim_end().to_owned()),
            _ => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn other<T>(
        &self,
        path: &str,
        text: impl Fn(&str) -> io::Result<T>,
        real: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.reads.borrow_mut().push(path.to_owned());
        match &self.answer {
            _ if !path.ends_with(&self.path) => real(),
            Answer::Error(kind) => Err((*kind).into()),
            Answer::Text(other) => text(other),
        }
    }

    pub(super) fn first(&self, function: &str) -> String {
        let function = function.parse().unwrap();
        let need = HostNeeds::read(self).of(self, function);
        need.map_or_else(|| "free".to_owned(), |need| need.to_string())
    }

    pub(super) fn all(&self, functions: &[&str]) -> Vec<String> {
        let functions: Vec<PciAddress> = functions.iter().map(|one| one.parse().unwrap()).collect();
        let needs = HostNeeds::read(self).together(self, &functions);
        needs.iter().map(Need::to_string).collect()
    }
}

impl Sysfs for Altered {
    fn read(&self, path: &str) -> io::Result<String> {
        self.other(path, |text| Ok(text.to_owned()), || self.text(path))
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        let real = || {
            let (above, name) = path.rsplit_once('/').unwrap();
            match self.entries.get(&format!("{}/{name}", self.real(above)?)) {
                Some(Entry::Link(target)) => Ok(target.clone()),
                Some(_) => Err(io::ErrorKind::InvalidInput.into()),
                None => Err(io::ErrorKind::NotFound.into()),
            }
        };
        self.other(path, |text| Ok(text.to_owned()), real)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let real = || {
            let start = format!("{}/", self.real(path)?);
            match self.entries.get(start.trim_end_matches('/')) {
                Some(Entry::Folder) => {}
                _ => return Err(io::ErrorKind::NotADirectory.into()),
            }
            let inside = self.entries.range(start.clone()..);
            let inside = inside.map_while(|(path, _)| path.strip_prefix(&start));
            let direct = inside.filter(|name| !name.contains('/'));
            Ok(direct.map(str::to_owned).collect())
        };
        let names = |text: &str| Ok(text.split_whitespace().map(str::to_owned).collect());
        self.other(path, names, real)
    }

    fn exists(&self, path: &str) -> bool {
        path.rsplit_once('/').is_some_and(|(above, name)| {
            let above = self.real(above);
            above.is_ok_and(|above| self.entries.contains_key(&format!("{above}/{name}")))
        })
    }
}

/// Each file that cannot be read, a function that is free otherwise, and the reason.
#[test]
fn what_cannot_be_read_is_critical() {
    let cases = [
        ("desktop", "/proc/swaps", "0000:02:00.0"),
        ("desktop", "/sys/class/block", "0000:02:00.0"),
        ("desktop", "/sys/class/block/nvme0n1", "0000:02:00.0"),
        ("desktop", "/sys/dev/block/8:2", "0000:02:00.0"),
        ("desktop", "/sda/sda2/holders", "0000:02:00.0"),
        ("desktop", "/sys/fs/ext4", "0000:02:00.0"),
        ("desktop", "/proc/bus/input/devices", "0000:03:00.0"),
        ("desktop", "/proc/consoles", "0000:03:00.0"),
        (
            "server",
            "/sys/devices/virtual/block/md1/slaves",
            "0000:af:00.0",
        ),
        (
            "server",
            "/sys/devices/virtual/block/dm-0/slaves",
            "0000:af:00.0",
        ),
        ("server", "/proc/net/route", "0000:19:00.0"),
        ("server", "/proc/net/ipv6_route", "0000:19:00.0"),
        ("server", "/proc/net/if_inet", "0000:19:00.0"),
        ("server", "/proc/net/if_inet6", "0000:19:00.0"),
        ("server", "/sys/class/net", "0000:19:00.0"),
        ("server", "/sys/class/net/ens2f0", "0000:19:00.0"),
        ("server", "/proc/net/pppoe", "0000:19:00.0"),
        ("server", "0000:3b:00.0/class", "0000:3b:00.0"),
        ("server", "0000:3b:00.0/iommu_group", "0000:3b:00.0"),
        ("server", "0000:3b:00.0/iommu_group/devices", "0000:3b:00.0"),
        ("server", "0000:3b:00.0/boot_vga", "0000:3b:00.0"),
        ("server", "0000:3b:00.0/sriov_numvfs", "0000:3b:00.0"),
        ("server", "/sys/class/vtconsole", "0000:b0:00.0"),
        ("server", "/sys/class/graphics/fb0", "0000:b0:00.0"),
        ("laptop", "/sys/fs/btrfs", "0000:00:14.0"),
        ("laptop", "/sys/class/bluetooth", "0000:00:14.0"),
        ("nvme-root", "/nvme-subsys1", "0000:02:00.0"),
        ("nvme-root", "/ctl/nvme3/address", "0000:02:00.0"),
        ("server", "/sys/bus/mdev/devices", "0000:3b:00.0"),
        ("zfs-root", "/proc/spl/kstat/zfs", "0000:04:00.0"),
        ("zfs-root", "/run/udev/data/b259:9", "0000:04:00.0"),
        ("zfs-root", "/sys/class/block/nvme2n1/dev", "0000:04:00.0"),
    ];
    let untouched = Altered::unaltered;
    for (name, path, function) in cases {
        assert_eq!(untouched(name).first(function), "free", "{name} {function}");
        let reason = Altered::denied(name, path).first(function);
        let start = "it is not known whether the host needs it: ";
        let found = reason.strip_prefix(start);
        let found = found.unwrap_or_else(|| panic!("{name} {path} {function}: {reason}"));
        assert!(
            found.contains(path) && found.contains("permission denied"),
            "{reason}"
        );
    }
}

#[test]
fn the_own_mount_table_stands_in_for_that_of_the_first_process() {
    const FIRST: &str = "/proc/1/mountinfo";
    let mut denied = Altered::denied("desktop", FIRST);
    let reason = format!("it is not known whether the host needs it: {FIRST}: permission denied");
    assert_eq!(denied.first("0000:02:00.0"), reason);
    let text = denied.text(FIRST).unwrap();
    denied.with("/proc/self/mountinfo", Entry::File(text));
    assert_eq!(denied.first("0000:02:00.0"), "free");
    assert_eq!(
        denied.first("0000:00:17.0"),
        "the host needs it: 0000:00:17.0 → ata1 → sda → sda2 → /"
    );
}

#[test]
fn texts_of_another_form_are_critical() {
    let cases = [
        ("/proc/1/mountinfo", "", "0000:02:00.0", "it is empty"),
        (
            "/proc/1/mountinfo",
            "what",
            "0000:02:00.0",
            "line 1 is no mount",
        ),
        (
            "/proc/swaps",
            "Filename\nx",
            "0000:02:00.0",
            "a line is no swap area",
        ),
        (
            "/proc/swaps",
            "Filename\n/dev/sdz partition",
            "0000:02:00.0",
            "/dev/sdz is not found",
        ),
        (
            "/proc/bus/input/devices",
            "what",
            "0000:03:00.0",
            "a device has another form",
        ),
        (
            "0000:02:00.0/class",
            "what",
            "0000:02:00.0",
            "invalid digit found in string",
        ),
    ];
    for (path, text, function, wanted) in cases {
        let altered = Altered::new("desktop", path, Answer::Text(text.to_owned()));
        let reason = altered.first(function);
        assert!(
            reason.starts_with("it is not known whether the host needs it: "),
            "{reason}"
        );
        assert!(reason.ends_with(&format!("{path}: {wanted}")), "{reason}");
    }
    let altered = Altered::new(
        "server",
        "/proc/net/route",
        Answer::Text("I\nx y".to_owned()),
    );
    assert_eq!(
        altered.first("0000:19:00.0"),
        "it is not known whether the host needs it: /proc/net/route: entry 1 has another form"
    );
}

#[test]
fn keyboards_are_the_last_ones_only_together() {
    let host = Altered::unaltered("no-acs");
    assert_eq!(host.all(&["0000:07:00.3"]), [""; 0]);
    let both = host.all(&["0000:07:00.3", "0000:01:00.0"]);
    let keyboards: Vec<&str> = both
        .iter()
        .filter(|need| need.contains("keyboard"))
        .map(String::as_str)
        .collect();
    assert_eq!(
        keyboards,
        [
            "the host needs it: 0000:07:00.3 → usb3 → 3-2 → last keyboard (HOLTEK Second Keyboard)",
            "the host needs it: 0000:01:00.0 → usb1 → 1-9 → last keyboard (HOLTEK USB Keyboard)",
        ]
    );
}

#[test]
fn a_bluetooth_keyboard_hangs_on_its_adapter() {
    let laptop = Altered::unaltered("laptop");
    let text = laptop.text("/proc/bus/input/devices").unwrap();
    let (_built_in, text) = text.split_once("\n\n").unwrap();
    let text = text.to_owned();
    let altered = Altered::new("laptop", "/proc/bus/input/devices", Answer::Text(text));
    assert_eq!(
        altered.first("0000:00:14.0"),
        "the host needs it: 0000:00:14.0 → usb3 → 3-10 → last keyboard (Keyboard K380)"
    );
}

#[test]
fn the_frame_buffer_of_the_firmware_is_on_a_display() {
    let mut altered = Altered::new("zfs-root", "/proc/iomem", Answer::Text(String::new()));
    // The kernel has found the boot display by that frame buffer.
    assert_eq!(
        altered.first("0000:08:00.0"),
        "the host needs it: 0000:08:00.0 → boot display"
    );
    let display = altered.real("/sys/bus/pci/devices/0000:08:00.0").unwrap();
    altered.entries.remove(&format!("{display}/boot_vga"));
    assert_eq!(
        altered.first("0000:08:00.0"),
        "it is not known whether the host needs it: /proc/iomem does not show which display has \
         fb0 (console)"
    );
}

/// Changes of a machine by further lines of its text, and what a function is then needed
/// for.
#[test]
fn further_ways_to_a_use() {
    let cases = [
        (
            "a controller whose paths are not shown",
            "nvme-root",
            "link /sys/devices/virtual/nvme-subsystem/nvme-subsys1/nvme1 ../../../pci0000:00/\
             0000:00:01.2/0000:02:00.0/nvme/nvme1\nat virtual/nvme-subsystem/nvme-subsys1\n  \
             block nvme9n1 259:90\nfolder /sys/fs/ext4/nvme9n1",
            "0000:02:00.0",
            "0000:02:00.0 → nvme1 → nvme9n1 → mounted ext4",
        ),
        (
            "NVMe over Fibre Channel",
            "server",
            "at pci0000:ae/0000:ae:03.0/0000:b1:00.0/host7/fc_host\n  class fc_host host7\n    \
             port_name = 0x100000109b1b2c3d\nat virtual/nvme-fabrics/ctl\n  class nvme nvme5\n    \
             transport = fc\n    address = traddr=nn-0x1:pn-0x2,\
             host_traddr=nn-0x200000109b1b2c3d:pn-0x100000109b1b2c3d\n    block nvme5n1 259:50\n\
             folder /sys/fs/xfs/nvme5n1",
            "0000:b1:00.0",
            "0000:b1:00.0 → host7 → nvme5 → nvme5n1 → mounted xfs",
        ),
        (
            "an external log of XFS",
            "desktop",
            "file /proc/1/mountinfo\n  29 1 8:2 / / rw - xfs /dev/sda2 rw,logdev=/dev/nvme0n1p1",
            "0000:02:00.0",
            "0000:02:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → /",
        ),
        (
            "a disk by udev's link",
            "desktop",
            "link /dev/disk/by-label/fast ../../nvme0n1p1\nfile /proc/swaps\n  Filename\n  \
             /dev/disk/by-label/fast partition 1 0 -2",
            "0000:02:00.0",
            "0000:02:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → swap",
        ),
        (
            "a disk by the name of its map",
            "laptop",
            "file /proc/swaps\n  Filename\n  /dev/mapper/cryptroot partition 1 0 -2",
            "0000:02:00.0",
            "0000:02:00.0 → nvme0 → nvme0n1 → nvme0n1p2 → dm-0 (cryptroot) → /",
        ),
        (
            "all devices of bcachefs",
            "desktop",
            "file /proc/1/mountinfo\n  29 1 0:40 / / rw - bcachefs /dev/sda2:/dev/nvme0n1p1 rw",
            "0000:02:00.0",
            "0000:02:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → /",
        ),
        (
            "all devices of btrfs",
            "desktop",
            "folder /sys/fs/btrfs/1/devices/sda2\nfolder /sys/fs/btrfs/1/devices/nvme0n1p1\n\
             file /proc/1/mountinfo\n  29 1 0:40 / / rw - btrfs /dev/sda2 rw,subvol=/",
            "0000:02:00.0",
            "0000:02:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → /",
        ),
        (
            "a loop device on a disk",
            "desktop",
            "at virtual/block\n  block loop0 7:0\n    dir loop\n      backing_file = \
             /dev/nvme0n1p1",
            "0000:02:00.0",
            "0000:02:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → loop0 → active",
        ),
        (
            "PPPoE",
            "server",
            "file /proc/net/pppoe\n  Id Address Device\n  00000001 00:11:22:33:44:55 ens2f0",
            "0000:19:00.0",
            "0000:19:00.0 → ens2f0 → PPPoE",
        ),
        (
            "the console of a VM's host",
            "desktop",
            "file /proc/consoles\n  hvc0 -W- (EC  p) 229:0\nat pci0000:00/0000:00:1c.0/\
             0000:03:00.0/virtio3/virtio-ports\n  class virtio-ports vport3p0",
            "0000:03:00.0",
            "0000:03:00.0 → virtio3 → hvc0 (console)",
        ),
        (
            "a mediated device",
            "server",
            "link /sys/bus/mdev/devices/7e5c9f4a ../../../devices/pci0000:3a/0000:3a:00.0/\
             0000:3b:00.0/7e5c9f4a",
            "0000:3b:00.0",
            "0000:3b:00.0 → 7e5c9f4a → mediated device",
        ),
        (
            "a disk on USB",
            "desktop",
            "at pci0000:00/0000:00:1c.0/0000:03:00.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/\
             block\n  block sdx 8:16\n    block sdx1 8:17\nfolder /sys/fs/ext4/sdx1",
            "0000:03:00.0",
            "0000:03:00.0 → usb2 → 2-1 → sdx → sdx1 → mounted ext4",
        ),
    ];
    for (what, name, lines, function, chain) in cases {
        let mut host = Altered::unaltered(name);
        for (path, entry) in unfolded(lines) {
            host.with(&path, entry);
        }
        assert_eq!(
            host.first(function),
            format!("the host needs it: {chain}"),
            "{what}"
        );
    }
}

/// A disk that is mounted in a container, or has a log, has an entry by its name.
#[test]
fn mounts_that_the_table_does_not_show() {
    for (path, label) in [
        ("/sys/fs/ext4/nvme0n1p1", "mounted ext4"),
        ("/sys/fs/xfs/nvme0n1p1", "mounted xfs"),
        ("/proc/fs/jbd2/nvme0n1p1", "log of ext4"),
        ("/sys/fs/btrfs/1/devices/nvme0n1p1", "mounted btrfs"),
        ("/sys/class/block/nvme0n1p1/bcache", "bcache"),
    ] {
        let mut host = Altered::unaltered("desktop");
        host.with("/sys/fs/bcache", Entry::Folder);
        host.with(path, Entry::Folder);
        assert_eq!(
            host.first("0000:02:00.0"),
            format!("the host needs it: 0000:02:00.0 → nvme0 → nvme0n1 → nvme0n1p1 → {label}")
        );
    }
}

#[test]
fn a_map_of_a_vendor_hides_its_disks() {
    let mut host = Altered::unaltered("desktop");
    let text = "at virtual/block\n  block emcpowera 120:0\n    block emcpowera1 120:1\n";
    for (path, entry) in unfolded(text) {
        host.with(&path, entry);
    }
    assert_eq!(
        host.first("0000:02:00.0"),
        "it is not known whether the host needs it: /sys/class/block/emcpowera: the disks below \
         it are not shown"
    );
}

#[test]
fn names_that_move_the_cursor_are_shown_as_escapes() {
    let text = "I: Bus=0003\nN: Name=\"\u{1b}[2J\"\nS: Sysfs=/devices/pci0000:00/0000:03:00.0/usb9\n\
                B: KEY=fffffffffffffffe";
    let path = "/proc/bus/input/devices";
    let altered = Altered::new("desktop", path, Answer::Text(text.to_owned()));
    assert_eq!(
        altered.first("0000:03:00.0"),
        "the host needs it: 0000:03:00.0 → usb9 → last keyboard (\\u{1b}[2J)"
    );
}

/// No attribute that a driver answers is read, so that none can hang.
#[test]
fn no_driver_is_asked() {
    let real = Host::new("/");
    for name in MACHINES {
        let host = Altered::unaltered(name);
        let needs = HostNeeds::read(&host);
        for (function, _) in pci::functions(&host).unwrap() {
            let _ = needs.all(&host, function);
        }
        let reads = host.reads.borrow();
        let asked = reads.iter().find(|path| real.is_of_driver(path));
        assert_eq!(asked, None, "{name}");
    }
}

/// A start that wants a GPU does not wait until all disks and interfaces have been looked
/// at.
#[test]
fn disks_and_networks_are_read_only_for_functions_that_can_have_them() {
    let host = Altered::unaltered("server");
    assert_eq!(host.first("0000:3b:00.0"), "free");
    let reads = host.reads.take();
    let is_such = |path: &&String| {
        let places = [
            "/proc/1/",
            "/proc/net/",
            "/sys/class/block",
            "/sys/class/net",
        ];
        places.iter().any(|place| path.starts_with(place))
    };
    assert_eq!(reads.iter().find(is_such), None);
    assert_eq!(host.first("0000:af:00.0"), "free");
    assert!(host.reads.take().iter().any(|path| is_such(&path)));
}

#[test]
fn the_address_file_is_read_by_lines() {
    let host = Altered::unaltered("desktop");
    let addresses = host.ipv4_addresses().unwrap();
    let of = |interface: &str, address: [u8; 4]| InterfaceAddress {
        interface: interface.to_owned(),
        address: address.into(),
    };
    let wanted = [of("lo", [127, 0, 0, 1]), of("enp0s31f6", [192, 0, 2, 23])];
    assert_eq!(addresses, wanted);
    let wrong = Altered::new("desktop", "/if_inet", Answer::Text("eth0".to_owned()));
    let error = wrong.ipv4_addresses().unwrap_err();
    assert_eq!(
        error.to_string(),
        "/proc/net/if_inet: not INTERFACE ADDRESS"
    );
}

/// The model in memory answers as a directory does.
#[test]
fn a_directory_stands_on_the_same() {
    let root = machines::machine("server");
    let host = Host::new(root.path());
    let model = Altered::unaltered("server");
    let all = |sysfs: &dyn Sysfs| -> Vec<String> {
        let needs = HostNeeds::read(sysfs);
        let functions = pci::functions(sysfs).unwrap().into_iter();
        let needs = functions.flat_map(|(function, _)| needs.all(sysfs, function));
        needs.map(|need| need.to_string()).collect()
    };
    assert_eq!(all(&host), all(&model));
}

/// The disk with the root and the interface with the default route, where they are PCI
/// functions; and the time that it takes. Prints what the machine stands on.
#[test]
#[ignore = "depends on the machine"]
fn on_this_machine() {
    let host = Host::new("/");
    let start = std::time::Instant::now();
    let needs = HostNeeds::read(&host);
    let read = start.elapsed();
    for (function, _) in pci::functions(&host).unwrap() {
        let all = needs.all(&host, function);
        println!("{function}: {}", if all.is_empty() { "free" } else { "" });
        for need in all {
            println!("  {need}");
        }
    }
    println!("read in {read:?}, judged in {:?}", start.elapsed() - read);
}

/// All paths that are read on a machine, with those that do not exist.
fn paths(name: &str) -> Vec<String> {
    let host = Altered::unaltered(name);
    let needs = HostNeeds::read(&host);
    for (function, _) in pci::functions(&host).unwrap() {
        let _ = needs.all(&host, function);
    }
    let mut paths = host.reads.take();
    paths.sort_unstable();
    paths.dedup();
    paths
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_text_panics(
        machine in prop::sample::select(MACHINES),
        at: prop::sample::Index,
        text in prop_oneof![
            any::<String>(),
            "[-0-9a-z:./ \\n\\\\]{0,200}",
            "(\\.\\./){0,9}[a-z0-9:./]{0,40}",
        ],
    ) {
        let paths = paths(machine);
        let path = at.get(&paths);
        let altered = Altered::new(machine, path, Answer::Text(text));
        let needs = HostNeeds::read(&altered);
        for (function, _) in pci::functions(&altered).unwrap_or_default() {
            for need in needs.all(&altered, function) {
                let _ = (need.to_string(), need.in_one_line());
            }
        }
    }
}
