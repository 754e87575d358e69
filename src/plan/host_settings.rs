//! How a GPU is to be set for the pools that take it, and the steps that lead
//! there from how it is: a function of pool files and of what sysfs and NVML say.
//! Settings are the GPU's as a whole, so its pools have to agree.

use std::fmt;

use crate::{
    config::{Pool, SchedulerPolicy as Policy, SchedulerSettings},
    device::{
        nvml::{Failure, GpuFacts, Scheduler, SchedulerLimits, SchedulerPolicy, Told},
        readiness::{Driver, Functions},
    },
    model::{PciAddress, PoolName},
    rule::{Kind, Verdict},
};

/// How a GPU is to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The pools that take it, in the order of their names.
    pub pools: Vec<PoolName>,
    /// Whether sizes are mixed on it.
    pub heterogeneous: bool,
    /// How time is shared, with the first pool that says so; None: as it is.
    pub scheduler: Option<(Scheduler, PoolName)>,
}

/// Two pools on one GPU that want different settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "pool '{}' ({}) wants {} and pool '{}' ({}) wants {}; make the two files agree, or let their \
     rules match different GPUs", first.0, first.1, first.2, second.0, second.1, second.2
)]
pub struct Conflict {
    /// A pool, its file, and what it wants.
    pub first: (PoolName, String, String),
    /// The other one.
    pub second: (PoolName, String, String),
}

/// Those of the pools that take the GPU: pools of vGPUs whose rules match its
/// physical function. `verdict` is of a pool's rules on the GPU.
pub fn pools_of<'p>(
    pools: impl IntoIterator<Item = &'p Pool>,
    verdict: impl Fn(&Pool) -> Verdict,
) -> Vec<&'p Pool> {
    let takes = |pool: &&Pool| {
        pool.kind == Kind::NvidiaVgpu && matches!(verdict(pool), Verdict::Match { .. })
    };
    pools.into_iter().filter(takes).collect()
}

/// What the pools on a GPU want of it; None when there are none.
///
/// # Errors
/// The first two that differ, in the order of the pools.
pub fn wish(pools: &[&Pool]) -> Result<Option<Wish>, Box<Conflict>> {
    let Some(first) = pools.first() else {
        return Ok(None);
    };
    let sizes = |pool: &Pool| format!("heterogeneous = {}", pool.heterogeneous);
    if let Some(other) = pools
        .iter()
        .find(|pool| pool.heterogeneous != first.heterogeneous)
    {
        return Err(conflict((first, sizes(first)), (other, sizes(other))));
    }
    let mut schedulers = pools
        .iter()
        .filter_map(|pool| Some((*pool, Scheduler::from(pool.scheduler.as_ref()?))));
    let scheduler = schedulers.next();
    if let Some((pool, wanted)) = &scheduler {
        if let Some((other, its)) = schedulers.find(|(_, its)| its != wanted) {
            let words = |scheduler| format!("the scheduler {}", InWords(scheduler));
            return Err(conflict((pool, words(wanted)), (other, words(&its))));
        }
    }
    Ok(Some(Wish {
        pools: pools.iter().map(|pool| pool.name.clone()).collect(),
        heterogeneous: first.heterogeneous,
        scheduler: scheduler.map(|(pool, wanted)| (wanted, pool.name.clone())),
    }))
}

fn conflict(first: (&Pool, String), second: (&Pool, String)) -> Box<Conflict> {
    let told = |(pool, what): (&Pool, String)| {
        let file = pool.origin.display().to_string();
        (pool.name.clone(), file, what)
    };
    Box::new(Conflict {
        first: told(first),
        second: told(second),
    })
}

impl From<&SchedulerSettings> for Scheduler {
    fn from(settings: &SchedulerSettings) -> Self {
        Self {
            policy: match settings.policy {
                Policy::BestEffort => SchedulerPolicy::BestEffort,
                Policy::EqualShare => SchedulerPolicy::EqualShare,
                Policy::FixedShare => SchedulerPolicy::FixedShare,
            },
            strict_round_robin: settings.strict_round_robin,
            averaging_factor: settings.averaging_factor,
            frequency: settings.frequency,
            time_slice_ns: settings.time_slice_ns,
        }
    }
}

/// How a GPU is.
#[derive(Debug, Clone)]
pub struct Actual {
    /// What drives it.
    pub driver: Driver,
    /// Its virtual functions.
    pub functions: Functions,
    /// What NVML says; None when it was not asked, since the driver is not there
    /// yet or forgets its settings in an earlier step.
    pub facts: Option<Result<GpuFacts, Failure>>,
    /// Whether there are vGPUs on it.
    pub in_use: bool,
    /// Whether the driver was loaded with the wanted scheduler as an option.
    pub loaded_with_scheduler: bool,
}

/// Something to do on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Wait until its driver has bound.
    AwaitDriver,
    /// Make all virtual functions. Whatever the GPU was set to is lost by it.
    EnableFunctions,
    /// Take all virtual functions away and make them anew.
    RenewFunctions,
    /// Wait until what makes vGPUs knows types.
    AwaitTypes,
    /// Mix sizes, or not.
    SetHeterogeneous(bool),
    /// Share time this way.
    SetScheduler(Scheduler),
}

/// A step and why it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The step.
    pub step: Step,
    /// What is not as wanted.
    pub why: String,
}

/// What leads from how a GPU is to how it is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// In this order.
    pub steps: Vec<Planned>,
    /// What no step can reach: a sentence each, with what to do.
    pub obstacles: Vec<String>,
}

impl Way {
    fn add(&mut self, step: Step, why: String) {
        self.steps.push(Planned { step, why });
    }
}

/// The steps that make the GPU able to make vGPUs, then those that set it: what
/// is set earlier is undone by the first ones.
#[must_use]
pub fn way(gpu: PciAddress, wish: &Wish, actual: &Actual) -> Way {
    let mut way = Way::default();
    if let Driver::Other(driver) = &actual.driver {
        way.obstacles.push(format!(
            "its driver is '{driver}', not nvidia; bind it to nvidia, or take it out of {}",
            pools_in_words(&wish.pools)
        ));
        return way;
    }
    if actual.driver == Driver::None {
        way.add(Step::AwaitDriver, "no driver is bound".to_owned());
    }
    let Functions { total, unready, .. } = &actual.functions;
    if actual.functions.are_missing() {
        let why = format!("0 of {total} virtual functions are there");
        way.add(Step::EnableFunctions, why);
        let why = "new functions show their vGPU types a while later".to_owned();
        way.add(Step::AwaitTypes, why);
    } else if !unready.is_empty() {
        way.add(Step::AwaitTypes, unready_in_words(*total, unready));
    }
    add_heterogeneous(&mut way, gpu, wish, actual);
    add_scheduler(&mut way, wish, actual);
    way
}

/// Which functions have no types yet.
#[must_use]
pub fn unready_in_words(total: u32, unready: &[PciAddress]) -> String {
    match unready {
        _ if total == 0 => "the driver offers no vGPU types".to_owned(),
        [one] => format!("virtual function {one} has no vGPU types"),
        [first, .., last] => format!(
            "{} virtual functions have no vGPU types ({first} to {last})",
            unready.len()
        ),
        [] => "all functions have vGPU types".to_owned(),
    }
}

fn pools_in_words(pools: &[PoolName]) -> String {
    let names: Vec<&str> = pools.iter().map(PoolName::as_str).collect();
    let noun = if names.len() == 1 { "pool" } else { "pools" };
    format!("{noun} '{}'", names.join("', '"))
}

fn add_heterogeneous(way: &mut Way, gpu: PciAddress, wish: &Wish, actual: &Actual) {
    let pools = pools_in_words(&wish.pools);
    let on = Step::SetHeterogeneous(true);
    match (wish.heterogeneous, &actual.facts) {
        (true, None) => way.add(on, format!("for {pools}; a GPU begins with one size")),
        (true, Some(Err(failure))) => way.obstacles.push(format!(
            "whether it mixes sizes cannot be told: {}; see whether 'nvidia-smi' works",
            failure.message
        )),
        (true, Some(Ok(facts))) => match &facts.heterogeneous {
            Told::Value(mode) if mode.enabled => {}
            Told::Value(mode) if !mode.supported => way.obstacles.push(format!(
                "it cannot mix sizes{}; take heterogeneous = true out of {pools}",
                mig_in_words(facts, gpu)
            )),
            Told::Value(_) => way.add(on, format!("for {pools}; it is off")),
            Told::Unavailable(failure) => way.obstacles.push(format!(
                "whether it mixes sizes cannot be told: {}; take heterogeneous = true out of \
                 {pools}, or install a driver of vGPU 17.2 or newer",
                failure.message
            )),
        },
        (false, Some(Ok(facts))) if { facts.heterogeneous.value() }.is_some_and(|m| m.enabled) => {
            let why = format!("for {pools}; it is on");
            way.add(Step::SetHeterogeneous(false), why);
        }
        // Who wants what is so anyway needs nobody to say so.
        (false, _) => {}
    }
}

fn mig_in_words(facts: &GpuFacts, gpu: PciAddress) -> String {
    match facts.mig.value() {
        Some(true) => {
            format!(" while MIG mode is on ('nvidia-smi -i {gpu} -mig 0' switches it off)")
        }
        _ => String::new(),
    }
}

fn add_scheduler(way: &mut Way, wish: &Wish, actual: &Actual) {
    let Some((wanted, pool)) = &wish.scheduler else {
        return;
    };
    let set = |why: String| (Step::SetScheduler(*wanted), why);
    let step = match &actual.facts {
        // As the driver begins.
        None if wanted.policy == SchedulerPolicy::BestEffort => return,
        None => set(format!("for pool '{pool}'; a GPU begins with best-effort")),
        Some(Err(failure)) => {
            way.obstacles.push(format!(
                "its scheduler cannot be told: {}; see whether 'nvidia-smi' works",
                failure.message
            ));
            return;
        }
        Some(Ok(facts)) if facts.mig.value() == Some(&true) => {
            way.obstacles.push(format!(
                "MIG mode is on, and the scheduler that pool '{pool}' wants is for whole GPUs; \
                 take [scheduler] out of the pool, or switch MIG mode off"
            ));
            return;
        }
        Some(Ok(facts)) => {
            let limits = facts.scheduler_limits.value();
            if let Some(excess) = limits.and_then(|limits| outside(wanted, limits)) {
                way.obstacles.push(format!(
                    "pool '{pool}' wants what the card does not take: {excess}; change its \
                     [scheduler]"
                ));
                return;
            }
            match &facts.scheduler {
                Told::Value(is) => match comparison(wanted, is) {
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
    way.add(step.0, step.1);
}

/// How a scheduler stands to the wanted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Same,
    /// Nothing differs, but not everything that is wanted was told.
    Untold,
    Different,
}

fn comparison(wanted: &Scheduler, is: &Scheduler) -> Comparison {
    if wanted.policy != is.policy {
        return Comparison::Different;
    }
    let flag = |flag: Option<bool>| flag.map(u32::from);
    let pairs = [
        (flag(wanted.strict_round_robin), flag(is.strict_round_robin)),
        (wanted.averaging_factor, is.averaging_factor),
        (wanted.frequency, is.frequency),
        (wanted.time_slice_ns, is.time_slice_ns),
    ];
    let mut result = Comparison::Same;
    for (wanted, is) in pairs {
        match (wanted, is) {
            (Some(_), None) => result = Comparison::Untold,
            (Some(wanted), Some(is)) if wanted != is => return Comparison::Different,
            _ => {}
        }
    }
    result
}

/// The first thing that the card does not take.
fn outside(wanted: &Scheduler, limits: &SchedulerLimits) -> Option<String> {
    if !limits.policies.contains(&wanted.policy) {
        let names = limits.policies.iter().map(|policy| policy_name(*policy));
        return Some(format!(
            "policy '{}' (it takes {})",
            policy_name(wanted.policy),
            names.collect::<Vec<_>>().join(", ")
        ));
    }
    if wanted.strict_round_robin == Some(true) && !limits.strict_round_robin {
        return Some("strict-round-robin = true".to_owned());
    }
    let range = |key: &str, wanted: Option<u32>, (least, most): (u32, u32), unit: &str| {
        // A card that tells nothing tells zeros.
        let value = wanted.filter(|value| most > 0 && !(least..=most).contains(value))?;
        Some(format!(
            "{key} = {value} (it takes {least} to {most}{unit})"
        ))
    };
    let factor = range(
        "averaging-factor",
        wanted.averaging_factor,
        limits.averaging_factor,
        "",
    );
    let slice = |(least, most): (u32, u32)| {
        let value = wanted.time_slice_ns?;
        let excess = most > 0 && !(least..=most).contains(&value);
        excess.then(|| {
            let [value, least, most] = [value, least, most].map(milliseconds);
            format!("time-slice-ms = {value} (it takes {least} to {most})")
        })
    };
    factor
        .or_else(|| range("frequency", wanted.frequency, limits.frequency, " Hz"))
        .or_else(|| slice(limits.time_slice_ns))
}

/// Nanoseconds as milliseconds with as many places as they need.
fn milliseconds(ns: u32) -> String {
    const NS_PER_MS: u32 = 1_000_000;
    let text = format!("{}.{:06}", ns / NS_PER_MS, ns % NS_PER_MS);
    let short = text.trim_end_matches('0');
    short.trim_end_matches('.').to_owned()
}

fn policy_name(policy: SchedulerPolicy) -> &'static str {
    match policy {
        SchedulerPolicy::BestEffort => Policy::BestEffort,
        SchedulerPolicy::EqualShare => Policy::EqualShare,
        SchedulerPolicy::FixedShare => Policy::FixedShare,
    }
    .as_str()
}

/// A scheduler for people: `equal-share, strict round robin, 480 Hz`.
#[derive(Debug)]
pub struct InWords<'a>(pub &'a Scheduler);

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheduler = self.0;
        f.write_str(policy_name(scheduler.policy))?;
        if scheduler.policy == SchedulerPolicy::BestEffort {
            return Ok(());
        }
        match scheduler.strict_round_robin {
            Some(true) => f.write_str(", strict round robin")?,
            Some(false) => f.write_str(", no strict round robin")?,
            None => {}
        }
        if let Some(factor) = scheduler.averaging_factor {
            write!(f, ", averaging factor {factor}")?;
        }
        if let Some(frequency) = scheduler.frequency {
            write!(f, ", {frequency} Hz")?;
        }
        if let Some(slice) = scheduler.time_slice_ns {
            write!(f, ", time slice {} ms", milliseconds(slice))?;
        }
        Ok(())
    }
}

/// What a step does to a GPU, as a command where there is one.
#[must_use]
pub fn step_in_words(gpu: PciAddress, step: &Step) -> String {
    match step {
        Step::AwaitDriver => "wait until the driver nvidia has bound".to_owned(),
        Step::EnableFunctions => format!("{SRIOV_MANAGE} -e {gpu}"),
        Step::RenewFunctions => format!("{SRIOV_MANAGE} -d {gpu}, then -e {gpu}"),
        Step::AwaitTypes => "wait until its functions have vGPU types".to_owned(),
        Step::SetHeterogeneous(true) => "switch heterogeneous mode on".to_owned(),
        Step::SetHeterogeneous(false) => "switch heterogeneous mode off".to_owned(),
        Step::SetScheduler(scheduler) => format!("set the scheduler: {}", InWords(scheduler)),
    }
}

/// NVIDIA's program that makes virtual functions: the driver refuses
/// `sriov_numvfs`.
pub const SRIOV_MANAGE: &str = "/usr/lib/nvidia/sriov-manage";

#[cfg(test)]
mod tests;
