//! MIG mode and GPU instances. NVML finds profiles by an index that all boards share, and
//! names them by an id that differs between boards.

use std::ffi::c_uint;

use lab_nvidia::boards::{Board, GiProfile};
use nvml_wrapper_sys::bindings::{
    nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t, nvmlGpuInstanceProfileInfo_t,
    nvmlGpuInstanceProfileInfo_v2_t, nvmlGpuInstanceProfileInfo_v3_t,
};

use crate::{
    abi::{Ptr, abi, chars, count, version},
    code::{Answer, Code},
    gpu::{Device, Gpu, GpuInstance, Nvml},
};

abi! {
    fn nvmlDeviceGetMigMode(nvml, device: Device, current: Ptr<c_uint>, pending: Ptr<c_uint>) {
        let gpu = nvml.gpu(device)?;
        supported(gpu.board)?;
        current.write(gpu.state.mig.into())?;
        pending.write(gpu.state.mig_pending.into())
    }

    fn nvmlDeviceSetMigMode(nvml, device: Device, mode: c_uint, activation: Ptr<c_uint>) {
        let gpu = nvml.gpu(device)?;
        if mode > 1 || activation.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // A module that only pretends success gives no number.
        let status = nvml.numbers::<1>(&gpu, "mig", &mode.to_string())?;
        activation.write(status.first().map_or(0, |[status]| *status))
    }

    fn nvmlDeviceGetMaxMigDeviceCount(nvml, device: Device, number: Ptr<c_uint>) {
        let gpu = nvml.gpu(device)?;
        let most = gpu.board.gi_profiles.iter().map(|profile| profile.max_instances);
        number.write(if gpu.state.mig { most.max().unwrap_or(0) } else { 0 })
    }

    // Compute instances of the host have no devices here.
    fn nvmlDeviceIsMigDeviceHandle(nvml, device: Device, is: Ptr<c_uint>) {
        nvml.gpu(device)?;
        is.write(0)
    }

    fn nvmlDeviceGetMigDeviceHandleByIndex(
        nvml, device: Device, _index: c_uint, _found: Ptr<Device>,
    ) {
        nvml.gpu(device)?;
        Err(Code::NOT_FOUND)
    }

    fn nvmlDeviceGetGpuInstanceId | nvmlDeviceGetComputeInstanceId (
        nvml, device: Device, _id: Ptr<c_uint>,
    ) {
        nvml.gpu(device)?;
        Err(Code::NOT_SUPPORTED)
    }

    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvml, mig: Device, _device: Ptr<Device>) {
        nvml.gpu(mig)?;
        Err(Code::INVALID_ARGUMENT)
    }

    fn nvmlDeviceGetGpuInstanceProfileInfo(
        nvml, device: Device, index: c_uint, info: Ptr<nvmlGpuInstanceProfileInfo_t>,
    ) {
        let board = nvml.gpu(device)?.board;
        let profile = by_index(board, index)?;
        let engines = Engines::of(board, profile);
        info.write(nvmlGpuInstanceProfileInfo_t {
            id: profile.id,
            isP2pSupported: 0,
            sliceCount: profile.compute_slices,
            instanceCount: profile.max_instances,
            multiprocessorCount: engines.multiprocessors,
            copyEngineCount: engines.copy,
            decoderCount: engines.media,
            encoderCount: engines.encoders,
            jpegCount: engines.jpeg,
            ofaCount: engines.ofa,
            memorySizeMB: usable(profile),
        })
    }

    fn nvmlDeviceGetGpuInstanceProfileInfoV(
        nvml, device: Device, index: c_uint, info: Ptr<c_uint>,
    ) {
        let board = nvml.gpu(device)?.board;
        let given = info.read()?;
        if given == version::<nvmlGpuInstanceProfileInfo_v2_t>(2) {
            let answer = profile_v2(given, board, by_index(board, index)?);
            info.cast().write(answer)
        } else if given == version::<nvmlGpuInstanceProfileInfo_v3_t>(3) {
            let answer = profile_v3(given, board, by_index(board, index)?);
            info.cast().write(answer)
        } else {
            Err(Code::VERSION_MISMATCH)
        }
    }

    // The array is large enough for all by contract; without one only the number is asked for.
    fn nvmlDeviceGetGpuInstancePossiblePlacements
    | nvmlDeviceGetGpuInstancePossiblePlacements_v2 (
        nvml, device: Device, id: c_uint,
        placements: Ptr<nvmlGpuInstancePlacement_t>, number: Ptr<c_uint>,
    ) {
        let gpu = nvml.gpu(device)?;
        let profile = gpu.profile(id)?;
        let size = profile.memory_slots;
        let starts = profile.starts.iter();
        let all: Vec<_> = starts.map(|&start| nvmlGpuInstancePlacement_t { start, size }).collect();
        number.write(count(all.len())?)?;
        if placements.is_null() {
            return Ok(());
        }
        placements.fill(&all)
    }

    fn nvmlDeviceGetGpuInstanceRemainingCapacity(
        nvml, device: Device, id: c_uint, number: Ptr<c_uint>,
    ) {
        let gpu = nvml.gpu(device)?;
        gpu.with_mig()?;
        number.write(remaining(&gpu, gpu.profile(id)?))
    }

    fn nvmlDeviceCreateGpuInstance(
        nvml, device: Device, id: c_uint, gi: Ptr<GpuInstance>,
    ) {
        let gpu = nvml.gpu(device)?;
        create(nvml, &gpu, &id.to_string(), gi)
    }

    fn nvmlDeviceCreateGpuInstanceWithPlacement(
        nvml, device: Device, id: c_uint,
        placement: Ptr<nvmlGpuInstancePlacement_t>, gi: Ptr<GpuInstance>,
    ) {
        let gpu = nvml.gpu(device)?;
        let placement = placement.read()?;
        if placement.size != gpu.profile(id)?.memory_slots {
            return Err(Code::INVALID_ARGUMENT);
        }
        create(nvml, &gpu, &format!("{id} {}", placement.start), gi)
    }

    fn nvmlGpuInstanceDestroy(nvml, gi: GpuInstance) {
        let (gpu, gi) = nvml.gi(gi)?;
        nvml.command(&gpu, "gi-destroy", &gi.id.to_string())
    }

    // The array is large enough for all that the profile allows by contract.
    fn nvmlDeviceGetGpuInstances(
        nvml, device: Device, id: c_uint, gis: Ptr<GpuInstance>, number: Ptr<c_uint>,
    ) {
        let gpu = nvml.gpu(device)?;
        gpu.with_mig()?;
        gpu.profile(id)?;
        let found = gpu.state.gis.iter().filter(|gi| gi.profile == id);
        let handles = found.map(|gi| gpu.gi_handle(gi.id)).collect::<Answer<Vec<_>>>()?;
        number.write(count(handles.len())?)?;
        gis.fill(&handles)
    }

    fn nvmlDeviceGetGpuInstanceById(nvml, device: Device, id: c_uint, gi: Ptr<GpuInstance>) {
        let gpu = nvml.gpu(device)?;
        gpu.with_mig()?;
        gi.write(gpu.gi_handle(gpu.gi(id)?.id)?)
    }

    fn nvmlGpuInstanceGetInfo(nvml, gi: GpuInstance, info: Ptr<nvmlGpuInstanceInfo_t>) {
        let (gpu, gi) = nvml.gi(gi)?;
        info.write(nvmlGpuInstanceInfo_t {
            device: gpu.handle().raw(),
            id: gi.id,
            profileId: gi.profile,
            placement: nvmlGpuInstancePlacement_t { start: gi.start, size: gi.size },
        })
    }
}

fn supported(board: &Board) -> Answer {
    if board.features.mig {
        Ok(())
    } else {
        Err(Code::NOT_SUPPORTED)
    }
}

/// One past the last `NVML_GPU_INSTANCE_PROFILE_*` (API 13).
const INDICES: c_uint = 0x12;

fn by_index(board: &'static Board, index: c_uint) -> Answer<&'static GiProfile> {
    if index >= INDICES {
        return Err(Code::INVALID_ARGUMENT);
    }
    let found = board.gi_profiles.iter().find(|gi| gi.index == index);
    found.ok_or(Code::NOT_SUPPORTED)
}

fn create(nvml: &mut Nvml<'_>, gpu: &Gpu, words: &str, gi: Ptr<GpuInstance>) -> Answer {
    // An instance that cannot be returned must not be created.
    if gi.is_null() {
        return Err(Code::INVALID_ARGUMENT);
    }
    let id = nvml.number(gpu, "gi-create", words)?;
    gi.write(gpu.gi_handle(id)?)
}

/// How many more fit, each at the lowest free start.
fn remaining(gpu: &Gpu, profile: &GiProfile) -> u32 {
    let mut taken: Vec<(u32, u32)> = Vec::new();
    taken.extend(gpu.state.gis.iter().map(|gi| (gi.start, gi.size)));
    let existing = gpu.state.gis.iter().filter(|gi| gi.profile == profile.id);
    let mut left = (existing.count()..profile.max_instances as usize).len();
    let mut more = 0;
    for &start in &profile.starts {
        let size = profile.memory_slots;
        let free = |&(other, length): &(u32, u32)| start + size <= other || other + length <= start;
        if left > 0 && taken.iter().all(free) {
            taken.push((start, size));
            left -= 1;
            more += 1;
        }
    }
    more
}

/// MiB. The driver keeps about a twentieth of the nominal memory.
fn usable(profile: &GiProfile) -> u64 {
    u64::from(profile.memory_mib) * 95 / 100
}

/// Multiprocessors come in pairs, of which Blackwell's slices share some.
fn multiprocessors(board: &Board, slices: u32) -> u32 {
    let per_slice = match board.device {
        0x2300..=0x23ff => 16,
        0x2900.. => 47,
        _ => 14,
    };
    (per_slice * slices) & !1
}

/// The engines of a GPU or compute instance.
pub struct Engines {
    pub multiprocessors: u32,
    pub copy: u32,
    /// Video decoders.
    pub media: u32,
    pub encoders: u32,
    pub jpeg: u32,
    pub ofa: u32,
}

impl Engines {
    pub fn of(board: &Board, profile: &GiProfile) -> Self {
        Self::of_slices(board, profile, profile.compute_slices)
    }

    /// Those of so many slices of it; what is shared within it counts whole.
    pub fn of_slices(board: &Board, profile: &GiProfile, slices: u32) -> Self {
        let single = u32::from(profile.media);
        Self {
            multiprocessors: multiprocessors(board, slices),
            copy: profile.compute_slices,
            media: single.max(profile.compute_slices / 2),
            // Boards for computing have none.
            encoders: if profile.gfx {
                profile.compute_slices
            } else {
                0
            },
            jpeg: single,
            ofa: single,
        }
    }
}

fn profile_v2(version: u32, board: &Board, profile: &GiProfile) -> nvmlGpuInstanceProfileInfo_v2_t {
    let engines = Engines::of(board, profile);
    nvmlGpuInstanceProfileInfo_v2_t {
        version,
        id: profile.id,
        isP2pSupported: 0,
        sliceCount: profile.compute_slices,
        instanceCount: profile.max_instances,
        multiprocessorCount: engines.multiprocessors,
        copyEngineCount: engines.copy,
        decoderCount: engines.media,
        encoderCount: engines.encoders,
        jpegCount: engines.jpeg,
        ofaCount: engines.ofa,
        memorySizeMB: usable(profile),
        name: chars(&format!("MIG {}", profile.name)),
    }
}

fn profile_v3(version: u32, board: &Board, profile: &GiProfile) -> nvmlGpuInstanceProfileInfo_v3_t {
    let engines = Engines::of(board, profile);
    nvmlGpuInstanceProfileInfo_v3_t {
        version,
        id: profile.id,
        sliceCount: profile.compute_slices,
        instanceCount: profile.max_instances,
        multiprocessorCount: engines.multiprocessors,
        copyEngineCount: engines.copy,
        decoderCount: engines.media,
        encoderCount: engines.encoders,
        jpegCount: engines.jpeg,
        ofaCount: engines.ofa,
        memorySizeMB: usable(profile),
        name: chars(&format!("MIG {}", profile.name)),
        capabilities: if profile.gfx { CAPABILITY_GFX } else { 0 },
    }
}

/// `NVML_GPU_INSTANCE_PROFILE_CAPS_GFX`
const CAPABILITY_GFX: u32 = 2;
