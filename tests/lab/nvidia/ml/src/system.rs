//! Initialisation, versions, and finding a device.

use std::ffi::{c_char, c_int, c_uint};

use crate::{
    abi::{Given, Ptr, Text, abi, count},
    code::{self, Answer, Code},
    gpu::{Address, Device, Nvml, uuid},
    session,
};

/// The driver release; the kernel module reports the same (vGPU 19.0).
pub const DRIVER: &str = "580.65.05";

// SAFETY: The name is NVML's; whoever loads this library does so in place of NVML.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: c_uint) -> *const c_char {
    code::text(result).as_ptr()
}

abi! {
    fn nvmlInit | nvmlInit_v2 (!) {
        session::init()
    }

    // The flags say not to fail without a GPU and not to attach any: this library does
    // neither.
    fn nvmlInitWithFlags(!, _flags: c_uint) {
        session::init()
    }

    fn nvmlShutdown(!) {
        session::shutdown()
    }

    fn nvmlSystemGetNVMLVersion(!, text: Text, size: c_uint) {
        text.write(&format!("13.{DRIVER}"), size)
    }

    fn nvmlSystemGetCudaDriverVersion | nvmlSystemGetCudaDriverVersion_v2 (
        !, version: Ptr<c_int>,
    ) {
        version.write(13000)
    }

    fn nvmlSystemGetDriverVersion(_, text: Text, size: c_uint) {
        text.write(DRIVER, size)
    }

    fn nvmlDeviceGetCount | nvmlDeviceGetCount_v2 (nvml, number: Ptr<c_uint>) {
        number.write(count(nvml.all()?.len())?)
    }

    fn nvmlDeviceGetHandleByIndex | nvmlDeviceGetHandleByIndex_v2 (
        nvml, index: c_uint, device: Ptr<Device>,
    ) {
        let all = nvml.all()?;
        let (address, _) = all.get(index as usize).ok_or(Code::INVALID_ARGUMENT)?;
        device.write(opened(nvml, *address)?)
    }

    fn nvmlDeviceGetHandleByUUID(nvml, wanted: Given, device: Ptr<Device>) {
        let wanted = wanted.read()?;
        let all = nvml.all()?;
        let found = all.iter().find(|(address, _)| gpu_uuid(*address) == wanted);
        device.write(opened(nvml, found.ok_or(Code::NOT_FOUND)?.0)?)
    }

    fn nvmlDeviceGetHandleBySerial(nvml, wanted: Given, device: Ptr<Device>) {
        let wanted = wanted.read()?;
        let all = nvml.all()?;
        let found = all.iter().find(|(address, _)| serial(*address) == wanted);
        device.write(opened(nvml, found.ok_or(Code::NOT_FOUND)?.0)?)
    }

    fn nvmlDeviceGetHandleByPciBusId | nvmlDeviceGetHandleByPciBusId_v2 (
        nvml, wanted: Given, device: Ptr<Device>,
    ) {
        let wanted: Address = wanted.read()?.parse().map_err(|()| Code::INVALID_ARGUMENT)?;
        let all = nvml.all()?;
        let found = all.iter().find(|(address, _)| *address == wanted);
        device.write(opened(nvml, found.ok_or(Code::NOT_FOUND)?.0)?)
    }
}

/// The handle of an existing GPU; a lost one has none.
fn opened(nvml: &mut Nvml<'_>, address: Address) -> Answer<Device> {
    Ok(nvml.gpu_at(address)?.handle())
}

/// The UUID that `nvidia-smi -L` shows.
pub fn gpu_uuid(address: Address) -> String {
    format!("GPU-{}", uuid(&address.to_string()))
}

/// Thirteen digits, as on the boards' labels.
pub fn serial(address: Address) -> String {
    let (bus, device) = (address.bus, address.device);
    format!("165{:05}{bus:03}{device:02}", address.domain)
}
