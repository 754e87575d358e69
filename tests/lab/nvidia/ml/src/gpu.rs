//! The objects that a call finds on the host: GPUs and their contents, by NVML's
//! handles. A handle contains the PCI address and ids themselves, so it needs no table
//! and may outlive its object.

use std::{ffi::c_uint, fmt, ptr, str::FromStr};

use lab_nvidia::{
    boards::{self, Board, GiProfile, VgpuType},
    control::{self, Ci, Control, Gi, State, Vgpu},
};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlGpuInstance_t};

use crate::code::{Answer, Code};

/// The library during one call.
pub struct Nvml<'a>(&'a mut dyn Control);

/// A GPU as one call sees it.
#[derive(Debug)]
pub struct Gpu {
    pub address: Address,
    pub state: State,
    pub board: &'static Board,
}

impl<'a> Nvml<'a> {
    pub fn new(control: &'a mut dyn Control) -> Self {
        Self(control)
    }

    /// Addresses and boards of all GPUs, in NVML's order.
    pub fn all(&mut self) -> Answer<Vec<(Address, &'static Board)>> {
        let listed = control::gpus(self.0)?;
        let gpus = listed.iter().map(|gpu| {
            let address = gpu.address.parse().map_err(|()| Code::UNKNOWN)?;
            let board = boards::find(&gpu.model).ok_or(Code::UNKNOWN)?;
            Ok((address, board))
        });
        gpus.collect()
    }

    pub fn gpu(&mut self, device: Device) -> Answer<Gpu> {
        let address = Handle::unpack(device.0, DEVICE)?.address;
        self.gpu_at(address)
    }

    pub fn gpu_at(&mut self, address: Address) -> Answer<Gpu> {
        let state = control::gpu(self.0, &address.to_string())?;
        let board = boards::find(&state.model).ok_or(Code::UNKNOWN)?;
        Ok(Gpu {
            address,
            state,
            board,
        })
    }

    pub fn gi(&mut self, handle: GpuInstance) -> Answer<(Gpu, Gi)> {
        let handle = Handle::unpack(handle.0, GPU_INSTANCE)?;
        let gpu = self.gpu_at(handle.address)?;
        let gi = gpu.gi(u32::from(handle.gi))?;
        Ok((gpu, gi))
    }

    pub fn ci(&mut self, handle: ComputeInstance) -> Answer<(Gpu, Gi, Ci)> {
        let handle = Handle::unpack(handle.0, COMPUTE_INSTANCE)?;
        let gpu = self.gpu_at(handle.address)?;
        let gi = gpu.gi(u32::from(handle.gi))?;
        let mut cis = gpu.cis(gi).into_iter();
        let ci = cis.find(|ci| ci.id == u32::from(handle.ci));
        Ok((gpu, gi, ci.ok_or(Code::NOT_FOUND)?))
    }

    /// A vGPU type of one of the host's boards.
    pub fn vgpu_type(&mut self, id: c_uint) -> Answer<(&'static Board, &'static VgpuType)> {
        let types = self.all()?.into_iter();
        let mut types = types.filter_map(|(_, board)| Some((board, board.vgpu_type(id)?)));
        types.next().ok_or(Code::INVALID_ARGUMENT)
    }

    /// An active vGPU. NVML does not know vGPUs without a VM.
    pub fn vgpu(&mut self, id: c_uint) -> Answer<(Gpu, Vgpu, &'static VgpuType)> {
        if id == 0 {
            return Err(Code::INVALID_ARGUMENT);
        }
        for (address, _) in self.all()? {
            let gpu = match self.gpu_at(address) {
                Ok(gpu) => gpu,
                // The vGPU may be on another GPU.
                Err(Code::GPU_IS_LOST | Code::NOT_FOUND) => continue,
                Err(code) => return Err(code),
            };
            let found = gpu.active().find(|vgpu| vgpu.id == id).cloned();
            if let Some(vgpu) = found {
                let vgpu_type = gpu.board.vgpu_type(vgpu.type_id).ok_or(Code::UNKNOWN)?;
                return Ok((gpu, vgpu, vgpu_type));
            }
        }
        Err(Code::NOT_FOUND)
    }

    /// A command about this GPU: its name, and the words after the address.
    pub fn command(&mut self, gpu: &Gpu, name: &str, words: &str) -> Answer {
        self.0.command(&line(gpu, name, words))?;
        Ok(())
    }

    /// A command that answers a number.
    pub fn number(&mut self, gpu: &Gpu, name: &str, words: &str) -> Answer<u32> {
        Ok(control::number(self.0, &line(gpu, name, words))?)
    }

    /// A command that answers lines of numbers.
    pub fn numbers<const N: usize>(
        &mut self,
        gpu: &Gpu,
        name: &str,
        words: &str,
    ) -> Answer<Vec<[u32; N]>> {
        Ok(control::numbers(self.0, &line(gpu, name, words))?)
    }
}

fn line(gpu: &Gpu, name: &str, words: &str) -> String {
    let address = gpu.address;
    format!("{name} {address} {words}").trim_end().to_owned()
}

impl Gpu {
    /// An error if MIG mode is on: the call does not work then.
    pub fn without_mig(&self) -> Answer {
        if self.state.mig {
            Err(Code::NOT_SUPPORTED)
        } else {
            Ok(())
        }
    }

    /// An error if MIG mode is off: the call needs it.
    pub fn with_mig(&self) -> Answer {
        if self.state.mig {
            Ok(())
        } else {
            Err(Code::NOT_SUPPORTED)
        }
    }

    pub fn vgpu_type(&self, id: c_uint) -> Answer<&'static VgpuType> {
        self.board.vgpu_type(id).ok_or(Code::INVALID_ARGUMENT)
    }

    pub fn profile(&self, id: c_uint) -> Answer<&'static GiProfile> {
        self.board.gi_profile(id).ok_or(Code::INVALID_ARGUMENT)
    }

    pub fn gi(&self, id: u32) -> Answer<Gi> {
        let gi = self.state.gis.iter().find(|gi| gi.id == id);
        gi.copied().ok_or(Code::NOT_FOUND)
    }

    /// The compute instances of a GPU instance, by id.
    pub fn cis(&self, gi: Gi) -> Vec<Ci> {
        let cis = self.state.cis.iter().filter(|ci| ci.gi == gi.id);
        let mut cis: Vec<Ci> = cis.copied().collect();
        cis.sort_by_key(|ci| ci.id);
        cis
    }

    /// The vGPUs that a VM runs with.
    pub fn active(&self) -> impl Iterator<Item = &Vgpu> {
        self.state.vgpus.iter().filter(|vgpu| vgpu.opener.is_some())
    }

    pub fn handle(&self) -> Device {
        Device(self.address.pack(DEVICE, 0, 0))
    }

    pub fn gi_handle(&self, id: u32) -> Answer<GpuInstance> {
        let gi = u8::try_from(id).map_err(|_| Code::UNKNOWN)?;
        Ok(GpuInstance(self.address.pack(GPU_INSTANCE, gi, 0)))
    }

    pub fn ci_handle(&self, gi: u32, id: u32) -> Answer<ComputeInstance> {
        let gi = u8::try_from(gi).map_err(|_| Code::UNKNOWN)?;
        let ci = u8::try_from(id).map_err(|_| Code::UNKNOWN)?;
        Ok(ComputeInstance(self.address.pack(COMPUTE_INSTANCE, gi, ci)))
    }
}

/// A PCI address. `Display` is the form of sysfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub domain: u16,
    pub bus: u8,
    pub device: u8,
    pub function: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (domain, bus, device) = (self.domain, self.bus, self.device);
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{:x}", self.function)
    }
}

impl Address {
    /// NVML's form, which has a domain of eight digits and capitals.
    pub fn nvml(self) -> String {
        let address = self.legacy();
        format!("0000{address}")
    }

    /// The same with the domain's four digits.
    pub fn legacy(self) -> String {
        let (domain, bus, device) = (self.domain, self.bus, self.device);
        format!("{domain:04X}:{bus:02X}:{device:02X}.{:X}", self.function)
    }

    fn pack(self, kind: u8, gi: u8, ci: u8) -> usize {
        let [high, low] = self.domain.to_be_bytes();
        let slot = self.device << 3 | self.function;
        usize::from_be_bytes([0, ci, gi, high, low, self.bus, slot, kind])
    }
}

/// Both forms; as in NVML, a missing function or domain is 0.
impl FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |part: &str| match part {
            "" => Err(()),
            _ if part.starts_with('+') => Err(()),
            _ => u32::from_str_radix(part, 16).map_err(|_| ()),
        };
        let parts: Vec<&str> = text.split(':').collect();
        let (domain, bus, rest) = match parts[..] {
            [domain, bus, rest] => (domain, bus, rest),
            [bus, rest] => ("0", bus, rest),
            _ => return Err(()),
        };
        let (device, function) = rest.split_once('.').unwrap_or((rest, "0"));
        let address = Self {
            domain: u16::try_from(number(domain)?).map_err(|_| ())?,
            bus: u8::try_from(number(bus)?).map_err(|_| ())?,
            device: u8::try_from(number(device)?).map_err(|_| ())?,
            function: u8::try_from(number(function)?).map_err(|_| ())?,
        };
        if address.device < 32 && address.function < 8 {
            Ok(address)
        } else {
            Err(())
        }
    }
}

const DEVICE: u8 = 1;
const GPU_INSTANCE: u8 = 2;
const COMPUTE_INSTANCE: u8 = 3;

/// The contents of a handle.
struct Handle {
    address: Address,
    gi: u8,
    ci: u8,
}

impl Handle {
    fn unpack(handle: usize, kind: u8) -> Answer<Self> {
        match handle.to_be_bytes() {
            [0, ci, gi, high, low, bus, slot, found] if found == kind => Ok(Self {
                address: Address {
                    domain: u16::from_be_bytes([high, low]),
                    bus,
                    device: slot >> 3,
                    function: slot & 7,
                },
                gi,
                ci,
            }),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }
}

/// `nvmlDevice_t`: opaque to the caller, and not a real pointer.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device(usize);

/// `nvmlGpuInstance_t`.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuInstance(usize);

/// `nvmlComputeInstance_t`.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComputeInstance(usize);

impl Device {
    pub fn raw(self) -> nvmlDevice_t {
        ptr::without_provenance_mut(self.0)
    }
}

impl GpuInstance {
    pub fn raw(self) -> nvmlGpuInstance_t {
        ptr::without_provenance_mut(self.0)
    }
}

const _: () = assert!(size_of::<Device>() == size_of::<nvmlDevice_t>());
const _: () = assert!(size_of::<usize>() == 8, "handles are packed into 64 bits");

/// A UUID that is always the same for the same name (FNV-1a is good enough here).
pub fn uuid(name: &str) -> String {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in name.bytes() {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
    }
    let digits = format!("{hash:032x}");
    format!(
        "{}-{}-4{}-8{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[13..16],
        &digits[17..20],
        &digits[20..]
    )
}
