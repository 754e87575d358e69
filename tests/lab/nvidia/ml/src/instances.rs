//! vGPU instances: vGPUs with a running VM. vGPUs that were only created are not
//! listed.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlVgpuLicenseExpiry_t, nvmlVgpuLicenseInfo_t, nvmlVgpuPlacementId_v1_t,
    nvmlVgpuRuntimeState_v1_t,
};

use crate::{
    abi::{Ptr, Text, abi, fitting, list},
    code::{Answer, Code},
    gpu::{Device, Gpu, GpuInstance, uuid},
    structs::ActiveVgpus,
    vgpu_types::reservation,
};

abi! {
    fn nvmlDeviceGetActiveVgpus(nvml, device: Device, number: Ptr<c_uint>, ids: Ptr<c_uint>) {
        let gpu = nvml.gpu(device)?;
        let active: Vec<u32> = gpu.active().map(|vgpu| vgpu.id).collect();
        list(&active, number, ids)
    }

    fn nvmlGpuInstanceGetActiveVgpus(nvml, gi: GpuInstance, info: Ptr<ActiveVgpus>) {
        let (gpu, gi) = nvml.gi(gi)?;
        let mut answer = info.read_version(1)?;
        let inside = gpu.active().filter(|vgpu| vgpu.gi == Some(gi.id));
        let ids: Vec<u32> = inside.map(|vgpu| vgpu.id).collect();
        let fits = fitting(&ids, &mut answer.count);
        info.write(answer)?;
        fits?;
        Ptr::found(answer.ids).fill(&ids)
    }

    fn nvmlVgpuInstanceGetVmID(
        nvml, id: c_uint, text: Text, size: c_uint, kind: Ptr<c_uint>,
    ) {
        let (_, vgpu, _) = nvml.vgpu(id)?;
        text.write(vgpu.vm_uuid.as_deref().unwrap_or_default(), size)?;
        kind.write(VM_ID_UUID)
    }

    fn nvmlVgpuInstanceGetUUID(nvml, id: c_uint, text: Text, size: c_uint) {
        let (_, vgpu, _) = nvml.vgpu(id)?;
        text.write(&uuid(&format!("vgpu {} {}", vgpu.id, vgpu.place)), size)
    }

    fn nvmlVgpuInstanceGetMdevUUID(nvml, id: c_uint, text: Text, size: c_uint) {
        let (_, vgpu, _) = nvml.vgpu(id)?;
        text.write(&vgpu.mdev.ok_or(Code::NOT_SUPPORTED)?, size)
    }

    fn nvmlVgpuInstanceGetVmDriverVersion(nvml, id: c_uint, text: Text, size: c_uint) {
        let (_, vgpu, _) = nvml.vgpu(id)?;
        let guest = vgpu.guest.as_ref();
        text.write(guest.map_or("Not Available", |guest| &guest.driver), size)
    }

    fn nvmlVgpuInstanceGetFbUsage(nvml, id: c_uint, bytes: Ptr<c_ulonglong>) {
        let (_, _, vgpu_type) = nvml.vgpu(id)?;
        bytes.write(reservation(vgpu_type))
    }

    fn nvmlVgpuInstanceGetLicenseStatus(nvml, id: c_uint, licensed: Ptr<c_uint>) {
        let guest = nvml.vgpu(id)?.1.guest.ok_or(Code::DRIVER_NOT_LOADED)?;
        licensed.write(u32::from(guest.licence == LICENSED))
    }

    fn nvmlVgpuInstanceGetLicenseInfo | nvmlVgpuInstanceGetLicenseInfo_v2 (
        nvml, id: c_uint, info: Ptr<nvmlVgpuLicenseInfo_t>,
    ) {
        let guest = nvml.vgpu(id)?.1.guest.ok_or(Code::DRIVER_NOT_LOADED)?;
        let [year, month, day, hour, min, sec] = guest.until;
        info.write(nvmlVgpuLicenseInfo_t {
            isLicensed: u8::from(guest.licence == LICENSED),
            licenseExpiry: nvmlVgpuLicenseExpiry_t {
                year,
                month: short(month)?,
                day: short(day)?,
                hour: short(hour)?,
                min: short(min)?,
                sec: short(sec)?,
                status: u8::try_from(guest.expiry).map_err(|_| Code::UNKNOWN)?,
            },
            currentState: guest.licence,
        })
    }

    fn nvmlVgpuInstanceGetType(nvml, id: c_uint, type_id: Ptr<c_uint>) {
        type_id.write(nvml.vgpu(id)?.1.type_id)
    }

    fn nvmlVgpuInstanceGetFrameRateLimit(nvml, id: c_uint, limit: Ptr<c_uint>) {
        let (gpu, _, vgpu_type) = nvml.vgpu(id)?;
        // The limiter works only with best effort.
        if gpu.state.scheduler.policy > BEST_EFFORT {
            return Err(Code::NOT_SUPPORTED);
        }
        limit.write(vgpu_type.frame_rate_limit)
    }

    fn nvmlVgpuInstanceGetPlacementId(
        nvml, id: c_uint, placement: Ptr<nvmlVgpuPlacementId_v1_t>,
    ) {
        let (gpu, vgpu, _) = nvml.vgpu(id)?;
        let version = placement.read_version(1)?.version;
        let place = vgpu.placement.filter(|_| are_sizes_mixed(&gpu, vgpu.gi));
        let placement_id = place.unwrap_or(INVALID_PLACEMENT);
        placement.write(nvmlVgpuPlacementId_v1_t { version, placementId: placement_id })
    }

    fn nvmlVgpuInstanceGetGpuInstanceId(nvml, id: c_uint, gi: Ptr<c_uint>) {
        gi.write(nvml.vgpu(id)?.1.gi.unwrap_or(u32::MAX))
    }

    // As the guest sees it, not as the host does.
    fn nvmlVgpuInstanceGetGpuPciId(nvml, id: c_uint, text: Text, size: Ptr<c_uint>) {
        let (_, vgpu, _) = nvml.vgpu(id)?;
        let in_guest = if vgpu.guest.is_some() { IN_GUEST } else { "00000000:00:00.0" };
        text.write_sized(in_guest, size)
    }

    fn nvmlVgpuInstanceGetEccMode | nvmlVgpuInstanceGetAccountingMode (
        nvml, id: c_uint, mode: Ptr<c_uint>,
    ) {
        nvml.vgpu(id)?;
        mode.write(0)
    }

    // Per cent.
    fn nvmlVgpuInstanceGetEncoderCapacity(nvml, id: c_uint, capacity: Ptr<c_uint>) {
        nvml.vgpu(id)?;
        capacity.write(100)
    }

    fn nvmlVgpuInstanceGetRuntimeStateSize(
        nvml, id: c_uint, state: Ptr<nvmlVgpuRuntimeState_v1_t>,
    ) {
        let (_, _, vgpu_type) = nvml.vgpu(id)?;
        let version = state.read_version(1)?.version;
        state.write(nvmlVgpuRuntimeState_v1_t { version, size: reservation(vgpu_type) })
    }
}

fn short(number: u32) -> Answer<u16> {
    u16::try_from(number).map_err(|_| Code::UNKNOWN)
}

/// Whether there may be vGPUs of other sizes: on the GPU, or in its GPU instance.
fn are_sizes_mixed(gpu: &Gpu, gi: Option<u32>) -> bool {
    match gi {
        None => gpu.state.hetero,
        Some(gi) => gpu.gi(gi).is_ok_and(|gi| gi.hetero),
    }
}

/// `NVML_VGPU_VM_ID_UUID`
const VM_ID_UUID: c_uint = 1;
/// `NVML_GRID_LICENSE_STATE_LICENSED`
const LICENSED: c_uint = 5;
/// The address of every vGPU in its guest.
const IN_GUEST: &str = "00000000:07:00.0";
/// `NVML_VGPU_SCHEDULER_POLICY_BEST_EFFORT`
const BEST_EFFORT: c_uint = 1;
/// `NVML_INVALID_VGPU_PLACEMENT_ID`
const INVALID_PLACEMENT: c_uint = 0xffff;
