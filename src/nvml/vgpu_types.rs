//! The vGPU types that a GPU supports.

use std::collections::BTreeSet;

use nvml_wrapper::{Device, error::NvmlError, vgpu::VgpuType};
use virt_vgpu_nvml_raw as raw;

use super::{
    failure::{Call, reading},
    gpu::MIB,
};
use crate::{
    device::nvml::{
        Failure, GpuInstance, Heterogeneous, InstancePlacements, Placements, TypeFacts,
    },
    model::{PciAddress, VgpuTypeId},
};

/// `INVALID_GPU_INSTANCE_PROFILE_ID`: a time-sliced type.
const TIME_SLICED: u32 = u32::MAX;

/// All types, or none: half a list would look like a complete one.
pub(super) fn read(
    device: &Device<'_>,
    gpu: PciAddress,
    heterogeneous: Option<&Heterogeneous>,
    instances: &[GpuInstance],
) -> Result<Vec<TypeFacts>, Failure> {
    let call = reading(device, gpu, "vGPU types");
    let ids = |found: raw::Answer<Vec<u32>>| found.map_err(|error| call.failed(error));
    let supported: BTreeSet<u32> = ids(raw::supported_types(device))?.into_iter().collect();
    // The list of the GPU itself: the lists of its functions differ.
    let creatable: BTreeSet<u32> = ids(raw::creatable_types(device))?.into_iter().collect();
    let mut types = Vec::new();
    for id in supported {
        let Some(type_id) = VgpuTypeId::new(id) else {
            continue;
        };
        let call = reading(device, gpu, &format!("vGPU type {id}"));
        let mut facts = facts(&VgpuType::new(device, id), type_id, &call)?;
        facts.creatable = creatable.contains(&id);
        if let Some(profile) = facts.gpu_instance_profile {
            facts.most_per_instance = raw::most_per_instance(device.nvml(), id).ok();
            let its = instances.iter().filter(|one| one.profile == profile);
            facts.instance_placements = instance_placements(device, id, its);
        }
        if let (None, Some(mode)) = (facts.gpu_instance_profile, heterogeneous) {
            facts.placements = placements(device, id, *mode);
        }
        types.push(facts);
    }
    Ok(types)
}

fn facts(vgpu_type: &VgpuType<'_>, id: VgpuTypeId, call: &Call<'_>) -> Result<TypeFacts, Failure> {
    let framebuffer = vgpu_type.framebuffer_size();
    let most = vgpu_type.max_instances();
    let profile = vgpu_type.instance_profile_id();
    Ok(TypeFacts {
        id,
        name: vgpu_type.name().map_err(|error| call.failed(error))?,
        framebuffer_mib: framebuffer.map_err(|error| call.failed(error))? / MIB,
        heads: vgpu_type.num_display_heads().ok(),
        max_resolution: vgpu_type.resolution(0).ok(),
        // NOT_SUPPORTED if the type has no limit.
        frame_rate_limit: vgpu_type.frame_rate_limit().ok().filter(|limit| *limit > 0),
        max_instances: most.map_err(|error| call.failed(error))?,
        max_per_vm: vgpu_type.max_instances_per_vm().ok(),
        gpu_instance_profile: match profile {
            Ok(TIME_SLICED) => None,
            Ok(profile) => Some(profile),
            // A driver older than MIG has only time-sliced types.
            Err(NvmlError::FailedToLoadSymbol(_) | NvmlError::NotSupported) => None,
            Err(error) => return Err(call.failed(error)),
        },
        most_per_instance: None,
        creatable: false,
        placements: None,
        instance_placements: Vec::new(),
    })
}

/// The free places in the GPU instances that mix sizes. In others, a free place does not mean
/// that the type can be made there, and the driver chooses the place.
fn instance_placements<'a>(
    device: &Device<'_>,
    id: u32,
    instances: impl Iterator<Item = &'a GpuInstance>,
) -> Vec<InstancePlacements> {
    let free_in = |one: &GpuInstance| {
        let (size, ids) = raw::instance_creatable_placements(device, one.id, id).ok()?;
        Some(InstancePlacements {
            instance: one.id,
            size,
            creatable: ascending(ids),
        })
    };
    let mixing = instances.filter(|one| one.heterogeneous == Some(true));
    mixing.filter_map(free_in).collect()
}

/// The places of a time-sliced type. While the mode is off, the driver lists places of
/// another geometry as creatable, or none.
fn placements(device: &Device<'_>, id: u32, mode: Heterogeneous) -> Option<Placements> {
    if !mode.supported {
        return None;
    }
    let supported = raw::supported_placements(device, id).ok()?;
    let creatable = if mode.enabled {
        let list = raw::creatable_placements(device, id).ok()?;
        list.heterogeneous.then_some(list.ids)?
    } else {
        Vec::new()
    };
    Some(Placements {
        size: supported.size,
        supported: ascending(supported.ids),
        creatable: ascending(creatable),
    })
}

fn ascending(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids.dedup();
    ids
}
