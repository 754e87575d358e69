//! MIG mode, GPU instances and compute instances.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::{Gpu, Result, Scheduler, Vgpu, VgpuHandle};
use crate::boards::GiProfile;

/// MIG mode: the present one, and the one after binding again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mig {
    /// In effect.
    pub current: bool,
    /// Requested last.
    pub pending: bool,
}

/// A GPU instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInstance {
    /// Profile id.
    pub profile: u32,
    /// First memory slot.
    pub start: u32,
    /// Its vGPUs may differ in size.
    pub hetero: bool,
    /// How its vGPUs share its time.
    pub scheduler: Scheduler,
    /// Compute instances: slices by id.
    pub compute: BTreeMap<u32, u32>,
}

/// The lowest number that is not a key.
fn lowest<T>(taken: &BTreeMap<u32, T>) -> u32 {
    let mut numbers = (0..u32::MAX).filter(|number| !taken.contains_key(number));
    numbers.next().unwrap_or(u32::MAX)
}

/// The fraction of the GPU's memory up to which an instance is placed at the first
/// free start.
const HALF: u32 = 2;

impl Gpu {
    /// Asks for MIG mode. True: in effect; false: pending until the GPU is bound again or
    /// reset.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the board has none.
    pub fn set_mig(&mut self, on: bool) -> Result<bool> {
        if !self.board.features.mig {
            return Err(Errno::EOPNOTSUPP);
        }
        self.mig.pending = on;
        // To switch it on needs a reset on some boards, which these prevent as well.
        let is_cut = !self.vfs.is_empty() || !self.gis.is_empty();
        let is_held = (!on || self.board.features.mig_reset) && is_cut;
        if !is_held && self.vgpus.is_empty() && self.clients == 0 {
            self.mig.current = on;
        }
        Ok(self.mig.current == on)
    }

    /// Whether another mode than the present one was asked for.
    pub fn is_mig_pending(&self) -> bool {
        self.mig.current != self.mig.pending
    }

    /// What `nvidia-smi --gpu-reset` does.
    ///
    /// # Errors
    /// `EBUSY`: somebody else has the GPU open, or it has virtual functions or vGPUs.
    pub fn reset(&mut self) -> Result<()> {
        if self.clients > 0 || !self.vgpus.is_empty() || !self.vfs.is_empty() {
            return Err(Errno::EBUSY);
        }
        self.rebind();
        Ok(())
    }

    /// Makes a GPU instance; without `start`, where the driver likes it: small ones at
    /// the last free start, others at the first.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: MIG mode is off. `EINVAL`: no such profile, or an invalid start.
    /// `ENOSPC`: the maximum is reached, or nothing is free.
    pub fn gi_create(&mut self, profile: u32, start: Option<u32>) -> Result<u32> {
        if !self.mig.current {
            return Err(Errno::EOPNOTSUPP);
        }
        let profile = self.board.gi_profile(profile).ok_or(Errno::EINVAL)?;
        if start.is_some_and(|start| !profile.starts.contains(&start)) {
            return Err(Errno::EINVAL);
        }
        let same = self.gis.values().filter(|gi| gi.profile == profile.id);
        if same.count() >= usize::try_from(profile.max_instances).unwrap_or(usize::MAX) {
            return Err(Errno::ENOSPC);
        }
        let free = |at: &u32| {
            start.is_none_or(|wanted| *at == wanted) && self.is_free_for(profile.id, *at)
        };
        let mut starts = profile.starts.iter().copied().filter(free);
        let chosen = if self.board.gi_fraction(profile) > HALF {
            starts.next_back()
        } else {
            starts.next()
        };
        let start = chosen.ok_or(Errno::ENOSPC)?;
        let id = self.gi_id(profile, start);
        let instance = GpuInstance {
            profile: profile.id,
            start,
            hetero: false,
            scheduler: Scheduler::default(),
            compute: BTreeMap::new(),
        };
        self.gis.insert(id, instance);
        Ok(id)
    }

    /// Each size of memory has a range of ids: the whole GPU has 0, halves have 1 and 2,
    /// quarters 3 to 6, eighths 7 to 14. In it the id follows from the start.
    fn gi_id(&self, profile: &GiProfile, start: u32) -> u32 {
        let first = self.board.gi_fraction(profile) - 1;
        first + start.checked_div(profile.memory_slots).unwrap_or(0)
    }

    /// Ids of the GPU instances, ascending.
    pub fn gi_ids(&self) -> Vec<u32> {
        self.gis.keys().copied().collect()
    }

    fn is_free_for(&self, profile: u32, start: u32) -> bool {
        let size = |id| {
            let profile = self.board.gi_profile(id);
            profile.map_or(0, |profile| profile.memory_slots)
        };
        let end = start + size(profile);
        let mut others = self.gis.values();
        others.all(|gi| end <= gi.start || gi.start + size(gi.profile) <= start)
    }

    /// Destroys a GPU instance. A vGPU without a VM does not keep it: it then names an
    /// id that may come back for another one.
    ///
    /// # Errors
    /// `ENOENT`; `EBUSY`: a compute instance or a VM is in it.
    pub fn gi_destroy(&mut self, gi: u32) -> Result<()> {
        let instance = self.gis.get(&gi).ok_or(Errno::ENOENT)?;
        let is_open = |vgpu: &Vgpu| vgpu.gi == Some(gi) && vgpu.opener.is_some();
        if !instance.compute.is_empty() || self.vgpus.iter().any(is_open) {
            return Err(Errno::EBUSY);
        }
        self.gis.remove(&gi);
        Ok(())
    }

    pub(super) fn has_vgpu(&self, gi: u32) -> bool {
        self.vgpus.iter().any(|vgpu| vgpu.gi == Some(gi))
    }

    /// Makes a compute instance with that many slices.
    ///
    /// # Errors
    /// `ENOENT`: no such GPU instance. `EINVAL`: not 1 to all of its slices.
    /// `ENOSPC`: too few are left.
    pub fn ci_create(&mut self, gi: u32, slices: u32) -> Result<u32> {
        let instance = self.gis.get_mut(&gi).ok_or(Errno::ENOENT)?;
        let profile = self.board.gi_profile(instance.profile);
        let all = profile.map_or(0, |profile| profile.compute_slices);
        if slices == 0 || slices > all {
            return Err(Errno::EINVAL);
        }
        if instance.compute.values().sum::<u32>() + slices > all {
            return Err(Errno::ENOSPC);
        }
        let id = lowest(&instance.compute);
        instance.compute.insert(id, slices);
        Ok(id)
    }

    /// Destroys a compute instance.
    ///
    /// # Errors
    /// `ENOENT`: no such GPU instance, or none in it.
    pub fn ci_destroy(&mut self, gi: u32, ci: u32) -> Result<()> {
        let instance = self.gis.get_mut(&gi).ok_or(Errno::ENOENT)?;
        let removed = instance.compute.remove(&ci);
        removed.map(drop).ok_or(Errno::ENOENT)
    }

    /// Sets a GPU instance's heterogeneous mode.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: one vGPU per GPU instance on this board. `ENOENT`; `EBUSY`: a
    /// vGPU is in it.
    pub fn set_gi_hetero(&mut self, gi: u32, on: bool) -> Result<()> {
        if !self.board.features.mig_timeslicing {
            return Err(Errno::EOPNOTSUPP);
        }
        let in_use = self.has_vgpu(gi);
        let instance = self.gis.get_mut(&gi).ok_or(Errno::ENOENT)?;
        if in_use {
            return Err(Errno::EBUSY);
        }
        instance.hetero = on;
        Ok(())
    }

    /// Moves a vGPU to a GPU instance of its choice, before a VM has it.
    pub(super) fn enter(&mut self, vgpu_handle: &VgpuHandle, gi: u32) -> Result<()> {
        let vgpu = self.vgpu(vgpu_handle)?;
        if !self.mig.current {
            return Err(Errno::EIO);
        }
        let room = self
            .gi_room(gi, vgpu.kind, Some(vgpu.id))
            .ok_or(Errno::EIO)?;
        if vgpu.gi != room.gi {
            let vgpu = self.vgpu_mut(vgpu_handle)?;
            vgpu.gi = room.gi;
            vgpu.placement = room.placement;
        }
        Ok(())
    }
}
