//! vGPU types: those that a GPU supports and can still create, and their properties.

use std::ffi::{c_uint, c_ulonglong};

use lab_nvidia::boards::{Board, VgpuType};
use nvml_wrapper_sys::bindings::nvmlVgpuTypeBar1Info_v1_t;

use crate::{
    abi::{Ptr, Text, abi, fitting, list},
    code::{Answer, Code},
    gpu::{Device, Gpu, GpuInstance, Nvml},
    structs::{MaxPerGi, VgpuTypeIds},
};

const MIB: u64 = 1 << 20;
const VENDOR: u64 = 0x10de;

abi! {
    fn nvmlDeviceGetSupportedVgpus(
        nvml, device: Device, number: Ptr<c_uint>, ids: Ptr<c_uint>,
    ) {
        let gpu = nvml.gpu(device)?;
        // nvidia-vgpud tells the driver which types exist.
        let types = gpu.board.types.iter().filter(|_| gpu.state.loaded);
        let supported: Vec<u32> = types.map(|vgpu_type| vgpu_type.id).collect();
        list(&supported, number, ids)
    }

    fn nvmlDeviceGetCreatableVgpus(
        nvml, device: Device, number: Ptr<c_uint>, ids: Ptr<c_uint>,
    ) {
        let gpu = nvml.gpu(device)?;
        list(&creatable(nvml, &gpu)?, number, ids)
    }

    fn nvmlGpuInstanceGetCreatableVgpus(nvml, gi: GpuInstance, info: Ptr<VgpuTypeIds>) {
        let (gpu, gi) = nvml.gi(gi)?;
        let mut answer = info.read_version(1)?;
        let mut ids = Vec::new();
        for id in creatable(nvml, &gpu)? {
            let vgpu_type = gpu.vgpu_type(id)?;
            if vgpu_type.gi_profile == Some(gi.profile) && has_room(nvml, &gpu, gi.id, vgpu_type)? {
                ids.push(id);
            }
        }
        let fits = fitting(&ids, &mut answer.count);
        info.write(answer)?;
        fits?;
        Ptr::found(answer.ids).fill(&ids)
    }

    fn nvmlVgpuTypeGetClass(nvml, id: c_uint, text: Text, size: Ptr<c_uint>) {
        let (_, vgpu_type) = nvml.vgpu_type(id)?;
        text.write_sized(class(vgpu_type), size)
    }

    fn nvmlVgpuTypeGetName(nvml, id: c_uint, text: Text, size: Ptr<c_uint>) {
        text.write_sized(&nvml.vgpu_type(id)?.1.name, size)
    }

    fn nvmlVgpuTypeGetLicense(nvml, id: c_uint, text: Text, size: c_uint) {
        let (_, vgpu_type) = nvml.vgpu_type(id)?;
        text.write(licence(vgpu_type), size)
    }

    fn nvmlVgpuTypeGetGpuInstanceProfileId(nvml, id: c_uint, profile: Ptr<c_uint>) {
        profile.write(nvml.vgpu_type(id)?.1.gi_profile.unwrap_or(u32::MAX))
    }

    fn nvmlVgpuTypeGetDeviceID(
        nvml, id: c_uint, device: Ptr<c_ulonglong>, subsystem: Ptr<c_ulonglong>,
    ) {
        let (board, vgpu_type) = nvml.vgpu_type(id)?;
        device.write(u64::from(board.device) << 16 | VENDOR)?;
        subsystem.write(u64::from(vgpu_type.id & 0xffff) << 16 | VENDOR)
    }

    fn nvmlVgpuTypeGetFramebufferSize(nvml, id: c_uint, bytes: Ptr<c_ulonglong>) {
        bytes.write(u64::from(nvml.vgpu_type(id)?.1.framebuffer_mib) * MIB)
    }

    fn nvmlVgpuTypeGetFbReservation(nvml, id: c_uint, bytes: Ptr<c_ulonglong>) {
        bytes.write(reservation(nvml.vgpu_type(id)?.1))
    }

    // Boards without GSP firmware need none of it.
    fn nvmlVgpuTypeGetGspHeapSize(nvml, id: c_uint, bytes: Ptr<c_ulonglong>) {
        let (board, vgpu_type) = nvml.vgpu_type(id)?;
        let heap = u64::from(vgpu_type.heads) * 4 + 45;
        bytes.write(if board.vfs == 0 { 0 } else { heap * MIB })
    }

    fn nvmlVgpuTypeGetBAR1Info(nvml, id: c_uint, info: Ptr<nvmlVgpuTypeBar1Info_v1_t>) {
        let (_, vgpu_type) = nvml.vgpu_type(id)?;
        let version = info.read_version(1)?.version;
        // A quarter of the framebuffer, and never less than a legacy GPU's aperture.
        let size = (u64::from(vgpu_type.framebuffer_mib) / 4).next_power_of_two().max(256);
        info.write(nvmlVgpuTypeBar1Info_v1_t { version, bar1Size: size })
    }

    fn nvmlVgpuTypeGetNumDisplayHeads(nvml, id: c_uint, heads: Ptr<c_uint>) {
        heads.write(nvml.vgpu_type(id)?.1.heads)
    }

    fn nvmlVgpuTypeGetResolution(
        nvml, id: c_uint, head: c_uint, width: Ptr<c_uint>, height: Ptr<c_uint>,
    ) {
        let (_, vgpu_type) = nvml.vgpu_type(id)?;
        if head >= vgpu_type.heads {
            return Err(Code::INVALID_ARGUMENT);
        }
        width.write(vgpu_type.resolution.0)?;
        height.write(vgpu_type.resolution.1)
    }

    fn nvmlVgpuTypeGetFrameRateLimit(nvml, id: c_uint, limit: Ptr<c_uint>) {
        limit.write(nvml.vgpu_type(id)?.1.frame_rate_limit)
    }

    fn nvmlVgpuTypeGetMaxInstances(nvml, device: Device, id: c_uint, number: Ptr<c_uint>) {
        number.write(nvml.gpu(device)?.vgpu_type(id)?.max_instances)
    }

    fn nvmlVgpuTypeGetMaxInstancesPerVm(nvml, id: c_uint, number: Ptr<c_uint>) {
        let (_, vgpu_type) = nvml.vgpu_type(id)?;
        number.write(if matches!(vgpu_type.series(), 'Q' | 'C') { 16 } else { 1 })
    }

    fn nvmlVgpuTypeGetMaxInstancesPerGpuInstance(nvml, info: Ptr<MaxPerGi>) {
        let mut answer = info.read_version(1)?;
        let (_, vgpu_type) = nvml.vgpu_type(answer.type_id)?;
        answer.max = vgpu_type.max_per_gi.ok_or(Code::NOT_SUPPORTED)?;
        info.write(answer)
    }

    // NVLink between vGPUs, GPUDirect, and three kinds of exclusiveness: none here.
    fn nvmlVgpuTypeGetCapabilities(nvml, id: c_uint, capability: c_uint, result: Ptr<c_uint>) {
        nvml.vgpu_type(id)?;
        match capability {
            0..=4 => result.write(0),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }
}

/// Type ids of which at least one more vGPU can be created.
fn creatable(nvml: &mut Nvml<'_>, gpu: &Gpu) -> Answer<Vec<u32>> {
    let lines = nvml.numbers(gpu, "creatable", "")?.into_iter();
    let lines = lines.filter(|[_, number]| *number > 0);
    Ok(lines.map(|[id, _]| id).collect())
}

/// Whether one more vGPU fits into a GPU instance, given that one fits on the GPU.
fn has_room(nvml: &mut Nvml<'_>, gpu: &Gpu, gi: u32, vgpu_type: &VgpuType) -> Answer<bool> {
    if gpu.gi(gi)?.hetero {
        let words = format!("{gi} {}", vgpu_type.id);
        return Ok(!nvml.numbers::<1>(gpu, "gi-placements", &words)?.is_empty());
    }
    let vgpus = gpu.state.vgpus.iter().filter(|vgpu| vgpu.gi == Some(gi));
    let inside: Vec<&VgpuType> = vgpus
        .filter_map(|vgpu| gpu.board.vgpu_type(vgpu.type_id))
        .collect();
    let most = if gpu.board.features.mig_timeslicing {
        vgpu_type.max_per_gi.unwrap_or(0).min(PER_GI) as usize
    } else {
        1
    };
    let same_size = |other: &&VgpuType| other.framebuffer_mib == vgpu_type.framebuffer_mib;
    Ok(inside.len() < most && inside.iter().all(same_size))
}

/// How many vGPUs the driver allows in one GPU instance.
const PER_GI: u32 = 12;

fn class(vgpu_type: &VgpuType) -> &'static str {
    match vgpu_type.series() {
        'Q' => "Quadro",
        'C' => "Compute",
        _ => "NVS",
    }
}

fn licence(vgpu_type: &VgpuType) -> &'static str {
    match vgpu_type.series() {
        'Q' => "Quadro-Virtual-DWS,5.0;GRID-Virtual-WS,2.0;GRID-Virtual-WS-Ext,2.0",
        'B' => "GRID-Virtual-PC,2.0;Quadro-Virtual-DWS,5.0;GRID-Virtual-WS,2.0",
        'C' => "NVIDIA-vComputeServer,9.0;Quadro-Virtual-DWS,5.0",
        _ => "GRID-Virtual-Apps,3.0",
    }
}

/// The part of a vGPU's framebuffer that the host reserves: NVIDIA's rule of thumb,
/// without ECC.
pub fn reservation(vgpu_type: &VgpuType) -> u64 {
    let mib = u64::from(vgpu_type.framebuffer_mib);
    let most = u64::from(vgpu_type.max_instances.max(1));
    (mib / 16 + 16 + 128 / most) * MIB
}

/// The board id in the metadata of vGPUs: vGPUs of one board are interchangeable.
pub fn board_id(board: &Board) -> u32 {
    u32::from(board.device) << 16 | u32::from(board.subsystem)
}
