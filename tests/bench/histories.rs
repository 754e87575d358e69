//! Random histories of GPU instances that come and go, and ways to choose where one is
//! created. Used by the benchmark and by a test.

use std::collections::{BTreeMap, BTreeSet};

use lab_nvidia::boards;
use virt_vgpu::capacity::mig::{
    Board, Candidate, Choice, Engines, Instance, InstanceId, InstanceProfile, Later, Occupied,
    ProfileId, Slots, Usefulness, choose,
};

/// How often each profile is asked for, in comparison with the others.
pub type Mix = [(&'static str, u32)];

/// Mixes on an A100 with 40 GB.
pub const MIXES: [(&str, &Mix); 3] = [
    (
        "all alike",
        &[
            ("1g.5gb", 1),
            ("1g.10gb", 1),
            ("2g.10gb", 1),
            ("3g.20gb", 1),
            ("4g.20gb", 1),
            ("7g.40gb", 1),
        ],
    ),
    (
        "mostly small",
        &[
            ("1g.5gb", 35),
            ("1g.10gb", 15),
            ("2g.10gb", 20),
            ("3g.20gb", 15),
            ("4g.20gb", 10),
            ("7g.40gb", 5),
        ],
    ),
    (
        "three sizes",
        &[("1g.5gb", 4), ("2g.10gb", 3), ("3g.20gb", 3)],
    ),
];

/// Ways to choose the GPU and the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The emptiest GPU, the lowest slots.
    Spread,
    /// The first GPU, the lowest slots.
    FirstFit,
    /// The first GPU, the highest slots: where public listings of drivers without a given
    /// start show the first `1g` of a GPU.
    Driver,
    /// The fullest GPU, the lowest slots.
    BestFit,
    /// Where the number of slots that become useless grows least (Zambianco et al.,
    /// "An Online Fragmentation-Aware GPU Scheduler for Multi-Tenant MIG-based Clouds").
    Fragmentation,
    /// The product's.
    Ours,
}

/// All of them.
pub const POLICIES: [(&str, Policy); 6] = [
    ("spread", Policy::Spread),
    ("first-fit", Policy::FirstFit),
    ("driver", Policy::Driver),
    ("best-fit", Policy::BestFit),
    ("fragmentation", Policy::Fragmentation),
    ("ours", Policy::Ours),
];

/// The profiles of a model that the lab knows, as NVML tells them. The lab has no engines.
pub fn board(model: &str) -> Board {
    let table = boards::find(model).unwrap();
    let profiles = table.gi_profiles.iter().map(|profile| InstanceProfile {
        id: ProfileId::new(profile.id).unwrap(),
        name: profile.name.clone(),
        size: profile.memory_slots,
        starts: profile.starts.clone(),
        most: profile.max_instances,
        engines: Engines::default(),
    });
    Board::new(profiles.collect(), false).unwrap()
}

/// Numbers from a seed (splitmix64): the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(self.number() % u64::from(limit)).unwrap()
    }

    /// A time until something that happens once a `mean`.
    fn exponential(&mut self, mean: f64) -> f64 {
        let whole = u32::try_from(self.number() >> 32).unwrap();
        -((f64::from(whole) + 1.0) / (f64::from(u32::MAX) + 2.0)).ln() * mean
    }
}

/// A request for an instance.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Its time; an instance lives for 1 on average.
    pub at: f64,
    /// When the instance is given back.
    pub until: f64,
    /// What it asks for.
    pub profile: ProfileId,
}

/// A history of so many requests. `load`: the slots that all of them would take on average,
/// as a part of the slots of so many GPUs.
pub fn history(
    board: &Board,
    mix: &Mix,
    gpus: u32,
    load: f64,
    requests: u32,
    seed: u64,
) -> Vec<Request> {
    let mut random = Random(seed);
    let mean = 1.0
        / rates(board, mix, f64::from(gpus) * load)
            .values()
            .sum::<f64>();
    let mut at = 0.0;
    let all: u32 = mix.iter().map(|(_, weight)| weight).sum();
    let mut next = || {
        at += random.exponential(mean);
        let mut number = random.below(all);
        let name = mix.iter().find(|(_, weight)| {
            let is_it = number < *weight;
            number = number.saturating_sub(*weight);
            is_it
        });
        Request {
            at,
            until: at + random.exponential(1.0),
            profile: profile(board, name.unwrap().0),
        }
    };
    (0..requests).map(|_| next()).collect()
}

/// Requests of each profile in the time that an instance lives on average.
fn rates(board: &Board, mix: &Mix, load: f64) -> BTreeMap<ProfileId, f64> {
    let sized = mix.iter().map(|(name, weight)| {
        let id = profile(board, name);
        (id, f64::from(*weight), board.profile(id).unwrap().size)
    });
    let slots: f64 = sized
        .clone()
        .map(|(_, weight, size)| weight * f64::from(size))
        .sum();
    let scale = load * f64::from(board.slots()) / slots;
    sized.map(|(id, weight, _)| (id, weight * scale)).collect()
}

fn profile(board: &Board, name: &str) -> ProfileId {
    let mut profiles = board.profiles().iter();
    profiles.find(|profile| profile.name == name).unwrap().id
}

/// What the pools of such a mix may want.
pub fn later(board: &Board, mix: &Mix) -> Vec<Later> {
    mix.iter()
        .map(|(name, weight)| Later {
            profile: profile(board, name),
            instances: u32::MAX,
            weight: *weight,
        })
        .collect()
}

/// GPUs of one model, and a way to choose.
#[derive(Debug)]
pub struct Host<'b> {
    board: &'b Board,
    mix: Vec<&'b InstanceProfile>,
    judges: [Usefulness<'b>; 1],
    gpus: Vec<Vec<(f64, Instance)>>,
}

impl<'b> Host<'b> {
    /// Empty GPUs.
    pub fn new(board: &'b Board, mix: &Mix, gpus: usize) -> Self {
        let named = mix.iter().map(|(name, _)| profile(board, name));
        Self {
            board,
            mix: named.map(|id| board.profile(id).unwrap()).collect(),
            judges: [Usefulness::new(board, &later(board, mix))],
            gpus: vec![Vec::new(); gpus],
        }
    }

    /// How many of the requests it accepts; the first tenth, when it is still emptier than
    /// later, is not counted. In percent.
    pub fn acceptance(&mut self, policy: Policy, history: &[Request]) -> f64 {
        let uncounted = history.len() / 10;
        let mut accepted = 0_u32;
        for (number, request) in history.iter().enumerate() {
            if self.accepts(policy, request) && number >= uncounted {
                accepted += 1;
            }
        }
        let counted = u32::try_from(history.len() - uncounted).unwrap();
        100.0 * f64::from(accepted) / f64::from(counted)
    }

    /// Whether there is an instance for it now.
    pub fn accepts(&mut self, policy: Policy, request: &Request) -> bool {
        for gpu in &mut self.gpus {
            gpu.retain(|(until, _)| *until > request.at);
        }
        let occupied = self
            .gpus
            .iter()
            .map(|gpu| Occupied::by(self.board, gpu.iter().map(|(_, instance)| instance)));
        let occupied: Vec<Occupied> = occupied.collect();
        let choice = match policy {
            Policy::Ours => {
                let of = |&occupied: &Occupied| Candidate { judge: 0, occupied };
                let candidates: Vec<Candidate> = occupied.iter().map(of).collect();
                choose(&mut self.judges, &candidates, request.profile)
            }
            simple => self.simple(simple, &occupied, request.profile),
        };
        let Some(Choice { candidate, slots }) = choice else {
            return false;
        };
        let instance = Instance {
            id: InstanceId::new(0).unwrap(),
            profile: request.profile,
            slots,
            ours: true,
            has_vgpus: false,
            users: Vec::new(),
        };
        self.gpus[candidate].push((request.until, instance));
        true
    }

    /// The choice with the lowest number.
    fn simple(&self, policy: Policy, occupied: &[Occupied], profile: ProfileId) -> Option<Choice> {
        let profile = self.board.profile(profile).unwrap();
        let mut best: Option<(i64, Choice)> = None;
        for (gpu, taken) in occupied.iter().enumerate() {
            for slots in places(profile).filter(|slots| taken.slots() & slots.bits() == 0) {
                let free = i64::from(taken.free(self.board));
                let number = match policy {
                    Policy::Spread => -free,
                    Policy::BestFit => free,
                    Policy::Driver => i64::try_from(gpu).unwrap() * 100 - i64::from(slots.start()),
                    Policy::Fragmentation => {
                        self.useless(taken.slots() | slots.bits()) - self.useless(taken.slots())
                    }
                    Policy::FirstFit | Policy::Ours => 0,
                };
                let choice = Choice {
                    candidate: gpu,
                    slots,
                };
                if best.is_none_or(|(least, _)| number < least) {
                    best = Some((number, choice));
                }
            }
        }
        best.map(|(_, choice)| choice)
    }

    /// The slots of places that are not free, over all profiles that would fit by size.
    fn useless(&self, taken: u64) -> i64 {
        let free = self.board.slots() - taken.count_ones();
        let fitting = self.mix.iter().filter(|profile| profile.size <= free);
        let covered = fitting.flat_map(|profile| places(profile));
        covered
            .filter(|slots| slots.bits() & taken != 0)
            .map(|slots| i64::from(slots.size()))
            .sum()
    }
}

fn places(profile: &InstanceProfile) -> impl Iterator<Item = Slots> {
    let starts = profile.starts.iter();
    starts.map(|&start| Slots::new(start, profile.size).unwrap())
}

/// The acceptance on one GPU in the long run, in percent.
#[derive(Debug, Clone, Copy)]
pub struct InTheLongRun {
    /// With the product's choice of slots.
    pub ours: f64,
    /// With the best choice that does not know the future: found by brute force over all
    /// states of the GPU.
    pub optimum: f64,
}

/// Both, on an endless history.
pub fn in_the_long_run(board: &Board, mix: &Mix, load: f64) -> InTheLongRun {
    let states = States::of(board, mix);
    let rates = rates(board, mix, load);
    InTheLongRun {
        ours: states.acceptance(&rates, Some(&states.choices(board, mix))),
        optimum: states.acceptance(&rates, None),
    }
}

/// All states of a GPU and what leads from one to another.
struct States {
    /// In each state, the states after one more of a profile.
    after: Vec<BTreeMap<ProfileId, Vec<(Slots, usize)>>>,
    /// In each state, the states after one has been given back.
    before: Vec<Vec<usize>>,
}

impl States {
    fn of(board: &Board, mix: &Mix) -> Self {
        type State = BTreeSet<(ProfileId, Slots)>;
        let mut numbers: BTreeMap<State, usize> = BTreeMap::from([(State::new(), 0)]);
        let mut states = Self {
            after: vec![BTreeMap::new()],
            before: vec![Vec::new()],
        };
        let mut waiting = vec![State::new()];
        while let Some(state) = waiting.pop() {
            let from = numbers[&state];
            for (name, _) in mix {
                let id = profile(board, name);
                let of_all = board.profile(id).unwrap();
                for slots in places(of_all) {
                    let is_free =
                        |(_, other): &(ProfileId, Slots)| other.bits() & slots.bits() == 0;
                    let alike = state.iter().filter(|(other, _)| *other == id).count();
                    if !state.iter().all(is_free) || alike >= of_all.most.try_into().unwrap() {
                        continue;
                    }
                    let mut next = state.clone();
                    next.insert((id, slots));
                    let to = *numbers.entry(next.clone()).or_insert_with(|| {
                        states.after.push(BTreeMap::new());
                        states.before.push(Vec::new());
                        waiting.push(next);
                        states.after.len() - 1
                    });
                    states.after[from].entry(id).or_default().push((slots, to));
                    states.before[to].push(from);
                }
            }
        }
        states
    }

    /// The product's choice in each state.
    fn choices(&self, board: &Board, mix: &Mix) -> Vec<BTreeMap<ProfileId, usize>> {
        let mut judge = Usefulness::new(board, &later(board, mix));
        let mut taken = vec![Occupied::NOTHING; self.after.len()];
        let mut known = BTreeSet::from([0]);
        let mut waiting = vec![0];
        while let Some(state) = waiting.pop() {
            for (&profile, ways) in &self.after[state] {
                for &(slots, to) in ways {
                    if known.insert(to) {
                        taken[to] = taken[state];
                        taken[to].add(board, profile, slots);
                        waiting.push(to);
                    }
                }
            }
        }
        let chosen = self.after.iter().zip(&taken).map(|(after, &taken)| {
            let of = |(&profile, ways): (&ProfileId, &Vec<(Slots, usize)>)| {
                let best = judge.best_place(taken, profile).unwrap();
                let (_, to) = ways.iter().find(|(slots, _)| *slots == best).unwrap();
                (profile, *to)
            };
            after.iter().map(of).collect()
        });
        chosen.collect()
    }

    /// The part of the requests that is accepted: of each state, how much more it is worth
    /// than the empty one is calculated again and again from its neighbours, until all grow
    /// alike (relative value iteration). Without choices, the best neighbour is taken.
    fn acceptance(
        &self,
        rates: &BTreeMap<ProfileId, f64>,
        choices: Option<&[BTreeMap<ProfileId, usize>]>,
    ) -> f64 {
        let most = self.before.iter().map(Vec::len).max().unwrap();
        let most = f64::from(u32::try_from(most).unwrap());
        let requests: f64 = rates.values().sum();
        let step = requests + most;
        let mut worth = vec![0.0_f64; self.after.len()];
        loop {
            let next = self.after.iter().enumerate().map(|(state, after)| {
                let mut sum = 0.0;
                for (profile, rate) in rates {
                    sum += rate
                        * match (after.get(profile), choices) {
                            (None, _) => worth[state],
                            (Some(_), Some(choices)) => 1.0 + worth[choices[state][profile]],
                            (Some(ways), None) => {
                                let best = ways.iter().map(|&(_, to)| worth[to]);
                                1.0 + best.fold(f64::MIN, f64::max)
                            }
                        };
                }
                let ends = &self.before[state];
                let idle = most - f64::from(u32::try_from(ends.len()).unwrap());
                let given_back: f64 = ends.iter().map(|&to| worth[to]).sum();
                (sum + given_back + idle * worth[state]) / step
            });
            let next: Vec<f64> = next.collect();
            let growth = || next.iter().zip(&worth).map(|(new, old)| new - old);
            let (least, largest) = (
                growth().fold(f64::MAX, f64::min),
                growth().fold(f64::MIN, f64::max),
            );
            if (largest - least) * step < 1e-5 {
                return 100.0 * largest * step / requests;
            }
            worth = next.iter().map(|new| new - next[0]).collect();
        }
    }
}
