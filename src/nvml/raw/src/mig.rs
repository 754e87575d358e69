//! MIG mode, GPU instances and their compute instances. NVML finds profiles by an index
//! that all GPUs share, and names them by an id that differs between GPUs. A GPU instance is
//! named by its id, which may be another one's once it is destroyed.

use std::{
    ffi::{CStr, c_char, c_uint},
    mem::zeroed,
    ptr::null_mut,
};

use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED, nvmlComputeInstance_t,
    nvmlComputeInstanceProfileInfo_t, nvmlDevice_t, nvmlGpuInstance_t, nvmlGpuInstanceInfo_t,
    nvmlGpuInstancePlacement_t, nvmlGpuInstanceProfileInfo_t, nvmlGpuInstanceProfileInfo_v2_t,
    nvmlGpuInstanceProfileInfo_v3_t, nvmlReturn_t, nvmlVgpuHeterogeneousMode_v1_t,
};

use crate::{
    Answer, Error, FUNCTION_NOT_FOUND, INVALID_ARGUMENT, NOT_SUPPORTED, check, count, handle,
    heterogeneous_mode, ids, is_older, pointer, version,
};

/// More than any driver has of either kind of profile.
const INDICES: c_uint = 64;

/// A profile of GPU instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceProfile {
    /// The number by which the GPU's driver knows it.
    pub id: u32,
    /// Of compute.
    pub slices: u32,
    /// How many the GPU can have at once.
    pub most: u32,
    /// What a VM or a process can use of its memory.
    pub memory_mib: u64,
    /// `MIG 1g.24gb+gfx`; None: an older driver does not say.
    pub name: Option<String>,
    /// `NVML_GPU_INSTANCE_PROFILE_CAPS_*`; None: an older driver does not say.
    pub capabilities: Option<u32>,
    /// NVDEC.
    pub decoders: u32,
    /// NVENC.
    pub encoders: u32,
    /// NVJPG.
    pub jpeg: u32,
    /// Optical flow.
    pub optical_flow: u32,
}

/// A GPU instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// 0 is an instance like any other.
    pub id: u32,
    /// Its profile.
    pub profile: u32,
    /// The first of the memory slots that it has.
    pub start: u32,
    /// How many memory slots it has.
    pub size: u32,
}

/// Switches MIG mode. What is returned is 0 where it has taken effect; otherwise NVML's
/// reason why it has to wait.
///
/// # Errors
/// NVML's error.
pub fn set_mig(device: &Device<'_>, on: bool) -> Answer<u32> {
    let mut status = 0;
    call!(
        device.nvml(),
        nvmlDeviceSetMigMode(handle(device), on.into(), &mut status)
    )?;
    Ok(status)
}

/// The profiles that the GPU has, also while MIG mode is off, in the order of NVML's index.
///
/// # Errors
/// NVML's error.
pub fn instance_profiles(device: &Device<'_>) -> Answer<Vec<InstanceProfile>> {
    by_index(|index| instance_profile(device, index))
}

/// What there is at each index. The GPU lacks some; after the last one all are invalid.
fn by_index<T>(ask: impl Fn(c_uint) -> Answer<T>) -> Answer<Vec<T>> {
    let mut found = Vec::new();
    for index in 0..INDICES {
        match ask(index) {
            Ok(one) => found.push(one),
            Err(Error::Code(NOT_SUPPORTED)) => {}
            Err(Error::Code(INVALID_ARGUMENT)) if index > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The profile in a struct of any version: they name their common fields alike.
macro_rules! profile_in {
    ($info:expr, name: $name:expr, capabilities: $capabilities:expr) => {
        InstanceProfile {
            id: $info.id,
            slices: $info.sliceCount,
            most: $info.instanceCount,
            memory_mib: $info.memorySizeMB,
            name: $name,
            capabilities: $capabilities,
            decoders: $info.decoderCount,
            encoders: $info.encoderCount,
            jpeg: $info.jpegCount,
            optical_flow: $info.ofaCount,
        }
    };
}

fn instance_profile(device: &Device<'_>, index: c_uint) -> Answer<InstanceProfile> {
    match instance_profile_v3(device, index) {
        Err(error) if is_older(&error) => {}
        found => return found,
    }
    match instance_profile_v2(device, index) {
        Err(error) if is_older(&error) => {}
        found => return found,
    }
    // SAFETY: All fields are plain numbers, for which 0 is valid.
    let mut info: nvmlGpuInstanceProfileInfo_t = unsafe { zeroed() };
    call!(
        device.nvml(),
        nvmlDeviceGetGpuInstanceProfileInfo(handle(device), index, &mut info)
    )?;
    Ok(profile_in!(info, name: None, capabilities: None))
}

fn instance_profile_v3(device: &Device<'_>, index: c_uint) -> Answer<InstanceProfile> {
    // SAFETY: All fields are plain numbers, for which 0 is valid.
    let mut info: nvmlGpuInstanceProfileInfo_v3_t = unsafe { zeroed() };
    info.version = version::<nvmlGpuInstanceProfileInfo_v3_t>(3);
    // The library reads the version and writes no more than that version has.
    call!(
        device.nvml(),
        nvmlDeviceGetGpuInstanceProfileInfoV(handle(device), index, (&raw mut info).cast())
    )?;
    Ok(profile_in!(info, name: name(&info.name), capabilities: Some(info.capabilities)))
}

fn instance_profile_v2(device: &Device<'_>, index: c_uint) -> Answer<InstanceProfile> {
    // SAFETY: All fields are plain numbers, for which 0 is valid.
    let mut info: nvmlGpuInstanceProfileInfo_v2_t = unsafe { zeroed() };
    info.version = version::<nvmlGpuInstanceProfileInfo_v2_t>(2);
    call!(
        device.nvml(),
        nvmlDeviceGetGpuInstanceProfileInfoV(handle(device), index, &mut info)
    )?;
    Ok(profile_in!(info, name: name(&info.name), capabilities: None))
}

fn name(letters: &[c_char]) -> Option<String> {
    let bytes: Vec<u8> = letters.iter().map(|c| c.to_ne_bytes()[0]).collect();
    let text = CStr::from_bytes_until_nul(&bytes).ok()?.to_string_lossy();
    (!text.is_empty()).then(|| text.into_owned())
}

/// The places of a profile: first memory slot and number of slots; also while MIG mode is
/// off or a place is taken.
///
/// # Errors
/// NVML's error.
pub fn instance_placements(device: &Device<'_>, profile: u32) -> Answer<Vec<(u32, u32)>> {
    type Ask<'a> = dyn Fn(*mut nvmlGpuInstancePlacement_t, *mut c_uint) -> Answer<()> + 'a;
    let second = |room: *mut nvmlGpuInstancePlacement_t, number: *mut c_uint| {
        call!(
            device.nvml(),
            nvmlDeviceGetGpuInstancePossiblePlacements_v2(handle(device), profile, room, number)
        )
    };
    let first = |room: *mut nvmlGpuInstancePlacement_t, number: *mut c_uint| {
        call_by_name!(device.nvml(), nvmlDeviceGetGpuInstancePossiblePlacements(
            handle(device) => nvmlDevice_t,
            profile => c_uint,
            room => *mut nvmlGpuInstancePlacement_t,
            number => *mut c_uint,
        ))
    };
    let read = |ask: &Ask<'_>| {
        let mut number = 0;
        ask(null_mut(), &raw mut number)?;
        let none = nvmlGpuInstancePlacement_t { start: 0, size: 0 };
        let mut room = vec![none; number as usize];
        if !room.is_empty() {
            ask(room.as_mut_ptr(), &raw mut number)?;
        }
        room.truncate(number as usize);
        Ok(room.iter().map(|one| (one.start, one.size)).collect())
    };
    match read(&second) {
        Err(Error::NoSymbol(_) | Error::Code(FUNCTION_NOT_FOUND)) => read(&first),
        found => found,
    }
}

/// The GPU instances of a profile of which the GPU can have `most`.
///
/// # Errors
/// NVML's error; `NOT_SUPPORTED` while MIG mode is off.
pub fn instances(device: &Device<'_>, profile: u32, most: u32) -> Answer<Vec<Instance>> {
    let found = handles(most, |room, number| {
        call!(
            device.nvml(),
            nvmlDeviceGetGpuInstances(handle(device), profile, room, number)
        )
    })?;
    let read = |instance: nvmlGpuInstance_t| info(device.nvml(), instance);
    found.into_iter().map(read).collect()
}

/// The handles in a list of at most `most`. NVML has no other bound for what it writes.
fn handles<T>(
    most: u32,
    ask: impl FnOnce(*mut *mut T, *mut c_uint) -> Answer<()>,
) -> Answer<Vec<*mut T>> {
    let mut room = vec![null_mut(); most as usize];
    let mut number = count_of(&room);
    ask(room.as_mut_ptr(), &raw mut number)?;
    room.truncate(number as usize);
    Ok(room)
}

fn count_of<T>(room: &[T]) -> c_uint {
    c_uint::try_from(room.len()).unwrap_or(c_uint::MAX)
}

fn info(nvml: &Nvml, instance: nvmlGpuInstance_t) -> Answer<Instance> {
    // SAFETY: A null handle and plain numbers, for which 0 is valid.
    let mut info: nvmlGpuInstanceInfo_t = unsafe { zeroed() };
    call!(nvml, nvmlGpuInstanceGetInfo(instance, &mut info))?;
    Ok(Instance {
        id: info.id,
        profile: info.profileId,
        start: info.placement.start,
        size: info.placement.size,
    })
}

/// Creates a GPU instance in these memory slots.
///
/// # Errors
/// NVML's error; `INSUFFICIENT_RESOURCES` where there is no space.
pub fn create_instance(
    device: &Device<'_>,
    profile: u32,
    (start, size): (u32, u32),
) -> Answer<Instance> {
    let place = nvmlGpuInstancePlacement_t { start, size };
    let mut instance = null_mut();
    call!(
        device.nvml(),
        nvmlDeviceCreateGpuInstanceWithPlacement(handle(device), profile, &place, &mut instance)
    )?;
    info(device.nvml(), instance)
}

/// Destroys a GPU instance.
///
/// # Errors
/// NVML's error; `IN_USE` while it has compute instances or is in use.
pub fn destroy_instance(device: &Device<'_>, id: u32) -> Answer<()> {
    let instance = instance_by_id(device, id)?;
    call!(device.nvml(), nvmlGpuInstanceDestroy(instance))
}

pub(crate) fn instance_by_id(device: &Device<'_>, id: u32) -> Answer<nvmlGpuInstance_t> {
    let mut instance = null_mut();
    call!(
        device.nvml(),
        nvmlDeviceGetGpuInstanceById(handle(device), id, &mut instance)
    )?;
    Ok(instance)
}

/// How many compute instances a GPU instance has.
///
/// # Errors
/// NVML's error.
pub fn compute_instances(device: &Device<'_>, id: u32) -> Answer<u32> {
    let found = compute_handles(device, id)?;
    Ok(count_of(&found))
}

/// Destroys the compute instances of a GPU instance.
///
/// # Errors
/// NVML's error; `IN_USE` while one is in use.
pub fn destroy_compute_instances(device: &Device<'_>, id: u32) -> Answer<()> {
    for instance in compute_handles(device, id)? {
        call!(device.nvml(), nvmlComputeInstanceDestroy(instance))?;
    }
    Ok(())
}

fn compute_handles(device: &Device<'_>, id: u32) -> Answer<Vec<nvmlComputeInstance_t>> {
    let instance = instance_by_id(device, id)?;
    let profiles = by_index(|index| {
        // SAFETY: All fields are plain numbers, for which 0 is valid.
        let mut info: nvmlComputeInstanceProfileInfo_t = unsafe { zeroed() };
        call!(
            device.nvml(),
            nvmlGpuInstanceGetComputeInstanceProfileInfo(
                instance,
                index,
                NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED,
                &mut info,
            )
        )?;
        Ok((info.id, info.instanceCount))
    })?;
    let mut found = Vec::new();
    for (profile, most) in profiles {
        found.extend(handles(most, |room, number| {
            call!(
                device.nvml(),
                nvmlGpuInstanceGetComputeInstances(instance, profile, room, number)
            )
        })?);
    }
    Ok(found)
}

/// `nvmlVgpuTypeMaxInstance_v1_t`
#[repr(C)]
struct MostPerInstance {
    version: c_uint,
    type_id: c_uint,
    most: c_uint,
}
const _: () = assert!(size_of::<MostPerInstance>() == 0xc);

/// How many vGPUs of a type fit into one GPU instance.
///
/// # Errors
/// NVML's error; also for a type that is not in GPU instances.
pub fn most_per_instance(nvml: &Nvml, type_id: u32) -> Answer<u32> {
    let mut info = MostPerInstance {
        version: version::<MostPerInstance>(1),
        type_id,
        most: 0,
    };
    call_by_name!(nvml, nvmlVgpuTypeGetMaxInstancesPerGpuInstance(
        &raw mut info => *mut MostPerInstance,
    ))?;
    Ok(info.most)
}

/// Whether the heterogeneous mode of a GPU instance is on.
///
/// # Errors
/// NVML's error; `NOT_SUPPORTED` where a GPU instance holds one vGPU.
pub fn instance_heterogeneous(device: &Device<'_>, id: u32) -> Answer<bool> {
    let instance = instance_by_id(device, id)?;
    let mut mode = heterogeneous_mode(false);
    call_by_name!(device.nvml(), nvmlGpuInstanceGetVgpuHeterogeneousMode(
        instance => nvmlGpuInstance_t,
        &raw mut mode => *mut nvmlVgpuHeterogeneousMode_v1_t,
    ))?;
    Ok(mode.mode != 0)
}

/// Switches the heterogeneous mode of a GPU instance.
///
/// # Errors
/// NVML's error; `IN_USE` while a vGPU is in it.
pub fn set_instance_heterogeneous(device: &Device<'_>, id: u32, on: bool) -> Answer<()> {
    let instance = instance_by_id(device, id)?;
    let mode = heterogeneous_mode(on);
    call_by_name!(device.nvml(), nvmlGpuInstanceSetVgpuHeterogeneousMode(
        instance => nvmlGpuInstance_t,
        &raw const mode => *const nvmlVgpuHeterogeneousMode_v1_t,
    ))
}

/// `nvmlVgpuCreatablePlacementInfo_v1_t`
#[repr(C)]
struct CreatablePlacements {
    version: c_uint,
    type_id: c_uint,
    count: c_uint,
    ids: *mut c_uint,
    size: c_uint,
}
const _: () = assert!(size_of::<CreatablePlacements>() == 0x20);

/// The places that a type can have now in a GPU instance, counted from its beginning: the
/// length of a place, and the first ids.
///
/// # Errors
/// NVML's error.
pub fn instance_creatable_placements(
    device: &Device<'_>,
    id: u32,
    type_id: u32,
) -> Answer<(u32, Vec<u32>)> {
    let instance = instance_by_id(device, id)?;
    let ask = |info: *mut CreatablePlacements| {
        call_by_name!(device.nvml(), nvmlGpuInstanceGetVgpuTypeCreatablePlacements(
            instance => nvmlGpuInstance_t,
            info => *mut CreatablePlacements,
        ))
    };
    let (ids, size) = ids(|room: &mut [c_uint]| {
        let mut info = CreatablePlacements {
            version: version::<CreatablePlacements>(1),
            type_id,
            count: count(room),
            ids: pointer(room),
            size: 0,
        };
        let code = ask(&raw mut info);
        (code, info.count, info.size)
    })?;
    Ok((size, ids))
}
