//! The NVML calls that `nvml-wrapper` does not wrap: some from `nvml-wrapper-sys`,
//! others looked up by name. Apart from `host/libvirt/raw`, this is the only unsafe
//! code of virt-vgpu; nothing here interprets the answers. Structs and numbers are
//! those of NVIDIA's `nvml.h`.

use std::{
    ffi::{CStr, c_char, c_uint},
    ptr::null_mut,
};

use nvml_wrapper::{Device, Nvml, error::NvmlError};
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlMemory_t, nvmlReturn_t, nvmlVgpuHeterogeneousMode_v1_t,
    nvmlVgpuLicenseExpiry_t, nvmlVgpuLicenseInfo_t, nvmlVgpuPlacementId_v1_t,
    nvmlVgpuPlacementList_v1_t, nvmlVgpuPlacementList_v2_t, nvmlVgpuVmIdType_NVML_VGPU_VM_ID_UUID,
};

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The library does not have the function; the dynamic linker's words.
    NoSymbol(String),
    /// What the function returned (`NVML_ERROR_*`).
    Code(u32),
    /// The answer cannot be read; why.
    Unreadable(String),
}

impl From<NvmlError> for Error {
    fn from(error: NvmlError) -> Self {
        match error {
            NvmlError::FailedToLoadSymbol(symbol) => Self::NoSymbol(symbol),
            NvmlError::Utf8Error(_)
            | NvmlError::NulError(_)
            | NvmlError::LibloadingError(_)
            | NvmlError::StringTooLong { .. }
            | NvmlError::IncorrectBits(_)
            | NvmlError::SetReleaseFailed
            | NvmlError::GetPciInfoFailed
            | NvmlError::PciInfoToCFailed => Self::Unreadable(error.to_string()),
            code => Self::Code(code.into()),
        }
    }
}

/// The result of a call.
pub type Answer<T> = Result<T, Error>;

/// `NVML_ERROR_INVALID_ARGUMENT`
pub const INVALID_ARGUMENT: u32 = 2;
/// `NVML_ERROR_NOT_SUPPORTED`
pub const NOT_SUPPORTED: u32 = 3;
/// `NVML_ERROR_INSUFFICIENT_SIZE`
pub const INSUFFICIENT_SIZE: u32 = 7;
/// `NVML_ERROR_DRIVER_NOT_LOADED`
pub const DRIVER_NOT_LOADED: u32 = 9;
/// `NVML_ERROR_FUNCTION_NOT_FOUND`
pub const FUNCTION_NOT_FOUND: u32 = 13;
/// `NVML_ERROR_ARGUMENT_VERSION_MISMATCH`
pub const VERSION_MISMATCH: u32 = 25;

/// `NVML_VGPU_PGPU_HETEROGENEOUS_MODE`; 1 is the homogeneous one.
const HETEROGENEOUS: c_uint = 0;
/// `NVML_DEVICE_UUID_V2_BUFFER_SIZE`: longer than any text that is read here.
const TEXT: c_uint = 96;
/// How often a list is read again if it grows between the two calls.
const TRIES: usize = 4;

/// The places of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementList {
    /// Length of a place, in the unit of the ids.
    pub size: u32,
    /// First ids.
    pub ids: Vec<u32>,
    /// Whether they are the places of the heterogeneous mode.
    pub heterogeneous: bool,
}

/// `NVML_STRUCT_VERSION`: the size, and the number in the uppermost byte.
#[allow(clippy::cast_possible_truncation, reason = "all structs are small")]
const fn version<T>(number: u32) -> c_uint {
    size_of::<T>() as c_uint | number << 24
}

fn check(code: nvmlReturn_t) -> Answer<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(Error::Code(code))
    }
}

/// Calls a function of `nvml-wrapper-sys`, if the library has it.
macro_rules! call {
    ($nvml:expr, $name:ident($($argument:expr),* $(,)?)) => {{
        let function = $nvml.lib().$name.as_ref();
        let function = function.map_err(|error| Error::NoSymbol(error.to_string()))?;
        // SAFETY: The arguments have the types of NVML's header, and pointers among them
        // point to variables of the caller that are as large as the call demands and live
        // until it returns; NVML keeps none of them.
        check(unsafe { function($($argument),*) })
    }};
}

/// Calls a function that `nvml-wrapper-sys` does not have, by its name.
macro_rules! call_by_name {
    ($nvml:expr, $name:ident($($argument:expr => $type:ty),* $(,)?)) => {{
        // The library in which the bindings look up their functions.
        let library = &$nvml.lib().__library;
        // SAFETY: These are the types of NVML's header; pointers as above.
        let code = unsafe {
            let function = library
                .get::<unsafe extern "C" fn($($type),*) -> nvmlReturn_t>(stringify!($name).as_bytes());
            function.map(|function| function($($argument),*))
        };
        check(code.map_err(|error| Error::NoSymbol(error.to_string()))?)
    }};
}

// Behind the macros that they use.
mod mig;
mod scheduler;
pub use mig::*;
pub use scheduler::*;

/// Whether the library is too old for a function or for its version.
fn is_older(error: &Error) -> bool {
    matches!(
        error,
        Error::NoSymbol(_) | Error::Code(VERSION_MISMATCH | FUNCTION_NOT_FOUND)
    )
}

fn handle(device: &Device<'_>) -> nvmlDevice_t {
    // SAFETY: Only passed to NVML while the device, and with it the library, is borrowed.
    unsafe { device.handle() }
}

/// NVML's description of a code.
#[must_use]
pub fn describe(nvml: &Nvml, code: u32) -> Option<String> {
    let function = nvml.lib().nvmlErrorString.as_ref().ok()?;
    // SAFETY: NVML takes any number, and returns null or a string that lasts as long as the
    // library, which is borrowed.
    let text = unsafe {
        let text = function(code);
        if text.is_null() {
            return None;
        }
        CStr::from_ptr(text).to_string_lossy().into_owned()
    };
    (!text.is_empty()).then_some(text)
}

/// All of a GPU's memory in bytes, with the call of older drivers.
///
/// # Errors
/// NVML's error.
pub fn memory_by_first_call(device: &Device<'_>) -> Answer<u64> {
    let mut memory = nvmlMemory_t {
        total: 0,
        free: 0,
        used: 0,
    };
    call!(
        device.nvml(),
        nvmlDeviceGetMemoryInfo(handle(device), &mut memory)
    )?;
    Ok(memory.total)
}

/// Whether the heterogeneous mode is on.
///
/// # Errors
/// NVML's error.
pub fn heterogeneous(device: &Device<'_>) -> Answer<bool> {
    let mut mode = heterogeneous_mode(false);
    call!(
        device.nvml(),
        nvmlDeviceGetVgpuHeterogeneousMode(handle(device), &mut mode)
    )?;
    Ok(mode.mode != 0)
}

/// Switches the heterogeneous mode.
///
/// # Errors
/// NVML's error.
pub fn set_heterogeneous(device: &Device<'_>, on: bool) -> Answer<()> {
    let mode = heterogeneous_mode(on);
    call!(
        device.nvml(),
        nvmlDeviceSetVgpuHeterogeneousMode(handle(device), &mode)
    )
}

fn heterogeneous_mode(on: bool) -> nvmlVgpuHeterogeneousMode_v1_t {
    nvmlVgpuHeterogeneousMode_v1_t {
        version: version::<nvmlVgpuHeterogeneousMode_v1_t>(1),
        mode: on.into(),
    }
}

/// Every place that a type can have in the heterogeneous mode, even if the mode is off.
///
/// # Errors
/// NVML's error.
pub fn supported_placements(device: &Device<'_>, type_id: u32) -> Answer<PlacementList> {
    placements(&|list| {
        call!(
            device.nvml(),
            nvmlDeviceGetVgpuTypeSupportedPlacements(handle(device), type_id, list)
        )
    })
}

/// The places that a type can have now, in the GPU's current mode.
///
/// # Errors
/// NVML's error.
pub fn creatable_placements(device: &Device<'_>, type_id: u32) -> Answer<PlacementList> {
    placements(&|list| {
        call!(
            device.nvml(),
            nvmlDeviceGetVgpuTypeCreatablePlacements(handle(device), type_id, list)
        )
    })
}

/// Reads the second version of the list; older drivers have only the first.
fn placements(
    ask: &dyn Fn(*mut nvmlVgpuPlacementList_v2_t) -> Answer<()>,
) -> Answer<PlacementList> {
    let second = |room: &mut [c_uint]| {
        let mut list = nvmlVgpuPlacementList_v2_t {
            version: version::<nvmlVgpuPlacementList_v2_t>(2),
            placementSize: 0,
            count: count(room),
            placementIds: pointer(room),
            mode: HETEROGENEOUS,
        };
        let code = ask(&raw mut list);
        (code, list.count, (list.placementSize, list.mode))
    };
    let first = |room: &mut [c_uint]| {
        let mut list = nvmlVgpuPlacementList_v1_t {
            version: version::<nvmlVgpuPlacementList_v1_t>(1),
            placementSize: 0,
            count: count(room),
            placementIds: pointer(room),
        };
        // The library reads the version and writes no more than that version has.
        let code = ask((&raw mut list).cast());
        (code, list.count, (list.placementSize, HETEROGENEOUS))
    };
    let (ids, (size, mode)) = match ids(second) {
        Err(Error::Code(VERSION_MISMATCH)) => ids(first)?,
        found => found?,
    };
    Ok(PlacementList {
        size,
        ids,
        heterogeneous: mode == HETEROGENEOUS,
    })
}

/// Reads a list with two calls: the first passes an empty list and gets the needed
/// length. NVML returns the length and a second value.
fn ids<T>(ask: impl Fn(&mut [c_uint]) -> (Answer<()>, c_uint, T)) -> Answer<(Vec<u32>, T)> {
    let mut room = Vec::new();
    for _ in 0..TRIES {
        match ask(&mut room) {
            (Ok(()), needed, rest) if needed as usize <= room.len() => {
                room.truncate(needed as usize);
                return Ok((room, rest));
            }
            // Some drivers only count, and report success.
            (Ok(()) | Err(Error::Code(INSUFFICIENT_SIZE)), needed, _) => {
                room = vec![0; needed as usize];
            }
            (Err(error), ..) => return Err(error),
        }
    }
    Err(Error::Code(INSUFFICIENT_SIZE))
}

fn count(room: &[c_uint]) -> c_uint {
    c_uint::try_from(room.len()).unwrap_or(c_uint::MAX)
}

/// Null for an empty list, as NVML wants it.
fn pointer(room: &mut [c_uint]) -> *mut c_uint {
    if room.is_empty() {
        null_mut()
    } else {
        room.as_mut_ptr()
    }
}

/// The types that a GPU supports.
///
/// # Errors
/// NVML's error.
pub fn supported_types(device: &Device<'_>) -> Answer<Vec<u32>> {
    type_ids(&|number, ids| {
        call!(
            device.nvml(),
            nvmlDeviceGetSupportedVgpus(handle(device), number, ids)
        )
    })
}

/// The types of which one more vGPU can be made now.
///
/// # Errors
/// NVML's error.
pub fn creatable_types(device: &Device<'_>) -> Answer<Vec<u32>> {
    type_ids(&|number, ids| {
        call!(
            device.nvml(),
            nvmlDeviceGetCreatableVgpus(handle(device), number, ids)
        )
    })
}

/// The vGPUs that VMs have open.
///
/// # Errors
/// NVML's error.
pub fn active_vgpus(device: &Device<'_>) -> Answer<Vec<u32>> {
    type_ids(&|number, ids| {
        call!(
            device.nvml(),
            nvmlDeviceGetActiveVgpus(handle(device), number, ids)
        )
    })
}

/// The wrapper has these calls too, but it returns garbage ids if a list has become
/// shorter, and gives up if it has become longer.
fn type_ids(ask: &dyn Fn(*mut c_uint, *mut c_uint) -> Answer<()>) -> Answer<Vec<u32>> {
    let found = ids(|room| {
        let mut number = count(room);
        let code = ask(&raw mut number, pointer(room));
        (code, number, ())
    });
    found.map(|(ids, ())| ids)
}

/// The type of a vGPU that a VM has open.
///
/// # Errors
/// NVML's error.
pub fn vgpu_type(nvml: &Nvml, vgpu: u32) -> Answer<u32> {
    let mut type_id = 0;
    call!(nvml, nvmlVgpuInstanceGetType(vgpu, &mut type_id))?;
    Ok(type_id)
}

/// The UUID of the VM; None if the driver identifies it differently.
///
/// # Errors
/// NVML's error.
pub fn vgpu_vm_uuid(nvml: &Nvml, vgpu: u32) -> Answer<Option<String>> {
    let mut kind = 0;
    let id = text(|to| call!(nvml, nvmlVgpuInstanceGetVmID(vgpu, to, TEXT, &mut kind)))?;
    Ok((kind == nvmlVgpuVmIdType_NVML_VGPU_VM_ID_UUID).then_some(id))
}

/// The UUID of the mediated device.
///
/// # Errors
/// NVML's error.
pub fn vgpu_mdev_uuid(nvml: &Nvml, vgpu: u32) -> Answer<String> {
    text(|to| call!(nvml, nvmlVgpuInstanceGetMdevUUID(vgpu, to, TEXT)))
}

/// The version of NVIDIA's driver in the guest, or NVML's words for none.
///
/// # Errors
/// NVML's error.
pub fn vgpu_guest_driver(nvml: &Nvml, vgpu: u32) -> Answer<String> {
    text(|to| call!(nvml, nvmlVgpuInstanceGetVmDriverVersion(vgpu, to, TEXT)))
}

/// The licence of a guest, in NVML's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VgpuLicence {
    /// `NVML_GRID_LICENSE_STATE_*`
    pub state: u32,
    /// `NVML_GRID_LICENSE_EXPIRY_*`
    pub expiry: u32,
    /// When it ends: year, month, day, hour, minute, second.
    pub until: [u32; 6],
}

/// The licence of the guest.
///
/// # Errors
/// NVML's error: [`DRIVER_NOT_LOADED`] while no driver of NVIDIA runs in the guest.
pub fn vgpu_licence(nvml: &Nvml, vgpu: u32) -> Answer<VgpuLicence> {
    let mut info = nvmlVgpuLicenseInfo_t {
        isLicensed: 0,
        licenseExpiry: nvmlVgpuLicenseExpiry_t {
            year: 0,
            month: 0,
            day: 0,
            hour: 0,
            min: 0,
            sec: 0,
            status: 0,
        },
        currentState: 0,
    };
    call!(nvml, nvmlVgpuInstanceGetLicenseInfo_v2(vgpu, &mut info))?;
    let end = info.licenseExpiry;
    Ok(VgpuLicence {
        state: info.currentState,
        expiry: end.status.into(),
        until: [
            end.year,
            end.month.into(),
            end.day.into(),
            end.hour.into(),
            end.min.into(),
            end.sec.into(),
        ],
    })
}

/// `NVML_INVALID_VGPU_PLACEMENT_ID`
const NOT_PLACED: c_uint = 0xffff;

/// The place of the vGPU; None if it has none.
///
/// # Errors
/// NVML's error.
pub fn vgpu_placement(nvml: &Nvml, vgpu: u32) -> Answer<Option<u32>> {
    let mut placement = nvmlVgpuPlacementId_v1_t {
        version: version::<nvmlVgpuPlacementId_v1_t>(1),
        placementId: NOT_PLACED,
    };
    call!(nvml, nvmlVgpuInstanceGetPlacementId(vgpu, &mut placement))?;
    let id = placement.placementId;
    Ok((id != NOT_PLACED).then_some(id))
}

fn text(ask: impl FnOnce(*mut c_char) -> Answer<()>) -> Answer<String> {
    let mut buffer = [0 as c_char; TEXT as usize];
    ask(buffer.as_mut_ptr())?;
    let bytes = buffer.map(|c| c.to_ne_bytes()[0]);
    let text = CStr::from_bytes_until_nul(&bytes);
    let text = text.map_err(|error| Error::Unreadable(error.to_string()))?;
    Ok(text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
