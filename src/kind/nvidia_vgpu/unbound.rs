//! NVIDIA's GPUs that are not bound to its driver. The rules of pools do not apply to
//! them, and the user is told why.

use std::cell::OnceCell;

use crate::{
    device::{
        gpu, pci,
        readiness::{self, Driver},
    },
    kind::HostView,
    model::PciAddress,
};

/// Those GPUs; empty until they are needed.
#[derive(Debug, Default)]
struct Found(OnceCell<Vec<(PciAddress, String)>>);

/// All of them, each with its present owner.
pub(super) fn all(view: &HostView<'_>) -> Vec<(PciAddress, String)> {
    let found = view.found::<Found>();
    found.0.get_or_init(|| find(view)).clone()
}

fn find(view: &HostView<'_>) -> Vec<(PciAddress, String)> {
    let sysfs = view.sysfs();
    let functions = pci::functions(sysfs).unwrap_or_default();
    // One look at the driver is cheaper than one at each virtual function.
    let bound = gpu::bound(sysfs).unwrap_or_default();
    let gpus = functions
        .iter()
        .map(|(address, _)| *address)
        .filter(|address| !bound.contains(address));
    let mut found: Vec<(PciAddress, String)> = gpus
        .filter(|&gpu| readiness::is_gpu(sysfs, gpu))
        .filter_map(|gpu| {
            let why = match readiness::driver(sysfs, gpu) {
                Ok(Driver::Nvidia) => return None,
                Ok(Driver::None) => {
                    "no driver is bound to it; 'modprobe nvidia' loads NVIDIA's".to_owned()
                }
                Ok(Driver::Other(driver)) => {
                    format!("its driver is '{driver}', but only nvidia makes vGPUs")
                }
                Err(error) => error.to_string(),
            };
            Some((gpu, why))
        })
        .collect();
    found.sort();
    found
}
