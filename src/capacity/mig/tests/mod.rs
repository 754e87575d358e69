//! Layouts of boards as NVIDIA's pages and the lab's tables describe them, on instances in
//! memory.

mod driver;
mod golden;
mod needs;
mod places;
mod properties;
mod published;
mod refusals;

use lab_nvidia::boards;

use super::*;

/// All that can be divided. The lab has no table of an A30 and a B200.
const MODELS: [&str; 7] = [
    "a30",
    "a100-40",
    "a100-80",
    "h100",
    "h200",
    "b200",
    "rtx-pro-6000",
];

/// An A30 as NVIDIA's MIG user guide has it: id, name, size, most, starts.
const A30: [(u32, &str, u32, u32, &[u32]); 5] = [
    (14, "1g.6gb", 1, 4, &[0, 1, 2, 3]),
    (21, "1g.6gb+me", 1, 1, &[0, 1, 2, 3]),
    (5, "2g.12gb", 2, 2, &[0, 2]),
    (6, "2g.12gb+me", 2, 1, &[0, 2]),
    (0, "4g.24gb", 4, 1, &[0]),
];

/// A B200: the family of the A100, with other names.
const B200: [(u32, &str, u32, u32, &[u32]); 7] = [
    (19, "1g.23gb", 1, 7, &[0, 1, 2, 3, 4, 5, 6]),
    (20, "1g.23gb+me", 1, 1, &[0, 1, 2, 3, 4, 5, 6]),
    (15, "1g.45gb", 2, 4, &[0, 2, 4, 6]),
    (14, "2g.45gb", 2, 3, &[0, 2, 4]),
    (9, "3g.90gb", 4, 2, &[0, 4]),
    (5, "4g.90gb", 4, 1, &[0]),
    (0, "7g.180gb", 8, 1, &[0]),
];

fn board(model: &str) -> Board {
    let profile = |id: u32, name: &str, size: u32, most: u32, starts: &[u32]| InstanceProfile {
        id: ProfileId::new(id).unwrap(),
        name: name.to_owned(),
        size,
        starts: starts.to_vec(),
        most,
        engines: engines(model, name),
    };
    let of = |table: &[(u32, &str, u32, u32, &[u32])]| -> Vec<InstanceProfile> {
        let rows = table.iter();
        rows.map(|(id, name, size, most, starts)| profile(*id, name, *size, *most, starts))
            .collect()
    };
    let profiles = match model {
        "a30" => of(&A30),
        "b200" => of(&B200),
        model => {
            let table = boards::find(model).unwrap().gi_profiles.iter();
            let row = |its: &boards::GiProfile| {
                let (size, most) = (its.memory_slots, its.max_instances);
                profile(its.id, &its.name, size, most, &its.starts)
            };
            table.map(row).collect()
        }
    };
    Board::new(profiles, false).unwrap()
}

/// Media engines of a profile, as the MIG user guide lists them (NVENC: RTX PRO only).
fn engines(model: &str, name: &str) -> Engines {
    let (slices, rest) = name.split_once('g').unwrap();
    let slices: u32 = slices.parse().unwrap();
    let suffix = rest.split_once("gb").unwrap().1;
    let media = u32::from(suffix == "+me");
    let of_whole = |whole: u32| u32::from(slices == whole).max(media);
    let (decoders, jpeg, optical_flow) = match model {
        "a30" if slices == 1 => (media, media, media),
        "a30" => (slices, of_whole(4), of_whole(4)),
        "a100-40" | "a100-80" => {
            let decoders = match (slices, name) {
                (1, "1g.10gb") if model == "a100-40" => 1,
                (1, "1g.20gb") => 1,
                (1, _) => media,
                (2, _) => 1,
                (7, _) => 5,
                _ => 2,
            };
            (decoders, of_whole(7), of_whole(7))
        }
        "rtx-pro-6000" => match suffix {
            "-me" => (0, 0, 0),
            "+me.all" => (4, 4, 1),
            _ => (slices, slices, of_whole(4)),
        },
        // One of each for a slice.
        _ => (slices, slices, of_whole(7)),
    };
    Engines {
        decoders,
        encoders: if model == "rtx-pro-6000" { decoders } else { 0 },
        jpeg,
        optical_flow,
    }
}

/// The id of the profile with that name.
fn named(board: &Board, name: &str) -> ProfileId {
    let mut profiles = board.profiles().iter();
    let found = profiles.find(|profile| profile.name == name);
    found.unwrap_or_else(|| panic!("no {name}")).id
}

/// `pool` needs that many instances.
fn need(board: &Board, pool: &str, instances: u32, name: &str) -> InstanceNeed {
    InstanceNeed {
        pools: vec![pool.parse().unwrap()],
        profile: named(board, name),
        instances,
        later: 0,
        weight: 0,
        vgpus: None,
        scheduler: None,
    }
}

/// An idle instance of ours.
fn idle(board: &Board, id: u32, name: &str, start: u32) -> Instance {
    let profile = board.profile(named(board, name)).unwrap();
    Instance {
        id: InstanceId::new(id).unwrap(),
        profile: profile.id,
        slots: Slots::new(start, profile.size).unwrap(),
        ours: true,
        has_vgpus: false,
        users: Vec::new(),
    }
}

fn used(board: &Board, id: u32, name: &str, start: u32) -> Instance {
    Instance {
        users: vec!["domain 'ws7'".to_owned()],
        ..idle(board, id, name, start)
    }
}

fn foreign(board: &Board, id: u32, name: &str, start: u32) -> Instance {
    Instance {
        ours: false,
        has_vgpus: false,
        ..idle(board, id, name, start)
    }
}
