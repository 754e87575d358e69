//! Calls that `nvml-wrapper` does not wrap: through `nvml-wrapper-sys`, or by name if
//! that does not have them either.

use std::{
    ffi::{CStr, c_char, c_uint, c_ulonglong},
    mem::zeroed,
};

use libloading::Library;
use nvml_wrapper::{Device, Nvml, error::NvmlError};
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlDevice_t, nvmlGpuInstance_t, nvmlReturn_t, nvmlVgpuHeterogeneousMode_v1_t,
    nvmlVgpuLicenseInfo_t, nvmlVgpuPlacementId_v1_t, nvmlVgpuPlacementList_v2_t,
};

/// A failed call, by NVML's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub nvmlReturn_t);

impl From<NvmlError> for Code {
    fn from(error: NvmlError) -> Self {
        Self(error.into())
    }
}

pub type Answer<T> = Result<T, Code>;

/// The two libraries, which are one.
pub struct Raw<'a> {
    lib: &'a NvmlLib,
    by_name: &'a Library,
}

/// A GPU instance.
#[derive(Clone, Copy)]
pub struct Gi {
    pub handle: nvmlGpuInstance_t,
    pub id: u32,
    pub profile: u32,
    pub start: u32,
    pub size: u32,
}

/// The places of a type.
#[derive(Debug)]
pub struct Placements {
    pub size: u32,
    pub ids: Vec<u32>,
}

/// `nvmlVgpuTypeIdInfo_v1_t`, `nvmlActiveVgpuInstanceInfo_v1_t`
#[repr(C)]
struct Ids {
    version: c_uint,
    count: c_uint,
    ids: *mut c_uint,
}

/// `nvmlVgpuCreatablePlacementInfo_v1_t`
#[repr(C)]
struct CreatablePlacements {
    version: c_uint,
    type_id: c_uint,
    count: c_uint,
    ids: *mut c_uint,
    size: c_uint,
}

/// `nvmlVgpuTypeMaxInstance_v1_t`
#[repr(C)]
struct MaxPerGi {
    version: c_uint,
    type_id: c_uint,
    max: c_uint,
}

/// The GPU, or its mode, does not support the call.
pub const NOT_SUPPORTED: nvmlReturn_t = 3;
const INSUFFICIENT_SIZE: nvmlReturn_t = 7;
const FUNCTION_NOT_FOUND: nvmlReturn_t = 13;

/// Longer than any of NVML's strings.
const TEXT: usize = 128;

#[allow(clippy::cast_possible_truncation, reason = "all structs are small")]
fn version<T>(number: u32) -> c_uint {
    size_of::<T>() as c_uint | number << 24
}

fn check(code: nvmlReturn_t) -> Answer<()> {
    if code == 0 { Ok(()) } else { Err(Code(code)) }
}

/// Calls a function of `nvml-wrapper-sys`, if the library has it.
macro_rules! call {
    ($raw:expr, $name:ident($($argument:expr),* $(,)?)) => {{
        let function = $raw.lib.$name.as_ref().map_err(|_| Code(FUNCTION_NOT_FOUND))?;
        // SAFETY: The arguments have the types of NVML's header, and pointers among them point
        // to variables of this function that are as large as the call demands.
        check(unsafe { function($($argument),*) })
    }};
}

/// Calls a function by its name and the types of its arguments.
macro_rules! call_by_name {
    ($raw:expr, $name:ident($($argument:expr => $type:ty),* $(,)?)) => {{
        // SAFETY: These are the types of NVML's header; pointers as above.
        let code = unsafe {
            let function = $raw
                .by_name
                .get::<unsafe extern "C" fn($($type),*) -> nvmlReturn_t>(stringify!($name).as_bytes());
            function.map(|function| function($($argument),*))
        };
        check(code.map_err(|_| Code(FUNCTION_NOT_FOUND))?)
    }};
}

mod mig;
mod scheduler;

pub use scheduler::{ARR_ON, SchedulerParameters};

fn handle(device: &Device<'_>) -> nvmlDevice_t {
    // SAFETY: Only passed to NVML while the device is borrowed.
    unsafe { device.handle() }
}

fn text(buffer: &[c_char]) -> String {
    let bytes: Vec<u8> = buffer.iter().map(|c| c.to_ne_bytes()[0]).collect();
    let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    text.to_string_lossy().into_owned()
}

impl<'a> Raw<'a> {
    pub fn new(nvml: &'a Nvml, by_name: &'a Library) -> Self {
        Self {
            lib: nvml.lib(),
            by_name,
        }
    }

    pub fn heterogeneous(&self, device: &Device<'_>) -> Answer<bool> {
        let mut mode = heterogeneous(false);
        call!(
            self,
            nvmlDeviceGetVgpuHeterogeneousMode(handle(device), &mut mode)
        )?;
        Ok(mode.mode != 0)
    }

    pub fn set_heterogeneous(&self, device: &Device<'_>, on: bool) -> Answer<()> {
        call!(
            self,
            nvmlDeviceSetVgpuHeterogeneousMode(handle(device), &heterogeneous(on))
        )
    }

    pub fn gi_heterogeneous(&self, gi: Gi) -> Answer<bool> {
        let mut mode = heterogeneous(false);
        call_by_name!(self, nvmlGpuInstanceGetVgpuHeterogeneousMode(
            gi.handle => nvmlGpuInstance_t,
            &raw mut mode => *mut nvmlVgpuHeterogeneousMode_v1_t,
        ))?;
        Ok(mode.mode != 0)
    }

    pub fn set_gi_heterogeneous(&self, gi: Gi, on: bool) -> Answer<()> {
        let mode = heterogeneous(on);
        call_by_name!(self, nvmlGpuInstanceSetVgpuHeterogeneousMode(
            gi.handle => nvmlGpuInstance_t,
            &raw const mode => *const nvmlVgpuHeterogeneousMode_v1_t,
        ))
    }

    /// Newer capabilities than the wrapper knows.
    pub fn capability(&self, device: &Device<'_>, number: u32) -> Answer<u32> {
        let mut value = 0;
        call!(
            self,
            nvmlDeviceGetVgpuCapabilities(handle(device), number, &mut value)
        )?;
        Ok(value)
    }

    pub fn virtualization_mode(&self, device: &Device<'_>) -> Answer<u32> {
        let mut mode = 0;
        call!(
            self,
            nvmlDeviceGetVirtualizationMode(handle(device), &mut mode)
        )?;
        Ok(mode)
    }

    pub fn mig_mode(&self, device: &Device<'_>) -> Answer<(bool, bool)> {
        let (mut current, mut pending) = (0, 0);
        call!(
            self,
            nvmlDeviceGetMigMode(handle(device), &mut current, &mut pending)
        )?;
        Ok((current != 0, pending != 0))
    }

    /// By the two calls that a list takes.
    fn placements(
        &self,
        ask: impl Fn(&mut nvmlVgpuPlacementList_v2_t) -> Answer<()>,
        mode: u32,
    ) -> Answer<Placements> {
        // SAFETY: Numbers and a pointer, which may be null.
        let mut list: nvmlVgpuPlacementList_v2_t = unsafe { zeroed() };
        list.version = version::<nvmlVgpuPlacementList_v2_t>(2);
        list.mode = mode;
        match ask(&mut list) {
            Ok(()) | Err(Code(INSUFFICIENT_SIZE)) => {}
            Err(code) => return Err(code),
        }
        let mut ids = vec![0; list.count as usize];
        list.placementIds = ids.as_mut_ptr();
        ask(&mut list)?;
        ids.truncate(list.count as usize);
        let size = list.placementSize;
        Ok(Placements { size, ids })
    }

    pub fn supported_placements(
        &self,
        device: &Device<'_>,
        type_id: u32,
        heterogeneous: bool,
    ) -> Answer<Placements> {
        let ask = |list: &mut nvmlVgpuPlacementList_v2_t| {
            call!(
                self,
                nvmlDeviceGetVgpuTypeSupportedPlacements(handle(device), type_id, list)
            )
        };
        self.placements(ask, u32::from(!heterogeneous))
    }

    pub fn creatable_placements(&self, device: &Device<'_>, type_id: u32) -> Answer<Placements> {
        let ask = |list: &mut nvmlVgpuPlacementList_v2_t| {
            call!(
                self,
                nvmlDeviceGetVgpuTypeCreatablePlacements(handle(device), type_id, list)
            )
        };
        self.placements(ask, 0)
    }

    pub fn gi_creatable_placements(&self, gi: Gi, type_id: u32) -> Answer<Placements> {
        let mut info = CreatablePlacements {
            version: version::<CreatablePlacements>(1),
            type_id,
            count: 0,
            ids: std::ptr::null_mut(),
            size: 0,
        };
        let ask = |info: *mut CreatablePlacements| {
            call_by_name!(self, nvmlGpuInstanceGetVgpuTypeCreatablePlacements(
                gi.handle => nvmlGpuInstance_t, info => *mut CreatablePlacements,
            ))
        };
        match ask(&raw mut info) {
            Ok(()) | Err(Code(INSUFFICIENT_SIZE)) => {}
            Err(code) => return Err(code),
        }
        let mut ids = vec![0; info.count as usize];
        info.ids = ids.as_mut_ptr();
        ask(&raw mut info)?;
        ids.truncate(info.count as usize);
        let size = info.size;
        Ok(Placements { size, ids })
    }

    pub fn max_per_gi(&self, type_id: u32) -> Answer<u32> {
        let version = version::<MaxPerGi>(1);
        let mut info = MaxPerGi {
            version,
            type_id,
            max: 0,
        };
        call_by_name!(self, nvmlVgpuTypeGetMaxInstancesPerGpuInstance(
            &raw mut info => *mut MaxPerGi,
        ))?;
        Ok(info.max)
    }

    pub fn gi_creatable(&self, gi: Gi) -> Answer<Vec<u32>> {
        self.gi_ids(|ids| {
            call_by_name!(self, nvmlGpuInstanceGetCreatableVgpus(
                gi.handle => nvmlGpuInstance_t, ids => *mut Ids,
            ))
        })
    }

    pub fn gi_active(&self, gi: Gi) -> Answer<Vec<u32>> {
        self.gi_ids(|ids| {
            call_by_name!(self, nvmlGpuInstanceGetActiveVgpus(
                gi.handle => nvmlGpuInstance_t, ids => *mut Ids,
            ))
        })
    }

    fn gi_ids(&self, ask: impl Fn(*mut Ids) -> Answer<()>) -> Answer<Vec<u32>> {
        let mut list = Ids {
            version: version::<Ids>(1),
            count: 0,
            ids: std::ptr::null_mut(),
        };
        match ask(&raw mut list) {
            Ok(()) | Err(Code(INSUFFICIENT_SIZE)) => {}
            Err(code) => return Err(code),
        }
        let mut ids = vec![0; list.count as usize];
        list.ids = ids.as_mut_ptr();
        ask(&raw mut list)?;
        ids.truncate(list.count as usize);
        Ok(ids)
    }

    pub fn vgpu_text(&self, what: VgpuText, id: u32) -> Answer<String> {
        let mut buffer: [c_char; TEXT] = [0; TEXT];
        let to = buffer.as_mut_ptr();
        let (mut size, mut kind) = (TEXT as c_uint, 0);
        match what {
            VgpuText::Vm => call!(self, nvmlVgpuInstanceGetVmID(id, to, size, &mut kind)),
            VgpuText::Uuid => call!(self, nvmlVgpuInstanceGetUUID(id, to, size)),
            VgpuText::Mdev => call!(self, nvmlVgpuInstanceGetMdevUUID(id, to, size)),
            VgpuText::Driver => call!(self, nvmlVgpuInstanceGetVmDriverVersion(id, to, size)),
            VgpuText::Bus => call!(self, nvmlVgpuInstanceGetGpuPciId(id, to, &mut size)),
        }?;
        Ok(text(&buffer))
    }

    pub fn vgpu_number(&self, what: VgpuNumber, id: u32) -> Answer<u32> {
        let mut number = 0;
        match what {
            VgpuNumber::Type => call!(self, nvmlVgpuInstanceGetType(id, &mut number)),
            VgpuNumber::Gi => call!(self, nvmlVgpuInstanceGetGpuInstanceId(id, &mut number)),
            VgpuNumber::FrameRate => {
                call!(self, nvmlVgpuInstanceGetFrameRateLimit(id, &mut number))
            }
        }?;
        Ok(number)
    }

    pub fn vgpu_placement(&self, id: u32) -> Answer<u32> {
        let version = version::<nvmlVgpuPlacementId_v1_t>(1);
        let mut placement = nvmlVgpuPlacementId_v1_t {
            version,
            placementId: 0,
        };
        call!(self, nvmlVgpuInstanceGetPlacementId(id, &mut placement))?;
        Ok(placement.placementId)
    }

    pub fn vgpu_used(&self, id: u32) -> Answer<u64> {
        let mut bytes: c_ulonglong = 0;
        call!(self, nvmlVgpuInstanceGetFbUsage(id, &mut bytes))?;
        Ok(bytes)
    }

    pub fn vgpu_licensed(&self, id: u32) -> Answer<bool> {
        // SAFETY: Numbers.
        let mut info: nvmlVgpuLicenseInfo_t = unsafe { zeroed() };
        call!(self, nvmlVgpuInstanceGetLicenseInfo_v2(id, &mut info))?;
        Ok(info.isLicensed != 0)
    }

    /// NVML's description of a code.
    pub fn describe(&self, Code(code): Code) -> String {
        let Ok(function) = self.lib.nvmlErrorString.as_ref() else {
            return format!("Error {code}");
        };
        // SAFETY: NVML returns a string that lasts as long as the library, or null.
        unsafe {
            let text = function(code);
            if text.is_null() {
                return format!("Error {code}");
            }
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}

fn heterogeneous(on: bool) -> nvmlVgpuHeterogeneousMode_v1_t {
    nvmlVgpuHeterogeneousMode_v1_t {
        version: version::<nvmlVgpuHeterogeneousMode_v1_t>(1),
        mode: on.into(),
    }
}

/// Text properties of a vGPU.
#[derive(Debug, Clone, Copy)]
pub enum VgpuText {
    Vm,
    Uuid,
    Mdev,
    Driver,
    Bus,
}

/// Numeric properties of a vGPU.
#[derive(Debug, Clone, Copy)]
pub enum VgpuNumber {
    Type,
    Gi,
    FrameRate,
}
