//! The commands that add a parameter to the kernel's command line, for the boot loader of the
//! host. Only what the host shows is used: a wrong command is worse than none.

use super::view::View;
use crate::device::Sysfs;

/// The boot loader writes its name here, in UTF-16 after four bytes (systemd's Boot Loader
/// Interface).
const LOADER: &str = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// What to do to boot with another parameter.
#[derive(Debug)]
pub struct Change {
    pub advice: String,
    pub commands: Vec<String>,
}

enum Loader {
    Kernelstub,
    Grubby,
    Grub,
    Proxmox,
    SystemdBoot,
    Unknown,
}

/// The name that the boot loader has left, in lower case.
fn name(view: &View<'_>) -> Option<String> {
    const LONGEST: usize = 256;
    const BEFORE: usize = 4;
    let bytes = view.host.read_bytes(LOADER, LONGEST).ok()?;
    let units = bytes.get(BEFORE..)?.chunks_exact(2);
    let units = units.map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let text: String = char::decode_utf16(units).filter_map(Result::ok).collect();
    Some(text.trim_end_matches('\0').to_lowercase())
}

fn loader(view: &View<'_>) -> Loader {
    let name = name(view).unwrap_or_default();
    if view.exists("/etc/kernelstub/configuration") {
        return Loader::Kernelstub;
    }
    if view.exists("/etc/kernel/proxmox-boot-uuids") && view.exists("/etc/kernel/cmdline") {
        return Loader::Proxmox;
    }
    let has_entries = ["/boot", "/efi", "/boot/efi"]
        .iter()
        .any(|place| view.exists(&format!("{place}/loader/loader.conf")));
    let has_grub = view.exists("/etc/default/grub");
    if name.contains("systemd-boot") || (has_entries && !has_grub) {
        return Loader::SystemdBoot;
    }
    if view.exists("/usr/sbin/grubby") {
        return Loader::Grubby;
    }
    if has_grub {
        return Loader::Grub;
    }
    Loader::Unknown
}

/// How to boot with this parameter too.
pub fn add(view: &View<'_>, parameter: &str) -> Change {
    let (with, commands) = match loader(view) {
        Loader::Kernelstub => (
            "with kernelstub",
            vec![format!("kernelstub --add-options \"{parameter}\"")],
        ),
        Loader::Grubby => (
            "with grubby",
            vec![format!("grubby --update-kernel=ALL --args=\"{parameter}\"")],
        ),
        Loader::Grub => ("in GRUB's settings", grub(view, parameter)),
        Loader::Proxmox => (
            "in /etc/kernel/cmdline",
            vec![
                format!("sed -i '1s/$/ {parameter}/' /etc/kernel/cmdline"),
                "proxmox-boot-tool refresh".to_owned(),
            ],
        ),
        Loader::SystemdBoot => ("for systemd-boot", systemd_boot(view, parameter)),
        Loader::Unknown => ("as your boot loader wants it", Vec::new()),
    };
    Change {
        advice: format!(
            "add '{parameter}' to the kernel's command line {with}, then reboot the host"
        ),
        commands,
    }
}

fn grub(view: &View<'_>, parameter: &str) -> Vec<String> {
    let make = if view.exists("/usr/sbin/update-grub") {
        "update-grub"
    } else if view.exists("/boot/grub2") {
        "grub2-mkconfig -o /boot/grub2/grub.cfg"
    } else {
        "grub-mkconfig -o /boot/grub/grub.cfg"
    };
    vec![
        format!("sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{parameter} /' /etc/default/grub"),
        make.to_owned(),
    ]
}

fn systemd_boot(view: &View<'_>, parameter: &str) -> Vec<String> {
    let release = view.release().ok().flatten().unwrap_or_default();
    let image = format!("/lib/modules/{release}/vmlinuz");
    let image = match view.exists(&image) {
        true => "/lib/modules/$(uname -r)/vmlinuz",
        false => "/boot/vmlinuz-$(uname -r)",
    };
    let write = match view.exists("/etc/kernel/cmdline") {
        true => format!("sed -i '1s/$/ {parameter}/' /etc/kernel/cmdline"),
        false => format!(
            "sed 's/ *$/ {parameter}/; s/BOOT_IMAGE=[^ ]* *//; s/initrd=[^ ]* *//g' /proc/cmdline \
             > /etc/kernel/cmdline"
        ),
    };
    vec![
        write,
        format!("kernel-install add \"$(uname -r)\" \"{image}\""),
    ]
}
