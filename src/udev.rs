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

use std::{collections::BTreeSet, fmt::Write};

use crate::{
    config::{self, Pool},
    device::{
        PCI_DEVICES, Sysfs,
        gpu_fields::GpuFields,
        mdev::{self, Parent},
        pci::DeviceFields,
        readiness, vendor_vfio,
    },
    host::{Host, PciIds},
    model::{ParentName, PciAddress},
    plan::pools_taking,
    rule::{Verdict, evaluate},
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
    let address = name.pci();
    let of_gpu = address.and_then(|address| pools_of_gpu(host, &pools, address));
    let mut names: BTreeSet<&str> = pools_of_parent(host, &pools, &name);
    names.extend(of_gpu.iter().flat_map(|(_, names)| names));
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect();
    let mut lines = format!("{POOLS}={}", names.join(" "));
    if let Some(((gpu, _), address)) = of_gpu.as_ref().zip(address) {
        if *gpu == address {
            let _ = write!(lines, "\n{GPU}=1");
        } else if vendor_vfio::is_first(host, address, *gpu) {
            let _ = write!(lines, "\n{FIRST_OF}={gpu}");
        }
    }
    Some(lines)
}

/// The GPU that the function is or belongs to, with the pools of vGPUs that take
/// it; None when there are none.
fn pools_of_gpu<'p>(
    host: &Host,
    pools: &'p [Pool],
    function: PciAddress,
) -> Option<(PciAddress, Vec<&'p str>)> {
    let gpu = vendor_vfio::gpu(host, function).ok()?.unwrap_or(function);
    if !readiness::is_gpu(host, gpu) {
        return None;
    }
    let names = PciIds::new(host);
    let (name, path) = (ParentName::from(gpu), format!("{PCI_DEVICES}/{gpu}"));
    let verdict = |pool: &Pool| {
        let fields = DeviceFields {
            sysfs: host,
            names: &names,
            name: &name,
            path: &path,
            // Whoever asks NVML may wait for the very driver that this event is about.
            gpu: Some(GpuFields {
                nvml: None,
                profile: Some(pool.device_type()),
            }),
        };
        evaluate(&pool.rules, &fields)
    };
    let taking = pools_taking(pools, verdict).into_iter();
    let names: Vec<&str> = taking.map(|pool| pool.name.as_str()).collect();
    (!names.is_empty()).then_some((gpu, names))
}

/// The pools of mediated devices of any driver that take a parent.
fn pools_of_parent<'p>(host: &Host, pools: &'p [Pool], name: &ParentName) -> BTreeSet<&'p str> {
    let parent: Parent = mdev::parent_named(host, name);
    let path = parent.path();
    if !host.exists(&format!("{path}/mdev_supported_types")) {
        return BTreeSet::new();
    }
    let names = PciIds::new(host);
    let fields = DeviceFields {
        sysfs: host,
        names: &names,
        name,
        path: &path,
        gpu: None,
    };
    let takes = |pool: &&Pool| {
        !pool.is_of_gpus() && matches!(evaluate(&pool.rules, &fields), Verdict::Match { .. })
    };
    let taking = pools.iter().filter(takes);
    taking.map(|pool| pool.name.as_str()).collect()
}
