//! A vGPU's VFIO device: opening it, and what remains after closing.

use std::{fmt, str::FromStr, time::Duration};

use nix::errno::Errno;

use super::{Framework, Gpu, Parent, Result, Vgpu, VgpuHandle};

/// The facts that the driver finds on the command line of the opening process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Process id.
    pub pid: u32,
    /// After `-uuid`.
    pub uuid: Option<String>,
    /// After `-name guest=`.
    pub name: Option<String>,
}

/// NVIDIA's driver in a guest, as NVML tells it. As text: `VERSION STATE EXPIRY YEAR MONTH DAY
/// HOUR MINUTE SECOND`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its version, `580.65.06`.
    pub driver: String,
    /// `NVML_GRID_LICENSE_STATE_*`.
    pub licence: u32,
    /// `NVML_GRID_LICENSE_EXPIRY_*`.
    pub expiry: u32,
    /// When the licence ends: year, month, day, hour, minute, second.
    pub until: [u32; 6],
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.driver, self.licence, self.expiry)?;
        self.until.iter().try_for_each(|part| write!(f, " {part}"))
    }
}

impl FromStr for Guest {
    type Err = Errno;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let driver = words.next().ok_or(Errno::EINVAL)?.to_owned();
        let numbers = words.map(|word| word.parse().map_err(|_| Errno::EINVAL));
        let numbers: Vec<u32> = numbers.collect::<Result<_>>()?;
        match numbers[..] {
            [licence, expiry, year, month, day, hour, minute, second] => Ok(Self {
                driver,
                licence,
                expiry,
                until: [year, month, day, hour, minute, second],
            }),
            _ => Err(Errno::EINVAL),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opener {
    pub vm: Vm,
    since: Duration,
    /// None: no driver of NVIDIA runs in the guest.
    pub guest: Option<Guest>,
}

impl Gpu {
    /// A process opens the VFIO device.
    ///
    /// # Errors
    /// `ENOENT`: there is none. `ENODEV`: no type. `EBUSY`: open already. `EIO`:
    /// no manager, no UUID, the GPU instance is gone, or the vGPU is forgotten.
    pub fn open(&mut self, vgpu_handle: &VgpuHandle, vm: Vm) -> Result<()> {
        if let VgpuHandle::Vf(number) = *vgpu_handle {
            if self.framework() == Framework::VendorVfio && self.vf(number)?.rebound {
                return Err(Errno::ENOENT);
            }
        }
        if self.is_forgotten(vgpu_handle) {
            return Err(Errno::EIO);
        }
        let vgpu = self.vgpu(vgpu_handle).map_err(|errno| match errno {
            Errno::ENXIO => Errno::ENODEV,
            other => other,
        })?;
        if vgpu.opener.is_some() {
            return Err(Errno::EBUSY);
        }
        let managed = self.manager || !self.switches.need_manager;
        if !self.is_backed(vgpu) || !managed || vm.uuid.is_none() {
            return Err(Errno::EIO);
        }
        let since = self.now;
        self.vgpu_mut(vgpu_handle)?.opener = Some(Opener {
            vm,
            since,
            guest: None,
        });
        Ok(())
    }

    /// The guest loads NVIDIA's driver, or None: unloads it.
    ///
    /// # Errors
    /// `ENOENT`, `ENXIO`: no such vGPU, or no VM has it open.
    pub fn set_guest(&mut self, vgpu_handle: &VgpuHandle, guest: Option<Guest>) -> Result<()> {
        let opener = self.vgpu_mut(vgpu_handle)?.opener.as_mut();
        opener.ok_or(Errno::ENXIO)?.guest = guest;
        Ok(())
    }

    /// A vGPU of a GPU instance needs that one; another with its id and profile will do.
    fn is_backed(&self, vgpu: &Vgpu) -> bool {
        let instance = vgpu.gi.and_then(|gi| self.gis.get(&gi));
        let profile = vgpu.kind.gi_profile;
        profile.is_none() || instance.map(|instance| instance.profile) == profile
    }

    /// The process ends; killed: by SIGKILL, before it could stop the plugin.
    ///
    /// # Errors
    /// `ENOENT`, `ENXIO`: no such vGPU. `EBADF`: nobody has it open.
    pub fn close(&mut self, vgpu_handle: &VgpuHandle, killed: bool) -> Result<()> {
        let (now, exits_at, init) = (self.now, self.now + self.plugin_exit, self.init);
        let vgpu = self.vgpu_mut(vgpu_handle)?;
        let opener = vgpu.opener.take().ok_or(Errno::EBADF)?;
        vgpu.exits_at = exits_at;
        let parent = vgpu.parent;
        if let Parent::Vf(number) = parent {
            let vf = usize::try_from(number).ok();
            if let Some(vf) = vf.and_then(|vf| self.vfs.get_mut(vf)) {
                vf.wedged |= killed && now.saturating_sub(opener.since) < init;
            }
        }
        Ok(())
    }

    /// Numbers of the virtual functions on which no guest's driver starts.
    pub fn wedged(&self) -> Vec<u32> {
        let numbered = (0..).zip(&self.vfs);
        let wedged = numbered.filter(|(_, vf)| vf.wedged);
        wedged.map(|(number, _)| number).collect()
    }
}
