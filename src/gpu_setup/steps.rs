//! The steps from how a GPU is to how its pools want it: a function of pool files and of
//! what sysfs and NVML say.

use super::{
    instances::{MigState, NotTold},
    mig_plan,
    scheduler::{Comparison, InWords, comparison, outside},
    wanted::WantedSettings,
};
use crate::{
    capacity::mig::{Board, ProfileId, Slots},
    device::{
        nvml::{Failure, GpuFacts, InstancePlace, Question, Scheduler, SchedulerPolicy, Told},
        readiness::{Driver, Functions},
    },
    model::{PciAddress, pools_in_words},
};

/// How a GPU is.
#[derive(Debug, Clone)]
pub struct Actual {
    /// Its driver.
    pub driver: Driver,
    /// Its virtual functions.
    pub functions: Functions,
    /// What NVML says; None when it was not asked, since the driver is not there
    /// yet or forgets its settings in an earlier step.
    pub facts: Option<Result<GpuFacts, Failure>>,
    /// MIG mode and GPU instances; None when NVML was not asked.
    pub mig: Option<Result<MigState, NotTold>>,
    /// Whether there are vGPUs on it.
    pub in_use: bool,
    /// Whether the driver was loaded with the wanted scheduler as an option.
    pub loaded_with_scheduler: bool,
}

impl Actual {
    /// Whether the step gives back a GPU instance that comes and goes with VMs: until then the
    /// GPU is as its pools want it, too.
    pub(super) fn gives_back(&self, step: &SetupStep) -> bool {
        match (step, &self.mig) {
            (SetupStep::DestroyInstance(its), Some(Ok(mig))) => mig.goes_with_vms(its.place),
            _ => false,
        }
    }
}

/// Something to do on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetupStep {
    /// Wait until its driver has bound.
    AwaitDriver,
    /// Remove all virtual functions: MIG mode is switched without them.
    RemoveFunctions,
    /// Switch MIG mode on or off.
    SetMig(bool),
    /// Make all virtual functions. The GPU loses its settings and its GPU instances.
    EnableFunctions,
    /// Remove all virtual functions and create them again.
    RenewFunctions,
    /// Wait until what makes vGPUs knows types.
    AwaitTypes,
    /// Destroy an idle GPU instance.
    DestroyInstance(NamedPlace),
    /// Create a GPU instance.
    CreateInstance(NamedPlace),
    /// Mix sizes in a GPU instance that nobody uses, or not.
    SetInstanceHeterogeneous(NamedPlace, bool),
    /// Share the time of a GPU instance that nobody uses this way.
    SetInstanceScheduler(NamedPlace, Scheduler),
    /// Mix sizes, or not.
    SetHeterogeneous(bool),
    /// Share time this way.
    SetScheduler(Scheduler),
}

impl SetupStep {
    /// Whether nobody may use the GPU meanwhile. GPU instances come and go beside vGPUs in
    /// other ones.
    #[must_use]
    pub fn needs_free_gpu(&self) -> bool {
        !matches!(
            self,
            Self::AwaitDriver
                | Self::AwaitTypes
                | Self::DestroyInstance(_)
                | Self::CreateInstance(_)
                | Self::SetInstanceHeterogeneous(..)
                | Self::SetInstanceScheduler(..)
        )
    }

    /// The GPU instance that nobody may use meanwhile.
    pub(super) fn needs_free_instance(&self) -> Option<&NamedPlace> {
        match self {
            Self::DestroyInstance(place)
            | Self::SetInstanceHeterogeneous(place, _)
            | Self::SetInstanceScheduler(place, _) => Some(place),
            _ => None,
        }
    }
}

/// The profile's name and the memory slots of a GPU instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPlace {
    /// The name, `1g.24gb+gfx`.
    pub name: String,
    /// Where it lies.
    pub place: InstancePlace,
}

impl NamedPlace {
    pub(super) fn of(board: &Board, profile: ProfileId, slots: Slots) -> Self {
        Self {
            name: board.name(profile),
            place: InstancePlace {
                profile: profile.number(),
                start: slots.start(),
                size: slots.size(),
            },
        }
    }
}

impl std::fmt::Display for NamedPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let InstancePlace { start, size, .. } = self.place;
        match size {
            1 => write!(f, "{} at memory slot {start}", self.name),
            _ => write!(
                f,
                "{} at memory slots {start}-{}",
                self.name,
                start + size - 1
            ),
        }
    }
}

/// A step and why it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    /// The step.
    pub step: SetupStep,
    /// The difference from the wanted state.
    pub why: String,
}

/// The steps from a GPU's present state to its wanted state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetupPlan {
    /// In this order.
    pub steps: Vec<PlannedStep>,
    /// Problems that no step can solve: a sentence each, with a next action.
    pub obstacles: Vec<String>,
    /// What has to wait until others have ended: a sentence with the next action.
    pub pending: Option<String>,
    /// What VMs keep from being destroyed although no pool needs it: a sentence each.
    pub stays: Vec<String>,
    /// The GPU instances afterwards, drawn in one line; None without any.
    pub layout: Option<String>,
    /// What is as the pools want it and still worth saying.
    pub notes: Vec<String>,
}

impl SetupPlan {
    pub(super) fn add(&mut self, step: SetupStep, why: String) {
        self.steps.push(PlannedStep { step, why });
    }
}

/// The steps that make the GPU able to make vGPUs, then those that set it: what
/// is set earlier is undone by the first ones.
#[must_use]
pub fn setup_plan(gpu: PciAddress, wanted: &WantedSettings, actual: &Actual) -> SetupPlan {
    let mut plan = SetupPlan::default();
    if let Driver::Other(driver) = &actual.driver {
        plan.obstacles.push(format!(
            "its driver is '{driver}', not nvidia; bind it to nvidia, or take it out of {}",
            pools_in_words(&wanted.pools)
        ));
        return plan;
    }
    if actual.driver == Driver::None {
        plan.add(SetupStep::AwaitDriver, "no driver is bound".to_owned());
    }
    let are_removed = mig_plan::add_mode(&mut plan, gpu, wanted, actual);
    // Nothing is begun for pools that do not get what they want, nor without pools.
    if !plan.obstacles.is_empty() || plan.pending.is_some() || wanted.pools.is_empty() {
        return plan;
    }
    let functions = &actual.functions;
    if functions.are_missing() || are_removed {
        let why = match functions.are_missing() {
            true => format!("0 of {} virtual functions are there", functions.total),
            false => "MIG mode is switched without them".to_owned(),
        };
        plan.add(SetupStep::EnableFunctions, why);
        let why = "new functions show their vGPU types a while later".to_owned();
        plan.add(SetupStep::AwaitTypes, why);
    } else if !functions.unready.is_empty() {
        plan.add(SetupStep::AwaitTypes, functions.unready_in_words());
    }
    mig_plan::add_instances(&mut plan, gpu, wanted, actual);
    add_heterogeneous(&mut plan, gpu, wanted, actual);
    add_scheduler(&mut plan, wanted, actual);
    plan
}

fn add_heterogeneous(
    plan: &mut SetupPlan,
    gpu: PciAddress,
    wanted: &WantedSettings,
    actual: &Actual,
) {
    let pools = pools_in_words(&wanted.pools);
    let on = SetupStep::SetHeterogeneous(true);
    match (wanted.heterogeneous, &actual.facts) {
        (true, None) => plan.add(on, format!("for {pools}; a GPU begins with one size")),
        (true, Some(Err(failure))) => plan.obstacles.push(format!(
            "whether it mixes sizes cannot be told: {}; see whether 'nvidia-smi' works",
            failure.message
        )),
        (true, Some(Ok(facts))) => match &facts.heterogeneous {
            Told::Value(mode) if mode.enabled => {}
            Told::Value(mode) if !mode.supported => plan.obstacles.push(format!(
                "it cannot mix sizes{}; take heterogeneous = true out of {pools}",
                mig_in_words(facts, gpu)
            )),
            Told::Value(_) => plan.add(on, format!("for {pools}; it is off")),
            Told::Unavailable(failure) => plan.obstacles.push(format!(
                "whether it mixes sizes cannot be told: {}; take heterogeneous = true out of \
                 {pools}, or install a driver of vGPU 17.2 or newer",
                failure.message
            )),
        },
        (false, Some(Ok(facts))) if is_mixing(facts) => {
            let why = format!("for {pools}; it is on");
            plan.add(SetupStep::SetHeterogeneous(false), why);
        }
        // The GPU is already as wanted, or the answer is not needed.
        (false, _) => {}
    }
}

fn is_mixing(facts: &GpuFacts) -> bool {
    let mode = facts.heterogeneous.value();
    mode.is_some_and(|mode| mode.enabled)
}

fn mig_in_words(facts: &GpuFacts, gpu: PciAddress) -> String {
    match facts.mig.value() {
        Some(true) => {
            format!(" while MIG mode is on ('nvidia-smi -i {gpu} -mig 0' switches it off)")
        }
        _ => String::new(),
    }
}

fn add_scheduler(plan: &mut SetupPlan, wanted: &WantedSettings, actual: &Actual) {
    let Some((scheduler, pool)) = &wanted.scheduler else {
        return;
    };
    let set = |why: String| (SetupStep::SetScheduler(*scheduler), why);
    let step = match &actual.facts {
        // As the driver begins.
        None if scheduler.policy == SchedulerPolicy::BestEffort => return,
        None => set(format!("for pool '{pool}'; a GPU begins with best-effort")),
        Some(Err(failure)) => {
            plan.obstacles.push(format!(
                "its scheduler cannot be told: {}; see whether 'nvidia-smi' works",
                failure.message
            ));
            return;
        }
        Some(Ok(facts)) if facts.mig.value() == Some(&true) => {
            plan.obstacles.push(format!(
                "MIG mode is on, and the scheduler that pool '{pool}' wants is for whole GPUs; \
                 take [scheduler] out of the pool, or switch MIG mode off"
            ));
            return;
        }
        Some(Ok(facts)) => {
            let limits = facts.scheduler_limits.value();
            if let Some(excess) = limits.and_then(|limits| outside(scheduler, limits)) {
                plan.obstacles.push(format!(
                    "pool '{pool}' wants what the card does not take: {excess}; change its \
                     [scheduler]"
                ));
                return;
            }
            match &facts.scheduler {
                Told::Value(is) => match comparison(scheduler, is) {
                    Comparison::Same => return,
                    // Some drivers tell parameters only while a VM runs, and take
                    // them only while there is no vGPU.
                    Comparison::Untold if actual.in_use => return,
                    _ => set(format!("for pool '{pool}'; it is {}", InWords(is))),
                },
                Told::Unavailable(_) if actual.loaded_with_scheduler => return,
                Told::Unavailable(_) => set(format!("for pool '{pool}'; the driver tells none")),
            }
        }
    };
    plan.add(step.0, step.1);
}

/// The change that undoes a step. It is used if the driver answers when nobody waits any
/// more.
///
/// # Errors
/// The reason why the step has none.
pub fn undo_of(
    gpu: PciAddress,
    step: &SetupStep,
    actual: &Actual,
) -> Result<Question, &'static str> {
    const UNTOLD: &str = "the driver does not tell how it was before";
    let facts = actual.facts.as_ref().and_then(|facts| facts.as_ref().ok());
    match step {
        SetupStep::AwaitDriver | SetupStep::AwaitTypes => Err("it only waits"),
        SetupStep::EnableFunctions | SetupStep::RenewFunctions => {
            Err("functions that are there are as wanted, and the next run goes on from them")
        }
        SetupStep::RemoveFunctions => Err("a later step creates them again"),
        SetupStep::SetMig(on) => Ok(Question::SetMig { gpu, on: !on }),
        SetupStep::DestroyInstance(its) => Ok(Question::CreateInstance {
            gpu,
            place: its.place,
        }),
        SetupStep::CreateInstance(its) => Ok(Question::DestroyInstance {
            gpu,
            place: its.place,
        }),
        SetupStep::SetInstanceHeterogeneous(its, on) => Ok(Question::SetInstanceHeterogeneous {
            gpu,
            place: its.place,
            on: !on,
        }),
        SetupStep::SetInstanceScheduler(its, _) => {
            let mig = actual.mig.as_ref().and_then(|mig| mig.as_ref().ok());
            let scheduler = mig.and_then(|mig| mig.scheduler_at(its.place));
            Ok(Question::SetInstanceScheduler {
                gpu,
                place: its.place,
                scheduler: scheduler.ok_or(UNTOLD)?,
            })
        }
        SetupStep::SetHeterogeneous(_) => {
            let mode = facts.and_then(|facts| facts.heterogeneous.value());
            let on = mode.ok_or(UNTOLD)?.enabled;
            Ok(Question::SetHeterogeneous { gpu, on })
        }
        SetupStep::SetScheduler(_) => {
            let scheduler = facts.and_then(|facts| facts.scheduler.value());
            let scheduler = *scheduler.ok_or(UNTOLD)?;
            Ok(Question::SetScheduler { gpu, scheduler })
        }
    }
}

/// A description of a step; a command if there is one.
#[must_use]
pub fn step_in_words(gpu: PciAddress, step: &SetupStep) -> String {
    match step {
        SetupStep::AwaitDriver => "wait until the driver nvidia has bound".to_owned(),
        SetupStep::EnableFunctions => format!("{SRIOV_MANAGE} -e {gpu}"),
        SetupStep::RenewFunctions => format!("{SRIOV_MANAGE} -d {gpu}, then -e {gpu}"),
        SetupStep::RemoveFunctions => format!("{SRIOV_MANAGE} -d {gpu}"),
        SetupStep::SetMig(true) => "switch MIG mode on".to_owned(),
        SetupStep::SetMig(false) => "switch MIG mode off".to_owned(),
        SetupStep::AwaitTypes => "wait until its functions have vGPU types".to_owned(),
        SetupStep::DestroyInstance(its) => format!("destroy GPU instance {its}"),
        SetupStep::CreateInstance(its) => format!("create GPU instance {its}"),
        SetupStep::SetInstanceHeterogeneous(its, on) => {
            let word = if *on { "on" } else { "off" };
            format!("switch heterogeneous mode of GPU instance {its} {word}")
        }
        SetupStep::SetInstanceScheduler(its, scheduler) => {
            format!(
                "set the scheduler of GPU instance {its}: {}",
                InWords(scheduler)
            )
        }
        SetupStep::SetHeterogeneous(true) => "switch heterogeneous mode on".to_owned(),
        SetupStep::SetHeterogeneous(false) => "switch heterogeneous mode off".to_owned(),
        SetupStep::SetScheduler(scheduler) => format!("set the scheduler: {}", InWords(scheduler)),
    }
}

/// NVIDIA's program that makes virtual functions: the driver refuses
/// `sriov_numvfs`.
pub const SRIOV_MANAGE: &str = "/usr/lib/nvidia/sriov-manage";
