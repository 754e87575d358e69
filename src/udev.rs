//! The answer to udev about a device: the pools that take it. It runs while udev
//! handles an event, so it is quick, changes nothing, asks no driver, and prints
//! nothing if there is any error.
//!
//! It reads the device's attributes from sysfs itself, through [`Host`]. Rules of pools
//! use sysfs, udev's event has no further facts, and without libudev the program can be
//! static. It reads only one device and its GPU. With a thousand virtual functions, a
//! call costs as much as starting `/bin/true` (0.6 ms), plus 0.02 ms for each pool. So
//! each function can have its own call.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use crate::{
    config::{self, Pool},
    device::{mdev::Parent, vendor_vfio},
    host::{Host, PciIds},
    kind::FieldSources,
    model::ParentName,
    rule::Verdict,
};

/// The property with the names of the pools, separated by spaces.
pub const POOLS: &str = "ID_VIRT_VGPU_POOLS";

/// The property, `1`, of a GPU that `virt-vgpu host apply` sets up for pools.
pub const GPU: &str = "ID_VIRT_VGPU_GPU";

/// The property of the first virtual function of such a GPU; its value is the GPU's
/// address. When types appear on the functions, only this function triggers an action.
pub const FIRST_OF: &str = "ID_VIRT_VGPU_FIRST_OF";

/// The lines for udev's `IMPORT{program}` for a device of that kernel name; None when
/// no pool takes it.
#[must_use]
pub fn properties(host: &Host, name: &str) -> Option<String> {
    let name: ParentName = name.parse().ok()?;
    let loaded = config::load_all(host);
    let pools: Vec<Pool> = loaded.pools.into_values().filter_map(Result::ok).collect();
    if pools.is_empty() {
        return None;
    }
    let taking = taking(host, &pools, &name);
    if taking.is_empty() {
        return None;
    }
    let names: BTreeSet<&str> = taking.iter().map(|(pool, _)| pool.name.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let mut lines = format!("{POOLS}={}", names.join(" "));
    let mut of_gpus = taking.iter().filter(|(pool, _)| pool.is_of_gpus());
    let gpu = of_gpus.next().and_then(|(_, gpu)| gpu.name.pci());
    if let Some((gpu, address)) = gpu.zip(name.pci()) {
        if gpu == address {
            let _ = write!(lines, "\n{GPU}=1");
        } else if vendor_vfio::is_first(host, address, gpu) {
            let _ = write!(lines, "\n{FIRST_OF}={gpu}");
        }
    }
    Some(lines)
}

/// The pools that take the device or its GPU, each with the device that it takes.
fn taking<'p>(host: &Host, pools: &'p [Pool], name: &ParentName) -> Vec<(&'p Pool, Parent)> {
    let names = PciIds::new(host);
    let sources = FieldSources {
        sysfs: host,
        names: &names,
        // NVML might wait for the driver that this event is about.
        nvml: None,
    };
    let mut subjects: BTreeMap<&str, Option<Parent>> = BTreeMap::new();
    let mut taking = Vec::new();
    for pool in pools {
        let subject = subjects
            .entry(pool.kind.name())
            .or_insert_with(|| pool.kind.subject_named(host, name));
        let Some(subject) = subject else { continue };
        let verdict = pool.devices.verdict(sources, &pool.rules, subject);
        if matches!(verdict, Verdict::Match { .. }) {
            taking.push((pool, subject.clone()));
        }
    }
    taking
}
