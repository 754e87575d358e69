//! A vGPU's VFIO device: opening it, and what remains after closing.

use std::time::Duration;

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

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opener {
    pub vm: Vm,
    since: Duration,
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
        self.vgpu_mut(vgpu_handle)?.opener = Some(Opener { vm, since });
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
