//! Virtual functions, and how binding the GPU again changes its contents.

use nix::errno::Errno;

use super::{Forgotten, Framework, Gpu, Mig, Parent, Result, Scheduler, Vf};

impl Gpu {
    /// Whether a caller gets the `unbindLock`.
    pub fn grants_unbind(&self) -> bool {
        self.clients == 0 && self.vgpus.iter().all(|vgpu| vgpu.opener.is_none())
    }

    /// `sriov-manage -e` or `-d`: all virtual functions or none. The GPU is bound again,
    /// also where they are as wanted already, unless that is switched off.
    ///
    /// # Errors
    /// `ENOENT`: no SR-IOV on this board. `EBUSY`: `unbindLock` is not granted.
    pub fn set_vfs(&mut self, on: bool) -> Result<()> {
        if !self.is_sriov() {
            return Err(Errno::ENOENT);
        }
        if !self.switches.rebind_again && on != self.vfs.is_empty() {
            return Ok(());
        }
        if !self.grants_unbind() {
            return Err(Errno::EBUSY);
        }
        if !on {
            self.vfs.clear();
            self.vgpus.clear();
            self.forgotten.clear();
        } else if self.vfs.is_empty() {
            let count = usize::try_from(self.board.vfs).unwrap_or(0);
            self.vfs = vec![Vf::default(); count];
        }
        self.rebind();
        Ok(())
    }

    /// Removes GPU instances, modes and vGPUs; virtual functions that stay still show
    /// their type.
    pub(super) fn rebind(&mut self) {
        self.gis.clear();
        self.hetero = false;
        self.scheduler = Scheduler::default();
        self.mig.current = self.mig.pending;
        let forgotten = self.vgpus.drain(..).map(|vgpu| Forgotten {
            kind: vgpu.kind,
            parent: vgpu.parent,
            uuid: vgpu.uuid,
        });
        self.forgotten.extend(forgotten);
        self.forgotten.sort_by_key(|one| one.parent);
    }

    /// The driver is unloaded and loaded again, or the host reboots: only boards whose
    /// MIG mode needs a reset keep that.
    ///
    /// # Errors
    /// `EBUSY`: somebody has the GPU or a vGPU open.
    pub fn reload(&mut self) -> Result<()> {
        if !self.grants_unbind() {
            return Err(Errno::EBUSY);
        }
        let keeps = self.board.features.mig_reset;
        let mig = Mig {
            current: keeps && self.mig.pending,
            pending: keeps && self.mig.pending,
        };
        *self = Self {
            node: self.node,
            manager: self.manager,
            loaded: self.loaded,
            now: self.now,
            mig,
            ..Self::new(self.board, &self.address, self.switches)
        };
        Ok(())
    }

    /// Binds a virtual function without a vGPU again, which is forbidden: afterwards it
    /// has no VFIO device.
    ///
    /// # Errors
    /// `ENOENT`: no such function. `EBUSY`: it has a vGPU.
    pub fn rebind_vf(&mut self, number: u32) -> Result<()> {
        self.vf(number)?;
        if !self.is_free(number) {
            return Err(Errno::EBUSY);
        }
        let index = usize::try_from(number).map_err(|_| Errno::ENOENT)?;
        if self.framework() == Framework::VendorVfio {
            self.vfs.get_mut(index).ok_or(Errno::ENOENT)?.rebound = true;
        }
        Ok(())
    }

    /// A virtual function disappears from the bus with its vGPU, and comes back when
    /// all are recreated.
    ///
    /// # Errors
    /// `ENOENT`: no such function. `EBUSY`: a VM has its vGPU, and the bus would wait
    /// for that.
    pub fn vanish(&mut self, number: u32) -> Result<()> {
        self.vf(number)?;
        if let Some(index) = self.on_vf(number) {
            let vgpu = self.vgpus.get(index).ok_or(Errno::ENOENT)?;
            if vgpu.opener.is_some() {
                return Err(Errno::EBUSY);
            }
            self.vgpus.remove(index);
        }
        self.forget_shown(number);
        let index = usize::try_from(number).map_err(|_| Errno::ENOENT)?;
        self.vfs.get_mut(index).ok_or(Errno::ENOENT)?.gone = true;
        Ok(())
    }

    /// The virtual function no longer shows a forgotten vGPU.
    pub(super) fn forget_shown(&mut self, number: u32) {
        let parent = Parent::Vf(number);
        self.forgotten.retain(|one| one.parent != parent);
    }

    /// The address of a virtual function.
    pub fn vf_address(&self, number: u32) -> String {
        let (slot, _) = self.address.rsplit_once(':').unwrap_or((&self.address, ""));
        let function = number + FIRST_VF;
        format!("{slot}:{:02x}.{}", function / 8, function % 8)
    }
}

/// The first virtual function follows the physical one (device 0, function 0) at
/// this distance.
const FIRST_VF: u32 = 4;
