//! Computes what still fits on a GPU: how many more vGPUs of a type, the place of the
//! next one when sizes are mixed, and what one VM may have. It uses only what the
//! driver and NVML say about the GPU; there is no table of boards. If something is
//! unknown, the answer is an upper bound. Without NVML a type that sysfs does not list
//! counts as one that cannot be created, although sysfs leaves some out while sizes are
//! mixed.

use std::{collections::BTreeMap, fmt, iter::Sum};

use crate::{
    device::{
        gpu::{GpuState, Vgpu, VgpuType},
        nvml::GpuInstance,
    },
    model::VgpuTypeId,
};

mod adding;
pub mod mig;
mod placement;
mod vm;

pub use adding::{more_beside, with_one};
pub use placement::{Placement, choose_placement, no_place};
pub use vm::{MOST_PER_VM, VgpuOfVm, number_of_parts, unified_memory_allowed, vm_rules};

/// The most vGPUs of NVIDIA's driver on one GPU, time-sliced and in GPU instances (open
/// GPU kernel modules, `kernel_vgpu_mgr.c`).
const MOST_TIME_SLICED: u32 = 32;
const MOST_IN_GPU_INSTANCES: u32 = 48;

/// How many more fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Exactly this many, created one after the other.
    Exactly(u32),
    /// At most this many: the driver does not say enough to be exact. At least one
    /// fits.
    AtMost(u32),
}

impl Fit {
    /// The upper bound.
    #[must_use]
    pub fn most(self) -> u32 {
        match self {
            Self::Exactly(most) | Self::AtMost(most) => most,
        }
    }

    /// Whether that number is exact.
    #[must_use]
    pub fn is_exact(self) -> bool {
        matches!(self, Self::Exactly(_))
    }

    /// Limits the number, for example by a pool's `instances`.
    #[must_use]
    pub fn within(self, limit: u32) -> Self {
        match self {
            Self::Exactly(most) => Self::Exactly(most.min(limit)),
            Self::AtMost(most) => Self::one_up_to(most.min(limit)),
        }
    }

    /// At least one fits, unless `most` is zero.
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

/// Adds up the GPUs of a pool.
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

/// How many more vGPUs of a type fit on the GPU, created one after the other, each at
/// the place of [`choose_placement`] when sizes are mixed. Other vGPUs that are created
/// meanwhile reduce the number.
#[must_use]
pub fn more_of(gpu: &GpuState, id: VgpuTypeId) -> Fit {
    let Some(wanted) = gpu.vgpu_type(id).filter(|wanted| wanted.creatable) else {
        return Fit::Exactly(0);
    };
    let room = room_for_any(gpu, wanted);
    // If the type can be created, at least one fits, whatever the sums say.
    let bound = || Fit::one_up_to(room.min(most_of(gpu, wanted).max(1)));
    if wanted.in_gpu_instance {
        return match room_in_instances(gpu, wanted) {
            Some(left) => Fit::Exactly(left.values().sum::<u32>().min(room)),
            None => bound(),
        };
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
        // The driver's own count takes the mode into account.
        None => match wanted.available {
            Some(count) => Fit::Exactly(count.min(room)),
            None => bound(),
        },
    }
}

/// How many more of a type fit into each GPU instance of its profile: each has vGPUs of one
/// size, whatever their series. None: not everything about them is known.
fn room_in_instances(gpu: &GpuState, wanted: &VgpuType) -> Option<BTreeMap<u32, u32>> {
    let most = wanted.most_per_instance?;
    let profile = wanted.gpu_instance_profile?;
    // One that is in none that is known could be in any.
    if gpu.vgpus.iter().any(|vgpu| vgpu.instance.is_none()) {
        return None;
    }
    let left = |one: &GpuInstance| {
        // The free places do not say how many fit beside each other.
        if one.heterogeneous == Some(true) {
            return None;
        }
        let its = gpu
            .vgpus
            .iter()
            .filter(|vgpu| vgpu.instance == Some(one.id));
        let sizes = its.map(|vgpu| gpu.vgpu_type(vgpu.type_id?)?.framebuffer_mib);
        let sizes: Vec<u64> = sizes.collect::<Option<_>>()?;
        match sizes.first() {
            None => Some(most),
            Some(first) if Some(*first) == wanted.framebuffer_mib => {
                Some(most.saturating_sub(count(sizes.len())))
            }
            Some(_) => Some(0),
        }
    };
    let instances = gpu.instances.as_ref()?.iter();
    let alike = instances.filter(|one| one.profile == profile);
    alike.map(|one| Some((one.id, left(one)?))).collect()
}

/// How many more vGPUs of any type, by the number of functions and of vGPUs.
#[must_use]
pub fn room_by_number(gpu: &GpuState, id: VgpuTypeId) -> u32 {
    let wanted = gpu.vgpu_type(id);
    wanted.map_or(0, |wanted| room_for_any(gpu, wanted))
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

/// With one size at a time: if the type can be created, all existing vGPUs have its
/// size. They all count against its maximum, whichever type they have.
fn left_of_size(gpu: &GpuState, wanted: &VgpuType) -> Option<u32> {
    let most = wanted.max_instances?;
    Some(most.saturating_sub(count(gpu.vgpus.len())))
}

/// A bound that holds in every mode: by number, and by frame buffer if memory is not
/// cut into GPU instances, whose sizes do not add up evenly.
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

/// Unused frame buffer in MiB: the most that one type can fill, minus the sizes of the
/// existing vGPUs.
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
