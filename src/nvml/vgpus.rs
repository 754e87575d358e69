//! The vGPUs that VMs have open. NVML does not list vGPUs that were only created.

use nvml_wrapper::{Device, Nvml};
use virt_vgpu_nvml_raw as raw;

use super::failure::reading;
use crate::{
    device::nvml::{Failure, FailureKind, VgpuFacts},
    model::{PciAddress, VgpuTypeId},
};

pub(super) fn read(device: &Device<'_>, gpu: PciAddress) -> Result<Vec<VgpuFacts>, Failure> {
    let call = reading(device, gpu, "vGPUs");
    let ids = raw::active_vgpus(device).map_err(|error| call.failed(error))?;
    let mut found = Vec::new();
    for id in ids {
        match raw::vgpu_type(device.nvml(), id) {
            Ok(type_id) => found.extend(facts(device.nvml(), id, type_id)),
            Err(error) => {
                let failure = call.failed(error);
                // Its VM has ended since the list was read.
                let gone = matches!(failure.kind, FailureKind::NoGpu | FailureKind::Invalid);
                if !gone {
                    return Err(failure);
                }
            }
        }
    }
    Ok(found)
}

fn facts(nvml: &Nvml, id: u32, type_id: u32) -> Option<VgpuFacts> {
    let vm = raw::vgpu_vm_uuid(nvml, id).ok().flatten();
    let mdev = raw::vgpu_mdev_uuid(nvml, id).ok();
    Some(VgpuFacts {
        type_id: VgpuTypeId::new(type_id)?,
        vm: vm.and_then(|text| text.parse().ok()),
        mdev: mdev.and_then(|text| text.parse().ok()),
        placement: raw::vgpu_placement(nvml, id).ok().flatten(),
    })
}
