//! Where GPU instances are created: how many requests are accepted in random histories, in
//! comparison with simpler ways to choose and with the optimum on one GPU, and how long the
//! search for a layout takes. Needs nothing but the processor; run by `cargo bench --bench
//! placement`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use virt_vgpu::capacity::mig::{
    Board, Instance, InstanceId, InstanceNeed, Layout, ProfileId, Slots,
};

mod histories;

use histories::{Host, MIXES, Mix, POLICIES, Policy, Random, Request, history};

const GPUS: u32 = 8;
const REQUESTS: u32 = 20_000;
const SEEDS: u64 = 10;
const LOADS: [f64; 2] = [0.8, 1.1];
const BOARDS: [&str; 5] = ["a100-40", "a100-80", "h100", "h200", "rtx-pro-6000"];

fn main() {
    // For one table: cargo bench --bench placement -- --search
    if std::env::args().any(|argument| argument == "--search") {
        return search();
    }
    let a100 = histories::board("a100-40");
    println!("Accepted requests in percent: {GPUS} A100, {SEEDS} histories of {REQUESTS} requests");
    for (name, mix) in MIXES {
        for load in LOADS {
            println!("{name}, load {load}: {}", acceptances(&a100, mix, load));
        }
    }
    println!("\nOne A100, in the long run: ours, the optimum without knowledge of the future");
    for (name, mix) in MIXES {
        for load in LOADS {
            let found = histories::in_the_long_run(&a100, mix, load);
            let (ours, optimum) = (found.ours, found.optimum);
            println!("{name}, load {load}: {ours:.2}, {optimum:.2}");
        }
    }
    println!("\nOne A100, 400 histories of 16 requests: first-fit, ours, and all choices tried");
    for (name, mix) in MIXES {
        for load in LOADS {
            println!("{name}, load {load}: {}", short_histories(&a100, mix, load));
        }
    }
    println!();
    search();
}

fn search() {
    println!("The search for a layout: median, longest");
    for model in BOARDS {
        println!("{model}: {}", search_times(&histories::board(model)));
    }
}

fn acceptances(board: &Board, mix: &Mix, load: f64) -> String {
    let gpus = usize::try_from(GPUS).unwrap();
    let told = POLICIES.map(|(name, policy)| {
        let sum: f64 = (0..SEEDS)
            .map(|seed| {
                let history = history(board, mix, GPUS, load, REQUESTS, seed);
                Host::new(board, mix, gpus).acceptance(policy, &history)
            })
            .sum();
        let seeds = f64::from(u32::try_from(SEEDS).unwrap());
        format!("{name} {:.2}", sum / seeds)
    });
    told.join(", ")
}

/// On so short histories every choice of slots can be tried, with the future known.
fn short_histories(board: &Board, mix: &Mix, load: f64) -> String {
    let (mut first, mut ours, mut best, mut all) = (0, 0, 0, 0);
    for seed in 0..400 {
        let history = history(board, mix, 1, load, 16, seed);
        let count = |policy| {
            let mut host = Host::new(board, mix, 1);
            let accepted = history.iter().filter(|one| host.accepts(policy, one));
            u32::try_from(accepted.count()).unwrap()
        };
        first += count(Policy::FirstFit);
        ours += count(Policy::Ours);
        best += Tried {
            board,
            history: &history,
            known: HashMap::new(),
        }
        .most(0, Vec::new());
        all += u32::try_from(history.len()).unwrap();
    }
    let part = |accepted| 100.0 * f64::from(accepted) / f64::from(all);
    format!("{:.2}, {:.2}, {:.2}", part(first), part(ours), part(best))
}

/// All choices of slots for one history.
struct Tried<'h> {
    board: &'h Board,
    history: &'h [Request],
    known: HashMap<(usize, Vec<(usize, Slots)>), u32>,
}

impl Tried<'_> {
    /// The most requests from `number` on that can be accepted, while instances of these
    /// requests are there.
    fn most(&mut self, number: usize, mut there: Vec<(usize, Slots)>) -> u32 {
        let Some(request) = self.history.get(number).copied() else {
            return 0;
        };
        there.retain(|&(of, _)| self.history[of].until > request.at);
        let key = (number, there.clone());
        if let Some(&known) = self.known.get(&key) {
            return known;
        }
        let profile = self.board.profile(request.profile).unwrap();
        let mut most = None;
        for slots in profile
            .starts
            .iter()
            .map(|&start| Slots::new(start, profile.size).unwrap())
        {
            if there
                .iter()
                .all(|(_, other)| other.bits() & slots.bits() == 0)
            {
                let mut with = there.clone();
                with.push((number, slots));
                most = most.max(Some(1 + self.most(number + 1, with)));
            }
        }
        let most = most.unwrap_or_else(|| self.most(number + 1, there));
        self.known.insert(key, most);
        most
    }
}

/// Processor time, over all sets of instances that fit on an empty GPU and random tasks on
/// used ones; of each task the shortest of three runs.
fn search_times(board: &Board) -> String {
    let mut times: Vec<Duration> = Vec::new();
    let mut time = |existing: &[Instance], needs: &[InstanceNeed]| {
        let runs = [(); 3].map(|()| {
            let start = processor_time();
            let _ = std::hint::black_box(Layout::plan(board, existing, needs));
            processor_time() - start
        });
        times.extend(runs.into_iter().min());
    };
    for set in sets(board) {
        let needs = board.profiles().iter().zip(&set);
        let needs = needs.map(|(profile, count)| need(profile.id, *count, 4));
        time(&[], &needs.collect::<Vec<_>>());
    }
    let mut random = Random(1);
    for _ in 0..5_000 {
        let existing = random_instances(board, &mut random);
        let needs = board.profiles().iter().filter_map(|profile| {
            let count = random.below(4);
            (count > 0).then(|| need(profile.id, count - 1, random.below(3)))
        });
        time(&existing, &needs.collect::<Vec<_>>());
    }
    times.sort_unstable();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    format!("{} tasks, {median:.0?}, {longest:.2?}", times.len())
}

/// Of this thread: what else the machine does is not in it.
fn processor_time() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
}

fn need(profile: ProfileId, instances: u32, later: u32) -> InstanceNeed {
    InstanceNeed {
        pools: vec!["cad".parse().unwrap()],
        profile,
        instances,
        later,
        weight: later,
        vgpus: None,
        scheduler: None,
    }
}

/// How many of each profile fit at once: all such numbers.
fn sets(board: &Board) -> BTreeSet<Vec<u32>> {
    let mut known = BTreeSet::new();
    let mut waiting = vec![vec![0; board.profiles().len()]];
    while let Some(set) = waiting.pop() {
        let needs = board.profiles().iter().zip(&set);
        let needs = needs.map(|(profile, count)| need(profile.id, *count, 0));
        if known.contains(&set) || Layout::plan(board, &[], &needs.collect::<Vec<_>>()).is_err() {
            continue;
        }
        for at in 0..set.len() {
            let mut more = set.clone();
            more[at] += 1;
            waiting.push(more);
        }
        known.insert(set);
    }
    known
}

fn random_instances(board: &Board, random: &mut Random) -> Vec<Instance> {
    let mut instances: Vec<Instance> = Vec::new();
    for id in 0..random.below(6) {
        let profiles = board.profiles();
        let profile = &profiles[random.below(u32::try_from(profiles.len()).unwrap()) as usize];
        let starts = u32::try_from(profile.starts.len()).unwrap();
        let start = profile.starts[random.below(starts) as usize];
        let slots = Slots::new(start, profile.size).unwrap();
        let alike = instances.iter().filter(|one| one.profile == profile.id);
        let is_full = alike.count() >= profile.most as usize;
        if is_full
            || instances
                .iter()
                .any(|one| one.slots.bits() & slots.bits() != 0)
        {
            continue;
        }
        let users = match random.below(2) {
            0 => Vec::new(),
            _ => vec!["ws7".to_owned()],
        };
        instances.push(Instance {
            id: InstanceId::new(id).unwrap(),
            profile: profile.id,
            slots,
            ours: random.below(4) > 0,
            has_vgpus: false,
            users,
        });
    }
    instances
}
