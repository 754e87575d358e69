//! Schedulers, of a GPU and of a GPU instance.

use std::{ffi::c_uint, mem::zeroed};

use nvml_wrapper::Device;
use nvml_wrapper_sys::bindings::{
    nvmlGpuInstance_t, nvmlReturn_t, nvmlVgpuSchedulerGetState_t, nvmlVgpuSchedulerParams_t,
    nvmlVgpuSchedulerSetParams_t, nvmlVgpuSchedulerSetParams_t__bindgen_ty_1,
    nvmlVgpuSchedulerSetParams_t__bindgen_ty_2, nvmlVgpuSchedulerSetState_t,
};

use super::{Answer, Code, FUNCTION_NOT_FOUND, Gi, Raw, check, handle, version};

/// `nvmlVgpuSchedulerState_v1_t`
#[repr(C)]
struct GiSchedulerSet {
    version: c_uint,
    engine: c_uint,
    policy: c_uint,
    arr: c_uint,
    parameters: nvmlVgpuSchedulerSetParams_t,
}

/// `nvmlVgpuSchedulerStateInfo_v1_t`
#[repr(C)]
struct GiSchedulerState {
    version: c_uint,
    engine: c_uint,
    policy: c_uint,
    arr: c_uint,
    parameters: nvmlVgpuSchedulerParams_t,
}

/// `NVML_VGPU_SCHEDULER_ENGINE_TYPE_GRAPHICS`
const GRAPHICS: c_uint = 1;

/// `NVML_VGPU_SCHEDULER_ARR_ENABLE`; 1 is off, 0 the default.
pub const ARR_ON: u32 = 2;

impl Raw<'_> {
    /// Sets policy and adaptive round robin.
    pub fn set_scheduler(
        &self,
        device: &Device<'_>,
        policy: u32,
        arr: u32,
        parameters: SchedulerParameters,
    ) -> Answer<()> {
        let mut state = nvmlVgpuSchedulerSetState_t {
            schedulerPolicy: policy,
            enableARRMode: arr,
            schedulerParams: parameters.given(),
        };
        call!(
            self,
            nvmlDeviceSetVgpuSchedulerState(handle(device), &mut state)
        )
    }

    /// Policy, adaptive round robin, its averaging factor, and the time slice.
    pub fn scheduler(&self, device: &Device<'_>) -> Answer<[u32; 4]> {
        // SAFETY: Numbers.
        let mut state: nvmlVgpuSchedulerGetState_t = unsafe { zeroed() };
        call!(
            self,
            nvmlDeviceGetVgpuSchedulerState(handle(device), &mut state)
        )?;
        let (policy, arr) = (state.schedulerPolicy, state.arrMode);
        let (factor, slice) = told(arr, state.schedulerParams);
        Ok([policy, arr, factor, slice])
    }

    /// The same for a GPU instance.
    pub fn set_gi_scheduler(
        &self,
        gi: Gi,
        policy: u32,
        arr: u32,
        parameters: SchedulerParameters,
    ) -> Answer<()> {
        let mut state = GiSchedulerSet {
            version: version::<GiSchedulerSet>(1),
            engine: GRAPHICS,
            policy,
            arr,
            parameters: parameters.given(),
        };
        call_by_name!(self, nvmlGpuInstanceSetVgpuSchedulerState(
            gi.handle => nvmlGpuInstance_t, &raw mut state => *mut GiSchedulerSet,
        ))
    }

    /// The same for a GPU instance.
    pub fn gi_scheduler(&self, gi: Gi) -> Answer<[u32; 4]> {
        // SAFETY: Numbers.
        let mut state: GiSchedulerState = unsafe { zeroed() };
        state.version = version::<GiSchedulerState>(1);
        state.engine = GRAPHICS;
        call_by_name!(self, nvmlGpuInstanceGetVgpuSchedulerState(
            gi.handle => nvmlGpuInstance_t, &raw mut state => *mut GiSchedulerState,
        ))?;
        let (factor, slice) = told(state.arr, state.parameters);
        Ok([state.policy, state.arr, factor, slice])
    }
}

/// The parameters of a scheduler; NVML has a union of the two forms.
#[derive(Debug, Clone, Copy)]
pub enum SchedulerParameters {
    /// In nanoseconds, without adaptive round robin.
    TimeSlice(u32),
    /// With adaptive round robin.
    Average { factor: u32, frequency: u32 },
}

impl SchedulerParameters {
    fn given(self) -> nvmlVgpuSchedulerSetParams_t {
        match self {
            Self::TimeSlice(timeslice) => nvmlVgpuSchedulerSetParams_t {
                vgpuSchedData: nvmlVgpuSchedulerSetParams_t__bindgen_ty_2 { timeslice },
            },
            Self::Average { factor, frequency } => nvmlVgpuSchedulerSetParams_t {
                vgpuSchedDataWithARR: nvmlVgpuSchedulerSetParams_t__bindgen_ty_1 {
                    avgFactor: factor,
                    frequency,
                },
            },
        }
    }
}

/// Averaging factor and time slice.
fn told(arr: u32, found: nvmlVgpuSchedulerParams_t) -> (u32, u32) {
    // SAFETY: Both forms of the union are plain numbers, and all of it was zeroed.
    unsafe {
        if arr == ARR_ON {
            let with = found.vgpuSchedDataWithARR;
            (with.avgFactor, with.timeslice)
        } else {
            (0, found.vgpuSchedData.timeslice)
        }
    }
}
