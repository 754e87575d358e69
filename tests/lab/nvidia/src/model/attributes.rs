//! The files in `nvidia/`: the type of a virtual function, parameters, placement,
//! GPU instance; and numbers as the kernel reads them.

use std::{fmt::Write as _, time::Duration};

use nix::errno::Errno;

use super::{Dialect, Framework, Gpu, Parent, Result, VgpuHandle};

/// The longest write of `vgpu_params`, in bytes.
const PARAMS_MAX: usize = 1024;
/// How long the driver waits for a plugin to exit.
const PLUGIN_PATIENCE: Duration = Duration::from_secs(5);
const NONE: &str = "Not Applicable";

/// A file in `nvidia/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// `creatable_vgpu_types` of a virtual function, read only.
    CreatableVgpuTypes,
    /// `current_vgpu_type` of a virtual function.
    CurrentVgpuType,
    /// `vgpu_params`.
    VgpuParams,
    /// `placement_id`.
    PlacementId,
    /// `gpu_instance_id`.
    GpuInstanceId,
    /// `vm_name` of a mediated device, read only.
    VmName,
}

impl Attribute {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::CreatableVgpuTypes,
        Self::CurrentVgpuType,
        Self::VgpuParams,
        Self::PlacementId,
        Self::GpuInstanceId,
        Self::VmName,
    ];

    /// The file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreatableVgpuTypes => "creatable_vgpu_types",
            Self::CurrentVgpuType => "current_vgpu_type",
            Self::VgpuParams => "vgpu_params",
            Self::PlacementId => "placement_id",
            Self::GpuInstanceId => "gpu_instance_id",
            Self::VmName => "vm_name",
        }
    }
}

/// A number in any base that its prefix names, as the kernel reads it: one newline
/// may follow.
///
/// # Errors
/// `EINVAL`: not a number. `ERANGE`: more than 64 bits.
pub(super) fn number(text: &str) -> Result<u64> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let hex = unsigned
        .strip_prefix("0x")
        .or_else(|| unsigned.strip_prefix("0X"))
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_hexdigit()));
    match hex {
        Some(digits) => digits_of(digits, 16),
        None if unsigned.starts_with('0') => digits_of(unsigned, 8),
        None => digits_of(unsigned, 10),
    }
}

/// A decimal number of 32 bits, as the kernel reads it.
///
/// # Errors
/// `EINVAL`: not a number. `ERANGE`: too large.
fn decimal(text: &str) -> Result<u32> {
    let number = digits_of(text.strip_prefix('+').unwrap_or(text), 10)?;
    u32::try_from(number).map_err(|_| Errno::ERANGE)
}

/// The kernel checks the size first, then what follows the digits.
fn digits_of(text: &str, base: u32) -> Result<u64> {
    let end = text.find(|c: char| !c.is_digit(base)).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return Err(Errno::EINVAL);
    }
    let number = u64::from_str_radix(digits, base).map_err(|_| Errno::ERANGE)?;
    if matches!(rest, "" | "\n") {
        Ok(number)
    } else {
        Err(Errno::EINVAL)
    }
}

impl Gpu {
    /// Reads a file in `nvidia/`.
    ///
    /// # Errors
    /// `ENOENT`: no such file. `ENXIO`: no vGPU there.
    pub fn read(&self, vgpu_handle: &VgpuHandle, attribute: Attribute) -> Result<String> {
        let or_none = |id: Option<u32>| id.map_or(NONE.to_owned(), |id| id.to_string());
        let text = match attribute {
            Attribute::CreatableVgpuTypes => {
                return self.creatable_on(self.function_of(vgpu_handle)?);
            }
            Attribute::CurrentVgpuType => {
                let number = self.function_of(vgpu_handle)?;
                let vgpu = self.on_vf(number).and_then(|index| self.vgpus.get(index));
                let forgotten = self.forgotten_on(number).map(|one| one.kind);
                let kind = vgpu.map(|vgpu| vgpu.kind).or(forgotten);
                kind.map_or(0, |kind| kind.id).to_string()
            }
            Attribute::VgpuParams => {
                String::from_utf8_lossy(&self.vgpu(vgpu_handle)?.params).into_owned()
            }
            Attribute::PlacementId => or_none(self.shown_placement(self.vgpu(vgpu_handle)?)),
            Attribute::GpuInstanceId => or_none(self.vgpu(vgpu_handle)?.gi),
            Attribute::VmName => {
                if self.framework() == Framework::VendorVfio {
                    return Err(Errno::ENOENT);
                }
                if self.is_forgotten(vgpu_handle) {
                    return Ok("\n".to_owned());
                }
                let opener = self.vgpu(vgpu_handle)?.opener.as_ref();
                opener
                    .and_then(|opener| opener.vm.name.clone())
                    .unwrap_or_default()
            }
        };
        Ok(text + "\n")
    }

    /// Writes a file in `nvidia/`.
    ///
    /// # Errors
    /// The errnos of the table in `README.md`; `EACCES`: it cannot be written.
    pub fn write(
        &mut self,
        vgpu_handle: &VgpuHandle,
        attribute: Attribute,
        text: &str,
    ) -> Result<()> {
        if text.is_empty() {
            // An empty write does not reach the driver, but the file is opened.
            return self.read(vgpu_handle, attribute).map(drop);
        }
        match attribute {
            Attribute::CreatableVgpuTypes | Attribute::VmName => {
                self.read(vgpu_handle, attribute)?;
                Err(Errno::EACCES)
            }
            Attribute::CurrentVgpuType => self.write_type(self.function_of(vgpu_handle)?, text),
            Attribute::VgpuParams => self.write_params(vgpu_handle, text),
            Attribute::PlacementId => {
                let place = self.writable_number(vgpu_handle, text)?;
                self.place(vgpu_handle, place)
            }
            Attribute::GpuInstanceId => {
                let gi = self.writable_number(vgpu_handle, text)?;
                self.enter(vgpu_handle, gi)
            }
        }
    }

    fn function_of(&self, vgpu_handle: &VgpuHandle) -> Result<u32> {
        match vgpu_handle {
            VgpuHandle::Vf(number) if self.framework() == Framework::VendorVfio => {
                self.vf(*number).map(|_| *number)
            }
            _ => Err(Errno::ENOENT),
        }
    }

    fn creatable_on(&self, vf: u32) -> Result<String> {
        let mut text = "ID    : vGPU Name\n".to_owned();
        if self.is_free(vf) {
            let types = self.board.types.iter();
            for kind in types.filter(|kind| self.listed(kind) > 0) {
                // Writing to a string cannot fail.
                _ = writeln!(text, "{:<5} : {}", kind.id, kind.name);
            }
        } else if self.switches.dialect == Dialect::Rfc {
            text.clear();
        }
        Ok(text)
    }

    fn writable_number(&self, vgpu_handle: &VgpuHandle, text: &str) -> Result<u32> {
        let vgpu = self.vgpu(vgpu_handle)?;
        let number = match decimal(text) {
            // Treated like any other number that is not an id.
            Err(Errno::ERANGE) => u32::MAX,
            number => number?,
        };
        if vgpu.opener.is_some() {
            return Err(Errno::EPERM);
        }
        Ok(number)
    }

    fn write_params(&mut self, vgpu_handle: &VgpuHandle, text: &str) -> Result<()> {
        let vgpu = self.vgpu_mut(vgpu_handle)?;
        let bytes = text.as_bytes();
        if bytes.len() > PARAMS_MAX {
            return Err(Errno::E2BIG);
        }
        if vgpu.opener.is_some() {
            return Err(Errno::EPERM);
        }
        // The driver treats the last byte as the newline, whatever it is.
        let kept = bytes.split_last().map_or(&[][..], |(_, kept)| kept);
        vgpu.params = kept.to_vec();
        Ok(())
    }

    fn write_type(&mut self, vf: u32, text: &str) -> Result<()> {
        let id = decimal(text)?;
        if self.vf(vf)?.rebound {
            return Err(Errno::EINVAL);
        }
        match self.switches.dialect {
            Dialect::Kmod => self.write_type_kmod(vf, id),
            Dialect::Rfc => self.write_type_rfc(vf, id),
        }
    }

    fn write_type_kmod(&mut self, vf: u32, id: u32) -> Result<()> {
        let forgotten = self.forgotten_on(vf).is_some();
        let Some(index) = self.on_vf(vf) else {
            return match (forgotten, id) {
                (false, 0) => Err(Errno::EPERM),
                (false, _) => self.make_typed(vf, id),
                (true, 0) => {
                    self.forget_shown(vf);
                    Ok(())
                }
                (true, _) => Err(Errno::EPERM),
            };
        };
        let vgpu = self.vgpus.get(index).ok_or(Errno::ENXIO)?;
        if id != 0 || vgpu.opener.is_some() {
            return Err(Errno::EPERM);
        }
        let exits_at = vgpu.exits_at;
        if exits_at > self.now + PLUGIN_PATIENCE {
            self.now += PLUGIN_PATIENCE;
            return Err(Errno::EBUSY);
        }
        self.now = self.now.max(exits_at);
        self.vgpus.remove(index);
        Ok(())
    }

    fn write_type_rfc(&mut self, vf: u32, id: u32) -> Result<()> {
        if let Some(index) = self.on_vf(vf) {
            let vgpu = self.vgpus.get(index).ok_or(Errno::ENXIO)?;
            if vgpu.opener.is_some() {
                return Err(Errno::EBUSY);
            }
            self.vgpus.remove(index);
        }
        self.forget_shown(vf);
        if id == 0 {
            Ok(())
        } else {
            self.make_typed(vf, id)
        }
    }

    fn make_typed(&mut self, vf: u32, id: u32) -> Result<()> {
        let dialect = self.switches.dialect;
        self.make(Parent::Vf(vf), None, id)
            .map_err(|refusal| refusal.errno(dialect))
    }
}
