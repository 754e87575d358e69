//! Heterogeneous mode and scheduler: settings of the whole GPU or of a GPU instance,
//! which can be changed while it is empty.

use std::fmt;

use nix::errno::Errno;

use super::{Gpu, Result};

const FIXED_SHARE: u32 = 3;
const NANOSECONDS_PER_MS: u32 = 1_000_000;

/// Scheduler parameters; 0 means the driver's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduler {
    /// 1 best effort, 2 equal share, 3 fixed share.
    pub policy: u32,
    /// Adaptive round robin: 0 the board's default, 1 off, 2 on.
    pub arr: u32,
    /// Averaging factor.
    pub factor: u32,
    /// Scheduling frequency.
    pub frequency: u32,
    /// Time slice in nanoseconds.
    pub slice_ns: u32,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            policy: 1,
            arr: 0,
            factor: 0,
            frequency: 0,
            slice_ns: 0,
        }
    }
}

/// The words of the commands that set it.
impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (factor, frequency) = (self.factor, self.frequency);
        let (policy, arr, slice_ns) = (self.policy, self.arr, self.slice_ns);
        write!(f, "{policy} {arr} {factor} {frequency} {slice_ns}")
    }
}

impl Scheduler {
    fn is_within_limits(&self, has_arr: bool) -> bool {
        let slices = NANOSECONDS_PER_MS..=30 * NANOSECONDS_PER_MS;
        (1..=3).contains(&self.policy)
            && (self.arr < 2 || self.arr == 2 && has_arr)
            && (self.factor == 0 || (1..=60).contains(&self.factor))
            && (self.frequency == 0 || (63..=960).contains(&self.frequency))
            && (self.slice_ns == 0 || slices.contains(&self.slice_ns))
    }
}

impl Gpu {
    /// Sets heterogeneous mode.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: not on this board, or not with MIG mode on. `EBUSY`: a vGPU
    /// exists.
    pub fn set_hetero(&mut self, on: bool) -> Result<()> {
        if !self.board.features.hetero || self.mig.current {
            return Err(Errno::EOPNOTSUPP);
        }
        if !self.vgpus.is_empty() {
            return Err(Errno::EBUSY);
        }
        self.hetero = on;
        Ok(())
    }

    /// Sets the scheduler of a GPU instance.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: one vGPU per GPU instance on this board, or a vGPU is in it.
    /// `ENOENT`: no such GPU instance. `EINVAL`: outside the board's limits, or fixed
    /// share with its heterogeneous mode.
    pub fn set_gi_scheduler(&mut self, gi: u32, scheduler: Scheduler) -> Result<()> {
        if !self.board.features.mig_timeslicing {
            return Err(Errno::EOPNOTSUPP);
        }
        let (in_use, has_arr) = (self.has_vgpu(gi), self.board.features.arr);
        let instance = self.gis.get_mut(&gi).ok_or(Errno::ENOENT)?;
        if in_use {
            return Err(Errno::EOPNOTSUPP);
        }
        if !scheduler.is_within_limits(has_arr)
            || instance.hetero && scheduler.policy == FIXED_SHARE
        {
            return Err(Errno::EINVAL);
        }
        instance.scheduler = scheduler;
        Ok(())
    }

    /// Sets the scheduler.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: MIG mode is on or a vGPU exists. `EINVAL`: outside the
    /// board's limits, or fixed share with heterogeneous mode.
    pub fn set_scheduler(&mut self, scheduler: Scheduler) -> Result<()> {
        if self.mig.current || !self.vgpus.is_empty() {
            return Err(Errno::EOPNOTSUPP);
        }
        if !scheduler.is_within_limits(self.board.features.arr)
            || self.hetero && scheduler.policy == FIXED_SHARE
        {
            return Err(Errno::EINVAL);
        }
        self.scheduler = scheduler;
        Ok(())
    }
}
