//! The tables compared with published data: names with ids, and placement tables.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

use proptest::prelude::*;

use super::*;

#[test]
fn all_tables_are_well_formed() {
    let boards = all().unwrap();
    assert_eq!(boards.len(), FILES.len());
}

/// Names and ids as drivers and published inventories have them.
#[test]
fn published_types_are_in_the_tables() {
    let published: &[(&str, u32, &str, u32)] = &[
        ("t4", 232, "GRID T4-4Q", 4),
        ("v100", 105, "GRID V100-1Q", 16),
        ("v100", 106, "GRID V100-2Q", 8),
        ("v100", 107, "GRID V100-4Q", 4),
        ("v100", 108, "GRID V100-8Q", 2),
        ("v100", 109, "GRID V100-16Q", 1),
        ("v100", 299, "GRID V100-4C", 4),
        ("v100", 300, "GRID V100-8C", 2),
        ("v100", 301, "GRID V100-16C", 1),
        ("a2", 742, "NVIDIA A2-1B", 16),
        ("a2", 744, "NVIDIA A2-1Q", 16),
        ("a2", 745, "NVIDIA A2-2Q", 8),
        ("a2", 748, "NVIDIA A2-16Q", 1),
        ("a2", 750, "NVIDIA A2-2A", 8),
        ("a2", 754, "NVIDIA A2-4C", 4),
        ("a2", 756, "NVIDIA A2-16C", 1),
        ("a30", 684, "NVIDIA A30-4C", 6),
        ("a30", 688, "NVIDIA A30-24C", 1),
        ("a30", 689, "NVIDIA A30-1-6C", 4),
        ("a30", 690, "NVIDIA A30-2-12C", 2),
        ("a30", 691, "NVIDIA A30-4-24C", 1),
        ("a30", 708, "NVIDIA A30-1-6CME", 1),
        ("a30", 1052, "NVIDIA A30-2-12CME", 1),
        ("a100-40", 471, "GRID A100-10C", 4),
        ("a100-40", 472, "GRID A100-20C", 2),
        ("a100-40", 473, "GRID A100-40C", 1),
        ("a100-40", 478, "GRID A100-7-40C", 1),
        ("a100-40", 706, "GRID A100-1-5CME", 1),
        ("a100-40", 1053, "GRID A100-1-10C", 4),
        ("a100-80", 692, "GRID A100D-4C", 20),
        ("a100-80", 693, "GRID A100D-8C", 10),
        ("a100-80", 694, "GRID A100D-10C", 8),
        ("a100-80", 695, "GRID A100D-16C", 5),
        ("a100-80", 696, "GRID A100D-20C", 4),
        ("a100-80", 697, "GRID A100D-40C", 2),
        ("a100-80", 698, "GRID A100D-80C", 1),
        ("a100-80", 699, "GRID A100D-1-10C", 7),
        ("a100-80", 700, "GRID A100D-2-20C", 3),
        ("a100-80", 701, "GRID A100D-3-40C", 2),
        ("a100-80", 702, "GRID A100D-4-40C", 1),
        ("a100-80", 703, "GRID A100D-7-80C", 1),
        ("a100-80", 707, "GRID A100D-1-10CME", 1),
        ("a100-80", 1054, "GRID A100D-1-20C", 4),
        ("a16", 709, "NVIDIA A16-1B", 16),
        ("a16", 710, "NVIDIA A16-2B", 8),
        ("a16", 723, "NVIDIA A16-16C", 1),
        ("a16", 712, "NVIDIA A16-2Q", 8),
        ("a16", 713, "NVIDIA A16-4Q", 4),
        ("a16", 714, "NVIDIA A16-8Q", 2),
        ("a40", 555, "NVIDIA A40-1B", 32),
        ("a40", 558, "NVIDIA A40-2Q", 24),
        ("a40", 576, "NVIDIA A40-48A", 1),
        ("a40", 581, "NVIDIA A40-4C", 12),
        ("a40", 587, "NVIDIA A40-48C", 1),
        ("l40s", 1145, "NVIDIA L40S-1B", 32),
        ("l40s", 1146, "NVIDIA L40S-2B", 24),
        ("l40s", 2164, "NVIDIA L40S-3B", 16),
        ("l40s", 1147, "NVIDIA L40S-1Q", 32),
        ("l40s", 1148, "NVIDIA L40S-2Q", 24),
        ("l40s", 1149, "NVIDIA L40S-3Q", 16),
        ("l40s", 1150, "NVIDIA L40S-4Q", 12),
        ("l40s", 1151, "NVIDIA L40S-6Q", 8),
        ("l40s", 1152, "NVIDIA L40S-8Q", 6),
        ("l40s", 1153, "NVIDIA L40S-12Q", 4),
        ("l40s", 1154, "NVIDIA L40S-16Q", 3),
        ("l40s", 1155, "NVIDIA L40S-24Q", 2),
        ("l40s", 1156, "NVIDIA L40S-48Q", 1),
        ("l40s", 1157, "NVIDIA L40S-1A", 32),
        ("l40s", 1166, "NVIDIA L40S-48A", 1),
        ("b200", 2151, "NVIDIA B200X-1-23CME", 1),
        ("b200", 2152, "NVIDIA B200X-1-23C", 7),
        ("b200", 2153, "NVIDIA B200X-1-45C", 4),
        ("b200", 2157, "NVIDIA B200X-7-180C", 1),
        ("h100", 821, "NVIDIA H100-1-10C", 7),
        ("h100", 825, "NVIDIA H100-7-80C", 1),
        ("h100", 993, "NVIDIA H100-1-10CME", 1),
        ("h100", 1059, "NVIDIA H100-1-20C", 4),
        ("h200", 1413, "NVIDIA H200X-1-18CME", 1),
        ("h200", 1415, "NVIDIA H200X-1-35C", 4),
        ("h200", 1417, "NVIDIA H200X-3-71C", 2),
        ("h200", 1421, "NVIDIA H200X-7C", 20),
        ("h200", 1422, "NVIDIA H200X-8C", 16),
        ("h200", 1414, "NVIDIA H200X-1-18C", 7),
        ("h200", 1428, "NVIDIA H200X-141C", 1),
        (
            "rtx-pro-6000",
            1519,
            "NVIDIA RTX Pro 6000 Blackwell DC-3Q",
            32,
        ),
        (
            "rtx-pro-6000",
            1561,
            "NVIDIA RTX Pro 6000 Blackwell DC-1-24Q",
            4,
        ),
        (
            "rtx-pro-6000",
            1546,
            "NVIDIA RTX Pro 6000 Blackwell DC-1-2Q",
            48,
        ),
        (
            "rtx-pro-6000",
            1557,
            "NVIDIA RTX Pro 6000 Blackwell DC-1-8C",
            12,
        ),
        (
            "rtx-pro-6000",
            1566,
            "NVIDIA RTX Pro 6000 Blackwell DC-2-12C",
            8,
        ),
        (
            "rtx-pro-6000",
            1582,
            "NVIDIA RTX Pro 6000 Blackwell DC-4-48Q",
            2,
        ),
        (
            "rtx-pro-6000",
            1587,
            "NVIDIA RTX Pro 6000 Blackwell DC-4-96C",
            1,
        ),
        (
            "rtx-pro-6000",
            2158,
            "NVIDIA RTX Pro 6000 Blackwell DC-1-3B",
            32,
        ),
    ];
    for &(model, id, name, max) in published {
        let found = find(model)
            .unwrap()
            .vgpu_type(id)
            .unwrap_or_else(|| panic!("{model} {id}"));
        assert_eq!(
            (found.name.as_str(), found.max_instances),
            (name, max),
            "{model} {id}"
        );
    }
}

/// The placement ids of mixed sizes, NVIDIA's vGPU user guide.
#[test]
fn published_placements_are_in_the_tables() {
    let l40s: &[(u32, &[u32])] = &[
        (48, &[0]),
        (24, &[0, 24]),
        (16, &[0, 32]),
        (12, &[0, 12, 24, 36]),
        (8, &[0, 16, 24, 40]),
        (6, &[0, 6, 12, 18, 24, 30, 36, 42]),
        (4, &[0, 8, 12, 20, 24, 32, 36, 44]),
        (
            3,
            &[0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45],
        ),
        (
            2,
            &[0, 4, 6, 10, 12, 16, 18, 22, 24, 28, 30, 34, 36, 40, 42, 46],
        ),
        (
            1,
            &[0, 5, 6, 11, 12, 17, 18, 23, 24, 29, 30, 35, 36, 41, 42, 47],
        ),
    ];
    for &(size, ids) in l40s {
        assert_eq!(find("l40s").unwrap().mixed[&size], ids, "{size}");
    }
    let a16 = find("a16").unwrap();
    assert_eq!(a16.mixed[&16], [0]);
    assert_eq!(a16.mixed[&8], [0, 8]);
    assert_eq!(a16.mixed[&4], [0, 4, 8, 12]);
    assert_eq!(a16.mixed[&2], [0, 2, 4, 6, 8, 10, 12, 14]);
    assert_eq!(a16.mixed[&1], (0..16).collect::<Vec<u32>>());
    assert_eq!(find("a2").unwrap().mixed, a16.mixed);
}

/// One place in halves of halves of the memory, at the outer end of each: what the
/// driver does on boards before Blackwell. It gives the published placements of an
/// L40S.
#[test]
fn derived_placements_are_in_the_tables() {
    fn halves_of_halves(size: u32, slots: u32) -> Vec<u32> {
        let mut parts = 1;
        while slots / (parts * 2) >= size {
            parts *= 2;
        }
        let end = |part| slots * part / parts;
        let places = (0..parts).map(|part| match part % 2 {
            0 => end(part),
            _ => end(part + 1) - size,
        });
        places.collect()
    }
    for model in [
        "a100-40", "a100-80", "a16", "a2", "a30", "a40", "h100", "h200", "l4", "l40s",
    ] {
        let board = find(model).unwrap();
        for (&size, ids) in &board.mixed {
            // Halves of 3 GB are not cut further for 1 GB, except on an A40, which has no
            // place at 8 and 32 then.
            if size > 1 || board.slots % 3 != 0 {
                assert_eq!(*ids, halves_of_halves(size, board.slots), "{model} {size}");
            }
        }
    }
    let a40 = &find("a40").unwrap().mixed[&1];
    assert_eq!(
        (a40.len(), a40.contains(&8), a40.contains(&32)),
        (30, false, false)
    );
}

/// The types whose C series exists with MIG begin at 8 GB, and one of 2 GB occupies 3
/// slots on the whole GPU, but 2 in a GPU instance.
#[test]
fn the_96_gb_board_has_its_peculiarities() {
    let board = find("rtx-pro-6000").unwrap();
    let with_mig = || board.types.iter().filter(|kind| kind.gi_profile.is_some());
    assert_eq!(with_mig().count(), 43);
    assert_eq!(
        with_mig()
            .filter(|kind| kind.gi_profile == Some(47))
            .count(),
        19
    );
    let c = board.types.iter().filter(|kind| kind.series() == 'C');
    assert_eq!(c.map(|kind| kind.framebuffer_mib).min(), Some(8192));
    let slots = |name: &str| {
        let mut types = board.types.iter();
        types.find(|kind| kind.short_name() == name).unwrap().slots
    };
    assert_eq!(
        (slots("DC-2B"), slots("DC-3B"), slots("DC-1-2B")),
        (3, 3, 2)
    );
    assert!(!board.mixed.contains_key(&2));
}

/// The most that fit in equal and in mixed-size mode, NVIDIA AI Enterprise.
#[test]
fn published_counts_are_in_the_tables() {
    /// Size in slots, equal, mixed.
    type Counts = [(u32, u32, usize)];
    let published: &[(&str, &Counts)] = &[
        (
            "l40s",
            &[
                (48, 1, 1),
                (24, 2, 2),
                (16, 3, 2),
                (12, 4, 4),
                (8, 6, 4),
                (6, 8, 8),
                (4, 12, 8),
            ],
        ),
        (
            "l4",
            &[(24, 1, 1), (12, 2, 2), (8, 3, 2), (6, 4, 4), (4, 6, 4)],
        ),
        (
            "rtx-pro-6000",
            &[
                (96, 1, 1),
                (48, 2, 2),
                (32, 3, 3),
                (24, 4, 4),
                (16, 6, 6),
                (12, 8, 8),
                (8, 12, 12),
                (6, 16, 16),
                (4, 24, 24),
                (3, 32, 32),
            ],
        ),
    ];
    for &(model, sizes) in published {
        let board = find(model).unwrap();
        for &(size, equal, mixed) in sizes {
            let of_size = board
                .types
                .iter()
                .find(|t| t.slots == size && t.gi_profile.is_none());
            assert_eq!(of_size.unwrap().max_instances, equal, "{model} {size}");
            assert_eq!(board.mixed[&size].len(), mixed, "{model} {size} mixed");
        }
    }
}

/// GPU instance profiles: id, how many, where; NVIDIA's MIG user guide.
#[test]
fn published_gpu_instance_profiles_are_in_the_tables() {
    let seven: &[(u32, u32, &[u32], u32)] = &[
        (19, 7, &[0, 1, 2, 3, 4, 5, 6], 1),
        (20, 1, &[0, 1, 2, 3, 4, 5, 6], 1),
        (15, 4, &[0, 2, 4, 6], 2),
        (14, 3, &[0, 2, 4], 2),
        (9, 2, &[0, 4], 4),
        (5, 1, &[0], 4),
        (0, 1, &[0], 8),
    ];
    let blackwell: &[(u32, u32, &[u32], u32)] = &[
        (14, 4, &[0, 3, 6, 9], 3),
        (21, 1, &[0, 3, 6, 9], 3),
        (47, 4, &[0, 3, 6, 9], 3),
        (65, 1, &[0, 3, 6, 9], 3),
        (67, 4, &[0, 3, 6, 9], 3),
        (5, 2, &[0, 6], 6),
        (35, 2, &[0, 6], 6),
        (64, 1, &[0, 6], 6),
        (66, 2, &[0, 6], 6),
        (0, 1, &[0], 12),
        (32, 1, &[0], 12),
    ];
    let families = [
        (
            "a100-40",
            seven,
            [
                "1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb",
            ],
        ),
        (
            "a100-80",
            seven,
            [
                "1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb",
            ],
        ),
        (
            "h200",
            seven,
            [
                "1g.18gb", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb",
            ],
        ),
    ];
    for (model, profiles, names) in families {
        let board = find(model).unwrap();
        let found: Vec<&str> = [19, 15, 14, 9, 5, 0]
            .iter()
            .map(|&id| board.gi_profile(id).unwrap().name.as_str())
            .collect();
        assert_eq!(found, names, "{model}");
        check_profiles(board, profiles);
    }
    let four: &[(u32, u32, &[u32], u32)] = &[
        (14, 4, &[0, 1, 2, 3], 1),
        (21, 1, &[0, 1, 2, 3], 1),
        (5, 2, &[0, 2], 2),
        (6, 1, &[0, 2], 2),
        (0, 1, &[0], 4),
    ];
    check_profiles(find("a30").unwrap(), four);
    check_profiles(find("b200").unwrap(), seven);
    check_profiles(find("h100").unwrap(), seven);
    check_profiles(find("rtx-pro-6000").unwrap(), blackwell);
}

fn check_profiles(board: &Board, expected: &[(u32, u32, &[u32], u32)]) {
    assert_eq!(board.gi_profiles.len(), expected.len(), "{}", board.model);
    for &(id, max, starts, slots) in expected {
        let profile = board.gi_profile(id).unwrap();
        assert_eq!(
            (
                profile.max_instances,
                profile.starts.as_slice(),
                profile.memory_slots
            ),
            (max, starts, slots),
            "{} {id}",
            board.model
        );
    }
}

#[test]
fn names_are_taken_apart() {
    let short = |model: &str, id| {
        let vgpu_type = find(model).unwrap().vgpu_type(id).unwrap();
        (vgpu_type.short_name(), vgpu_type.series(), vgpu_type.slots)
    };
    assert_eq!(short("t4", 232), ("T4-4Q", 'Q', 4));
    assert_eq!(short("a100-80", 707), ("A100D-1-10CME", 'C', 10));
    assert_eq!(short("rtx-pro-6000", 1519), ("DC-3Q", 'Q', 3));
}

#[test]
fn a_wrong_line_is_named() {
    let table = |text: &str| parse("x", text).unwrap_err().to_string();
    assert_eq!(
        table("name X\nvfs many\n"),
        "boards/x, line 2: 'many' is not a number"
    );
    assert_eq!(table("has wings"), "boards/x, line 1: no feature 'wings'");
    assert_eq!(table("gi-at 3 0"), "boards/x, line 1: no profile 3 above");
    assert_eq!(
        table("mixed 3"),
        "boards/x, line 1: 'mixed' with 1 words is not known"
    );
    assert_eq!(
        table("name X\n"),
        "boards/x, line 2: name, device, memory or types are missing"
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "([a-z-]{0,6}( [0-9a-fx-]{0,5}){0,9}\n){0,8}") {
        let _read_or_refused = parse("x", &text);
    }
}
