//! What udev is told of a GPU: the pools that take it. Runs inside the handling
//! of an event, so it is quick, changes nothing, asks no driver, and has nothing
//! to say where anything is not as it should be.
//!
//! It reads the device's attributes from sysfs itself, through [`Host`]: rules of
//! pools are about sysfs, the event brings nothing that is not there too, and
//! without libudev the program is a static one.

use crate::{
    config,
    device::{pci::DeviceFields, readiness},
    host::{Host, PciIds},
    model::PciAddress,
    plan::host_settings::pools_of,
};

/// The property with the names of the pools, separated by spaces.
pub const POOLS: &str = "ID_VIRT_VGPU_POOLS";

/// The line for udev's `IMPORT{program}` about a device of that kernel name; None
/// when it is no GPU, or no pool takes it.
#[must_use]
pub fn properties(host: &Host, name: &str) -> Option<String> {
    let address: PciAddress = name.parse().ok()?;
    if !readiness::is_gpu(host, address) {
        return None;
    }
    let loaded = config::load_all(host);
    let pools: Vec<_> = loaded.pools.into_values().filter_map(Result::ok).collect();
    let names = PciIds::new(host);
    let fields = DeviceFields {
        sysfs: host,
        names: &names,
        name: &address.to_string(),
        path: &format!("/sys/bus/pci/devices/{address}"),
    };
    let taking = pools_of(&pools, &fields);
    let names: Vec<&str> = taking.iter().map(|pool| pool.name.as_str()).collect();
    (!names.is_empty()).then(|| format!("{POOLS}={}", names.join(" ")))
}
