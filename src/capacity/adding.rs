//! Computes a GPU's state after one more vGPU, so that several can be planned at once:
//! all functions of a board share the board's capacity.

use super::{
    Fit, Placement, choose_placement, more_of, most_of, placement::left, room_in_instances,
};
use crate::{
    device::gpu::{GpuState, Vgpu, VgpuType},
    model::{ProfileParts, VgpuTypeId},
};

/// The GPU with one more vGPU of a type. `place` is its place when sizes are mixed;
/// None: the best of its places, which we assume the driver to choose.
#[must_use]
pub fn with_one(gpu: &GpuState, id: VgpuTypeId, place: Option<Placement>) -> GpuState {
    let mut after = gpu.clone();
    if let Some(functions) = &mut after.functions {
        functions.free = functions.free.saturating_sub(1);
    }
    let Some(made) = gpu.vgpu_type(id) else {
        return after;
    };
    let instance = place.and_then(|place| place.instance);
    let place = place.filter(|place| place.instance.is_none());
    let place = place.or_else(|| best_place(gpu, made));
    after.vgpus.push(Vgpu {
        type_id: Some(id),
        placement: place.map(|place| place.id),
        instance: instance.or_else(|| driver_choice(gpu, made)),
    });
    let one_size = !are_sizes_mixed(gpu);
    for one in after.types.iter_mut().filter(|one| !one.in_gpu_instance) {
        if made.in_gpu_instance {
            break;
        }
        if one_size && !is_of_one_size(one, made) {
            one.creatable = false;
        }
        one.available = match one.creatable {
            true => one.available.map(|left| left.saturating_sub(1)),
            false => one.available.map(|_| 0),
        };
        if let (Some(place), Some(places)) = (place, &mut one.placements) {
            places.creatable = left(places.size, &places.creatable, place);
        }
    }
    close_what_is_full(&mut after);
    after
}

/// A type is listed as creatable only if one more fits, so types that do not fit by the
/// sums are removed from that list.
fn close_what_is_full(gpu: &mut GpuState) {
    let full: Vec<VgpuTypeId> = gpu
        .types
        .iter()
        .filter(|one| {
            let told = match gpu.heterogeneous {
                Some(true) => one
                    .placements
                    .as_ref()
                    .map(|told| told.creatable.is_empty()),
                _ => one.available.map(|left| left == 0),
            };
            let told = match one.in_gpu_instance {
                true => {
                    room_in_instances(gpu, one).map(|left| left.values().all(|left| *left == 0))
                }
                false => told,
            };
            told.unwrap_or(false) || most_of(gpu, one) == 0
        })
        .map(|one| one.id)
        .collect();
    for one in gpu.types.iter_mut().filter(|one| full.contains(&one.id)) {
        one.creatable = false;
    }
}

/// The GPU instance that the driver chooses: the one with the lowest number that has room
/// (`kernel_vgpu_mgr.c`).
fn driver_choice(gpu: &GpuState, made: &VgpuType) -> Option<u32> {
    let left = room_in_instances(gpu, made)?;
    left.into_iter()
        .find(|(_, left)| *left > 0)
        .map(|(id, _)| id)
}

fn best_place(gpu: &GpuState, made: &VgpuType) -> Option<Placement> {
    if gpu.heterogeneous != Some(true) {
        return None;
    }
    let all = gpu.types.iter().filter(|one| !one.in_gpu_instance);
    let all = all.filter_map(|one| one.placements.as_ref());
    choose_placement(made.placements.as_ref()?, all)
}

/// Whether sizes are mixed. If the mode is unknown, the GPU shows it: it has a vGPU and
/// can still create another size.
fn are_sizes_mixed(gpu: &GpuState) -> bool {
    gpu.heterogeneous.unwrap_or_else(|| {
        let there = gpu
            .vgpus
            .iter()
            .filter_map(|vgpu| gpu.vgpu_type(vgpu.type_id?));
        let there: Vec<&VgpuType> = there.filter(|one| !one.in_gpu_instance).collect();
        let mut makes = gpu
            .types
            .iter()
            .filter(|one| one.creatable && !one.in_gpu_instance);
        makes.any(|one| there.iter().any(|other| !is_of_one_size(one, other)))
    })
}

/// Compares frame buffers as NVML gives them, otherwise by the names.
fn is_of_one_size(one: &VgpuType, other: &VgpuType) -> bool {
    if let (Some(one), Some(other)) = (one.framebuffer_mib, other.framebuffer_mib) {
        return one == other;
    }
    let size = |of: &VgpuType| Some(ProfileParts::of(&of.name)?.gigabytes);
    match (size(one), size(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one.id == other.id,
    }
}

/// How many of a type fit in addition to `made`, which are placed first, in their
/// order.
#[must_use]
pub fn more_beside(
    gpu: &GpuState,
    made: impl IntoIterator<Item = (VgpuTypeId, Option<Placement>)>,
    id: VgpuTypeId,
) -> Fit {
    let mut made = made.into_iter();
    match made.next() {
        None => more_of(gpu, id),
        Some((first, place)) => {
            let first = with_one(gpu, first, place);
            let after = made.fold(first, |gpu, (id, place)| with_one(&gpu, id, place));
            more_of(&after, id)
        }
    }
}
