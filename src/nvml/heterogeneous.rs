//! Mixed sizes on one GPU, or in one GPU instance. The GPU's mode lasts until `sriov-manage`
//! runs, the driver is loaded again or the host reboots; a GPU instance's lasts as long as the
//! instance.

use nvml_wrapper::{Device, enum_wrappers::device::VgpuCapability};
use virt_vgpu_nvml_raw as raw;

use super::{
    failure::{Call, reading},
    mig,
};
use crate::{
    device::nvml::{Failure, FailureKind, Heterogeneous, InstancePlace},
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

/// Switches the mode of the GPU.
pub(super) fn set(device: &Device<'_>, gpu: PciAddress, on: bool) -> Result<(), Failure> {
    let word = word(on);
    let call = Call::new(
        device.nvml(),
        format!("switch the heterogeneous mode of {gpu} {word}"),
    );
    let mode = Mode {
        read: &|| raw::heterogeneous(device),
        write: &|on| raw::set_heterogeneous(device, on),
    };
    switch(&call, &mode, on)
}

/// Switches the mode of the GPU instance at that place.
pub(super) fn set_in_instance(
    device: &Device<'_>,
    gpu: PciAddress,
    place: InstancePlace,
    on: bool,
) -> Result<(), Failure> {
    let word = word(on);
    let call = Call::new(
        device.nvml(),
        format!("switch heterogeneous mode {word} in the GPU instance of {gpu}: {place}"),
    );
    let id = mig::existing(device, gpu, place, &call)?.id;
    let mode = Mode {
        read: &|| raw::instance_heterogeneous(device, id),
        write: &|on| raw::set_instance_heterogeneous(device, id, on),
    };
    switch(&call, &mode, on)
}

fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// The two calls of NVML for a mode.
struct Mode<'a> {
    read: &'a dyn Fn() -> raw::Answer<bool>,
    write: &'a dyn Fn(bool) -> raw::Answer<()>,
}

/// Switches a mode, unless it already has that value: while there are vGPUs the driver
/// refuses even that.
fn switch(call: &Call<'_>, mode: &Mode<'_>, on: bool) -> Result<(), Failure> {
    if (mode.read)() == Ok(on) {
        return Ok(());
    }
    (mode.write)(on).map_err(|error| call.failed(error))?;
    match (mode.read)() {
        Ok(found) if found == on => Ok(()),
        Ok(_) => Err(call.failure(
            FailureKind::Other,
            "the driver says that it is done, but the mode has not changed",
        )),
        Err(error) => Err(call.failed(error)),
    }
}
