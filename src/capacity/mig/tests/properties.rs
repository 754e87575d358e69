//! What holds for every layout: of random instances and needs, on every board.

use proptest::{prelude::*, sample::select};

use super::{
    driver::{Driver, Existing},
    *,
};

/// A board, what exists on it, and what is needed.
#[derive(Debug, Clone)]
struct Case {
    model: &'static str,
    existing: Vec<Instance>,
    needs: Vec<InstanceNeed>,
    driver: Driver,
}

/// Numbers that choose among profiles and starts; whose it is; whether it is in use.
type Chosen = (usize, usize, bool, bool);

fn case() -> impl Strategy<Value = Case> {
    let chosen = (any::<usize>(), any::<usize>(), any::<bool>(), any::<bool>());
    let needed = (any::<usize>(), 0_u32..4, 0_u32..3);
    (
        select(MODELS.to_vec()),
        proptest::collection::vec(chosen, 0..5),
        proptest::collection::vec(needed, 0..4),
    )
        .prop_map(|(model, existing, needs)| case_of(model, &existing, &needs))
}

fn case_of(model: &'static str, existing: &[Chosen], needs: &[(usize, u32, u32)]) -> Case {
    let board = board(model);
    let mut driver = Driver::new(model);
    let mut instances = Vec::new();
    for (profile, start, ours, in_use) in existing {
        let profile = &board.profiles()[profile % board.profiles().len()];
        let start = profile.starts[start % profile.starts.len()];
        let Ok(id) = driver.create(profile.id.number(), start, profile.size) else {
            continue;
        };
        let users = if *in_use {
            vec!["ws7".to_owned()]
        } else {
            Vec::new()
        };
        instances.push(Instance {
            id: InstanceId::new(id).unwrap(),
            profile: profile.id,
            slots: Slots::new(start, profile.size).unwrap(),
            ours: *ours,
            has_vgpus: true,
            users,
        });
    }
    let needs = needs.iter().zip(["a", "b", "c"]);
    let needs = needs.map(|((profile, count, later), pool)| InstanceNeed {
        pools: vec![pool.parse().unwrap()],
        profile: board.profiles()[profile % board.profiles().len()].id,
        instances: *count,
        later: *later,
        weight: *later,
        vgpus: None,
        scheduler: None,
    });
    Case {
        model,
        existing: instances,
        needs: needs.collect(),
        driver,
    }
}

impl Case {
    /// How many of each profile are needed: once for each profile.
    fn needed(&self) -> Vec<(ProfileId, u32)> {
        let mut sums: Vec<(ProfileId, u32)> = Vec::new();
        for need in &self.needs {
            match sums.iter_mut().find(|(known, _)| *known == need.profile) {
                Some((_, sum)) => *sum += need.instances,
                None => sums.push((need.profile, need.instances)),
            }
        }
        sums
    }

    /// The driver's GPU with only what cannot go.
    fn with_fixed(&self) -> Driver {
        let mut driver = self.driver.clone();
        for one in self.existing.iter().filter(|one| one.is_idle_and_ours()) {
            driver
                .destroy(one.profile.number(), one.slots.start())
                .unwrap();
        }
        driver
    }

    /// Of each profile, how many have to be found places for.
    fn missing(&self, needed: &[(ProfileId, u32)]) -> Vec<(u32, u32)> {
        let fixed = self.with_fixed();
        needed
            .iter()
            .map(|(profile, count)| {
                let alike = |one: &&Existing| one.profile == profile.number();
                let there = fixed.instances.iter().filter(alike).count();
                let there = u32::try_from(there).unwrap();
                (profile.number(), count.saturating_sub(there))
            })
            .collect()
    }
}

/// What holds for a layout with at least so many of each profile.
fn check(case: &Case, layout: &Layout, needed: &[(ProfileId, u32)]) {
    let board = board(case.model);
    let mut stays: Vec<Instance> = layout.kept.iter().chain(&layout.blocked).cloned().collect();
    for one in case.existing.iter().filter(|one| !one.is_idle_and_ours()) {
        assert!(stays.contains(one), "{one:?} would go");
    }
    stays.extend(layout.destroyed.iter().map(|one| one.instance.clone()));
    stays.sort_by_key(|one| one.slots);
    let mut existing = case.existing.clone();
    existing.sort_by_key(|one| one.slots);
    assert_eq!(stays, existing, "each is in one list");

    let mut driver = case.driver.clone();
    let before = driver.lying();
    let steps = layout.steps(&board);
    for step in &steps {
        let before = driver.lying();
        driver.take(*step).unwrap();
        let mut undone = driver.clone();
        undone.take(step.undo()).unwrap();
        assert_eq!(undone.lying(), before);
    }
    for (profile, count) in needed {
        let alike = |one: &&Existing| one.profile == profile.number();
        let there = driver.instances.iter().filter(alike).count();
        assert!(there >= usize::try_from(*count).unwrap());
    }
    let mut undone = driver.clone();
    for step in steps.iter().rev() {
        undone.take(step.undo()).unwrap();
    }
    assert_eq!(undone.lying(), before);

    let sizes: Vec<u32> = layout.created.iter().map(|new| new.slots.size()).collect();
    assert!(sizes.is_sorted_by(|one, next| one >= next));
    // One character and a border for each slot at most.
    let drawn = layout.drawn(&board);
    assert!(drawn.lines().count() == 1);
}

/// The same instances after the layout's steps.
fn afterwards(case: &Case, layout: &Layout) -> Vec<Instance> {
    let created = layout.created.iter().zip(100..);
    let created = created.map(|(new, id)| Instance {
        id: InstanceId::new(id).unwrap(),
        profile: new.profile,
        slots: new.slots,
        ours: true,
        has_vgpus: true,
        users: Vec::new(),
    });
    let goes = |one: &Instance| layout.destroyed.iter().any(|gone| gone.instance == *one);
    let stays = case.existing.iter().filter(|one| !goes(one)).cloned();
    stays.chain(created).collect()
}

/// Whether all that a part of the needs asks for fits, by the driver's rules.
fn fits(case: &Case, needed: &[(ProfileId, u32)]) -> bool {
    let mut missing = case.missing(needed);
    let size = |id: u32| {
        let board = board(case.model);
        let profile = board.profile(ProfileId::new(id).unwrap()).unwrap();
        profile.size
    };
    missing.sort_by_key(|(id, _)| std::cmp::Reverse(size(*id)));
    case.with_fixed().has_space_for(&missing)
}

/// The same needs with so many left out.
fn smaller(needed: &[(ProfileId, u32)], left_out: u32) -> Vec<Vec<(ProfileId, u32)>> {
    let Some(((profile, count), others)) = needed.split_first() else {
        return if left_out == 0 {
            vec![Vec::new()]
        } else {
            Vec::new()
        };
    };
    let mut all = Vec::new();
    for fewer in 0..=left_out.min(*count) {
        for rest in smaller(others, left_out - fewer) {
            let mut one = vec![(*profile, count - fewer)];
            one.extend(rest);
            all.push(one);
        }
    }
    all
}

proptest! {
    #[test]
    fn a_layout_is_right_and_a_refusal_too(case in case()) {
        let board = board(case.model);
        let needed = case.needed();
        match Layout::plan(&board, &case.existing, &case.needs) {
            Ok(layout) => {
                check(&case, &layout, &needed);
                let after = afterwards(&case, &layout);
                let again = Layout::plan(&board, &after, &case.needs).unwrap();
                prop_assert!(again.is_as_it_should_be(), "{again:?}");
            }
            Err(refused) => {
                prop_assert!(!fits(&case, &needed));
                prop_assert!(!refused.nearest.is_empty());
                let left_out = |nearest: &Nearest| -> u32 {
                    nearest.left_out.iter().map(|one| one.instances).sum()
                };
                let fewest = left_out(&refused.nearest[0]);
                for nearest in &refused.nearest {
                    prop_assert_eq!(left_out(nearest), fewest);
                    check(&case, &nearest.layout, &[]);
                }
                // Nothing fits with fewer left out.
                for part in (0..fewest).flat_map(|fewer| smaller(&needed, fewer)) {
                    prop_assert!(!fits(&case, &part), "{part:?}");
                }
            }
        }
    }

    /// Of all places for new instances on a GPU without idle ones, none leaves more.
    #[test]
    fn no_other_places_are_better(mut case in case()) {
        let board = board(case.model);
        for one in &mut case.existing {
            one.ours = false;
        }
        let Ok(layout) = Layout::plan(&board, &case.existing, &case.needs) else {
            return Ok(());
        };
        let later: Vec<Later> = layout_later(&case, &board);
        let mut judge = Usefulness::new(&board, &later);
        let best = judge.worth(layout.occupied(&board));
        let missing = case.missing(&case.needed());
        let mut ends = Vec::new();
        let taken = Occupied::by(&board, &case.existing);
        all_ends(&board, taken, &missing, &mut ends);
        prop_assert!(!ends.is_empty());
        for end in ends {
            prop_assert!(judge.worth(end) <= best);
        }
    }

    /// What fits on a GPU is what the driver takes, one after another.
    #[test]
    fn what_fits_is_what_the_driver_accepts(case in case(), profile: usize) {
        let board = board(case.model);
        let index = profile % board.profiles().len();
        let profile = &board.profiles()[index];
        let fitting = Occupied::by(&board, &case.existing).fitting(&board, index);
        let id = profile.id.number();
        prop_assert!(case.driver.has_space_for(&[(id, fitting)]));
        prop_assert!(!case.driver.has_space_for(&[(id, fitting + 1)]));
    }
}

/// What may be wanted later, once what is there has been counted.
fn layout_later(case: &Case, board: &Board) -> Vec<Later> {
    let profiles = board.profiles().iter();
    profiles
        .map(|profile| {
            let needs = || case.needs.iter().filter(|need| need.profile == profile.id);
            let there = case.existing.iter().filter(|one| one.profile == profile.id);
            let there = u32::try_from(there.count()).unwrap();
            let now: u32 = needs().map(|need| need.instances).sum();
            let later: u32 = needs().map(|need| need.later).sum();
            Later {
                profile: profile.id,
                instances: later.saturating_sub(there.saturating_sub(now)),
                weight: needs().map(|need| need.weight).sum(),
            }
        })
        .collect()
}

/// All that can be taken with so many more of each profile.
fn all_ends(board: &Board, taken: Occupied, missing: &[(u32, u32)], ends: &mut Vec<Occupied>) {
    let Some(((id, count), others)) = missing.split_first() else {
        ends.push(taken);
        return;
    };
    if *count == 0 {
        return all_ends(board, taken, others, ends);
    }
    let mut rest = missing.to_vec();
    rest[0].1 -= 1;
    let profile = board.index(ProfileId::new(*id).unwrap()).unwrap();
    for slots in taken.places(board, profile).collect::<Vec<_>>() {
        all_ends(board, taken.with(board, profile, slots), &rest, ends);
    }
}
