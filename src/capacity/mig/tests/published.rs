//! All combinations that the rules allow, in comparison with NVIDIA's lists.

use std::collections::BTreeSet;

use super::*;

/// The combinations that nothing can be added to, of these profiles: for each, the number of
/// compute slices of its instances in the order of the slots.
fn complete(board: &Board, profiles: &[&str]) -> Vec<String> {
    let profiles: Vec<usize> = profiles
        .iter()
        .map(|name| board.index(named(board, name)).unwrap())
        .collect();
    let mut complete = BTreeSet::new();
    let mut known = BTreeSet::new();
    let mut waiting = vec![(Occupied::NOTHING, BTreeSet::<(Slots, usize)>::new())];
    while let Some((taken, instances)) = waiting.pop() {
        if !known.insert(instances.clone()) {
            continue;
        }
        let mut is_complete = true;
        for &profile in &profiles {
            for slots in taken.places(board, profile) {
                is_complete = false;
                let mut with = instances.clone();
                with.insert((slots, profile));
                waiting.push((taken.with(board, profile, slots), with));
            }
        }
        if is_complete {
            let slices = instances.iter().map(|(_, profile)| {
                let name = &board.profiles()[*profile].name;
                name.split_once('g').unwrap().0.to_owned()
            });
            complete.insert(slices.collect::<Vec<_>>().join(" "));
        }
    }
    complete.into_iter().collect()
}

#[test]
fn an_a100_has_the_nineteen_combinations_of_the_user_guide() {
    let a100 = board("a100-40");
    let profiles = ["1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"];
    let mut listed = [
        "7",
        "4 3",
        "4 2 1",
        "4 1 1 1",
        "3 3",
        "3 2 1",
        "3 1 1 1",
        "2 2 3",
        "2 1 1 3",
        "1 1 2 3",
        "1 1 1 1 3",
        "2 2 2 1",
        "2 1 1 2 1",
        "1 1 2 2 1",
        "2 1 1 1 1 1",
        "1 1 2 1 1 1",
        "1 1 1 1 2 1",
        "1 1 1 1 1 1 1",
        "2 2 1 1 1",
    ];
    listed.sort_unstable();
    assert_eq!(complete(&a100, &profiles), listed);
}

#[test]
fn an_a30_has_the_five_combinations_of_the_user_guide() {
    let a30 = board("a30");
    assert_eq!(
        complete(&a30, &["1g.6gb", "2g.12gb", "4g.24gb"]),
        ["1 1 1 1", "1 1 2", "2 1 1", "2 2", "4"]
    );
}

#[test]
fn an_rtx_pro_6000_has_halves_and_quarters() {
    let rtx = board("rtx-pro-6000");
    assert_eq!(
        complete(&rtx, &["1g.24gb+gfx", "2g.48gb+gfx", "4g.96gb+gfx"]),
        ["1 1 1 1", "1 1 2", "2 1 1", "2 2", "4"]
    );
}

/// How many of a profile fit beside others: name and start of each.
fn beside(model: &str, others: &[(&str, u32)], name: &str) -> u32 {
    let board = board(model);
    let others = others.iter().zip(0..);
    let others: Vec<Instance> = others
        .map(|((name, start), id)| idle(&board, id, name, *start))
        .collect();
    let profile = board.index(named(&board, name)).unwrap();
    Occupied::by(&board, &others).fitting(&board, profile)
}

#[test]
fn the_numbers_of_the_user_guide_hold_for_each_profile_alone() {
    for model in MODELS {
        let board = board(model);
        for (index, profile) in board.profiles().iter().enumerate() {
            let most = Occupied::NOTHING.fitting(&board, index);
            assert_eq!(most, profile.most, "{model}: {}", profile.name);
        }
    }
}

#[test]
fn engines_limit_what_slots_would_allow() {
    // Its one JPEG engine is in the first.
    assert_eq!(beside("a30", &[("1g.6gb+me", 0)], "2g.12gb+me"), 0);
    assert_eq!(beside("a30", &[("1g.6gb+me", 0)], "2g.12gb"), 1);
    let all = [("1g.24gb+me.all", 0)];
    assert_eq!(beside("rtx-pro-6000", &all, "1g.24gb+gfx"), 0);
    assert_eq!(beside("rtx-pro-6000", &all, "1g.24gb-me"), 3);
    assert_eq!(beside("rtx-pro-6000", &all, "2g.48gb-me"), 1);
    assert_eq!(beside("rtx-pro-6000", &all, "2g.48gb+me.all"), 0);
    // Five decoders: four double ones and the one with media engines.
    let doubles = [("1g.10gb", 0), ("1g.10gb", 2), ("1g.10gb", 4)];
    assert_eq!(beside("a100-40", &doubles, "1g.5gb+me"), 1);
    assert_eq!(beside("a100-40", &[("1g.5gb+me", 3)], "1g.5gb+me"), 0);
    assert_eq!(beside("a100-40", &[("1g.5gb+me", 3)], "3g.20gb"), 1);
    assert_eq!(beside("h100", &[("1g.10gb+me", 6)], "1g.10gb"), 6);
}

#[test]
fn tables_that_make_no_sense_are_refused() {
    let profile = |id: u32, size: u32, start: u32| InstanceProfile {
        id: ProfileId::new(id).unwrap(),
        name: "1g.1gb".to_owned(),
        size,
        starts: vec![start],
        most: 1,
        engines: Engines::default(),
    };
    let refused = |profiles: Vec<InstanceProfile>| Board::new(profiles, false).unwrap_err();
    assert_eq!(
        refused(vec![profile(0, 1, 0), profile(0, 2, 0)]).to_string(),
        "the GPU instance profile 0 is listed twice"
    );
    for (size, start) in [(0, 0), (1, 64), (65, 0), (2, u32::MAX)] {
        assert_eq!(
            refused(vec![profile(0, size, start)]).to_string(),
            format!("the GPU instance profile 1g.1gb covers {size} memory slots from {start} on")
        );
    }
    let many = (0..33).map(|id| profile(id, 1, 0)).collect();
    assert_eq!(refused(many), BadBoard::Profiles(33));
    assert_eq!(Board::new(Vec::new(), false).unwrap().slots(), 0);
}

#[test]
fn all_ones_is_no_number_and_zero_is_one() {
    assert_eq!(InstanceId::new(u32::MAX), None);
    assert_eq!(InstanceId::new(0).unwrap().number(), 0);
    assert_eq!(ProfileId::new(u32::MAX), None);
}
