//! Devices that have been made on a PCI function for VMs: mediated devices, and those of
//! vDPA. They disappear when the driver leaves the function.

use std::{collections::BTreeMap, io};

use super::{function::Function, need::Need, place};
use crate::{
    device::{Sysfs, list, optional},
    model::PciAddress,
};

/// The buses of such devices, and a device in words.
const BUSES: &[(&str, &str)] = &[
    ("/sys/bus/mdev/devices", "mediated device"),
    ("/sys/bus/vdpa/devices", "vDPA device"),
];

/// The devices that have been made on each function.
#[derive(Debug, Default)]
pub(super) struct MadeDevices {
    made: BTreeMap<PciAddress, Vec<Vec<String>>>,
    unread: Vec<String>,
}

impl MadeDevices {
    /// Reads them.
    pub(super) fn read(sysfs: &dyn Sysfs) -> Self {
        let mut devices = Self::default();
        for (bus, about) in BUSES {
            if let Err(error) = devices.add(sysfs, bus, about) {
                devices.unread.push(error.to_string());
            }
        }
        devices
    }

    fn add(&mut self, sysfs: &dyn Sysfs, bus: &str, about: &str) -> io::Result<()> {
        for name in optional(list(sysfs, bus))?.unwrap_or_default() {
            let path = match place::target(sysfs, &format!("{bus}/{name}")) {
                Ok(path) => path,
                Err(error) if place::is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            // Only the function itself: others above it are judged by their own parts.
            if let Some(function) = place::functions(&path).last() {
                let rest = vec![name, about.to_owned()];
                self.made.entry(*function).or_default().push(rest);
            }
        }
        Ok(())
    }

    /// The devices made on a function.
    pub(super) fn needs(&self, function: &Function, needs: &mut Vec<Need>) {
        let address = function.address;
        let made = self.made.get(&address).into_iter().flatten();
        needs.extend(made.map(|rest| Need::used(address, rest.clone())));
        // Displays and networks have drivers that make such devices.
        if matches!(function.base(), 0x02 | 0x03) {
            let unread = self.unread.iter();
            needs.extend(unread.map(|why| Need::unread(address, why)));
        }
    }
}
