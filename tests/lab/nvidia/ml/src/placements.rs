//! The places of vGPUs on a GPU: the heterogeneous modes and the lists of placement
//! ids. Only the kernel module knows which places are free.

use std::ffi::c_uint;

use lab_nvidia::boards::VgpuType;
use nvml_wrapper_sys::bindings::{
    nvmlVgpuHeterogeneousMode_v1_t, nvmlVgpuPlacementList_v1_t, nvmlVgpuPlacementList_v2_t,
};

use crate::{
    abi::{Ptr, abi, fitting, version},
    code::{Answer, Code},
    gpu::{Device, Gpu, GpuInstance, Nvml},
    structs::CreatablePlacements,
};

/// `NVML_VGPU_PGPU_HETEROGENEOUS_MODE`, and the other one is 1.
const HETEROGENEOUS: c_uint = 0;
const HOMOGENEOUS: c_uint = 1;

abi! {
    fn nvmlDeviceGetVgpuHeterogeneousMode(
        nvml, device: Device, mode: Ptr<nvmlVgpuHeterogeneousMode_v1_t>,
    ) {
        let gpu = nvml.gpu(device)?;
        heterogeneous(&gpu)?;
        let version = mode.read_version(1)?.version;
        mode.write(nvmlVgpuHeterogeneousMode_v1_t { version, mode: gpu.state.hetero.into() })
    }

    fn nvmlDeviceSetVgpuHeterogeneousMode(
        nvml, device: Device, mode: Ptr<nvmlVgpuHeterogeneousMode_v1_t>,
    ) {
        let gpu = nvml.gpu(device)?;
        let mode = wanted(mode)?;
        nvml.command(&gpu, "hetero", &mode.to_string())
    }

    fn nvmlGpuInstanceGetVgpuHeterogeneousMode(
        nvml, gi: GpuInstance, mode: Ptr<nvmlVgpuHeterogeneousMode_v1_t>,
    ) {
        let (gpu, gi) = nvml.gi(gi)?;
        if !gpu.board.features.mig_timeslicing {
            return Err(Code::NOT_SUPPORTED);
        }
        let version = mode.read_version(1)?.version;
        mode.write(nvmlVgpuHeterogeneousMode_v1_t { version, mode: gi.hetero.into() })
    }

    fn nvmlGpuInstanceSetVgpuHeterogeneousMode(
        nvml, gi: GpuInstance, mode: Ptr<nvmlVgpuHeterogeneousMode_v1_t>,
    ) {
        let (gpu, gi) = nvml.gi(gi)?;
        let mode = wanted(mode)?;
        nvml.command(&gpu, "gi-hetero", &format!("{} {mode}", gi.id))
    }

    fn nvmlDeviceGetVgpuTypeSupportedPlacements(
        nvml, device: Device, id: c_uint, placements: Ptr<c_uint>,
    ) {
        let gpu = nvml.gpu(device)?;
        let vgpu_type = gpu.vgpu_type(id)?;
        let given = Given::read(placements)?;
        let ids = supported(&gpu, vgpu_type, given.mode)?;
        given.answer(vgpu_type, &ids, given.mode)
    }

    // The GPU's own mode counts, whatever the caller passed.
    fn nvmlDeviceGetVgpuTypeCreatablePlacements(
        nvml, device: Device, id: c_uint, placements: Ptr<c_uint>,
    ) {
        let gpu = nvml.gpu(device)?;
        let vgpu_type = gpu.vgpu_type(id)?;
        let given = Given::read(placements)?;
        gpu.without_mig()?;
        let mode = if gpu.state.hetero { HETEROGENEOUS } else { HOMOGENEOUS };
        // The first version has only the heterogeneous mode.
        let told = given.second || mode == HETEROGENEOUS;
        if mode == HOMOGENEOUS && !(told && gpu.board.features.homogeneous_placements) {
            return Err(Code::NOT_SUPPORTED);
        }
        let ids = free(nvml, &gpu, "placements", &id.to_string())?;
        given.answer(vgpu_type, &ids, mode)
    }

    fn nvmlGpuInstanceGetVgpuTypeCreatablePlacements(
        nvml, gi: GpuInstance, info: Ptr<CreatablePlacements>,
    ) {
        let (gpu, gi) = nvml.gi(gi)?;
        let mut answer = info.read_version(1)?;
        let vgpu_type = gpu.vgpu_type(answer.type_id)?;
        let ids = free(nvml, &gpu, "gi-placements", &format!("{} {}", gi.id, vgpu_type.id))?;
        answer.size = vgpu_type.slots;
        let fits = fitting(&ids, &mut answer.count);
        info.write(answer)?;
        fits?;
        Ptr::found(answer.ids).fill(&ids)
    }
}

/// An error unless the GPU has the mode now.
fn heterogeneous(gpu: &Gpu) -> Answer {
    if gpu.board.features.hetero {
        gpu.without_mig()
    } else {
        Err(Code::NOT_SUPPORTED)
    }
}

fn wanted(mode: Ptr<nvmlVgpuHeterogeneousMode_v1_t>) -> Answer<c_uint> {
    match mode.read_version(1)?.mode {
        mode @ 0..=1 => Ok(mode),
        _ => Err(Code::INVALID_ARGUMENT),
    }
}

fn free(nvml: &mut Nvml<'_>, gpu: &Gpu, name: &str, words: &str) -> Answer<Vec<u32>> {
    let lines = nvml.numbers::<1>(gpu, name, words)?.into_iter();
    Ok(lines.map(|[id]| id).collect())
}

/// All ids that vGPUs of a type can ever have in a mode. Within a GPU instance they are
/// counted from its beginning.
fn supported(gpu: &Gpu, vgpu_type: &VgpuType, mode: c_uint) -> Answer<Vec<u32>> {
    let board = gpu.board;
    let size = vgpu_type.slots;
    if let Some(profile) = vgpu_type.gi_profile {
        if !board.features.mig_timeslicing {
            return Err(Code::NOT_SUPPORTED);
        }
        return Ok(multiples(size, gpu.profile(profile)?.memory_mib / 1024));
    }
    match mode {
        HETEROGENEOUS if board.features.hetero => {
            Ok(board.mixed.get(&size).cloned().unwrap_or_default())
        }
        HOMOGENEOUS if board.features.homogeneous_placements => {
            Ok(multiples(size, vgpu_type.region(board.slots)))
        }
        HETEROGENEOUS | HOMOGENEOUS => Err(Code::NOT_SUPPORTED),
        _ => Err(Code::INVALID_ARGUMENT),
    }
}

fn multiples(size: u32, slots: u32) -> Vec<u32> {
    let places = slots.checked_div(size).unwrap_or(0);
    (0..places).map(|place| place * size).collect()
}

/// A placement list of either version.
struct Given {
    at: Ptr<c_uint>,
    second: bool,
    room: c_uint,
    ids: Ptr<c_uint>,
    mode: c_uint,
}

impl Given {
    fn read(at: Ptr<c_uint>) -> Answer<Self> {
        let found = at.read()?;
        if found == version::<nvmlVgpuPlacementList_v2_t>(2) {
            let list = at.cast::<nvmlVgpuPlacementList_v2_t>().read()?;
            Ok(Self {
                at,
                second: true,
                room: list.count,
                ids: Ptr::found(list.placementIds),
                mode: list.mode,
            })
        } else if found == version::<nvmlVgpuPlacementList_v1_t>(1) {
            let list = at.cast::<nvmlVgpuPlacementList_v1_t>().read()?;
            Ok(Self {
                at,
                second: false,
                room: list.count,
                ids: Ptr::found(list.placementIds),
                mode: HETEROGENEOUS,
            })
        } else {
            Err(Code::VERSION_MISMATCH)
        }
    }

    fn answer(&self, vgpu_type: &VgpuType, ids: &[u32], mode: c_uint) -> Answer {
        let mut room = self.room;
        let fits = fitting(ids, &mut room);
        if self.second {
            let list = self.at.cast::<nvmlVgpuPlacementList_v2_t>();
            let mut answer = list.read()?;
            answer.placementSize = vgpu_type.slots;
            answer.count = room;
            answer.mode = mode;
            list.write(answer)?;
        } else {
            let list = self.at.cast::<nvmlVgpuPlacementList_v1_t>();
            let mut answer = list.read()?;
            answer.placementSize = vgpu_type.slots;
            answer.count = room;
            list.write(answer)?;
        }
        fits?;
        self.ids.fill(ids)
    }
}
