//! What still fits on a GPU: how many more vGPUs of a type, where one goes when
//! sizes are mixed, and what one VM may have. All of it is arithmetic over what
//! driver and NVML tell of the GPU; there is no table of boards, and what is not
//! told makes an answer a bound.

use std::{fmt, iter::Sum};

use crate::{
    device::gpu::{GpuState, Vgpu, VgpuType},
    model::VgpuTypeId,
};

mod adding;
mod placement;
mod vm;

pub use adding::{more_beside, with_one};
pub use placement::{Placement, choose_placement, no_place};
pub use vm::{MOST_PER_VM, VgpuOfVm, unified_memory_allowed, vm_rules};

/// The most vGPUs that NVIDIA's driver has on one GPU, time-sliced and in GPU
/// instances (open GPU kernel modules, `kernel_vgpu_mgr.c`).
const MOST_TIME_SLICED: u32 = 32;
const MOST_IN_GPU_INSTANCES: u32 = 48;

/// How many more fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// So many, created one after the other, and then no more.
    Exactly(u32),
    /// No more than that: the driver does not tell enough to be exact. At least one
    /// fits.
    AtMost(u32),
}

impl Fit {
    /// No more than that.
    #[must_use]
    pub fn most(self) -> u32 {
        match self {
            Self::Exactly(most) | Self::AtMost(most) => most,
        }
    }

    /// Whether that many will fit.
    #[must_use]
    pub fn is_exact(self) -> bool {
        matches!(self, Self::Exactly(_))
    }

    /// The same where something else allows only so many, as a pool's `instances`.
    #[must_use]
    pub fn within(self, limit: u32) -> Self {
        match self {
            Self::Exactly(most) => Self::Exactly(most.min(limit)),
            Self::AtMost(most) => Self::one_up_to(most.min(limit)),
        }
    }

    /// At least one fits, unless there is no room for any.
    fn one_up_to(most: u32) -> Self {
        match most {
            0 | 1 => Self::Exactly(most),
            _ => Self::AtMost(most),
        }
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(most) => most.fmt(f),
            Self::AtMost(most) => write!(f, "at most {most}"),
        }
    }
}

/// Over the GPUs of a pool.
impl Sum for Fit {
    fn sum<I: Iterator<Item = Self>>(fits: I) -> Self {
        fits.fold(Self::Exactly(0), |sum, fit| {
            let most = sum.most().saturating_add(fit.most());
            if sum.is_exact() && fit.is_exact() {
                Self::Exactly(most)
            } else {
                Self::AtMost(most)
            }
        })
    }
}

/// How many more vGPUs of a type the GPU takes, one created after the other, with
/// each at the place of [`choose_placement`] when sizes are mixed. Whatever else
/// is made meanwhile takes from it.
#[must_use]
pub fn more_of(gpu: &GpuState, id: VgpuTypeId) -> Fit {
    let Some(wanted) = gpu.vgpu_type(id).filter(|wanted| wanted.creatable) else {
        return Fit::Exactly(0);
    };
    let room = room_for_any(gpu, wanted);
    // That it can be created says that one fits, whatever the sums say.
    let bound = || Fit::one_up_to(room.min(most_of(gpu, wanted).max(1)));
    if wanted.in_gpu_instance {
        // Which GPU instances have room, nobody tells.
        return bound();
    }
    match gpu.heterogeneous {
        Some(true) => match placement::fitting(wanted, &gpu.types, room) {
            Some(count) => Fit::Exactly(count),
            None => bound(),
        },
        Some(false) => match wanted.available.or_else(|| left_of_size(gpu, wanted)) {
            Some(count) => Fit::Exactly(count.min(room)),
            None => bound(),
        },
        // The driver's own count knows the mode.
        None => match wanted.available {
            Some(count) => Fit::Exactly(count.min(room)),
            None => bound(),
        },
    }
}

/// How many more vGPUs of any type.
fn room_for_any(gpu: &GpuState, wanted: &VgpuType) -> u32 {
    if gpu.framework.is_none() {
        return 0;
    }
    let most = if wanted.in_gpu_instance {
        MOST_IN_GPU_INSTANCES
    } else {
        MOST_TIME_SLICED
    };
    let room = most.saturating_sub(count(gpu.vgpus.len()));
    match gpu.functions {
        Some(functions) => room.min(functions.free),
        None => room,
    }
}

/// One size at a time: that the type can be created says that all that exist have
/// its size, and they count against its maximum, whichever type they are.
fn left_of_size(gpu: &GpuState, wanted: &VgpuType) -> Option<u32> {
    let most = wanted.max_instances?;
    Some(most.saturating_sub(count(gpu.vgpus.len())))
}

/// A bound that holds in every mode: by number, and by frame buffer where memory
/// is not cut into GPU instances, whose sizes do not add up evenly.
fn most_of(gpu: &GpuState, wanted: &VgpuType) -> u32 {
    let is_same = |vgpu: &&Vgpu| vgpu.type_id == Some(wanted.id);
    let there = count(gpu.vgpus.iter().filter(is_same).count());
    let by_number = wanted.max_instances.map(|most| most.saturating_sub(there));
    let by_size = free_memory(gpu).and_then(|free| {
        let fits = free.checked_div(wanted.framebuffer_mib?)?;
        Some(u32::try_from(fits).unwrap_or(u32::MAX))
    });
    let by_size = by_size.filter(|_| !wanted.in_gpu_instance);
    let bounds = [by_number, by_size];
    bounds.into_iter().flatten().min().unwrap_or(u32::MAX)
}

/// Frame buffer in MiB that types can have and no vGPU has: the most that any one
/// type can fill, less the sizes of those that exist.
fn free_memory(gpu: &GpuState) -> Option<u64> {
    let filled = |one: &VgpuType| {
        let most = one.max_instances?;
        one.framebuffer_mib?.checked_mul(u64::from(most))
    };
    let whole = gpu.types.iter().filter_map(filled).max()?;
    let size = |id| gpu.vgpu_type(id)?.framebuffer_mib;
    let sizes = gpu.vgpus.iter().filter_map(|vgpu| size(vgpu.type_id?));
    Some(whole.saturating_sub(sizes.sum()))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
