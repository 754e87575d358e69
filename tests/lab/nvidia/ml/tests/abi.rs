//! The built library, loaded as a program does it: by name, through the dynamic linker.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use std::{env, ffi::CStr, path::PathBuf};

use libloading::{Library, Symbol};
use nvml_wrapper::{Nvml, error::NvmlError};

/// Cargo puts it beside the tests that link to it.
fn library() -> PathBuf {
    let test = env::current_exe().unwrap();
    test.parent().unwrap().join("libnvidia_ml.so")
}

/// On a host with a driver this would use the driver.
#[test]
fn without_the_device_the_driver_is_not_loaded() {
    if std::fs::exists(lab_nvidia::control::PATH).unwrap() {
        return;
    }
    let path = library();
    let error = Nvml::builder().lib_path(path.as_os_str()).init();
    assert!(
        matches!(error, Err(NvmlError::DriverNotLoaded)),
        "{error:?}"
    );
}

#[test]
fn errors_have_names() {
    // SAFETY: The library does nothing when it is loaded, and the function has this type.
    let text = unsafe {
        let library = Library::new(library()).unwrap();
        let name: Symbol<unsafe extern "C" fn(u32) -> *const std::ffi::c_char> =
            library.get(b"nvmlErrorString\0").unwrap();
        CStr::from_ptr(name(19)).to_owned()
    };
    assert_eq!(text.as_c_str(), c"In use by another client");
}

#[test]
fn all_calls_are_exported() {
    // SAFETY: The library does nothing when it is loaded, and nothing is called.
    let missing: Vec<&str> = unsafe {
        let library = Library::new(library()).unwrap();
        let missing = |name: &&str| {
            library
                .get::<unsafe extern "C" fn()>(name.as_bytes())
                .is_err()
        };
        CALLS.split_whitespace().filter(missing).collect()
    };
    assert_eq!(missing, [""; 0]);
}

const CALLS: &str = "
    nvmlInit
    nvmlInit_v2
    nvmlInitWithFlags
    nvmlShutdown
    nvmlErrorString
    nvmlSystemGetDriverVersion
    nvmlSystemGetNVMLVersion
    nvmlSystemGetCudaDriverVersion
    nvmlSystemGetCudaDriverVersion_v2
    nvmlDeviceGetCount
    nvmlDeviceGetCount_v2
    nvmlDeviceGetHandleByIndex
    nvmlDeviceGetHandleByIndex_v2
    nvmlDeviceGetHandleByUUID
    nvmlDeviceGetHandleBySerial
    nvmlDeviceGetHandleByPciBusId
    nvmlDeviceGetHandleByPciBusId_v2
    nvmlDeviceGetName
    nvmlDeviceGetUUID
    nvmlDeviceGetIndex
    nvmlDeviceGetMinorNumber
    nvmlDeviceGetSerial
    nvmlDeviceGetBoardPartNumber
    nvmlDeviceGetPciInfo
    nvmlDeviceGetPciInfo_v2
    nvmlDeviceGetPciInfo_v3
    nvmlDeviceGetPciInfoExt
    nvmlDeviceGetMemoryInfo
    nvmlDeviceGetMemoryInfo_v2
    nvmlDeviceGetBAR1MemoryInfo
    nvmlDeviceGetUtilizationRates
    nvmlDeviceGetTemperature
    nvmlDeviceGetPowerUsage
    nvmlDeviceGetArchitecture
    nvmlDeviceGetNumaNodeId
    nvmlDeviceGetAccountingMode
    nvmlDeviceGetVirtualizationMode
    nvmlDeviceSetVirtualizationMode
    nvmlDeviceGetHostVgpuMode
    nvmlDeviceGetVgpuCapabilities
    nvmlGetVgpuDriverCapabilities
    nvmlDeviceGetSupportedVgpus
    nvmlDeviceGetCreatableVgpus
    nvmlGpuInstanceGetCreatableVgpus
    nvmlVgpuTypeGetClass
    nvmlVgpuTypeGetName
    nvmlVgpuTypeGetGpuInstanceProfileId
    nvmlVgpuTypeGetDeviceID
    nvmlVgpuTypeGetFramebufferSize
    nvmlVgpuTypeGetNumDisplayHeads
    nvmlVgpuTypeGetResolution
    nvmlVgpuTypeGetLicense
    nvmlVgpuTypeGetFrameRateLimit
    nvmlVgpuTypeGetMaxInstances
    nvmlVgpuTypeGetMaxInstancesPerVm
    nvmlVgpuTypeGetMaxInstancesPerGpuInstance
    nvmlVgpuTypeGetCapabilities
    nvmlVgpuTypeGetBAR1Info
    nvmlVgpuTypeGetFbReservation
    nvmlVgpuTypeGetGspHeapSize
    nvmlDeviceGetVgpuTypeSupportedPlacements
    nvmlDeviceGetVgpuTypeCreatablePlacements
    nvmlGpuInstanceGetVgpuTypeCreatablePlacements
    nvmlDeviceGetVgpuHeterogeneousMode
    nvmlDeviceSetVgpuHeterogeneousMode
    nvmlGpuInstanceGetVgpuHeterogeneousMode
    nvmlGpuInstanceSetVgpuHeterogeneousMode
    nvmlDeviceGetVgpuSchedulerCapabilities
    nvmlDeviceGetVgpuSchedulerState
    nvmlDeviceSetVgpuSchedulerState
    nvmlDeviceGetVgpuSchedulerLog
    nvmlDeviceGetVgpuSchedulerState_v2
    nvmlDeviceSetVgpuSchedulerState_v2
    nvmlDeviceGetVgpuSchedulerLog_v2
    nvmlGpuInstanceGetVgpuSchedulerState
    nvmlGpuInstanceSetVgpuSchedulerState
    nvmlGpuInstanceGetVgpuSchedulerLog
    nvmlGpuInstanceGetVgpuSchedulerState_v2
    nvmlGpuInstanceSetVgpuSchedulerState_v2
    nvmlGpuInstanceGetVgpuSchedulerLog_v2
    nvmlDeviceGetMigMode
    nvmlDeviceSetMigMode
    nvmlDeviceGetMaxMigDeviceCount
    nvmlDeviceIsMigDeviceHandle
    nvmlDeviceGetMigDeviceHandleByIndex
    nvmlDeviceGetGpuInstanceProfileInfo
    nvmlDeviceGetGpuInstanceProfileInfoV
    nvmlDeviceGetGpuInstancePossiblePlacements
    nvmlDeviceGetGpuInstancePossiblePlacements_v2
    nvmlDeviceGetGpuInstanceRemainingCapacity
    nvmlDeviceCreateGpuInstance
    nvmlDeviceCreateGpuInstanceWithPlacement
    nvmlGpuInstanceDestroy
    nvmlDeviceGetGpuInstances
    nvmlDeviceGetGpuInstanceById
    nvmlGpuInstanceGetInfo
    nvmlGpuInstanceGetComputeInstanceProfileInfo
    nvmlGpuInstanceGetComputeInstanceProfileInfoV
    nvmlGpuInstanceGetComputeInstances
    nvmlGpuInstanceCreateComputeInstance
    nvmlComputeInstanceDestroy
    nvmlGpuInstanceGetComputeInstanceById
    nvmlComputeInstanceGetInfo
    nvmlComputeInstanceGetInfo_v2
    nvmlDeviceGetActiveVgpus
    nvmlGpuInstanceGetActiveVgpus
    nvmlVgpuInstanceGetVmID
    nvmlVgpuInstanceGetUUID
    nvmlVgpuInstanceGetVmDriverVersion
    nvmlVgpuInstanceGetFbUsage
    nvmlVgpuInstanceGetLicenseStatus
    nvmlVgpuInstanceGetLicenseInfo
    nvmlVgpuInstanceGetLicenseInfo_v2
    nvmlVgpuInstanceGetType
    nvmlVgpuInstanceGetFrameRateLimit
    nvmlVgpuInstanceGetMdevUUID
    nvmlVgpuInstanceGetPlacementId
    nvmlVgpuInstanceGetGpuInstanceId
    nvmlVgpuInstanceGetGpuPciId
    nvmlVgpuInstanceGetEccMode
    nvmlVgpuInstanceGetEncoderCapacity
    nvmlVgpuInstanceGetRuntimeStateSize
    nvmlVgpuInstanceGetMetadata
    nvmlDeviceGetVgpuMetadata
    nvmlGetVgpuCompatibility
    nvmlGetVgpuVersion
    nvmlSetVgpuVersion
    nvmlDeviceGetVgpuUtilization
    nvmlDeviceGetVgpuInstancesUtilizationInfo
    nvmlDeviceGetVgpuProcessUtilization
    nvmlDeviceGetVgpuProcessesUtilizationInfo
";
