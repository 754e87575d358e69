//! How busy vGPUs are: always idle, because nothing computes here. The driver does not
//! report vGPUs on GPU instances.

use std::{
    ffi::{c_uint, c_ulonglong},
    time::{SystemTime, UNIX_EPOCH},
};

use nvml_wrapper_sys::bindings::{
    nvmlValue_t, nvmlVgpuInstanceUtilizationInfo_v1_t, nvmlVgpuInstanceUtilizationSample_t,
    nvmlVgpuInstancesUtilizationInfo_v1_t, nvmlVgpuProcessUtilizationSample_t,
    nvmlVgpuProcessesUtilizationInfo_v1_t,
};

use crate::{
    abi::{Ptr, abi, fitting, list},
    gpu::Device,
};

abi! {
    fn nvmlDeviceGetVgpuUtilization(
        nvml, device: Device, _since: c_ulonglong, kind: Ptr<c_uint>, number: Ptr<c_uint>,
        samples: Ptr<nvmlVgpuInstanceUtilizationSample_t>,
    ) {
        let gpu = nvml.gpu(device)?;
        gpu.without_mig()?;
        kind.write(UNSIGNED_INT)?;
        let now = now();
        let active = gpu.active().map(|vgpu| nvmlVgpuInstanceUtilizationSample_t {
            vgpuInstance: vgpu.id,
            timeStamp: now,
            smUtil: IDLE,
            memUtil: IDLE,
            encUtil: IDLE,
            decUtil: IDLE,
        });
        list(&active.collect::<Vec<_>>(), number, samples)
    }

    fn nvmlDeviceGetVgpuInstancesUtilizationInfo(
        nvml, device: Device, info: Ptr<nvmlVgpuInstancesUtilizationInfo_v1_t>,
    ) {
        let gpu = nvml.gpu(device)?;
        let mut answer = info.read_version(1)?;
        gpu.without_mig()?;
        let now = now();
        let active = gpu.active().map(|vgpu| nvmlVgpuInstanceUtilizationInfo_v1_t {
            timeStamp: now,
            vgpuInstance: vgpu.id,
            smUtil: IDLE,
            memUtil: IDLE,
            encUtil: IDLE,
            decUtil: IDLE,
            jpgUtil: IDLE,
            ofaUtil: IDLE,
        });
        let samples: Vec<_> = active.collect();
        answer.sampleValType = UNSIGNED_INT;
        let fits = fitting(&samples, &mut answer.vgpuInstanceCount);
        info.write(answer)?;
        fits?;
        Ptr::found(answer.vgpuUtilArray).fill(&samples)
    }

    fn nvmlDeviceGetVgpuProcessUtilization(
        nvml, device: Device, _since: c_ulonglong, number: Ptr<c_uint>,
        samples: Ptr<nvmlVgpuProcessUtilizationSample_t>,
    ) {
        nvml.gpu(device)?.without_mig()?;
        list(&[], number, samples)
    }

    fn nvmlDeviceGetVgpuProcessesUtilizationInfo(
        nvml, device: Device, info: Ptr<nvmlVgpuProcessesUtilizationInfo_v1_t>,
    ) {
        nvml.gpu(device)?.without_mig()?;
        let mut answer = info.read_version(1)?;
        answer.vgpuProcessCount = 0;
        info.write(answer)
    }
}

/// `NVML_VALUE_TYPE_UNSIGNED_INT`
const UNSIGNED_INT: c_uint = 1;

const IDLE: nvmlValue_t = nvmlValue_t { ullVal: 0 };

/// Microseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}
