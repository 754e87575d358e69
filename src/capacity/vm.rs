//! What one VM may have: how many vGPUs, in which combinations, and unified memory.

use std::collections::BTreeMap;

use crate::{
    device::nvml::TypeFacts,
    model::{ProfileName, ProfileParts, Series, short_name},
};

/// The most vGPUs of one VM (NVIDIA's Virtual GPU Software User Guide, "Multiple
/// vGPUs").
pub const MOST_PER_VM: usize = 16;

/// A vGPU of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VgpuOfVm<'a> {
    /// Its profile.
    pub profile: &'a ProfileName,
    /// The most of its type in one VM; None: unknown.
    pub max_per_vm: Option<u32>,
}

impl VgpuOfVm<'_> {
    fn short(&self) -> &str {
        short_name(self.profile.as_str())
    }
}

/// Whether one VM may have all of these. `mixed_sizes` is the driver's answer
/// (`heterogeneous_multi_vgpu`); unknown counts as no. The driver decides about
/// profiles with names that NVIDIA would not give.
///
/// # Errors
/// The rule that is broken, with the profiles that break it.
pub fn vm_rules(wanted: &[VgpuOfVm<'_>], mixed_sizes: Option<bool>) -> Result<(), String> {
    if wanted.len() > MOST_PER_VM {
        return Err(format!(
            "one VM can have at most {MOST_PER_VM} vGPUs, not {}",
            wanted.len()
        ));
    }
    number_of_each(wanted)?;
    let known = wanted.iter().filter_map(|one| one.profile.parts());
    let known: Vec<ProfileParts<'_>> = known.collect();
    let Some((first, others)) = known.split_first() else {
        return Ok(());
    };
    for other in others {
        let differ = |what: &str| {
            Err(format!(
                "the vGPUs of one VM must have the same {what}, but {first} and {other} differ"
            ))
        };
        if other.board != first.board {
            return differ("board type");
        }
        if other.series != first.series {
            return differ("series");
        }
        if other != first && mixed_sizes != Some(true) {
            return Err(format!(
                "the vGPUs of one VM must have the same size, but {first} and {other} differ and \
                 the driver does not say that this is allowed"
            ));
        }
    }
    Ok(())
}

/// Whether one VM may have that many devices that are parts of others: vGPUs of any kind of
/// pool. Whole PCI devices are not counted.
///
/// # Errors
/// The rule.
pub fn number_of_parts(count: usize) -> Result<(), String> {
    match count {
        0..=MOST_PER_VM => Ok(()),
        _ => Err(format!(
            "one VM can have at most {MOST_PER_VM} vGPUs and other mediated devices, not {count}"
        )),
    }
}

fn number_of_each(wanted: &[VgpuOfVm<'_>]) -> Result<(), String> {
    let mut there: BTreeMap<&str, u32> = BTreeMap::new();
    for one in wanted {
        let number = there.entry(one.short()).or_insert(0);
        *number += 1;
        if let Some(most) = one.max_per_vm.filter(|most| *number > *most) {
            return Err(format!(
                "one VM can have at most {most} {} on this GPU",
                one.short()
            ));
        }
    }
    Ok(())
}

/// Whether CUDA's unified memory works on vGPUs of a profile: on all in GPU instances;
/// on time-sliced ones of the series C and Q that have the whole frame buffer (NVIDIA
/// AI Enterprise documentation for C; the vGPU user guide for Q, which is less
/// explicit). If something is unknown, the driver decides.
///
/// # Errors
/// The rule that forbids it.
pub fn unified_memory_allowed(
    profile: &ProfileName,
    facts: Option<&TypeFacts>,
) -> Result<(), String> {
    let parts = profile.parts();
    let in_gpu_instance = parts.is_some_and(|parts| parts.slices.is_some())
        || facts.is_some_and(|facts| facts.gpu_instance_profile.is_some());
    if in_gpu_instance {
        return Ok(());
    }
    let name = short_name(profile.as_str());
    if let Some(series @ (Series::A | Series::B)) = parts.map(|parts| parts.series) {
        return Err(format!(
            "{name} has no unified memory: series {series} never has it"
        ));
    }
    match facts.map(|facts| facts.max_instances) {
        Some(most) if most > 1 => Err(format!(
            "{name} has no unified memory: only the profile that owns all of the GPU's frame \
             buffer has it, and {most} of this profile fit on a GPU"
        )),
        _ => Ok(()),
    }
}
