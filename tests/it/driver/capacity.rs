//! Compares what the product says of a GPU's capacity with what the driver then accepts:
//! every board of the simulated host, random histories.

use std::collections::BTreeSet;

use lab_nvidia::{
    boards::{self, Board, VgpuType},
    model::{Framework, Switches},
};
use proptest::{prelude::*, test_runner::Config};
use virt_vgpu::{
    capacity::{Fit, Placement, choose_placement, more_of, no_place},
    device::{
        gpu::{self, GpuState},
        nvml::{GpuFacts, Placements, TypeFacts},
    },
    model::{ProfileName, VgpuTypeId},
};

use crate::support::{side_by_side::each, twin_host::TwinHost};

/// One change of a GPU; the numbers choose among the existing vGPUs.
#[derive(Debug, Clone, Copy)]
enum Step {
    Create {
        vgpu_handle: usize,
        kind: usize,
        place: PlacementCase,
    },
    Release(usize),
}

/// The place of a new vGPU.
#[derive(Debug, Clone, Copy)]
enum PlacementCase {
    /// The driver's choice.
    Default,
    /// Our choice.
    Ours,
    /// Where somebody else might.
    Any(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let place = prop_oneof![
        Just(PlacementCase::Default),
        Just(PlacementCase::Ours),
        any::<usize>().prop_map(PlacementCase::Any),
    ];
    prop_oneof![
        3 => (any::<usize>(), any::<usize>(), place)
            .prop_map(|(vgpu_handle, kind, place)| Step::Create { vgpu_handle, kind, place }),
        1 => any::<usize>().prop_map(Step::Release),
    ]
}

fn pick<T: Copy>(from: &[T], number: usize) -> Option<T> {
    from.get(number.checked_rem(from.len())?).copied()
}

fn type_facts(facts: &GpuFacts, id: u32) -> &TypeFacts {
    let types = facts.types.value().unwrap();
    let id = VgpuTypeId::new(id).unwrap();
    types.iter().find(|one| one.id == id).unwrap()
}

fn places(facts: &GpuFacts) -> impl Iterator<Item = &Placements> {
    let types = facts.types.value().unwrap();
    types.iter().filter_map(|one| one.placements.as_ref())
}

fn ours(facts: &GpuFacts, kind: u32) -> Option<Placement> {
    choose_placement(type_facts(facts, kind).placements.as_ref()?, places(facts))
}

fn perform(host: &mut TwinHost, step: Step) {
    match step {
        Step::Release(number) => {
            if let Some(vgpu_handle) = pick(&host.vgpu_handles(true), number) {
                host.release(vgpu_handle);
            }
        }
        Step::Create {
            vgpu_handle,
            kind,
            place,
        } => {
            let creatable = host.gpu().creatable();
            let kinds: Vec<u32> = creatable.iter().map(|(kind, _)| kind.id).collect();
            let vgpu_handle = pick(&host.vgpu_handles(false), vgpu_handle);
            let (Some(kind), Some(vgpu_handle)) = (pick(&kinds, kind), vgpu_handle) else {
                return;
            };
            let facts = host.facts();
            let place = match place {
                PlacementCase::Default => None,
                PlacementCase::Ours => ours(&facts, kind).map(|place| place.id),
                PlacementCase::Any(number) => {
                    let placements = type_facts(&facts, kind).placements.as_ref();
                    placements.and_then(|places| pick(&places.creatable, number))
                }
            };
            assert!(
                host.create(vgpu_handle, kind, place),
                "{kind} at {vgpu_handle}"
            );
        }
    }
}

fn state(host: &TwinHost, facts: Option<&GpuFacts>) -> GpuState {
    gpu::read(host, host.address(), facts, &BTreeSet::new()).unwrap()
}

/// How many of a type the driver makes, one after the other: at our places, or at its
/// own.
fn created(host: &TwinHost, kind: u32, at_our_places: bool) -> u32 {
    let mut host = host.clone();
    let mut count = 0;
    loop {
        let place = match at_our_places {
            true => ours(&host.facts(), kind).map(|place| place.id),
            false => None,
        };
        let Some(vgpu_handle) = host.vgpu_handles(false).first().copied() else {
            return count;
        };
        if !host.create(vgpu_handle, kind, place) {
            return count;
        }
        count += 1;
    }
}

fn is_true(fit: Fit, created: u32) -> bool {
    match fit {
        Fit::Exactly(count) => created == count,
        Fit::AtMost(most) => (1..=most).contains(&created),
    }
}

/// The same where only sysfs was asked: while sizes are mixed, it leaves out types that can
/// be created.
fn is_true_of_sysfs(fit: Fit, created: u32, mixed: bool) -> bool {
    is_true(fit, created) || mixed && fit == Fit::Exactly(0)
}

/// Every board with every possible framework.
fn hosts() -> Vec<(&'static Board, Framework)> {
    let mut hosts = Vec::new();
    for board in boards::all().unwrap() {
        if board.vfs == 0 {
            hosts.push((board, Framework::LegacyMdev));
        } else {
            hosts.push((board, Framework::SriovMdev));
            hosts.push((board, Framework::VendorVfio));
        }
    }
    hosts
}

fn hosts_with(feature: impl Fn(&Board) -> bool) -> Vec<(&'static Board, Framework)> {
    let mut hosts = hosts();
    hosts.retain(|(board, _)| feature(board));
    hosts
}

/// Checks a property on every host; proptest treats a panic like an error.
fn on_each_host(
    hosts: &[(&'static Board, Framework)],
    holds: impl Fn(&'static Board, Framework) -> Result<(), TestCaseError> + Sync,
) {
    let name = |(board, framework): &(&Board, Framework)| format!("{} {framework:?}", board.model);
    each(hosts, name, |(board, framework)| {
        if let Err(error) = holds(board, *framework) {
            panic!("{error}");
        }
    });
}

fn switches(framework: Framework) -> Switches {
    Switches {
        framework,
        ..Switches::default()
    }
}

/// With NVML the number is exact; without, it is a correct bound.
fn check_time_sliced(host: &TwinHost) -> Result<(), TestCaseError> {
    let facts = host.facts();
    let (told, untold) = (state(host, Some(&facts)), state(host, None));
    let mixed = told.heterogeneous == Some(true);
    for kind in &host.board().types {
        let id = VgpuTypeId::new(kind.id).unwrap();
        let fit = more_of(&told, id);
        prop_assert_eq!(
            fit,
            Fit::Exactly(created(host, kind.id, true)),
            "{}",
            kind.name
        );
        let fit = more_of(&untold, id);
        let created = created(host, kind.id, false);
        prop_assert!(
            is_true_of_sysfs(fit, created, mixed),
            "{}: {fit}, made {created}",
            kind.name
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 24, ..Config::default() })]

    #[test]
    fn of_one_size_as_many_fit_as_it_says(history in proptest::collection::vec(step(), 0..40)) {
        on_each_host(&hosts(), |board, framework| {
            let mut host = TwinHost::new(board, switches(framework));
            history.iter().for_each(|step| perform(&mut host, *step));
            check_time_sliced(&host)
        });
    }

    #[test]
    fn of_mixed_sizes_as_many_fit_as_it_says(
        history in proptest::collection::vec(step(), 0..24),
        fine_placements: bool,
    ) {
        let hosts = hosts_with(|board| board.features.hetero);
        on_each_host(&hosts, |board, framework| {
            let switches = Switches { fine_placements, ..switches(framework) };
            let mut host = TwinHost::new(board, switches);
            assert!(host.command("hetero 1"));
            history.iter().for_each(|step| perform(&mut host, *step));
            check_time_sliced(&host)
        });
    }

    #[test]
    fn one_type_at_a_time_on_older_drivers(history in proptest::collection::vec(step(), 0..40)) {
        on_each_host(&hosts(), |board, framework| {
            let switches = Switches { mixed_series: false, ..switches(framework) };
            let mut host = TwinHost::new(board, switches);
            history.iter().for_each(|step| perform(&mut host, *step));
            check_time_sliced(&host)
        });
    }

    #[test]
    fn in_gpu_instances_as_many_fit_as_it_says(
        instances in proptest::collection::vec((any::<usize>(), any::<bool>()), 0..8),
        history in proptest::collection::vec(step(), 0..30),
    ) {
        let hosts = hosts_with(|board| board.features.mig);
        on_each_host(&hosts, |board, framework| {
            let mut host = TwinHost::new(board, switches(framework)).with_mig();
            let profiles: Vec<u32> = board.gi_profiles.iter().map(|one| one.id).collect();
            for (profile, mixed) in &instances {
                let profile = pick(&profiles, *profile).unwrap();
                let before = host.gpu().gi_ids();
                // Not every board has space, and not every board mixes sizes.
                host.command(&format!("gi-create {profile}"));
                let mut created = host.gpu().gi_ids();
                created.retain(|id| !before.contains(id));
                for id in created {
                    host.command(&format!("gi-hetero {id} {}", u8::from(*mixed)));
                }
            }
            history.iter().for_each(|step| perform(&mut host, *step));
            let facts = host.facts();
            let (told, untold) = (state(&host, Some(&facts)), state(&host, None));
            let mixed = instances.iter().any(|(_, mixed)| *mixed);
            for kind in &board.types {
                let id = VgpuTypeId::new(kind.id).unwrap();
                let created = created(&host, kind.id, false);
                let fit = more_of(&told, id);
                prop_assert!(is_true(fit, created), "{}: {fit}, made {created}", kind.name);
                // Only GPU instances that mix sizes leave it open.
                let is_exact = matches!(fit, Fit::Exactly(_));
                prop_assert!(mixed || is_exact, "{}: {fit}", kind.name);
                let fit = more_of(&untold, id);
                prop_assert!(
                    is_true_of_sysfs(fit, created, mixed),
                    "{}: {fit}, made {created}, without NVML",
                    kind.name
                );
            }
            Ok(())
        });
    }

    /// Of all places that the driver accepts, ours leaves the most types creatable.
    #[test]
    fn no_place_leaves_more_types_than_ours(
        history in proptest::collection::vec(step(), 0..16),
        fine_placements: bool,
    ) {
        let hosts = hosts_with(|board| board.features.hetero);
        on_each_host(&hosts, |board, framework| {
            let switches = Switches { fine_placements, ..switches(framework) };
            let mut host = TwinHost::new(board, switches);
            assert!(host.command("hetero 1"));
            history.iter().for_each(|step| perform(&mut host, *step));
            let facts = host.facts();
            let Some(vgpu_handle) = host.vgpu_handles(false).first().copied() else { return Ok(()) };
            for kind in one_of_each_size(board) {
                let places = &type_facts(&facts, kind.id).placements.as_ref().unwrap().creatable;
                let left = |place: u32| {
                    let mut host = host.clone();
                    assert!(host.create(vgpu_handle, kind.id, Some(place)));
                    host.gpu().creatable().len()
                };
                let best = places.iter().map(|place| left(*place)).max();
                let ours = ours(&facts, kind.id).map(|place| left(place.id));
                // If that takes the last function, nothing can be created at all.
                prop_assert_eq!(ours, best, "{}", kind.name);
            }
            Ok(())
        });
    }
}

fn one_of_each_size(board: &Board) -> Vec<&VgpuType> {
    let mut seen = BTreeSet::new();
    let types = board.types.iter().filter(|kind| kind.gi_profile.is_none());
    types.filter(|kind| seen.insert(kind.slots)).collect()
}

/// The type for the name in a pool's file.
fn resolved(facts: &GpuFacts, profile: &str) -> u32 {
    let profile: ProfileName = profile.parse().unwrap();
    let mut types = facts.types.value().unwrap().iter();
    let found = types.find(|one| profile.means(&one.name)).unwrap();
    found.id.to_string().parse().unwrap()
}

fn mixed_l40s(fine_placements: bool) -> TwinHost {
    let switches = Switches {
        fine_placements,
        ..switches(Framework::VendorVfio)
    };
    let mut host = TwinHost::new(boards::find("l40s").unwrap(), switches);
    assert!(host.command("hetero 1"));
    host
}

/// Makes a vGPU as the product does, at our place; otherwise returns the refusal.
fn make(host: &mut TwinHost, profile: &str) -> Result<u32, String> {
    let facts = host.facts();
    let kind = resolved(&facts, profile);
    let wanted = type_facts(&facts, kind);
    let placements = wanted.placements.as_ref().unwrap();
    let id = VgpuTypeId::new(kind).unwrap();
    let fit = more_of(&state(host, Some(&facts)), id);
    let Some(place) = ours(&facts, kind) else {
        assert_eq!(fit, Fit::Exactly(0));
        let vgpu_handle = host.vgpu_handles(false)[0];
        assert!(!host.create(vgpu_handle, kind, None), "the driver takes it");
        return Err(no_place(&wanted.name, placements));
    };
    assert_ne!(fit, Fit::Exactly(0));
    let vgpu_handle = host.vgpu_handles(false)[0];
    assert!(host.create(vgpu_handle, kind, Some(place.id)));
    Ok(place.id)
}

#[test]
fn beside_a_24c_and_a_12q_only_two_4c_fit_on_an_l40s() {
    let mut host = mixed_l40s(false);
    assert_eq!(make(&mut host, "L40S-24C"), Ok(0));
    assert_eq!(make(&mut host, "L40S-12Q"), Ok(24));
    assert_eq!(make(&mut host, "L40S-4C"), Ok(36));
    assert_eq!(make(&mut host, "L40S-4C"), Ok(44));
    assert_eq!(
        make(&mut host, "L40S-4C").unwrap_err(),
        "no placement id of L40S-4C is free: its ids 0, 8, 12, 20, 24, 32, 36 and 44 are covered"
    );
}

#[test]
fn with_a_finer_table_all_three_fit_and_the_board_is_full() {
    let profiles = ["L40S-24C", "L40S-12Q", "L40S-4C", "L40S-4C", "L40S-4C"];
    // In every order of the VMs' starts.
    for order in orders(&profiles) {
        let mut host = mixed_l40s(true);
        for profile in &order {
            assert!(make(&mut host, profile).is_ok(), "{order:?}: {profile}");
        }
        let facts = host.facts();
        let state = state(&host, Some(&facts));
        for one in facts.types.value().unwrap() {
            assert_eq!(more_of(&state, one.id), Fit::Exactly(0), "{}", one.name);
        }
        assert_eq!(host.vgpus().len(), 5);
    }
}

fn orders<'a>(of: &[&'a str]) -> Vec<Vec<&'a str>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for index in 0..of.len() {
        let mut others = of.to_vec();
        let first = others.remove(index);
        for mut rest in orders(&others) {
            rest.insert(0, first);
            all.push(rest);
        }
    }
    all
}
