//! Where GPU instances are created, over random histories: never worse than simpler ways,
//! and near the optimum. The benchmark of that name has the numbers of longer ones.

#[path = "../bench/histories.rs"]
mod histories;

use histories::{Host, MIXES, POLICIES, board, history, in_the_long_run};

const LOADS: [f64; 2] = [0.8, 1.1];

/// Over all mixes together: in a single history a few requests more or less are chance.
#[test]
fn no_simpler_choice_accepts_more() {
    let a100 = board("a100-40");
    for load in LOADS {
        let accepted = POLICIES.map(|(name, policy)| {
            let sum: f64 = MIXES
                .iter()
                .zip(1..)
                .map(|((_, mix), seed)| {
                    let history = history(&a100, mix, 8, load, 2_500, seed);
                    Host::new(&a100, mix, 8).acceptance(policy, &history)
                })
                .sum();
            (name, sum / 3.0)
        });
        let ours = accepted.iter().find(|(name, _)| *name == "ours").unwrap().1;
        let better = accepted.iter().filter(|(_, its)| *its > ours);
        let better: Vec<_> = better.collect();
        assert!(better.is_empty(), "load {load}: ours {ours}, {better:?}");
    }
}

#[test]
fn one_gpu_accepts_within_one_percent_of_the_optimum() {
    let a100 = board("a100-40");
    for (name, mix) in MIXES {
        for load in LOADS {
            let found = in_the_long_run(&a100, mix, load);
            assert!(
                found.ours <= found.optimum + 1e-3,
                "{name}, load {load}: {found:?}"
            );
            assert!(
                found.ours >= 0.99 * found.optimum,
                "{name}, load {load}: {found:?}"
            );
        }
    }
}
