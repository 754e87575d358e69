//! Compute instances of the host. A profile is a number of slices, and its id is NVML's index
//! of it.

use std::ffi::c_uint;

use lab_nvidia::{
    boards::GiProfile,
    control::{Ci, Gi},
};
use nvml_wrapper_sys::bindings::{
    nvmlComputeInstanceInfo_t, nvmlComputeInstancePlacement_t, nvmlComputeInstanceProfileInfo_t,
    nvmlComputeInstanceProfileInfo_v2_t, nvmlComputeInstanceProfileInfo_v3_t,
};

use crate::{
    abi::{Ptr, abi, chars, count, version},
    code::{Answer, Code},
    gpu::{ComputeInstance, Gpu, GpuInstance},
    mig::Engines,
    structs::ComputeInstanceInfoV1,
};

abi! {
    fn nvmlGpuInstanceGetComputeInstanceProfileInfo(
        nvml, gi: GpuInstance, index: c_uint, engine: c_uint,
        info: Ptr<nvmlComputeInstanceProfileInfo_t>,
    ) {
        let (gpu, gi) = nvml.gi(gi)?;
        let (profile, slices) = profile(&gpu, gi, index, engine)?;
        let engines = Engines::of_slices(gpu.board, profile, slices);
        info.write(nvmlComputeInstanceProfileInfo_t {
            id: index,
            sliceCount: slices,
            instanceCount: profile.compute_slices / slices,
            multiprocessorCount: engines.multiprocessors,
            sharedCopyEngineCount: engines.copy,
            sharedDecoderCount: engines.media,
            sharedEncoderCount: engines.encoders,
            sharedJpegCount: engines.jpeg,
            sharedOfaCount: engines.ofa,
        })
    }

    fn nvmlGpuInstanceGetComputeInstanceProfileInfoV(
        nvml, gi: GpuInstance, index: c_uint, engine: c_uint, info: Ptr<c_uint>,
    ) {
        let (gpu, gi) = nvml.gi(gi)?;
        let given = info.read()?;
        let second = given == version::<nvmlComputeInstanceProfileInfo_v2_t>(2);
        if !second && given != version::<nvmlComputeInstanceProfileInfo_v3_t>(3) {
            return Err(Code::VERSION_MISMATCH);
        }
        let (profile, slices) = profile(&gpu, gi, index, engine)?;
        let answer = profile_v3(given, &gpu, profile, index, slices);
        if second {
            info.cast().write(without_capabilities(&answer))
        } else {
            info.cast().write(answer)
        }
    }

    fn nvmlGpuInstanceGetComputeInstanceRemainingCapacity(
        nvml, gi: GpuInstance, id: c_uint, number: Ptr<c_uint>,
    ) {
        let (gpu, gi) = nvml.gi(gi)?;
        let (profile, slices) = profile(&gpu, gi, id, SHARED)?;
        let used: u32 = gpu.cis(gi).iter().map(|ci| ci.slices).sum();
        number.write(profile.compute_slices.saturating_sub(used) / slices)
    }

    fn nvmlGpuInstanceGetComputeInstancePossiblePlacements(
        nvml, gi: GpuInstance, id: c_uint,
        placements: Ptr<nvmlComputeInstancePlacement_t>, number: Ptr<c_uint>,
    ) {
        let (gpu, gi) = nvml.gi(gi)?;
        let (profile, size) = profile(&gpu, gi, id, SHARED)?;
        let starts = 0..=profile.compute_slices - size;
        let all: Vec<_> =
            starts.map(|start| nvmlComputeInstancePlacement_t { start, size }).collect();
        number.write(count(all.len())?)?;
        if placements.is_null() {
            return Ok(());
        }
        placements.fill(&all)
    }

    fn nvmlGpuInstanceCreateComputeInstance(
        nvml, gi: GpuInstance, id: c_uint, ci: Ptr<ComputeInstance>,
    ) {
        let (gpu, gi) = nvml.gi(gi)?;
        let (_, slices) = profile(&gpu, gi, id, SHARED)?;
        if ci.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        let id = nvml.number(&gpu, "ci-create", &format!("{} {slices}", gi.id))?;
        ci.write(gpu.ci_handle(gi.id, id)?)
    }

    fn nvmlComputeInstanceDestroy(nvml, ci: ComputeInstance) {
        let (gpu, gi, ci) = nvml.ci(ci)?;
        nvml.command(&gpu, "ci-destroy", &format!("{} {}", gi.id, ci.id))
    }

    fn nvmlGpuInstanceGetComputeInstances(
        nvml, gi: GpuInstance, id: c_uint, cis: Ptr<ComputeInstance>, number: Ptr<c_uint>,
    ) {
        let (gpu, gi) = nvml.gi(gi)?;
        let (_, slices) = profile(&gpu, gi, id, SHARED)?;
        let found = gpu.cis(gi).into_iter().filter(|ci| ci.slices == slices);
        let handles = found.map(|ci| gpu.ci_handle(gi.id, ci.id)).collect::<Answer<Vec<_>>>()?;
        number.write(count(handles.len())?)?;
        cis.fill(&handles)
    }

    fn nvmlGpuInstanceGetComputeInstanceById(
        nvml, gi: GpuInstance, id: c_uint, ci: Ptr<ComputeInstance>,
    ) {
        let (gpu, gi) = nvml.gi(gi)?;
        let found = gpu.cis(gi).into_iter().find(|ci| ci.id == id);
        ci.write(gpu.ci_handle(gi.id, found.ok_or(Code::NOT_FOUND)?.id)?)
    }

    fn nvmlComputeInstanceGetInfo(nvml, ci: ComputeInstance, info: Ptr<ComputeInstanceInfoV1>) {
        let (gpu, gi, ci) = nvml.ci(ci)?;
        info.write(ComputeInstanceInfoV1 {
            device: gpu.handle().raw(),
            gpu_instance: gpu.gi_handle(gi.id)?.raw(),
            id: ci.id,
            profile: index_of(ci.slices)?,
        })
    }

    fn nvmlComputeInstanceGetInfo_v2(
        nvml, ci: ComputeInstance, info: Ptr<nvmlComputeInstanceInfo_t>,
    ) {
        let (gpu, gi, ci) = nvml.ci(ci)?;
        info.write(nvmlComputeInstanceInfo_t {
            device: gpu.handle().raw(),
            gpuInstance: gpu.gi_handle(gi.id)?.raw(),
            id: ci.id,
            profileId: index_of(ci.slices)?,
            placement: placement(&gpu, gi, ci),
        })
    }
}

/// `NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED`, the only one there is.
const SHARED: c_uint = 0;

/// Slices by `NVML_COMPUTE_INSTANCE_PROFILE_*`, which has 1_SLICE_REV1 for the last.
const SLICES: [u32; 8] = [1, 2, 3, 4, 7, 8, 6, 1];

fn index_of(slices: u32) -> Answer<c_uint> {
    let index = SLICES.iter().position(|&other| other == slices);
    count(index.ok_or(Code::UNKNOWN)?)
}

/// The instance's profile, and how many slices the compute profile has.
fn profile(gpu: &Gpu, gi: Gi, index: c_uint, engine: c_uint) -> Answer<(&'static GiProfile, u32)> {
    let slices = SLICES.get(index as usize).ok_or(Code::INVALID_ARGUMENT)?;
    if engine != SHARED {
        return Err(Code::INVALID_ARGUMENT);
    }
    let profile = gpu.profile(gi.profile).map_err(|_| Code::UNKNOWN)?;
    let rev1 = index as usize == SLICES.len() - 1;
    if rev1 || *slices > profile.compute_slices {
        return Err(Code::NOT_SUPPORTED);
    }
    Ok((profile, *slices))
}

/// The module counts slices but does not say which; here they are assigned in order of
/// id.
fn placement(gpu: &Gpu, gi: Gi, ci: Ci) -> nvmlComputeInstancePlacement_t {
    let before = gpu.cis(gi).into_iter().filter(|other| other.id < ci.id);
    nvmlComputeInstancePlacement_t {
        start: before.map(|other| other.slices).sum(),
        size: ci.slices,
    }
}

fn profile_v3(
    version: u32,
    gpu: &Gpu,
    profile: &GiProfile,
    index: c_uint,
    slices: u32,
) -> nvmlComputeInstanceProfileInfo_v3_t {
    let engines = Engines::of_slices(gpu.board, profile, slices);
    let name = if slices == profile.compute_slices {
        format!("MIG {}", profile.name)
    } else {
        format!("MIG {slices}c.{}", profile.name)
    };
    nvmlComputeInstanceProfileInfo_v3_t {
        version,
        id: index,
        sliceCount: slices,
        instanceCount: profile.compute_slices / slices,
        multiprocessorCount: engines.multiprocessors,
        sharedCopyEngineCount: engines.copy,
        sharedDecoderCount: engines.media,
        sharedEncoderCount: engines.encoders,
        sharedJpegCount: engines.jpeg,
        sharedOfaCount: engines.ofa,
        name: chars(&name),
        capabilities: profile.gfx.into(),
    }
}

fn without_capabilities(
    info: &nvmlComputeInstanceProfileInfo_v3_t,
) -> nvmlComputeInstanceProfileInfo_v2_t {
    nvmlComputeInstanceProfileInfo_v2_t {
        version: info.version,
        id: info.id,
        sliceCount: info.sliceCount,
        instanceCount: info.instanceCount,
        multiprocessorCount: info.multiprocessorCount,
        sharedCopyEngineCount: info.sharedCopyEngineCount,
        sharedDecoderCount: info.sharedDecoderCount,
        sharedEncoderCount: info.sharedEncoderCount,
        sharedJpegCount: info.sharedJpegCount,
        sharedOfaCount: info.sharedOfaCount,
        name: info.name,
    }
}
