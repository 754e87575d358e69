//! All facts about one GPU. Each is read separately: a library that lacks one function
//! still gives the others.

use nvml_wrapper::{Device, enum_wrappers::device::GpuVirtualizationMode, error::NvmlError};
use virt_vgpu_nvml_raw as raw;

use super::{
    failure::{reading, told},
    heterogeneous, mig, scheduler, vgpu_types, vgpus,
};
use crate::{
    device::nvml::{Failure, GpuFacts},
    model::PciAddress,
};

/// `NVML_VGPU_DRIVER_CAP_HETEROGENEOUS_MULTI_VGPU`
const HETEROGENEOUS_MULTI_VGPU: u32 = 0;

pub(super) const MIB: u64 = 1 << 20;

pub(super) fn facts(device: &Device<'_>, gpu: PciAddress) -> GpuFacts {
    let read = |what: &str, found: Result<String, NvmlError>| {
        told(found.map_err(|error| reading(device, gpu, what).failed(error)))
    };
    let heterogeneous = heterogeneous::read(device, gpu);
    let instances = mig::read(device, gpu);
    let mode = heterogeneous.as_ref().ok();
    let in_mig = instances.as_ref().map_or(&[][..], |facts| &facts.instances);
    let types = vgpu_types::read(device, gpu, mode, in_mig);
    GpuFacts {
        address: gpu,
        name: read("name", device.name()),
        uuid: read("UUID", device.uuid()),
        memory_mib: told(memory_mib(device, gpu)),
        hosts_vgpus: told(hosts_vgpus(device, gpu)),
        mig: told(mig::mode(device, gpu).map(|(on, _)| on)),
        instances: told(instances),
        types: told(types),
        heterogeneous: told(heterogeneous),
        heterogeneous_multi_vgpu: told(heterogeneous_multi_vgpu(device, gpu)),
        scheduler: told(scheduler::read(device, gpu)),
        scheduler_limits: told(scheduler::limits(device, gpu)),
        vgpus: told(vgpus::read(device, gpu)),
    }
}

fn memory_mib(device: &Device<'_>, gpu: PciAddress) -> Result<u64, Failure> {
    let total = device.memory_info().map(|memory| memory.total);
    let total = match total.map_err(raw::Error::from) {
        Err(raw::Error::NoSymbol(_) | raw::Error::Code(raw::FUNCTION_NOT_FOUND)) => {
            raw::memory_by_first_call(device)
        }
        found => found,
    };
    let total = total.map_err(|error| reading(device, gpu, "memory").failed(error))?;
    Ok(total / MIB)
}

pub(super) fn hosts_vgpus(device: &Device<'_>, gpu: PciAddress) -> Result<bool, Failure> {
    let mode = device.virtualization_mode();
    let mode = mode.map_err(|error| reading(device, gpu, "virtualization mode").failed(error))?;
    Ok(mode == GpuVirtualizationMode::HostVgpu)
}

fn heterogeneous_multi_vgpu(device: &Device<'_>, gpu: PciAddress) -> Result<bool, Failure> {
    let nvml = device.nvml();
    let has = nvml.vgpu_driver_capabilities(HETEROGENEOUS_MULTI_VGPU);
    let has = has.map_err(|error| reading(device, gpu, "driver's capabilities").failed(error))?;
    Ok(has != 0)
}
