//! Where a device lies: its path in `/sys/devices`, the PCI functions above it, and the
//! names on the path that an administrator knows.

use std::io;

use crate::{
    device::{Sysfs, at, list, optional},
    model::PciAddress,
};

/// The absolute path that a link leads to. The directory of the link must be its real one,
/// as `/sys/class/block` is: the kernel's links are relative to it.
///
/// # Errors
/// As [`Sysfs::read_link`], with the path.
pub(super) fn target(sysfs: &dyn Sysfs, link: &str) -> io::Result<String> {
    let text = sysfs.read_link(link).map_err(|error| at(link, &error))?;
    if text.starts_with('/') {
        return Ok(text);
    }
    let mut names: Vec<&str> = link.split('/').skip(1).collect();
    names.pop();
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    Ok(format!("/{}", names.join("/")))
}

/// The entries of a class with their paths. What is no link, or is gone by now, is left
/// out; a class that does not exist has none.
///
/// # Errors
/// When the class cannot be read.
pub(super) fn of_class(sysfs: &dyn Sysfs, class: &str) -> io::Result<Vec<(String, String)>> {
    let class = format!("/sys/class/{class}");
    let mut devices = Vec::new();
    for name in optional(list(sysfs, &class))?.unwrap_or_default() {
        match target(sysfs, &format!("{class}/{name}")) {
            Ok(path) => devices.push((name, path)),
            // EINVAL: no link (`bonding_masters`).
            Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) => return Err(error),
        }
    }
    Ok(devices)
}

/// Whether the file is not there any more.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The PCI functions on a path, the one next to the CPU first. A controller that has PCI
/// functions below it (Intel VMD) is one of them, and so are bridges.
pub(super) fn functions(path: &str) -> Vec<PciAddress> {
    path.split('/')
        .filter_map(|name| name.parse().ok())
        .collect()
}

/// A text with characters that are written as `start` and a number with that many digits.
pub(super) fn unescaped(text: &str, start: &str, digits: usize, radix: u32) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let number = rest.strip_prefix(start.as_bytes()).and_then(|rest| {
            let (number, rest) = rest.split_at_checked(digits)?;
            let number = std::str::from_utf8(number).ok()?;
            Some((u8::from_str_radix(number, radix).ok()?, rest))
        });
        let (byte, after) = number.unwrap_or((*first, others));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last component of a path.
pub(super) fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// The path without its last component.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The names below a function on a path that an administrator knows from other tools:
/// `ata1`, `host0`, `nvme0`, `usb2` and the port, `virtio1`, a PCI function below it.
pub(super) fn steps(path: &str, function: PciAddress) -> Vec<String> {
    let is_function = |name: &str| name.parse() == Ok(function);
    let below: Vec<&str> = path
        .split('/')
        .skip_while(|name| !is_function(name))
        .skip(1)
        .collect();
    let last_function = below.iter().rposition(|name| is_address(name));
    let last_port = below.iter().rposition(|name| is_usb_port(name));
    // A host adapter has its own number only where nothing better names it.
    let has_better = |name: &&str| is_numbered(name, "ata") || is_numbered(name, "usb");
    let has_better = below.iter().any(has_better);
    let is_step = |(index, name): &(usize, &str)| {
        Some(*index) == last_function
            || Some(*index) == last_port
            || ["ata", "usb", "nvme", "virtio", "mmc", "session"]
                .iter()
                .any(|prefix| is_numbered(name, prefix))
            || is_numbered(name, "host") && !has_better
    };
    let steps = below.into_iter().enumerate().filter(is_step);
    steps.map(|(_, name)| name.to_owned()).collect()
}

fn is_address(name: &str) -> bool {
    name.parse::<PciAddress>().is_ok()
}

/// Whether a name is the prefix and a number.
pub(super) fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A USB device's name is its port: `1-4.2`. An interface has a colon.
fn is_usb_port(name: &str) -> bool {
    let Some((bus, ports)) = name.split_once('-') else {
        return false;
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number(bus) && ports.split('.').all(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_the_names_that_people_know() {
        let cases = [
            (
                "/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block",
                "0000:00:1f.2",
                "ata1",
            ),
            (
                "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0",
                "0000:01:00.0",
                "nvme0",
            ),
            (
                "/sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1.4/2-1.4:1.0/host6/target6:0:0",
                "0000:00:14.0",
                "usb2 2-1.4",
            ),
            (
                "/sys/devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme1",
                "0000:00:0e.0",
                "10000:e1:00.0 nvme1",
            ),
            (
                "/sys/devices/pci0000:00/0000:03:00.0/host0/port-0:0/end_device-0:0/target0:0:0",
                "0000:03:00.0",
                "host0",
            ),
            ("/sys/devices/virtual/block", "0000:03:00.0", ""),
        ];
        for (path, function, wanted) in cases {
            let function = function.parse().unwrap();
            assert_eq!(steps(path, function).join(" "), wanted, "{path}");
        }
    }
}
