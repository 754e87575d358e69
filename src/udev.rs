//! What udev is told of a device: the pools that take it. Runs inside the handling
//! of an event, so it is quick, changes nothing, asks no driver, and has nothing
//! to say where anything is not as it should be.
//!
//! It reads the device's attributes from sysfs itself, through [`Host`]: rules of
//! pools are about sysfs, the event brings nothing that is not there too, and
//! without libudev the program is a static one. It looks at one device and its GPU
//! and at no other: among a thousand virtual functions a call costs what starting
//! `/bin/true` does (0.6 ms), and 0.02 ms more for each pool, so they can have one
//! each.

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

/// The property, `1`, of a GPU that `virt-vgpu host apply` sets for pools.
pub const GPU: &str = "ID_VIRT_VGPU_GPU";

/// The property, the address of such a GPU, of its first virtual function: where the
/// types come to the functions, this one speaks for all.
pub const FIRST_OF: &str = "ID_VIRT_VGPU_FIRST_OF";

/// The lines for udev's `IMPORT{program}` about a device of that kernel name; None
/// when no pool takes it.
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

/// The pools that take the device, or the GPU that it is part of, each with the one that
/// it takes.
fn taking<'p>(host: &Host, pools: &'p [Pool], name: &ParentName) -> Vec<(&'p Pool, Parent)> {
    let names = PciIds::new(host);
    let sources = FieldSources {
        sysfs: host,
        names: &names,
        // Whoever asks NVML may wait for the very driver that this event is about.
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
