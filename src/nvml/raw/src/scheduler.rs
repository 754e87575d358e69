//! How vGPUs share time: the scheduler of a GPU, and that of a GPU instance that can hold
//! several vGPUs. Each has two interfaces; drivers before R575 have none for GPU instances.

use std::{ffi::c_uint, mem::zeroed};

use nvml_wrapper::{Device, struct_wrappers::device::VgpuSchedulerSetState};
use nvml_wrapper_sys::bindings::{
    NVML_VGPU_SCHEDULER_ARR_ENABLE, nvmlDevice_t, nvmlGpuInstance_t, nvmlReturn_t,
    nvmlVgpuSchedulerGetState_t, nvmlVgpuSchedulerParams_t,
    nvmlVgpuSchedulerParams_t__bindgen_ty_1, nvmlVgpuSchedulerSetParams_t,
};

use crate::{
    Answer, Error, FUNCTION_NOT_FOUND, check, handle, is_older, mig::instance_by_id, version,
};

/// `NVML_VGPU_SCHEDULER_ENGINE_TYPE_GRAPHICS`
const GRAPHICS: c_uint = 1;

/// A scheduler as NVML describes it; 0 means unknown or default in every field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerState {
    /// `NVML_VGPU_SCHEDULER_POLICY_*`
    pub policy: u32,
    /// `NVML_VGPU_SCHEDULER_ARR_*`; None: the interface does not say.
    pub arr: Option<u32>,
    /// Averaging factor of adaptive round robin.
    pub factor: u32,
    /// In ns; also set with adaptive round robin.
    pub time_slice: u32,
}

impl SchedulerState {
    /// From the fields of the first interface, whose parameters the library has filled.
    fn of_v1(policy: c_uint, arr: c_uint, parameters: nvmlVgpuSchedulerParams_t) -> Self {
        // SAFETY: Both forms of the union are plain numbers, and all of it was zeroed
        // before the library wrote to it.
        let (factor, time_slice) = unsafe {
            if arr == NVML_VGPU_SCHEDULER_ARR_ENABLE {
                let with = parameters.vgpuSchedDataWithARR;
                (with.avgFactor, with.timeslice)
            } else {
                (0, parameters.vgpuSchedData.timeslice)
            }
        };
        Self {
            policy,
            arr: Some(arr),
            factor,
            time_slice,
        }
    }
}

/// `nvmlVgpuSchedulerState_v1_t`
#[repr(C)]
struct SchedulerSetV1 {
    version: c_uint,
    engine: c_uint,
    policy: c_uint,
    arr: c_uint,
    parameters: nvmlVgpuSchedulerSetParams_t,
}
const _: () = assert!(size_of::<SchedulerSetV1>() == 0x18);

/// `nvmlVgpuSchedulerStateInfo_v1_t`
#[repr(C)]
struct SchedulerGetV1 {
    version: c_uint,
    engine: c_uint,
    policy: c_uint,
    arr: c_uint,
    parameters: nvmlVgpuSchedulerParams_t,
}
const _: () = assert!(size_of::<SchedulerGetV1>() == 0x18);

/// `nvmlVgpuSchedulerState_v2_t`
#[repr(C)]
struct SchedulerSetV2 {
    engine: c_uint,
    policy: c_uint,
    factor: c_uint,
    frequency: c_uint,
}
const _: () = assert!(size_of::<SchedulerSetV2>() == 0x10);

/// `nvmlVgpuSchedulerStateInfo_v2_t`
#[repr(C)]
struct SchedulerGetV2 {
    engine: c_uint,
    policy: c_uint,
    factor: c_uint,
    time_slice: c_uint,
}
const _: () = assert!(size_of::<SchedulerGetV2>() == 0x10);

impl SchedulerGetV2 {
    fn empty() -> Self {
        Self {
            engine: GRAPHICS,
            policy: 0,
            factor: 0,
            time_slice: 0,
        }
    }
}

impl From<SchedulerGetV2> for SchedulerState {
    fn from(state: SchedulerGetV2) -> Self {
        Self {
            policy: state.policy,
            arr: None,
            factor: state.factor,
            time_slice: state.time_slice,
        }
    }
}

/// The scheduler's state.
///
/// # Errors
/// NVML's error.
pub fn scheduler(device: &Device<'_>) -> Answer<SchedulerState> {
    match scheduler_v1(device) {
        Err(Error::NoSymbol(_) | Error::Code(FUNCTION_NOT_FOUND)) => scheduler_v2(device),
        found => found,
    }
}

fn scheduler_v1(device: &Device<'_>) -> Answer<SchedulerState> {
    // SAFETY: All fields are plain numbers, for which 0 is valid.
    let mut state: nvmlVgpuSchedulerGetState_t = unsafe { zeroed() };
    call!(
        device.nvml(),
        nvmlDeviceGetVgpuSchedulerState(handle(device), &mut state)
    )?;
    Ok(SchedulerState::of_v1(
        state.schedulerPolicy,
        state.arrMode,
        state.schedulerParams,
    ))
}

fn scheduler_v2(device: &Device<'_>) -> Answer<SchedulerState> {
    let mut state = SchedulerGetV2::empty();
    call_by_name!(device.nvml(), nvmlDeviceGetVgpuSchedulerState_v2(
        handle(device) => nvmlDevice_t,
        &raw mut state => *mut SchedulerGetV2,
    ))?;
    Ok(state.into())
}

/// Sets the scheduler through the interface of API 13. Adaptive round robin is on in
/// every policy that uses it; 0 is the default.
///
/// # Errors
/// NVML's error.
pub fn set_scheduler_v2(
    device: &Device<'_>,
    policy: u32,
    factor: u32,
    frequency: u32,
) -> Answer<()> {
    let mut state = SchedulerSetV2 {
        engine: GRAPHICS,
        policy,
        factor,
        frequency,
    };
    call_by_name!(device.nvml(), nvmlDeviceSetVgpuSchedulerState_v2(
        handle(device) => nvmlDevice_t,
        &raw mut state => *mut SchedulerSetV2,
    ))
}

/// The state of the scheduler of a GPU instance.
///
/// # Errors
/// NVML's error; `NOT_SUPPORTED` where a GPU instance holds one vGPU.
pub fn instance_scheduler(device: &Device<'_>, id: u32) -> Answer<SchedulerState> {
    let instance = instance_by_id(device, id)?;
    match instance_scheduler_v1(device, instance) {
        Err(error) if is_older(&error) => instance_scheduler_v2(device, instance),
        found => found,
    }
}

fn instance_scheduler_v1(
    device: &Device<'_>,
    instance: nvmlGpuInstance_t,
) -> Answer<SchedulerState> {
    let mut state = SchedulerGetV1 {
        version: version::<SchedulerGetV1>(1),
        engine: GRAPHICS,
        policy: 0,
        arr: 0,
        // The larger form of the union, so that all of it is defined.
        parameters: nvmlVgpuSchedulerParams_t {
            vgpuSchedDataWithARR: nvmlVgpuSchedulerParams_t__bindgen_ty_1 {
                avgFactor: 0,
                timeslice: 0,
            },
        },
    };
    call_by_name!(device.nvml(), nvmlGpuInstanceGetVgpuSchedulerState(
        instance => nvmlGpuInstance_t,
        &raw mut state => *mut SchedulerGetV1,
    ))?;
    Ok(SchedulerState::of_v1(
        state.policy,
        state.arr,
        state.parameters,
    ))
}

fn instance_scheduler_v2(
    device: &Device<'_>,
    instance: nvmlGpuInstance_t,
) -> Answer<SchedulerState> {
    let mut state = SchedulerGetV2::empty();
    call_by_name!(device.nvml(), nvmlGpuInstanceGetVgpuSchedulerState_v2(
        instance => nvmlGpuInstance_t,
        &raw mut state => *mut SchedulerGetV2,
    ))?;
    Ok(state.into())
}

/// Sets the scheduler of a GPU instance through the first interface.
///
/// # Errors
/// NVML's error; `NOT_SUPPORTED` also while a vGPU is in it.
pub fn set_instance_scheduler(
    device: &Device<'_>,
    id: u32,
    wanted: &VgpuSchedulerSetState,
) -> Answer<()> {
    let instance = instance_by_id(device, id)?;
    let mut state = SchedulerSetV1 {
        version: version::<SchedulerSetV1>(1),
        engine: GRAPHICS,
        policy: wanted.scheduler_policy,
        arr: wanted.enable_arr_mode,
        parameters: wanted.scheduler_params.as_c(),
    };
    call_by_name!(device.nvml(), nvmlGpuInstanceSetVgpuSchedulerState(
        instance => nvmlGpuInstance_t,
        &raw mut state => *mut SchedulerSetV1,
    ))
}

/// Sets the scheduler of a GPU instance through the interface of API 13, whose numbers are
/// those of [`set_scheduler_v2`](crate::set_scheduler_v2).
///
/// # Errors
/// NVML's error; `NOT_SUPPORTED` also while a vGPU is in it.
pub fn set_instance_scheduler_v2(
    device: &Device<'_>,
    id: u32,
    policy: u32,
    factor: u32,
    frequency: u32,
) -> Answer<()> {
    let instance = instance_by_id(device, id)?;
    let mut state = SchedulerSetV2 {
        engine: GRAPHICS,
        policy,
        factor,
        frequency,
    };
    call_by_name!(device.nvml(), nvmlGpuInstanceSetVgpuSchedulerState_v2(
        instance => nvmlGpuInstance_t,
        &raw mut state => *mut SchedulerSetV2,
    ))
}
