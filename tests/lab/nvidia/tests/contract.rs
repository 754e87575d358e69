//! The contract of the simulated host: the lists and random operations, on the twin,
//! and with `LAB_NVIDIA_GPU=ADDRESS` on that GPU of this host, which is emptied.
//! `LAB_NVIDIA_OPERATIONS` and `LAB_NVIDIA_SEED` set the number of random operations
//! and their seed. With `LAB_NVIDIA_LIBRARY=/usr/bin/nvml-command` the library instead
//! of the module answers everything for which NVML has calls.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

use std::env;

use lab_nvidia::{
    boards,
    contract::{Op, Setup, Subject, Twin, empty, host::Host, list, random, random::Generator},
    model::{Dialect, Framework, Gpu, Switches},
};

const SEED: u64 = 20_250_131;
const OPERATIONS: usize = 300;

/// Every board with every framework and switch.
fn setups() -> Vec<Setup> {
    let mut setups = Vec::new();
    for board in boards::all().unwrap() {
        for framework in [Framework::SriovMdev, Framework::VendorVfio] {
            for dialect in [Dialect::Kmod, Dialect::Rfc] {
                for (mixed_series, fine_placements, rebind_again) in [
                    (true, false, true),
                    (true, true, true),
                    (false, false, true),
                    (true, false, false),
                ] {
                    let switches = Switches {
                        framework,
                        dialect,
                        mixed_series,
                        fine_placements,
                        rebind_again,
                        ..Switches::default()
                    };
                    setups.push(Setup { board, switches });
                }
            }
        }
    }
    setups
}

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |value| value.parse().unwrap())
}

#[test]
fn the_twin_answers_as_the_lists_say() {
    let mut wrong = Vec::new();
    for sequence in list::all() {
        let mut runs = 0;
        for setup in setups()
            .into_iter()
            .filter(|setup| sequence.needs.fit(setup))
        {
            runs += 1;
            if let Err(disagreement) = sequence.run(&mut Twin::new(setup), None) {
                wrong.push(format!("{} {disagreement}", setup.board.model));
            }
        }
        assert!(runs > 0, "{}: fits no host", sequence.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sequences_have_names_of_their_own() {
    let mut names: Vec<&str> = list::all().map(|sequence| sequence.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// Exactly as many vGPUs can be made as predicted, and the next one is refused.
fn makes_as_many_as_foretold(twin: &Twin) {
    let setup = twin.setup();
    for (kind, count) in twin.gpu().creatable() {
        let mut copy = twin.clone();
        let mut made = 0;
        for number in 0..100 {
            let is_taken =
                copy.perform(&Op::Read(number, lab_nvidia::model::Attribute::VgpuParams));
            let is_shown = setup.is_sriov() && !copy.gpu().is_free(number);
            if is_taken.is_ok() || is_shown {
                continue;
            }
            match copy.perform(&Op::Create(number, kind.id)) {
                Ok(_) => made += 1,
                Err(_) if setup.is_sriov() && number < setup.board.vfs && made < count => {
                    panic!("{} of {count}: number {number} is refused", kind.name)
                }
                Err(_) => {}
            }
        }
        assert_eq!(made, count, "{} on {}", kind.name, twin.gpu().describe());
    }
}

/// No two vGPUs of the GPU, or of a GPU instance, share a slot.
fn placements_do_not_overlap(gpu: &Gpu) {
    let mut taken: Vec<(String, u32, u32)> = Vec::new();
    let state = gpu.describe();
    for line in state.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let ["vgpu", _, kind, placement, gi, ..] = words.as_slice() else {
            continue;
        };
        let Ok(first) = placement.parse::<u32>() else {
            continue;
        };
        let end = first + gpu.board().vgpu_type(kind.parse().unwrap()).unwrap().slots;
        for (other, start, stop) in &taken {
            assert!(other != gi || end <= *start || *stop <= first, "{state}");
        }
        taken.push(((*gi).to_owned(), first, end));
    }
}

/// The only refusal that changes something: the old type is removed before the new one
/// is refused.
fn may_change_when_refused(setup: &Setup, op: &Op) -> bool {
    setup.switches.dialect == Dialect::Rfc
        && setup.framework() == Framework::VendorVfio
        && matches!(
            op.lowered(setup.framework()),
            Op::Write(_, lab_nvidia::model::Attribute::CurrentVgpuType, _)
        )
}

#[test]
fn random_operations_keep_the_twin_in_order() {
    for (offset, setup) in (0..).zip(setups()) {
        let mut twin = Twin::new(setup);
        let start = twin.gpu().describe();
        let mut generator = Generator::new(SEED + offset, setup);
        for count in 0..OPERATIONS {
            let op = generator.next(&twin);
            let before = twin.gpu().describe();
            let answer = twin.perform(&op);
            if answer.is_err() && !may_change_when_refused(&setup, &op) {
                assert_eq!(twin.gpu().describe(), before, "{op}");
            }
            placements_do_not_overlap(twin.gpu());
            if count % 10 == 0 {
                makes_as_many_as_foretold(&twin);
            }
        }
        empty(&mut twin);
        assert_eq!(twin.gpu().describe(), start);
    }
}

#[test]
fn random_operations_are_the_same_for_the_same_seed() {
    for setup in setups() {
        let mut twin = Twin::new(setup);
        let tally = random::run(&mut twin, SEED, OPERATIONS).unwrap();
        assert_eq!(tally.done + tally.refused, OPERATIONS + 1);
        assert!(
            tally.done > OPERATIONS / 4,
            "{tally:?} on {}",
            setup.board.model
        );
        assert!(
            tally.refused > OPERATIONS / 20,
            "{tally:?} on {}",
            setup.board.model
        );
    }
}

/// Only with `LAB_NVIDIA_GPU`: a single test, because there is one GPU.
#[test]
fn the_kernel_module_answers_as_the_twin() {
    let Ok(address) = env::var("LAB_NVIDIA_GPU") else {
        return;
    };
    let mut host = Host::new(&address).unwrap();
    let setup = host.setup();
    empty(&mut host);
    let mut twin = Twin::new(setup);
    let (states, twins) = (host.perform(&Op::State), twin.perform(&Op::State));
    assert_eq!(states, twins, "the empty GPU");

    let (mut passed, mut skipped, mut wrong) = (0, 0, Vec::new());
    for sequence in list::all() {
        if !sequence.needs.fit(&setup) {
            skipped += 1;
            continue;
        }
        let mut beside = Twin::new(setup);
        match sequence.run(&mut host, Some(&mut beside)) {
            Ok(()) => passed += 1,
            Err(disagreement) => {
                println!("{disagreement}");
                wrong.push(disagreement.to_string());
            }
        }
    }
    let seed = number("LAB_NVIDIA_SEED", SEED);
    let operations = number("LAB_NVIDIA_OPERATIONS", 300);
    println!(
        "{address} {} {}: {passed} sequences passed, {} failed, {skipped} are for others; \
         seed {seed}, {operations} random operations",
        setup.board.model,
        setup.framework(),
        wrong.len(),
    );
    match random::run(&mut host, seed, usize::try_from(operations).unwrap()) {
        Ok(tally) => println!("{} done, {} refused", tally.done, tally.refused),
        Err(disagreement) => wrong.push(disagreement),
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
