//! Whether a vGPU can be migrated: vGPU versions, the metadata of a vGPU and of a GPU,
//! and their comparison. The opaque part of the metadata is the board, so exactly the
//! other boards are refused.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlVgpuMetadata_t, nvmlVgpuPgpuCompatibility_t, nvmlVgpuPgpuMetadata_t, nvmlVgpuVersion_t,
};

use crate::{
    abi::{Ptr, abi, character, chars, count},
    code::{Answer, Code},
    gpu::Device,
    system::DRIVER,
    vgpu_types::board_id,
};

/// vGPU versions that the host's driver supports.
const VERSIONS: nvmlVgpuVersion_t = nvmlVgpuVersion_t {
    minVersion: 0x0015_0001,
    maxVersion: 0x0018_0001,
};

abi! {
    fn nvmlGetVgpuVersion(
        _, supported: Ptr<nvmlVgpuVersion_t>, current: Ptr<nvmlVgpuVersion_t>,
    ) {
        supported.write(VERSIONS)?;
        current.write(VERSIONS)
    }

    // A smaller range could not be stored, so only the present one is accepted.
    fn nvmlSetVgpuVersion(nvml, wanted: Ptr<nvmlVgpuVersion_t>) {
        let wanted = wanted.read()?;
        if wanted.minVersion > wanted.maxVersion
            || wanted.minVersion < VERSIONS.minVersion
            || wanted.maxVersion > VERSIONS.maxVersion
        {
            return Err(Code::INVALID_ARGUMENT);
        }
        for (address, _) in nvml.all()? {
            if nvml.gpu_at(address)?.active().next().is_some() {
                return Err(Code::IN_USE);
            }
        }
        let same = (wanted.minVersion, wanted.maxVersion)
            == (VERSIONS.minVersion, VERSIONS.maxVersion);
        if same { Ok(()) } else { Err(Code::NOT_SUPPORTED) }
    }

    fn nvmlVgpuInstanceGetMetadata(
        nvml, id: c_uint, metadata: Ptr<nvmlVgpuMetadata_t>, size: Ptr<c_uint>,
    ) {
        let (gpu, _, _) = nvml.vgpu(id)?;
        hand_over(metadata, size, nvmlVgpuMetadata_t {
            version: 3,
            revision: 1,
            guestInfoState: 0,
            guestDriverVersion: chars("Not Available"),
            hostDriverVersion: chars(DRIVER),
            reserved: [0; 6],
            vgpuVirtualizationCaps: MIGRATION,
            guestVgpuVersion: 0,
            opaqueDataSize: 4,
            opaqueData: opaque(board_id(gpu.board)),
        })
    }

    fn nvmlDeviceGetVgpuMetadata(
        nvml, device: Device, metadata: Ptr<nvmlVgpuPgpuMetadata_t>, size: Ptr<c_uint>,
    ) {
        let board = nvml.gpu(device)?.board;
        hand_over(metadata, size, nvmlVgpuPgpuMetadata_t {
            version: 2,
            revision: 1,
            hostDriverVersion: chars(DRIVER),
            pgpuVirtualizationCaps: MIGRATION,
            reserved: [0; 5],
            hostSupportedVgpuRange: VERSIONS,
            opaqueDataSize: 4,
            opaqueData: opaque(board_id(board)),
        })
    }

    fn nvmlGetVgpuCompatibility(
        _, vgpu: Ptr<nvmlVgpuMetadata_t>, pgpu: Ptr<nvmlVgpuPgpuMetadata_t>,
        compatibility: Ptr<nvmlVgpuPgpuCompatibility_t>,
    ) {
        let (vgpu, pgpu) = (vgpu.read()?, pgpu.read()?);
        let same = vgpu.opaqueData == pgpu.opaqueData;
        compatibility.write(nvmlVgpuPgpuCompatibility_t {
            vgpuVmCompatibility: if same { COLD | LIVE } else { 0 },
            compatibilityLimitCode: if same { 0 } else { LIMIT_GPU },
        })
    }
}

/// `NVML_VGPU_VIRTUALIZATION_CAP_MIGRATION_YES`, of a vGPU and of a GPU.
const MIGRATION: c_uint = 1;
/// `NVML_VGPU_VM_COMPATIBILITY_COLD`, `_LIVE`
const COLD: c_uint = 1;
const LIVE: c_uint = 8;
/// `NVML_VGPU_COMPATIBILITY_LIMIT_GPU`
const LIMIT_GPU: c_uint = 4;

fn opaque(board: u32) -> [std::ffi::c_char; 4] {
    board.to_le_bytes().map(character)
}

/// Metadata has no fixed size, so the caller passes the size of its buffer.
fn hand_over<T: Copy>(metadata: Ptr<T>, size: Ptr<c_uint>, value: T) -> Answer {
    let needed = count(size_of::<T>())?;
    let room = size.read()?;
    size.write(needed)?;
    if room < needed {
        return Err(Code::INSUFFICIENT_SIZE);
    }
    metadata.write(value)
}
