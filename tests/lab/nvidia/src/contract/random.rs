//! Random operations, the same ones for the same seed. Their probabilities depend on
//! the twin's state, so that many of them succeed; their answers do not.

use std::fmt;

use super::{Op, Setup, Subject, Twin, empty, op, sequence::agree};
use crate::model::{Attribute, Framework, Parent};

/// SplitMix64: small, and the same everywhere.
#[derive(Debug, Clone)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below the limit; 0 below 0.
    fn below(&mut self, limit: u32) -> u32 {
        let number = self.next().checked_rem(u64::from(limit)).unwrap_or(0);
        u32::try_from(number).unwrap_or(0)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let count = u32::try_from(from.len()).ok()?;
        from.get(usize::try_from(self.below(count)).ok()?)
    }
}

/// Makes operations.
#[derive(Debug, Clone)]
pub struct Generator {
    numbers: Numbers,
    setup: Setup,
    /// vGPUs with a VM; a write to `remove` would wait for it.
    open: Vec<u32>,
}

/// What can be written into a number's file.
const NUMBERS: [&str; 6] = ["x\n", "\n", "4294967296\n", "-1\n", "1 2\n", "0x1\n"];
const PARAMS: [&str; 4] = [
    "a=1,b=2\n",
    "disable_vnc=1",
    " \n",
    "frame_rate_limiter=0\n",
];
const SCHEDULERS: [&str; 10] = [
    "1 0 0 0 0",
    "2 0 0 0 0",
    "3 0 0 0 0",
    "4 0 0 0 0",
    "2 1 0 0 2000000",
    "3 1 0 0 31000000",
    "2 2 33 480 0",
    "2 2 61 480 0",
    "2 2 33 62 0",
    "3 2 60 960 0",
];

impl Generator {
    /// Operations for this setup.
    pub fn new(seed: u64, setup: Setup) -> Self {
        Self {
            numbers: Numbers(seed),
            setup,
            open: Vec::new(),
        }
    }

    fn control(line: impl fmt::Display) -> Op {
        Op::Control(line.to_string())
    }

    /// A vGPU's number: mostly one of a few, so that numbers repeat.
    fn vgpu(&mut self) -> u32 {
        let all = self.setup.board.vfs.max(34);
        let few = if self.numbers.below(4) == 0 { all } else { 6 };
        self.numbers.below(few)
    }

    /// A vGPU's number: mostly one that exists, or mostly one that does not.
    fn vgpu_handle(&mut self, twin: &Twin, is_there: bool) -> u32 {
        let framework = self.setup.framework();
        let vgpu_handles: Vec<u32> = (0..self.setup.board.vfs.max(34))
            .filter(|number| {
                let vgpu_handle = op::vgpu_handle(framework, *number);
                twin.gpu().read(&vgpu_handle, Attribute::VgpuParams).is_ok() == is_there
            })
            .take(6)
            .collect();
        match self.numbers.pick(&vgpu_handles) {
            Some(number) if self.numbers.below(4) > 0 => *number,
            _ => self.vgpu(),
        }
    }

    /// A type: mostly one that can be created.
    fn kind(&mut self, twin: &Twin) -> u32 {
        let creatable = twin.gpu().creatable();
        let creatable: Vec<u32> = creatable.iter().map(|(kind, _)| kind.id).collect();
        if !creatable.is_empty() && self.numbers.below(4) > 0 {
            return self.numbers.pick(&creatable).copied().unwrap_or(0);
        }
        let kind = self.numbers.pick(&self.setup.board.types);
        kind.map_or(0, |kind| kind.id)
    }

    fn gi_profile(&mut self) -> u32 {
        let profile = self.numbers.pick(&self.setup.board.gi_profiles);
        profile.map_or(99, |profile| profile.id)
    }

    /// A GPU instance's id: mostly one that exists.
    fn gi(&mut self, twin: &Twin) -> u32 {
        match self.numbers.pick(&twin.gpu().gi_ids()) {
            Some(gi) if self.numbers.below(4) > 0 => *gi,
            _ => self.numbers.below(16),
        }
    }

    fn text(&mut self) -> String {
        if self.numbers.below(3) == 0 {
            let text = self.numbers.pick(&NUMBERS);
            return (*text.unwrap_or(&"")).to_owned();
        }
        format!("{}\n", self.numbers.below(12) * (1 + self.numbers.below(8)))
    }

    /// The next operation.
    pub fn next(&mut self, twin: &Twin) -> Op {
        let is_bare = self.setup.is_sriov() && twin.gpu().vf_count() == 0;
        let op = match self.numbers.below(100) {
            // Without functions little can be done.
            0..15 if is_bare => Op::Vfs(true),
            0..30 => Op::Create(self.vgpu_handle(twin, false), self.kind(twin)),
            30..42 => self.release(twin),
            42..58 => self.file(twin),
            58..66 => self.mode(),
            66..82 if self.setup.board.features.mig => self.mig(twin),
            66..90 => self.question(twin),
            90..98 => self.process(twin),
            98 if self.setup.is_sriov() => Op::Vfs(true),
            99 if self.setup.is_sriov() && self.numbers.below(2) == 0 => Op::Vfs(false),
            _ if self.setup.is_sriov() => Op::Wedged,
            _ => Self::control("creatable"),
        };
        self.remember(&op, twin);
        op
    }

    fn remember(&mut self, op: &Op, twin: &Twin) {
        let number = match op {
            Op::Open(number, _) | Op::Close(number) | Op::Kill(number) => *number,
            _ => return,
        };
        self.open.retain(|open| *open != number);
        let opens = matches!(op, Op::Open(..)) && twin.clone().perform(op).is_ok();
        let is_open =
            matches!(op, Op::Open(..)) && twin.clone().perform(&Op::Close(number)).is_ok();
        if opens || is_open {
            self.open.push(number);
        }
    }

    fn release(&mut self, twin: &Twin) -> Op {
        let number = self.vgpu_handle(twin, true);
        if self.open.contains(&number) && self.setup.framework() != Framework::VendorVfio {
            return Op::Close(self.closed(number));
        }
        Op::Release(number)
    }

    fn closed(&mut self, number: u32) -> u32 {
        self.open.retain(|open| *open != number);
        number
    }

    fn file(&mut self, twin: &Twin) -> Op {
        let number = self.vgpu_handle(twin, true);
        match self.numbers.below(8) {
            0 if self.numbers.below(2) == 0 => {
                let gi = self.gi(twin);
                Op::Write(number, Attribute::GpuInstanceId, format!("{gi}\n"))
            }
            0 => Op::Write(number, Attribute::GpuInstanceId, self.text()),
            1 | 2 => Op::Write(number, Attribute::PlacementId, self.text()),
            3 => {
                let text = self.numbers.pick(&PARAMS);
                Op::Write(
                    number,
                    Attribute::VgpuParams,
                    (*text.unwrap_or(&"")).to_owned(),
                )
            }
            4 if self.setup.framework() == Framework::VendorVfio => {
                Op::Write(number, Attribute::CurrentVgpuType, self.text())
            }
            4 => {
                let parent = self.parent(number);
                Op::MdevType(parent, self.kind(twin), "available_instances".to_owned())
            }
            _ => {
                let attribute = self.numbers.pick(&Attribute::ALL);
                Op::Read(number, *attribute.unwrap_or(&Attribute::VgpuParams))
            }
        }
    }

    fn parent(&self, number: u32) -> Parent {
        if self.setup.is_sriov() {
            Parent::Vf(number)
        } else {
            Parent::Pf
        }
    }

    fn mode(&mut self) -> Op {
        let on = self.numbers.below(2);
        match self.numbers.below(6) {
            0 | 1 => Self::control(format_args!("hetero {on}")),
            2 | 3 => {
                let text = self.numbers.pick(&SCHEDULERS).copied().unwrap_or_default();
                Self::control(format_args!("scheduler {text}"))
            }
            _ => Self::control(format_args!("mig {on}")),
        }
    }

    fn mig(&mut self, twin: &Twin) -> Op {
        let gi = self.gi(twin);
        match self.numbers.below(14) {
            // What takes a reset would mostly wait forever.
            0 | 13 if twin.gpu().is_mig_pending() => Op::Vfs(true),
            0 => Self::control("mig 1"),
            1..5 => Self::control(format_args!("gi-create {}", self.gi_profile())),
            5 => {
                let start = self.numbers.below(10);
                Self::control(format_args!("gi-create {} {start}", self.gi_profile()))
            }
            6 | 7 => Self::control(format_args!("gi-destroy {gi}")),
            8 => {
                let slices = self.numbers.below(5);
                Self::control(format_args!("ci-create {gi} {slices}"))
            }
            9 | 10 => Self::control(format_args!("ci-destroy {gi} {}", self.numbers.below(2))),
            11 => {
                let text = self.numbers.pick(&SCHEDULERS).copied().unwrap_or_default();
                Self::control(format_args!("gi-scheduler {gi} {text}"))
            }
            12 => Self::control("reset"),
            _ => Self::control(format_args!("gi-hetero {gi} {}", self.numbers.below(2))),
        }
    }

    fn question(&mut self, twin: &Twin) -> Op {
        let kind = self.kind(twin);
        match self.numbers.below(4) {
            0 => Self::control(format_args!("placements {kind}")),
            1 => {
                let gi = self.gi(twin);
                Self::control(format_args!("gi-placements {gi} {kind}"))
            }
            _ => Self::control("creatable"),
        }
    }

    fn process(&mut self, twin: &Twin) -> Op {
        let number = self.vgpu_handle(twin, true);
        match self.numbers.below(8) {
            0..3 => Op::Open(number, Some("guest".to_owned())),
            3 => Op::Open(number, None),
            4 if !self.open.is_empty() => Op::Kill(self.any_open()),
            5.. if !self.open.is_empty() => Op::Close(self.any_open()),
            _ => Op::Close(number),
        }
    }

    fn any_open(&mut self) -> u32 {
        self.numbers.pick(&self.open).copied().unwrap_or(0)
    }
}

/// The results of random operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many succeeded.
    pub done: usize,
    /// How many were refused.
    pub refused: usize,
}

/// Runs that many operations on an empty subject and on the twin, and leaves the
/// subject empty.
///
/// # Errors
/// The first one on which they disagree, with the operations before it.
pub fn run(subject: &mut dyn Subject, seed: u64, operations: usize) -> Result<Tally, String> {
    let setup = subject.setup();
    let mut twin = Twin::new(setup);
    let mut generator = Generator::new(seed, setup);
    let mut tally = Tally::default();
    let mut past = Vec::new();
    // A killed process leaves the function wedged, however slow the host is.
    let mut next = Some(Op::Init(600_000));
    while let Some(op) = next {
        let agreed = agree(subject, &mut twin, &op);
        past.push(op.to_string());
        match agreed {
            Ok(Ok(_)) => tally.done += 1,
            Ok(Err(_)) => tally.refused += 1,
            Err(what) => {
                empty(subject);
                let past = past.join("\n");
                return Err(format!("seed {seed}, after\n{past}\nanswers {what}"));
            }
        }
        next = (past.len() <= operations).then(|| generator.next(&twin));
    }
    empty(subject);
    Ok(tally)
}
