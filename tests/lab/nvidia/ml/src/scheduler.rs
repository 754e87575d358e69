//! How vGPUs share the time of a GPU or of a GPU instance. The module schedules nothing,
//! so logs are empty.

use std::ffi::c_uint;

use lab_nvidia::{control::Gi, model::Scheduler};
use nvml_wrapper_sys::bindings::{
    nvmlVgpuSchedulerCapabilities_t, nvmlVgpuSchedulerGetState_t, nvmlVgpuSchedulerLog_t,
    nvmlVgpuSchedulerLogEntry_t, nvmlVgpuSchedulerParams_t,
    nvmlVgpuSchedulerParams_t__bindgen_ty_1, nvmlVgpuSchedulerParams_t__bindgen_ty_2,
    nvmlVgpuSchedulerSetParams_t, nvmlVgpuSchedulerSetState_t,
};

use crate::{
    abi::{Ptr, abi, version},
    code::{Answer, Code},
    gpu::{Device, Gpu, GpuInstance, Nvml},
    structs::{
        GiSchedulerLog, GiSchedulerSet, GiSchedulerState, SchedulerLogEntryV2, SchedulerLogV2,
        SchedulerSetV2, SchedulerStateV2,
    },
};

/// `NVML_VGPU_SCHEDULER_ARR_ENABLE`; 1 is off, 0 the default.
const ARR_ON: c_uint = 2;
/// `NVML_VGPU_SCHEDULER_ENGINE_TYPE_GRAPHICS`
const GRAPHICS: c_uint = 1;

abi! {
    fn nvmlDeviceGetVgpuSchedulerCapabilities(
        nvml, device: Device, capabilities: Ptr<nvmlVgpuSchedulerCapabilities_t>,
    ) {
        let arr = nvml.gpu(device)?.board.features.arr;
        let limit = |limit| if arr { limit } else { 0 };
        capabilities.write(nvmlVgpuSchedulerCapabilities_t {
            supportedSchedulers: [1, 2, 3],
            maxTimeslice: 30_000_000,
            minTimeslice: 1_000_000,
            isArrModeSupported: arr.into(),
            maxFrequencyForARR: limit(960),
            minFrequencyForARR: limit(63),
            maxAvgFactorForARR: limit(60),
            minAvgFactorForARR: limit(1),
        })
    }

    fn nvmlDeviceGetVgpuSchedulerState(
        nvml, device: Device, state: Ptr<nvmlVgpuSchedulerGetState_t>,
    ) {
        let scheduler = scheduler(&nvml.gpu(device)?)?;
        state.write(nvmlVgpuSchedulerGetState_t {
            schedulerPolicy: scheduler.policy,
            arrMode: scheduler.arr,
            schedulerParams: parameters(scheduler),
        })
    }

    fn nvmlDeviceGetVgpuSchedulerState_v2(nvml, device: Device, state: Ptr<SchedulerStateV2>) {
        let scheduler = scheduler(&nvml.gpu(device)?)?;
        let engine = graphics(state.read()?.engine)?;
        state.write(state_v2(engine, scheduler))
    }

    fn nvmlDeviceSetVgpuSchedulerState(
        nvml, device: Device, state: Ptr<nvmlVgpuSchedulerSetState_t>,
    ) {
        let gpu = nvml.gpu(device)?;
        let state = state.read()?;
        let wanted = wanted(state.schedulerPolicy, state.enableARRMode, state.schedulerParams);
        set(nvml, &gpu, None, wanted)
    }

    fn nvmlDeviceSetVgpuSchedulerState_v2(nvml, device: Device, state: Ptr<SchedulerSetV2>) {
        let gpu = nvml.gpu(device)?;
        let wanted = wanted_v2(state.read()?)?;
        set(nvml, &gpu, None, wanted)
    }

    fn nvmlDeviceGetVgpuSchedulerLog(nvml, device: Device, log: Ptr<nvmlVgpuSchedulerLog_t>) {
        let scheduler = scheduler(&nvml.gpu(device)?)?;
        log.write(nvmlVgpuSchedulerLog_t {
            engineId: GRAPHICS,
            schedulerPolicy: scheduler.policy,
            arrMode: scheduler.arr,
            schedulerParams: parameters(scheduler),
            entriesCount: 0,
            logEntries: [NO_ENTRY; 200],
        })
    }

    fn nvmlDeviceGetVgpuSchedulerLog_v2(nvml, device: Device, log: Ptr<SchedulerLogV2>) {
        let scheduler = scheduler(&nvml.gpu(device)?)?;
        let engine = graphics(log.cast::<c_uint>().read()?)?;
        log.write(log_v2(engine, scheduler))
    }

    fn nvmlGpuInstanceGetVgpuSchedulerState(nvml, gi: GpuInstance, state: Ptr<GiSchedulerState>) {
        let scheduler = gi_scheduler(nvml, gi)?;
        let GiSchedulerState { version, engine, .. } = state.read_version(1)?;
        state.write(GiSchedulerState {
            version,
            engine: graphics(engine)?,
            policy: scheduler.policy,
            arr: scheduler.arr,
            parameters: parameters(scheduler),
        })
    }

    fn nvmlGpuInstanceSetVgpuSchedulerState(nvml, gi: GpuInstance, state: Ptr<GiSchedulerSet>) {
        let (gpu, gi) = nvml.gi(gi)?;
        let state = state.read_version(1)?;
        graphics(state.engine)?;
        let wanted = wanted(state.policy, state.arr, state.parameters);
        set(nvml, &gpu, Some(gi), wanted)
    }

    fn nvmlGpuInstanceGetVgpuSchedulerLog(nvml, gi: GpuInstance, log: Ptr<GiSchedulerLog>) {
        let scheduler = gi_scheduler(nvml, gi)?;
        // The log is too large to be read as a whole where nothing of it is wanted.
        let given = log.cast::<c_uint>().read()?;
        if given != version::<GiSchedulerLog>(1) {
            return Err(Code::VERSION_MISMATCH);
        }
        log.write(GiSchedulerLog {
            version: given,
            engine: GRAPHICS,
            policy: scheduler.policy,
            arr: scheduler.arr,
            parameters: parameters(scheduler),
            count: 0,
            entries: [NO_ENTRY; 200],
        })
    }

    fn nvmlGpuInstanceGetVgpuSchedulerState_v2(nvml, gi: GpuInstance, state: Ptr<SchedulerStateV2>) {
        let scheduler = gi_scheduler(nvml, gi)?;
        let engine = graphics(state.read()?.engine)?;
        state.write(state_v2(engine, scheduler))
    }

    fn nvmlGpuInstanceSetVgpuSchedulerState_v2(nvml, gi: GpuInstance, state: Ptr<SchedulerSetV2>) {
        let (gpu, gi) = nvml.gi(gi)?;
        let wanted = wanted_v2(state.read()?)?;
        set(nvml, &gpu, Some(gi), wanted)
    }

    fn nvmlGpuInstanceGetVgpuSchedulerLog_v2(nvml, gi: GpuInstance, log: Ptr<SchedulerLogV2>) {
        let scheduler = gi_scheduler(nvml, gi)?;
        let engine = graphics(log.cast::<c_uint>().read()?)?;
        log.write(log_v2(engine, scheduler))
    }
}

const NO_ENTRY: nvmlVgpuSchedulerLogEntry_t = nvmlVgpuSchedulerLogEntry_t {
    timestamp: 0,
    timeRunTotal: 0,
    timeRun: 0,
    swRunlistId: 0,
    targetTimeSlice: 0,
    cumulativePreemptionTime: 0,
};

/// vGPUs on GPU instances are not time-sliced by the GPU's scheduler.
fn scheduler(gpu: &Gpu) -> Answer<Scheduler> {
    gpu.without_mig()?;
    Ok(gpu.state.scheduler)
}

/// A GPU instance's own, on boards that put several vGPUs into one.
fn gi_scheduler(nvml: &mut Nvml<'_>, gi: GpuInstance) -> Answer<Scheduler> {
    let (gpu, gi) = nvml.gi(gi)?;
    if gpu.board.features.mig_timeslicing {
        Ok(gi.scheduler)
    } else {
        Err(Code::NOT_SUPPORTED)
    }
}

fn wanted(policy: c_uint, arr: c_uint, given: nvmlVgpuSchedulerSetParams_t) -> Scheduler {
    // SAFETY: Both forms of the union are plain numbers, for which any value is valid;
    // the caller has filled the form that the mode selects.
    let (factor, frequency, slice_ns) = unsafe {
        if arr == ARR_ON {
            let arr = given.vgpuSchedDataWithARR;
            (arr.avgFactor, arr.frequency, 0)
        } else {
            (0, 0, given.vgpuSchedData.timeslice)
        }
    };
    Scheduler {
        policy,
        arr,
        factor,
        frequency,
        slice_ns,
    }
}

/// The second interface has no time slice: with fair sharing, adaptive round robin is on.
fn wanted_v2(state: SchedulerSetV2) -> Answer<Scheduler> {
    graphics(state.engine)?;
    let SchedulerSetV2 {
        policy,
        factor,
        frequency,
        ..
    } = state;
    let arr = if factor == 0 && frequency == 0 {
        0
    } else {
        ARR_ON
    };
    Ok(Scheduler {
        policy,
        arr,
        factor,
        frequency,
        slice_ns: 0,
    })
}

fn state_v2(engine: c_uint, scheduler: Scheduler) -> SchedulerStateV2 {
    SchedulerStateV2 {
        engine,
        policy: scheduler.policy,
        factor: scheduler.factor,
        slice: slice(scheduler),
    }
}

fn log_v2(engine: c_uint, scheduler: Scheduler) -> SchedulerLogV2 {
    SchedulerLogV2 {
        engine,
        policy: scheduler.policy,
        factor: scheduler.factor,
        slice: slice(scheduler),
        count: 0,
        entries: [SchedulerLogEntryV2::default(); 200],
    }
}

fn graphics(engine: c_uint) -> Answer<c_uint> {
    if engine == GRAPHICS {
        Ok(engine)
    } else {
        Err(Code::INVALID_ARGUMENT)
    }
}

/// In nanoseconds; the frequency is the number of slices per second.
fn slice(scheduler: Scheduler) -> u32 {
    let from_frequency = 1_000_000_000_u32.checked_div(scheduler.frequency);
    from_frequency.unwrap_or(scheduler.slice_ns)
}

fn parameters(scheduler: Scheduler) -> nvmlVgpuSchedulerParams_t {
    let timeslice = slice(scheduler);
    if scheduler.arr == ARR_ON {
        nvmlVgpuSchedulerParams_t {
            vgpuSchedDataWithARR: nvmlVgpuSchedulerParams_t__bindgen_ty_1 {
                avgFactor: scheduler.factor,
                timeslice,
            },
        }
    } else {
        // Written by way of the other form, so that both words are defined.
        let mut parameters = nvmlVgpuSchedulerParams_t {
            vgpuSchedDataWithARR: nvmlVgpuSchedulerParams_t__bindgen_ty_1 {
                avgFactor: 0,
                timeslice: 0,
            },
        };
        parameters.vgpuSchedData = nvmlVgpuSchedulerParams_t__bindgen_ty_2 { timeslice };
        parameters
    }
}

/// Of the GPU, or of one of its GPU instances.
fn set(nvml: &mut Nvml<'_>, gpu: &Gpu, gi: Option<Gi>, wanted: Scheduler) -> Answer {
    match gi {
        None => nvml.command(gpu, "scheduler", &wanted.to_string()),
        Some(gi) => nvml.command(gpu, "gi-scheduler", &format!("{} {wanted}", gi.id)),
    }
}
