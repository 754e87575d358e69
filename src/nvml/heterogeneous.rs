//! Mixed sizes on one GPU. The mode lasts until `sriov-manage` runs, the driver is
//! loaded again or the host reboots.

use nvml_wrapper::{Device, enum_wrappers::device::VgpuCapability};
use virt_vgpu_nvml_raw as raw;

use super::failure::{Call, reading};
use crate::{
    device::nvml::{Failure, FailureKind, Heterogeneous},
    model::PciAddress,
};

/// The mode. It is not read if the GPU does not support it.
pub(super) fn read(device: &Device<'_>, gpu: PciAddress) -> Result<Heterogeneous, Failure> {
    let call = reading(device, gpu, "heterogeneous mode");
    let supported = device.vgpu_capabilities(VgpuCapability::HeterogeneousTimesliceSizes);
    let supported = supported.map_err(|error| call.failed(error))? != 0;
    let enabled = match raw::heterogeneous(device) {
        _ if !supported => false,
        // A GPU that supports it does not offer it in MIG mode.
        Err(raw::Error::Code(raw::NOT_SUPPORTED)) => false,
        found => found.map_err(|error| call.failed(error))?,
    };
    Ok(Heterogeneous { supported, enabled })
}

/// Switches the mode, unless it already has that value: while there are vGPUs the
/// driver refuses even that.
pub(super) fn set(device: &Device<'_>, gpu: PciAddress, on: bool) -> Result<(), Failure> {
    let word = if on { "on" } else { "off" };
    let call = Call::new(
        device.nvml(),
        format!("switch the heterogeneous mode of {gpu} {word}"),
    );
    if raw::heterogeneous(device) == Ok(on) {
        return Ok(());
    }
    raw::set_heterogeneous(device, on).map_err(|error| call.failed(error))?;
    match raw::heterogeneous(device) {
        Ok(found) if found == on => Ok(()),
        Ok(_) => Err(call.failure(
            FailureKind::Other,
            "the driver says that it is done, but the mode has not changed",
        )),
        Err(error) => Err(call.failed(error)),
    }
}
