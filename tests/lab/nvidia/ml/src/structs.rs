//! Structs that `nvml-wrapper-sys` does not have yet: those of GPU instances with
//! several vGPUs (API 12.9) and of the second scheduler interface (API 13), and one
//! that it only has in a later form. Their sizes are part of their versions, so they
//! are checked.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlGpuInstance_t, nvmlVgpuSchedulerLogEntry_t, nvmlVgpuSchedulerParams_t,
    nvmlVgpuSchedulerSetParams_t,
};

/// `nvmlVgpuTypeIdInfo_v1_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VgpuTypeIds {
    pub version: c_uint,
    pub count: c_uint,
    pub ids: *mut c_uint,
}
const _: () = assert!(size_of::<VgpuTypeIds>() == 0x10);

/// `nvmlActiveVgpuInstanceInfo_v1_t`
pub type ActiveVgpus = VgpuTypeIds;

/// `nvmlVgpuTypeMaxInstance_v1_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MaxPerGi {
    pub version: c_uint,
    pub type_id: c_uint,
    pub max: c_uint,
}
const _: () = assert!(size_of::<MaxPerGi>() == 0xc);

/// `nvmlVgpuCreatablePlacementInfo_v1_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CreatablePlacements {
    pub version: c_uint,
    pub type_id: c_uint,
    pub count: c_uint,
    pub ids: *mut c_uint,
    pub size: c_uint,
}
const _: () = assert!(size_of::<CreatablePlacements>() == 0x20);

/// `nvmlVgpuSchedulerState_v1_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct GiSchedulerSet {
    pub version: c_uint,
    pub engine: c_uint,
    pub policy: c_uint,
    pub arr: c_uint,
    pub parameters: nvmlVgpuSchedulerSetParams_t,
}
const _: () = assert!(size_of::<GiSchedulerSet>() == 0x18);

/// `nvmlVgpuSchedulerStateInfo_v1_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct GiSchedulerState {
    pub version: c_uint,
    pub engine: c_uint,
    pub policy: c_uint,
    pub arr: c_uint,
    pub parameters: nvmlVgpuSchedulerParams_t,
}
const _: () = assert!(size_of::<GiSchedulerState>() == 0x18);

/// `nvmlVgpuSchedulerLogInfo_v1_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct GiSchedulerLog {
    pub version: c_uint,
    pub engine: c_uint,
    pub policy: c_uint,
    pub arr: c_uint,
    pub parameters: nvmlVgpuSchedulerParams_t,
    pub count: c_uint,
    pub entries: [nvmlVgpuSchedulerLogEntry_t; 200],
}
const _: () = assert!(size_of::<GiSchedulerLog>() == 0x25a0);

/// `nvmlVgpuSchedulerState_v2_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SchedulerSetV2 {
    pub engine: c_uint,
    pub policy: c_uint,
    pub factor: c_uint,
    pub frequency: c_uint,
}
const _: () = assert!(size_of::<SchedulerSetV2>() == 0x10);

/// `nvmlVgpuSchedulerStateInfo_v2_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SchedulerStateV2 {
    pub engine: c_uint,
    pub policy: c_uint,
    pub factor: c_uint,
    pub slice: c_uint,
}
const _: () = assert!(size_of::<SchedulerStateV2>() == 0x10);

/// `nvmlVgpuSchedulerLogEntry_v2_t`
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SchedulerLogEntryV2 {
    pub timestamp: c_ulonglong,
    pub run_total: c_ulonglong,
    pub run: c_ulonglong,
    pub runlist: c_uint,
    pub target_slice: c_ulonglong,
    pub preemption: c_ulonglong,
    pub weight: c_uint,
}

/// `nvmlVgpuSchedulerLogInfo_v2_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SchedulerLogV2 {
    pub engine: c_uint,
    pub policy: c_uint,
    pub factor: c_uint,
    pub slice: c_uint,
    pub count: c_uint,
    pub entries: [SchedulerLogEntryV2; 200],
}
const _: () = assert!(size_of::<SchedulerLogV2>() == 24 + 200 * 56);

/// The result of `nvmlComputeInstanceGetInfo`, before its `_v2` added the placement.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ComputeInstanceInfoV1 {
    pub device: nvmlDevice_t,
    pub gpu_instance: nvmlGpuInstance_t,
    pub id: c_uint,
    pub profile: c_uint,
}
const _: () = assert!(size_of::<ComputeInstanceInfoV1>() == 24);
