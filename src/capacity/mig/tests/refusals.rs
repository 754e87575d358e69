//! Why needs do not fit, and what does.

use super::*;

fn refused(model: &str, existing: &[Instance], needs: &[(&str, u32, &str)]) -> String {
    let board = board(model);
    let needs: Vec<InstanceNeed> = needs
        .iter()
        .map(|(pool, count, name)| need(&board, pool, *count, name))
        .collect();
    Layout::plan(&board, existing, &needs)
        .unwrap_err()
        .to_string()
}

#[test]
fn too_many_of_one_profile() {
    assert_eq!(
        refused("a100-40", &[], &[("a", 1, "4g.20gb"), ("b", 1, "4g.20gb")]),
        "pools 'a', 'b' need 2 × 4g.20gb, and this GPU can have 1; \
         what fits: 4g.20gb (without 1 × 4g.20gb of pool 'b')"
    );
    assert_eq!(
        refused("rtx-pro-6000", &[], &[("a", u32::MAX, "2g.48gb+gfx")]),
        "pool 'a' needs 4294967295 × 2g.48gb+gfx, and this GPU can have 2; \
         what fits: 2 × 2g.48gb+gfx (without 4294967293 × 2g.48gb+gfx of pool 'a')"
    );
}

#[test]
fn what_does_not_fit_together_has_the_nearest_layouts() {
    assert_eq!(
        refused("a100-40", &[], &[("a", 1, "4g.20gb"), ("b", 2, "3g.20gb")]),
        "4g.20gb + 2 × 3g.20gb do not fit on one GPU; \
         what fits: 4g.20gb + 3g.20gb (without 1 × 3g.20gb of pool 'b'); \
         or: 2 × 3g.20gb (without 1 × 4g.20gb of pool 'a')"
    );
}

#[test]
fn an_unknown_profile_is_told_by_its_number() {
    let a100 = board("a100-40");
    let strange = InstanceNeed {
        profile: ProfileId::new(47).unwrap(),
        ..need(&a100, "a", 2, "1g.5gb")
    };
    let needs = [strange, need(&a100, "b", 1, "3g.20gb")];
    let refused = Layout::plan(&a100, &[], &needs).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "pool 'a' needs GPU instance profile 47, which this GPU does not have; \
         what fits: 3g.20gb (without 2 × profile 47 of pool 'a')"
    );
}

#[test]
fn instances_in_use_are_named_as_few_as_possible() {
    let a100 = board("a100-40");
    let existing = [
        used(&a100, 7, "1g.5gb", 0),
        used(&a100, 8, "1g.5gb", 6),
        idle(&a100, 9, "1g.5gb", 3),
    ];
    assert_eq!(
        refused("a100-40", &existing, &[("a", 1, "4g.20gb")]),
        "in the way: GPU instance 7 (1g.5gb at 0, in use by domain 'ws7'); \
         what fits: nothing (without 1 × 4g.20gb of pool 'a')"
    );
    assert_eq!(
        refused(
            "a100-40",
            &existing,
            &[("a", 1, "7g.40gb"), ("b", 0, "1g.5gb")]
        ),
        "in the way: GPU instance 7 (1g.5gb at 0, in use by domain 'ws7'), \
         GPU instance 8 (1g.5gb at 6, in use by domain 'ws7'); \
         what fits: nothing (without 1 × 7g.40gb of pool 'a')"
    );
}

#[test]
fn a_needed_instance_in_use_that_lies_badly_is_in_the_way() {
    let a100 = board("a100-40");
    let existing = [used(&a100, 7, "1g.5gb", 0)];
    let needs = [("a", 1, "4g.20gb"), ("b", 1, "1g.5gb")];
    assert_eq!(
        refused("a100-40", &existing, &needs),
        "in the way: GPU instance 7 (1g.5gb at 0, in use by domain 'ws7'); \
         what fits: 1g.5gb (without 1 × 4g.20gb of pool 'a')"
    );
}

#[test]
fn the_nearest_layout_can_be_carried_out() {
    let a100 = board("a100-40");
    let existing = [used(&a100, 7, "1g.5gb", 0), idle(&a100, 8, "1g.5gb", 5)];
    let needs = [
        need(&a100, "a", 2, "3g.20gb"),
        need(&a100, "b", 1, "1g.5gb"),
    ];
    let refused = Layout::plan(&a100, &existing, &needs).unwrap_err();
    assert_eq!(refused.nearest.len(), 1);
    assert_eq!(
        refused.nearest[0].layout.drawn(&a100),
        "[=|...|++++] keep 1g.5gb at 0 (in use by domain 'ws7'); \
         destroy 1g.5gb at 5 (no pool needs it); create 3g.20gb at 4-7; 3 of 8 slots free"
    );
}
