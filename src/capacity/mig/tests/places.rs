//! Which place is chosen, and what becomes of what exists.

use super::*;

fn at(layout: &Layout, board: &Board) -> Vec<(String, u32)> {
    let created = layout.created.iter();
    created
        .map(|new| (board.name(new.profile), new.slots.start()))
        .collect()
}

#[test]
fn four_vgpus_of_12_gb_share_half_an_rtx_pro_6000_and_another_pool_takes_the_rest() {
    let rtx = board("rtx-pro-6000");
    let vgpus = |pool: &str, profile: &str, framebuffer_mib, most, vgpus| PoolNeed {
        pool: pool.parse().unwrap(),
        in_instances: Some(InInstances {
            profile: named(&rtx, profile),
            framebuffer_mib,
            most_per_instance: most,
            vgpus,
            later: 0,
            mixes_sizes: false,
            scheduler: None,
        }),
    };
    // DC-2-12Q
    let cad = vgpus("cad", "2g.48gb+gfx", 12_288, 4, 4);
    let needs = gpu_need(std::slice::from_ref(&cad)).unwrap().unwrap();
    let layout = Layout::plan(&rtx, &[], &needs.instances).unwrap();
    assert_eq!(at(&layout, &rtx), [("2g.48gb+gfx".to_owned(), 0)]);
    assert_eq!(layout.occupied(&rtx).free(&rtx), 6);
    let existing = [used(&rtx, 1, "2g.48gb+gfx", 0)];
    // DC-1-24Q
    let render = vgpus("render", "1g.24gb+gfx", 24_576, 1, 2);
    let needs = gpu_need(&[cad, render]).unwrap().unwrap();
    let layout = Layout::plan(&rtx, &existing, &needs.instances).unwrap();
    assert_eq!(layout.kept, existing);
    let quarter = || "1g.24gb+gfx".to_owned();
    assert_eq!(at(&layout, &rtx), [(quarter(), 6), (quarter(), 9)]);
    assert_eq!(
        layout.drawn(&rtx),
        "[======|+++|+++] keep 2g.48gb+gfx at 0-5 (in use by domain 'ws7'); \
         create 1g.24gb+gfx at 6-8; create 1g.24gb+gfx at 9-11; 0 of 12 slots free"
    );
}

#[test]
fn what_may_be_wanted_later_decides_where_a_small_one_lies() {
    let a100 = board("a100-40");
    let start = |later: &str, instances| {
        let more = InstanceNeed {
            later: instances,
            weight: instances,
            ..need(&a100, "later", 0, later)
        };
        let needs = [need(&a100, "now", 1, "1g.5gb"), more];
        let layout = Layout::plan(&a100, &[], &needs).unwrap();
        layout.created[0].slots.start()
    };
    // The only place of 4g is in front.
    assert_eq!(start("4g.20gb", 1), 6);
    // Three of 2g fill the slots up to the last one.
    assert_eq!(start("2g.10gb", 3), 6);
    // One of 3g fits behind, and two do not fit anyway.
    assert_eq!(start("3g.20gb", 2), 6);
}

#[test]
fn instances_are_created_large_ones_first() {
    let a100 = board("a100-40");
    let needs = [
        need(&a100, "a", 1, "1g.5gb"),
        need(&a100, "b", 1, "4g.20gb"),
        need(&a100, "c", 1, "2g.10gb"),
    ];
    let layout = Layout::plan(&a100, &[], &needs).unwrap();
    let names = ["4g.20gb", "2g.10gb", "1g.5gb"].map(str::to_owned);
    let starts = [0, 4, 6];
    assert_eq!(
        at(&layout, &a100),
        names.into_iter().zip(starts).collect::<Vec<_>>()
    );
}

#[test]
fn an_idle_instance_stays_although_another_place_would_be_better() {
    let a100 = board("a100-40");
    let existing = [idle(&a100, 9, "1g.5gb", 1)];
    let needs = [need(&a100, "a", 1, "1g.5gb")];
    let layout = Layout::plan(&a100, &existing, &needs).unwrap();
    assert_eq!(layout.kept, existing);
    assert!(layout.is_as_it_should_be());
}

#[test]
fn an_idle_instance_in_the_way_is_created_again_elsewhere() {
    let a100 = board("a100-40");
    let existing = [idle(&a100, 9, "1g.5gb", 1)];
    let needs = [
        need(&a100, "a", 1, "1g.5gb"),
        need(&a100, "b", 1, "4g.20gb"),
    ];
    let layout = Layout::plan(&a100, &existing, &needs).unwrap();
    assert_eq!(
        layout.destroyed,
        [Destroyed {
            instance: existing[0].clone(),
            why: Why::InTheWay
        }]
    );
    let slots = |start, size| Slots::new(start, size).unwrap();
    let steps = [
        LayoutStep::Destroy {
            profile: named(&a100, "1g.5gb"),
            slots: slots(1, 1),
            compute_instance: false,
        },
        LayoutStep::Create {
            profile: named(&a100, "4g.20gb"),
            slots: slots(0, 4),
            compute_instance: false,
        },
        LayoutStep::Create {
            profile: named(&a100, "1g.5gb"),
            slots: slots(4, 1),
            compute_instance: false,
        },
    ];
    assert_eq!(layout.steps(&a100), steps);
}

#[test]
fn of_idle_instances_too_many_the_ones_that_block_most_go() {
    let a100 = board("a100-40");
    let existing = [
        idle(&a100, 8, "1g.5gb", 0),
        idle(&a100, 9, "1g.5gb", 6),
        idle(&a100, 10, "1g.5gb", 3),
    ];
    let needs = [need(&a100, "a", 1, "1g.5gb")];
    let layout = Layout::plan(&a100, &existing, &needs).unwrap();
    assert_eq!(layout.kept, [existing[1].clone()]);
    let destroyed: Vec<(u32, Why)> = layout
        .destroyed
        .iter()
        .map(|one| (one.instance.id.number(), one.why))
        .collect();
    assert_eq!(destroyed, [(8, Why::NotNeeded), (10, Why::NotNeeded)]);
}

#[test]
fn an_instance_in_use_of_a_pool_that_creates_on_demand_is_needed() {
    let a100 = board("a100-40");
    let existing = [used(&a100, 9, "1g.5gb", 1), used(&a100, 8, "1g.5gb", 2)];
    let needs = [InstanceNeed {
        later: 1,
        weight: 1,
        ..need(&a100, "a", 0, "1g.5gb")
    }];
    let layout = Layout::plan(&a100, &existing, &needs).unwrap();
    assert_eq!(layout.kept, [existing[0].clone()]);
    assert_eq!(layout.blocked, [existing[1].clone()]);
}

#[test]
fn an_instance_of_others_stays_and_counts_if_vgpus_are_in_it() {
    let a100 = board("a100-40");
    let existing = [
        Instance {
            has_vgpus: true,
            ..foreign(&a100, 0, "3g.20gb", 4)
        },
        foreign(&a100, 1, "2g.10gb", 0),
    ];
    let needs = [need(&a100, "a", 2, "3g.20gb")];
    let refused = Layout::plan(&a100, &existing, &needs).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "in the way: GPU instance 1 (2g.10gb at 0-1, not created by virt-vgpu); \
         what fits: 3g.20gb (without 1 × 3g.20gb of pool 'a')"
    );
    let layout = Layout::plan(&a100, &existing, &needs_one(&a100)).unwrap();
    assert_eq!(layout.kept, [existing[0].clone()]);
    assert_eq!(layout.blocked, [existing[1].clone()]);
    // Without vGPUs it may be for something else.
    let existing = [foreign(&a100, 0, "3g.20gb", 4)];
    let layout = Layout::plan(&a100, &existing, &needs_one(&a100)).unwrap();
    assert_eq!(layout.blocked, existing);
    assert_eq!(layout.created.len(), 1);
}

fn needs_one(board: &Board) -> [InstanceNeed; 1] {
    [need(board, "a", 1, "3g.20gb")]
}

#[test]
fn an_instance_of_a_profile_that_is_not_listed_takes_its_slots() {
    let a100 = board("a100-40");
    let strange = Instance {
        profile: ProfileId::new(77).unwrap(),
        ..used(&a100, 2, "3g.20gb", 0)
    };
    let needs = [need(&a100, "a", 1, "3g.20gb")];
    let layout = Layout::plan(&a100, std::slice::from_ref(&strange), &needs).unwrap();
    assert_eq!(
        layout.drawn(&a100),
        "[!!!!|++++] create 3g.20gb at 4-7; cannot destroy profile 77 at 0-3 (in use by domain \
         'ws7'); 0 of 8 slots free"
    );
}

#[test]
fn a_board_that_needs_compute_instances_gets_them_with_each_instance() {
    let a30 = Board::new(board("a30").profiles().to_vec(), true).unwrap();
    let layout = Layout::plan(&a30, &[], &[need(&a30, "a", 1, "4g.24gb")]).unwrap();
    let create = LayoutStep::Create {
        profile: named(&a30, "4g.24gb"),
        slots: Slots::new(0, 4).unwrap(),
        compute_instance: true,
    };
    assert_eq!(layout.steps(&a30), [create]);
    let destroy = LayoutStep::Destroy {
        profile: named(&a30, "4g.24gb"),
        slots: Slots::new(0, 4).unwrap(),
        compute_instance: true,
    };
    assert_eq!(create.undo(), destroy);
    assert_eq!(destroy.undo(), create);
}

#[test]
fn a_whole_gpu_is_kept_for_a_large_instance() {
    let a100 = board("a100-40");
    let mut judges = [Usefulness::new(&a100, &[])];
    let taken = |instances: &[Instance]| Candidate {
        judge: 0,
        occupied: Occupied::by(&a100, instances),
    };
    let candidates = [
        taken(&[]),
        taken(&[used(&a100, 1, "3g.20gb", 4)]),
        taken(&[used(&a100, 0, "7g.40gb", 0)]),
    ];
    let mut chosen = |profile: &str| {
        let choice = choose(&mut judges, &candidates, named(&a100, profile))?;
        Some((choice.candidate, choice.slots.start()))
    };
    assert_eq!(chosen("1g.5gb"), Some((1, 0)));
    assert_eq!(chosen("3g.20gb"), Some((1, 0)));
    assert_eq!(chosen("7g.40gb"), Some((0, 0)));
    assert_eq!(
        choose(&mut judges, &candidates[2..], named(&a100, "1g.5gb")),
        None
    );
    assert_eq!(
        choose(&mut judges, &candidates, ProfileId::new(77).unwrap()),
        None
    );
}
