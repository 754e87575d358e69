//! Hand-made cases. `tests/it/driver/capacity.rs` compares the numbers with the
//! driver's.

use proptest::prelude::*;

use super::*;
use crate::{
    device::{
        gpu::{Framework, Functions},
        nvml::{Placements, TypeFacts},
    },
    model::ProfileName,
};

fn id(number: u32) -> VgpuTypeId {
    VgpuTypeId::new(number).unwrap()
}

/// A type of that many GB, of which `max` fill a GPU.
fn kind(number: u32, name: &str, gigabytes: u64, max: u32) -> VgpuType {
    VgpuType::from(&facts(number, name, gigabytes, max))
}

fn facts(number: u32, name: &str, gigabytes: u64, max: u32) -> TypeFacts {
    TypeFacts {
        id: id(number),
        name: name.to_owned(),
        framebuffer_mib: gigabytes * 1024,
        heads: None,
        max_resolution: None,
        frame_rate_limit: None,
        max_instances: max,
        max_per_vm: None,
        gpu_instance_profile: None,
        most_per_instance: None,
        creatable: true,
        placements: None,
        instance_placements: Vec::new(),
    }
}

fn gpu(types: Vec<VgpuType>, there: &[u32], free: u32) -> GpuState {
    let vgpu = |number: &u32| Vgpu {
        type_id: Some(id(*number)),
        placement: None,
        instance: None,
    };
    GpuState {
        address: "0000:3b:00.0".parse().unwrap(),
        framework: Some(Framework::VendorVfio),
        functions: Some(Functions { total: 32, free }),
        heterogeneous: Some(false),
        mig: Some(false),
        types,
        vgpus: there.iter().map(vgpu).collect(),
        instances: None,
    }
}

fn two_sizes() -> Vec<VgpuType> {
    vec![
        kind(1, "NVIDIA L40S-12Q", 12, 4),
        kind(2, "NVIDIA L40S-4C", 4, 12),
    ]
}

#[test]
fn functions_that_are_free_are_a_limit() {
    assert_eq!(more_of(&gpu(two_sizes(), &[1], 30), id(1)), Fit::Exactly(3));
    assert_eq!(more_of(&gpu(two_sizes(), &[1], 2), id(1)), Fit::Exactly(2));
    assert_eq!(more_of(&gpu(two_sizes(), &[1], 0), id(1)), Fit::Exactly(0));
    // Counts only the places that the driver would accept now.
    let mut gpu = gpu(two_sizes(), &[1], 30);
    gpu.types[1].creatable = false;
    assert_eq!(more_of(&gpu, id(2)), Fit::Exactly(0));
    assert_eq!(more_of(&gpu, id(3)), Fit::Exactly(0));
    gpu.framework = None;
    assert_eq!(more_of(&gpu, id(1)), Fit::Exactly(0));
}

#[test]
fn what_is_not_told_makes_it_a_bound() {
    let mut gpu = gpu(two_sizes(), &[1, 1, 1], 29);
    gpu.heterogeneous = None;
    // 12 of 48 GB are left.
    assert_eq!(more_of(&gpu, id(1)), Fit::Exactly(1));
    assert_eq!(more_of(&gpu, id(2)), Fit::AtMost(3));
    gpu.types[1].max_instances = None;
    gpu.types[1].framebuffer_mib = None;
    assert_eq!(more_of(&gpu, id(2)), Fit::AtMost(29));
    // The driver says that it can be created; the sums say that it cannot.
    gpu.vgpus.push(gpu.vgpus[0]);
    assert_eq!(more_of(&gpu, id(1)), Fit::Exactly(1));
    // Sizes are mixed, but no places are known.
    gpu.heterogeneous = Some(true);
    assert_eq!(more_of(&gpu, id(2)), Fit::AtMost(28));
}

#[test]
fn the_drivers_own_count_goes_before_ours() {
    let mut gpu = gpu(two_sizes(), &[1], 30);
    gpu.functions = None;
    gpu.types[0].available = Some(2);
    assert_eq!(more_of(&gpu, id(1)), Fit::Exactly(2));
    gpu.heterogeneous = None;
    assert_eq!(more_of(&gpu, id(1)), Fit::Exactly(2));
}

#[test]
fn sums_and_limits_of_pools() {
    let sum = |fits: &[Fit]| fits.iter().copied().sum::<Fit>();
    assert_eq!(sum(&[]), Fit::Exactly(0));
    assert_eq!(sum(&[Fit::Exactly(2), Fit::Exactly(3)]), Fit::Exactly(5));
    assert_eq!(sum(&[Fit::Exactly(2), Fit::AtMost(3)]), Fit::AtMost(5));
    assert_eq!(Fit::Exactly(5).within(4), Fit::Exactly(4));
    assert_eq!(Fit::AtMost(5).within(4), Fit::AtMost(4));
    assert_eq!(Fit::AtMost(5).within(1), Fit::Exactly(1));
    assert_eq!(Fit::AtMost(5).within(0), Fit::Exactly(0));
    let shown = [Fit::Exactly(3), Fit::AtMost(3)].map(|fit| fit.to_string());
    assert_eq!(shown, ["3", "at most 3"]);
}

fn places(size: u32, creatable: &[u32]) -> Placements {
    Placements {
        size,
        supported: creatable.to_vec(),
        creatable: creatable.to_vec(),
    }
}

#[test]
fn a_place_that_blocks_nothing_is_better_than_a_lower_one() {
    // Place 0 would leave no place for the large type, place 9 does not.
    let (small, large) = (places(1, &[0, 9]), places(8, &[0]));
    let chosen = choose_placement(&small, [&small, &large]);
    assert_eq!(chosen, Some(Placement::in_memory(9, 1)));
    // Both places leave the same number of types: the remaining memory decides.
    let (small, large) = (places(1, &[0, 20]), places(8, &[0, 8]));
    let chosen = choose_placement(&small, [&small, &large]);
    assert_eq!(chosen.unwrap().id, 20);
    assert_eq!(choose_placement(&places(1, &[]), [&large]), None);
}

#[test]
fn nonsense_of_a_driver_is_no_loop_and_no_overflow() {
    let huge = places(u32::MAX, &[0, u32::MAX, u32::MAX]);
    assert_eq!(choose_placement(&huge, [&huge]).unwrap().id, 0);
    let mut gpu = gpu(two_sizes(), &[], 32);
    gpu.heterogeneous = Some(true);
    gpu.types[0].placements = Some(huge);
    assert_eq!(more_of(&gpu, id(1)), Fit::Exactly(2));
    gpu.types[0].placements = Some(places(0, &[0, 1]));
    assert_eq!(more_of(&gpu, id(1)), Fit::AtMost(4));
}

#[test]
fn refusals_name_the_ids() {
    let refusal = |supported: &[u32]| no_place("NVIDIA L40S-24C", &places(24, supported));
    assert_eq!(
        refusal(&[0, 24]),
        "no placement id of L40S-24C is free: its ids 0 and 24 are covered"
    );
    assert_eq!(
        refusal(&[0]),
        "no placement id of L40S-24C is free: its only id 0 is covered"
    );
    assert_eq!(
        refusal(&[]),
        "L40S-24C has no placement id when sizes are mixed"
    );
}

fn rules(names: &[&str], mixed_sizes: Option<bool>) -> Result<(), String> {
    let profiles: Vec<ProfileName> = names.iter().map(|name| name.parse().unwrap()).collect();
    let wanted = |profile| VgpuOfVm {
        profile,
        max_per_vm: None,
    };
    let wanted: Vec<VgpuOfVm<'_>> = profiles.iter().map(wanted).collect();
    vm_rules(&wanted, mixed_sizes)
}

#[test]
fn vgpus_of_one_vm() {
    assert_eq!(rules(&[], None), Ok(()));
    assert_eq!(rules(&["L40S-12Q", "NVIDIA L40S-12Q"], None), Ok(()));
    assert_eq!(rules(&["L40S-12Q"; 16], None), Ok(()));
    assert_eq!(rules(&["L40S-12Q", "L40S-4Q"], Some(true)), Ok(()));
    // Nothing is known about names that NVIDIA would not give.
    assert_eq!(rules(&["my-own", "L40S-4Q"], None), Ok(()));
    let refused = |names: &[&str], mixed| rules(names, mixed).unwrap_err();
    assert_eq!(
        refused(&["L40S-12Q"; 17], None),
        "one VM can have at most 16 vGPUs, not 17"
    );
    assert_eq!(
        refused(&["L40S-12Q", "L40S-12Q", "A16-4Q"], Some(true)),
        "the vGPUs of one VM must have the same board type, but L40S-12Q and A16-4Q differ"
    );
    assert_eq!(
        refused(&["L40S-12Q", "L40S-12C"], Some(true)),
        "the vGPUs of one VM must have the same series, but L40S-12Q and L40S-12C differ"
    );
    for untold in [None, Some(false)] {
        assert_eq!(
            refused(&["L40S-12Q", "L40S-4Q"], untold),
            "the vGPUs of one VM must have the same size, but L40S-12Q and L40S-4Q differ and the \
             driver does not say that this is allowed"
        );
    }
    let profile: ProfileName = "NVIDIA L40S-1B".parse().unwrap();
    let one = VgpuOfVm {
        profile: &profile,
        max_per_vm: Some(1),
    };
    assert_eq!(vm_rules(&[one], None), Ok(()));
    assert_eq!(
        vm_rules(&[one, one], None).unwrap_err(),
        "one VM can have at most 1 L40S-1B on this GPU"
    );
}

#[test]
fn unified_memory() {
    let allowed = |name: &str, max: Option<u32>| {
        let facts = max.map(|max| facts(1, name, 1, max));
        unified_memory_allowed(&name.parse().unwrap(), facts.as_ref())
    };
    assert_eq!(allowed("L40S-48C", Some(1)), Ok(()));
    assert_eq!(allowed("L40S-48Q", Some(1)), Ok(()));
    assert_eq!(allowed("L40S-24C", None), Ok(()));
    assert_eq!(allowed("DC-1-3B", Some(32)), Ok(()));
    assert_eq!(
        allowed("NVIDIA L40S-24C", Some(2)).unwrap_err(),
        "L40S-24C has no unified memory: only the profile that owns all of the GPU's frame buffer \
         has it, and 2 of this profile fit on a GPU"
    );
    for (name, series) in [("L40S-48A", 'A'), ("L40S-48B", 'B')] {
        assert_eq!(
            allowed(name, Some(1)).unwrap_err(),
            format!("{name} has no unified memory: series {series} never has it")
        );
    }
}

/// A type's places, some of them taken.
fn any_places() -> impl Strategy<Value = Placements> {
    let ids = proptest::collection::btree_set(0u32..48, 0..12);
    (1u32..24, ids).prop_map(|(size, ids)| {
        let ids: Vec<u32> = ids.into_iter().collect();
        places(size, &ids)
    })
}

fn creatable_after(all: &[Placements], taken: Placement) -> usize {
    let still = |places: &&Placements| {
        let mut ids = places.creatable.iter();
        ids.any(|id| id + places.size <= taken.id || taken.id + taken.size <= *id)
    };
    all.iter().filter(still).count()
}

proptest! {
    #[test]
    fn the_place_is_free_and_leaves_most_types(
        all in proptest::collection::vec(any_places(), 1..8),
    ) {
        let wanted = &all[0];
        let chosen = choose_placement(wanted, &all);
        prop_assert_eq!(chosen.is_some(), !wanted.creatable.is_empty());
        if let Some(chosen) = chosen {
            prop_assert!(wanted.creatable.contains(&chosen.id));
            prop_assert_eq!(chosen.size, wanted.size);
            for &id in &wanted.creatable {
                let other = Placement::in_memory(id, wanted.size);
                prop_assert!(creatable_after(&all, other) <= creatable_after(&all, chosen));
            }
        }
    }
}
