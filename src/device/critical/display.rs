//! The boot display, and the consoles in use: the one on a screen, and serial ones.

use std::{collections::BTreeMap, io};

use super::{function::Function, need::Need, place};
use crate::{
    device::{Sysfs, list, optional, read},
    model::PciAddress,
};

/// The host's use of its displays and serial lines.
#[derive(Debug, Default)]
pub(super) struct Display {
    /// Functions with a console, and the rest of the chain.
    consoles: BTreeMap<PciAddress, Vec<Vec<String>>>,
    /// A frame buffer of the firmware has the console, and its function is not known.
    unplaced: Option<String>,
    unread_screen: Vec<String>,
    unread_serial: Vec<String>,
}

impl Display {
    /// Reads it.
    pub(super) fn read(sysfs: &dyn Sysfs) -> Self {
        let mut display = Self::default();
        if let Err(error) = display.read_screen(sysfs) {
            display.unread_screen.push(error.to_string());
        }
        if let Err(error) = display.read_serial(sysfs) {
            display.unread_serial.push(error.to_string());
        }
        display
    }

    fn add(&mut self, path: &str, label: &str) {
        for function in place::functions(path) {
            let mut rest = place::steps(path, function);
            rest.push(label.to_owned());
            self.consoles.entry(function).or_default().push(rest);
        }
    }

    /// The console is on the first frame buffer, unless somebody has moved it
    /// (`fbcon=map:`).
    fn read_screen(&mut self, sysfs: &dyn Sysfs) -> io::Result<()> {
        if !is_console_on_screen(sysfs)? {
            return Ok(());
        }
        let number = |name: &str| name.strip_prefix("fb").and_then(|n| n.parse::<u32>().ok());
        let buffers = place::of_class(sysfs, "graphics")?;
        let buffers = buffers
            .into_iter()
            .filter_map(|(name, path)| Some((number(&name)?, name, path)));
        let Some((_, name, path)) = buffers.min() else {
            return Ok(());
        };
        let label = format!("{name} (console)");
        if !place::functions(&path).is_empty() {
            self.add(&path, &label);
            return Ok(());
        }
        // The firmware's frame buffer lies in the memory of a function.
        let owners = memory_owners(&read(sysfs, "/proc/iomem")?);
        if owners.is_empty() {
            self.unplaced = Some(name);
        }
        for function in owners {
            self.consoles
                .entry(function)
                .or_default()
                .push(vec![label.clone()]);
        }
        Ok(())
    }

    fn read_serial(&mut self, sysfs: &dyn Sysfs) -> io::Result<()> {
        for name in consoles(sysfs)? {
            if place::is_numbered(&name, "tty") {
                // A virtual terminal, on the screen.
                continue;
            }
            if let Ok(path) = place::target(sysfs, &format!("/sys/class/tty/{name}")) {
                self.add(place::parent(&path), &format!("{name} (console)"));
            }
            if name.starts_with("hvc") {
                for (_, path) in place::of_class(sysfs, "virtio-ports")? {
                    self.add(place::parent(&path), &format!("{name} (console)"));
                }
            }
        }
        Ok(())
    }

    /// Why the host needs a function as a display or for a console.
    pub(super) fn needs(&self, sysfs: &dyn Sysfs, function: &Function, needs: &mut Vec<Need>) {
        let address = function.address;
        let is_display = function.base() == 0x03;
        let boot = is_display
            .then(|| optional(read(sysfs, &format!("{}/boot_vga", function.directory()))))
            .transpose();
        match &boot {
            Ok(Some(Some(value))) if value != "0" => {
                needs.push(Need::used(address, vec!["boot display".to_owned()]));
            }
            Ok(_) => {}
            Err(error) => needs.push(Need::unread(address, &error.to_string())),
        }
        let consoles = self.consoles.get(&address).into_iter().flatten();
        needs.extend(consoles.map(|rest| Need::used(address, rest.clone())));
        // A 3D controller (0302) has no connector. Of VGA devices the kernel has found the
        // one with the firmware's frame buffer (`vga_is_firmware_default`).
        let may_show = is_display && function.class != 0x0302 && !matches!(boot, Ok(Some(Some(_))));
        if let (Some(name), true) = (&self.unplaced, may_show) {
            let why = format!("/proc/iomem does not show which display has {name} (console)");
            needs.push(Need::unread(address, &why));
        }
        if is_display {
            let unread = self.unread_screen.iter();
            needs.extend(unread.map(|why| Need::unread(address, why)));
        }
        // Communication controllers; USB for serial adapters.
        if function.base() == 0x07 || function.class == 0x0c03 {
            let unread = self.unread_serial.iter();
            needs.extend(unread.map(|why| Need::unread(address, why)));
        }
    }
}

/// Whether the frame buffer console is bound to virtual terminals.
fn is_console_on_screen(sysfs: &dyn Sysfs) -> io::Result<bool> {
    const CONSOLES: &str = "/sys/class/vtconsole";
    // A kernel without virtual terminals has no such class.
    for name in optional(list(sysfs, CONSOLES))?.unwrap_or_default() {
        let about = read(sysfs, &format!("{CONSOLES}/{name}/name"))?;
        let bound = read(sysfs, &format!("{CONSOLES}/{name}/bind"))?;
        if about.contains("frame buffer") && bound != "0" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The names of the consoles: `tty0`, `ttyS0`.
fn consoles(sysfs: &dyn Sysfs) -> io::Result<Vec<String>> {
    let first = |line: &str| line.split_ascii_whitespace().next().map(str::to_owned);
    match read(sysfs, "/proc/consoles") {
        Ok(text) => Ok(text.lines().filter_map(first).collect()),
        Err(error) => match sysfs.read("/sys/class/tty/console/active") {
            Ok(text) => Ok(text.split_ascii_whitespace().map(str::to_owned).collect()),
            Err(_) => Err(error),
        },
    }
}

/// The functions in whose memory the firmware's frame buffer lies: the kernel's list of
/// memory is indented by what lies in what.
fn memory_owners(text: &str) -> Vec<PciAddress> {
    const BUFFERS: &[&str] = &[
        "BOOTFB",
        "efifb",
        "efidrm",
        "vesafb",
        "vesadrm",
        "simplefb",
        "simpledrm",
    ];
    let mut owners = Vec::new();
    let mut around: Vec<(usize, &str)> = Vec::new();
    for line in text.lines() {
        let Some((_, name)) = line.split_once(" : ") else {
            continue;
        };
        let depth = line.len() - line.trim_start().len();
        around.retain(|(outer, _)| *outer < depth);
        if BUFFERS.contains(&name) {
            let mut owner = around.iter().rev();
            owners.extend(owner.find_map(|(_, name)| name.parse::<PciAddress>().ok()));
        }
        around.push((depth, name));
    }
    owners.sort_unstable();
    owners.dedup();
    owners
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_frame_buffer_lies_in_the_memory_of_its_display() {
        let text = "\
00001000-0009ffff : System RAM
d0000000-f7ffffff : PCI Bus 0000:00
  d0000000-e1ffffff : PCI Bus 0000:01
    d0000000-dfffffff : 0000:01:00.0
      d0000000-d02fffff : BOOTFB
    e0000000-e1ffffff : 0000:01:00.1
  f0000000-f0ffffff : 0000:00:02.0
fed00000-fed003ff : efifb";
        let owner: PciAddress = "0000:01:00.0".parse().unwrap();
        assert_eq!(memory_owners(text), [owner]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = memory_owners(&text);
        }
    }
}
