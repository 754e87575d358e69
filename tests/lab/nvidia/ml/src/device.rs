//! Properties and state of a device: names, PCI, memory, sensors, modes of
//! virtualisation and capabilities.

use std::ffi::c_uint;

use lab_nvidia::boards::Board;
use nvml_wrapper_sys::bindings::{
    nvmlBAR1Memory_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t, nvmlPciInfoExt_v1_t,
    nvmlUtilization_t,
};

use crate::{
    abi::{Ptr, Text, abi, chars, count},
    code::Code,
    gpu::{Address, Device, Gpu},
    system::{gpu_uuid, serial},
};

const MIB: u64 = 1 << 20;
/// NVIDIA's PCI vendor id, in the lower half of an id.
const VENDOR: u32 = 0x10de;

abi! {
    fn nvmlDeviceGetName(nvml, device: Device, text: Text, size: c_uint) {
        text.write(&nvml.gpu(device)?.board.name, size)
    }

    fn nvmlDeviceGetUUID(nvml, device: Device, text: Text, size: c_uint) {
        text.write(&gpu_uuid(nvml.gpu(device)?.address), size)
    }

    fn nvmlDeviceGetSerial(nvml, device: Device, text: Text, size: c_uint) {
        text.write(&serial(nvml.gpu(device)?.address), size)
    }

    fn nvmlDeviceGetBoardPartNumber(nvml, device: Device, _text: Text, _size: c_uint) {
        nvml.gpu(device)?;
        Err(Code::NOT_SUPPORTED)
    }

    fn nvmlDeviceGetIndex | nvmlDeviceGetMinorNumber (nvml, device: Device, index: Ptr<c_uint>) {
        let address = nvml.gpu(device)?.address;
        let found = nvml.all()?.iter().position(|(other, _)| *other == address);
        index.write(count(found.ok_or(Code::NOT_FOUND)?)?)
    }

    fn nvmlDeviceGetNumaNodeId(nvml, device: Device, node: Ptr<c_uint>) {
        let found = nvml.gpu(device)?.state.node;
        node.write(u32::try_from(found).map_err(|_| Code::NOT_SUPPORTED)?)
    }

    fn nvmlDeviceGetPciInfo | nvmlDeviceGetPciInfo_v2 | nvmlDeviceGetPciInfo_v3 (
        nvml, device: Device, info: Ptr<nvmlPciInfo_t>,
    ) {
        let Gpu { address, board, .. } = nvml.gpu(device)?;
        info.write(nvmlPciInfo_t {
            busIdLegacy: chars(&address.legacy()),
            domain: address.domain.into(),
            bus: address.bus.into(),
            device: address.device.into(),
            pciDeviceId: u32::from(board.device) << 16 | VENDOR,
            pciSubSystemId: u32::from(board.subsystem) << 16 | VENDOR,
            busId: chars(&address.nvml()),
        })
    }

    fn nvmlDeviceGetPciInfoExt(nvml, device: Device, info: Ptr<nvmlPciInfoExt_v1_t>) {
        let Gpu { address, board, .. } = nvml.gpu(device)?;
        let version = info.read_version(1)?.version;
        info.write(nvmlPciInfoExt_v1_t {
            version,
            domain: address.domain.into(),
            bus: address.bus.into(),
            device: address.device.into(),
            pciDeviceId: u32::from(board.device) << 16 | VENDOR,
            pciSubSystemId: u32::from(board.subsystem) << 16 | VENDOR,
            baseClass: 3,
            subClass: 2,
            busId: chars(&address.nvml()),
        })
    }

    fn nvmlDeviceGetMemoryInfo(nvml, device: Device, memory: Ptr<nvmlMemory_t>) {
        let gpu = nvml.gpu(device)?;
        let (total, used) = framebuffer(&gpu);
        memory.write(nvmlMemory_t { total, free: total - used, used })
    }

    fn nvmlDeviceGetMemoryInfo_v2(nvml, device: Device, memory: Ptr<nvmlMemory_v2_t>) {
        let gpu = nvml.gpu(device)?;
        let version = memory.read_version(2)?.version;
        let (total, used) = framebuffer(&gpu);
        // About as much as the driver reserves.
        let reserved = (total / 64).min(total - used);
        memory.write(nvmlMemory_v2_t {
            version,
            total,
            reserved,
            free: total - used - reserved,
            used,
        })
    }

    fn nvmlDeviceGetBAR1MemoryInfo(nvml, device: Device, memory: Ptr<nvmlBAR1Memory_t>) {
        let board = nvml.gpu(device)?.board;
        let total = u64::from(board.memory_mib).next_power_of_two() * MIB;
        memory.write(nvmlBAR1Memory_t { bar1Total: total, bar1Free: total - MIB, bar1Used: MIB })
    }

    fn nvmlDeviceGetUtilizationRates(nvml, device: Device, rates: Ptr<nvmlUtilization_t>) {
        nvml.gpu(device)?.without_mig()?;
        rates.write(nvmlUtilization_t { gpu: 0, memory: 0 })
    }

    fn nvmlDeviceGetTemperature(nvml, device: Device, sensor: c_uint, degrees: Ptr<c_uint>) {
        let address = nvml.gpu(device)?.address;
        if sensor != 0 {
            return Err(Code::INVALID_ARGUMENT);
        }
        degrees.write(30 + individual(address) % 8)
    }

    fn nvmlDeviceGetPowerUsage(nvml, device: Device, milliwatts: Ptr<c_uint>) {
        let address = nvml.gpu(device)?.address;
        milliwatts.write(28_000 + individual(address) * 100)
    }

    fn nvmlDeviceGetArchitecture(nvml, device: Device, architecture: Ptr<c_uint>) {
        architecture.write(generation(nvml.gpu(device)?.board))
    }

    fn nvmlDeviceGetPersistenceMode | nvmlDeviceGetDisplayMode | nvmlDeviceGetDisplayActive
    | nvmlDeviceGetAccountingMode (nvml, device: Device, mode: Ptr<c_uint>) {
        nvml.gpu(device)?;
        mode.write(0)
    }

    fn nvmlDeviceGetVirtualizationMode(nvml, device: Device, mode: Ptr<c_uint>) {
        nvml.gpu(device)?;
        mode.write(HOST_VGPU)
    }

    // The mode follows from the driver that is installed.
    fn nvmlDeviceSetVirtualizationMode(nvml, device: Device, mode: c_uint) {
        nvml.gpu(device)?;
        match mode {
            HOST_VGPU => Ok(()),
            0..=4 => Err(Code::NOT_SUPPORTED),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }

    fn nvmlDeviceGetHostVgpuMode(nvml, device: Device, mode: Ptr<c_uint>) {
        mode.write(u32::from(nvml.gpu(device)?.board.vfs > 0))
    }

    fn nvmlDeviceGetVgpuCapabilities(
        nvml, device: Device, capability: c_uint, result: Ptr<c_uint>,
    ) {
        result.write(capability_of(&nvml.gpu(device)?, capability).ok_or(Code::INVALID_ARGUMENT)?)
    }

    // Several vGPUs of different sizes in one VM, and warm update.
    fn nvmlGetVgpuDriverCapabilities(_, capability: c_uint, result: Ptr<c_uint>) {
        match capability {
            0 | 1 => result.write(1),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }
}

/// `NVML_GPU_VIRTUALIZATION_MODE_HOST_VGPU`
const HOST_VGPU: c_uint = 3;

/// Total and used memory, in bytes. As NVIDIA counts, a board's memory is a little less
/// than the sum of its types' framebuffers.
fn framebuffer(gpu: &Gpu) -> (u64, u64) {
    let total = u64::from(gpu.board.memory_mib) * MIB;
    let vgpus = gpu.state.vgpus.iter();
    let sizes = vgpus.filter_map(|vgpu| gpu.board.vgpu_type(vgpu.type_id));
    let used: u64 = sizes
        .map(|vgpu_type| u64::from(vgpu_type.framebuffer_mib) * MIB)
        .sum();
    (total, used.min(total))
}

/// `NVML_DEVICE_VGPU_CAP_*`; none: there is no such capability.
fn capability_of(gpu: &Gpu, capability: c_uint) -> Option<u32> {
    let has = gpu.board.features;
    Some(match capability {
        0 => 1,
        1 => has.mixed_series.into(),
        2 => has.hetero.into(),
        // Bandwidth of the device buffer in MB/s, reading and writing.
        3 => 6000,
        4 => 8000,
        // Migration by streaming the device's state, which needs SR-IOV.
        5 => u32::from(gpu.board.vfs > 0),
        7 => u32::from(gpu.board.gi_profiles.iter().any(|profile| profile.media)),
        9 => has.homogeneous_placements.into(),
        10 => has.mig_timeslicing.into(),
        // The driver enables it wherever it is supported, also with MIG mode off.
        11 => has.mig_timeslicing.into(),
        // Warm update.
        8 => u32::from(!gpu.state.mig),
        // Mini quarter GPU.
        6 => 0,
        _ => return None,
    })
}

/// `NVML_DEVICE_ARCH_*`, which goes by the PCI device id.
fn generation(board: &Board) -> u32 {
    match board.device {
        0x1d00..=0x1dff => 5,
        0x1e00..=0x1fff => 6,
        0x2000..=0x22ff | 0x2400..=0x25ff => 7,
        0x2600..=0x28ff => 8,
        0x2300..=0x23ff => 9,
        0x2900..=0x2fff => 10,
        _ => u32::MAX,
    }
}

/// A number that makes one board's sensors differ from another's.
fn individual(address: Address) -> u32 {
    (u32::from(address.bus) + u32::from(address.device)) % 32
}
