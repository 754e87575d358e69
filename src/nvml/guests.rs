//! NVIDIA's driver in the guests, of all vGPUs that VMs have open.

use nvml_wrapper::{Device, Nvml};
use virt_vgpu_nvml_raw as raw;

use super::{by_index, failure::Call};
use crate::{
    device::nvml::{Failure, GuestDriver, GuestFacts, Guests, Licence, LicenceState, LicenceTerm},
    model::{PciAddress, VgpuTypeId},
};

/// What `nvmlVgpuInstanceGetVmDriverVersion` says while no driver runs in the guest.
const NONE: &str = "Not Available";

/// `NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE`: a driver's version is no longer.
const LONGEST: usize = 80;

/// A GPU that does not list its vGPUs costs only what is known of them.
pub(super) fn read(nvml: &Nvml) -> Result<Guests, Failure> {
    let count = nvml.device_count();
    let count = count.map_err(|error| Call::new(nvml, "count the GPUs").failed(error))?;
    let mut vgpus = Vec::new();
    for index in 0..count {
        if let Ok((device, gpu)) = by_index(nvml, index) {
            vgpus.extend(on_gpu(&device, gpu));
        }
    }
    Ok(Guests {
        host_driver: nvml.sys_driver_version().ok(),
        vgpus,
    })
}

fn on_gpu(device: &Device<'_>, gpu: PciAddress) -> Vec<GuestFacts> {
    let nvml = device.nvml();
    let ids = raw::active_vgpus(device).unwrap_or_default();
    ids.into_iter()
        .filter_map(|id| {
            // It fails if the VM has ended since the list was read.
            let type_id = VgpuTypeId::new(raw::vgpu_type(nvml, id).ok()?)?;
            let vm = raw::vgpu_vm_uuid(nvml, id).ok().flatten();
            let mdev = raw::vgpu_mdev_uuid(nvml, id).ok();
            Some(GuestFacts {
                gpu,
                type_id,
                vm: vm.and_then(|text| text.parse().ok()),
                mdev: mdev.and_then(|text| text.parse().ok()),
                driver: driver(raw::vgpu_guest_driver(nvml, id)),
                licence: licence(nvml, id),
            })
        })
        .collect()
}

fn driver(told: raw::Answer<String>) -> GuestDriver {
    match told {
        Ok(text) if text == NONE => GuestDriver::NotLoaded,
        Ok(text) if text.is_empty() => GuestDriver::Unknown,
        Ok(text) => GuestDriver::Version(text.chars().take(LONGEST).collect()),
        Err(raw::Error::Code(raw::DRIVER_NOT_LOADED)) => GuestDriver::NotLoaded,
        Err(_) => GuestDriver::Unknown,
    }
}

/// None while no driver runs in the guest, and with drivers that do not tell it.
fn licence(nvml: &Nvml, id: u32) -> Option<Licence> {
    let told = raw::vgpu_licence(nvml, id).ok()?;
    Some(Licence {
        // `NVML_GRID_LICENSE_STATE_*`
        state: match told.state {
            1 => LicenceState::NotAskedFor,
            2 => LicenceState::Unrestricted,
            3 => LicenceState::Restricted,
            4 => LicenceState::Unlicensed,
            5 => LicenceState::Licensed,
            _ => LicenceState::Unknown,
        },
        // `NVML_GRID_LICENSE_EXPIRY_*`
        term: match told.expiry {
            2 => LicenceTerm::Until(told.until),
            4 => LicenceTerm::Permanent,
            _ => LicenceTerm::Unknown,
        },
    })
}
