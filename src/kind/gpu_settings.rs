//! A pool's settings for whole GPUs: GPU instances (`[mig]`), mixed sizes, and how vGPUs share
//! the time (`[scheduler]`), with the valid combinations. The limits of single cards are not
//! known here.

use std::path::Path;

use super::mig_settings::{GpuInstances, MigSettings};
use crate::{
    device::nvml,
    document::{ConfigError, Node, Position, Table, Written},
    model::ProfileName,
    rule::{labels::labels, spelling::did_you_mean, spelling::shown},
};

/// Settings that apply to a whole GPU, so all pools of the GPU must agree on them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuSettings {
    /// Whether the vGPUs live in GPU instances.
    pub gpu_instances: GpuInstances,
    /// Whether a GPU holds vGPUs of several sizes at once.
    pub heterogeneous: bool,
    /// How vGPUs share the time of a GPU; None: any way.
    pub scheduler: Option<SchedulerSettings>,
}

impl GpuSettings {
    /// Reads the settings at the top of a pool file, for vGPUs of that profile.
    pub(super) fn read(top: &Table<'_, '_>, profile: &ProfileName) -> Result<Self, ConfigError> {
        let gpu_instances = GpuInstances::read(top, profile)?;
        let heterogeneous = top.flag("heterogeneous")?.unwrap_or_default();
        if let (GpuInstances::Made(its), true) = (gpu_instances, heterogeneous) {
            refuse_counted(top, its)?;
        }
        let scheduler = SchedulerFragment::read(top)?;
        if gpu_instances == GpuInstances::MadeByOthers {
            refuse_without_instances(top, heterogeneous)?;
        }
        let scheduler = scheduler.map(|scheduler| scheduler.check(top.file(), heterogeneous));
        Ok(Self {
            gpu_instances,
            heterogeneous,
            scheduler: scheduler.transpose()?,
        })
    }
}

/// With several sizes, how many fit depends on what is there.
fn refuse_counted(top: &Table<'_, '_>, its: MigSettings) -> Result<(), ConfigError> {
    let mixes = top.get("heterogeneous");
    match mixes.filter(|_| its.vgpus_per_instance.is_some()) {
        Some(node) => {
            let what = "does not work with vgpus-per-instance: a GPU instance that mixes sizes has \
                        as many vGPUs as fit; take one of the two out";
            Err(node.refuse(what, &[]))
        }
        None => Ok(()),
    }
}

/// Both are settings of GPU instances here, and who makes these sets them.
fn refuse_without_instances(top: &Table<'_, '_>, heterogeneous: bool) -> Result<(), ConfigError> {
    let what = "is a setting of GPU instances, and without [mig] none is made for the pool; add \
                [mig], or take it out";
    let mixes = top.get("heterogeneous").filter(|_| heterogeneous);
    match mixes.or_else(|| top.get("scheduler")) {
        Some(node) => Err(node.refuse(what, &[])),
        None => Ok(()),
    }
}

/// The keys of `[scheduler]`.
pub(super) const SCHEDULER: &[&str] = &[
    "policy",
    "strict-round-robin",
    "averaging-factor",
    "frequency",
    "time-slice-ms",
];

labels!(
    /// NVIDIA's policies of the vGPU scheduler.
    SchedulerPolicy, "a scheduler policy";
    /// Time that one vGPU does not use goes to the others.
    BestEffort "best-effort",
    /// The same share for all running vGPUs.
    EqualShare "equal-share",
    /// The share that a vGPU would get if the GPU were full.
    FixedShare "fixed-share",
);

/// `[scheduler]`, validated. The driver decides about settings that are None.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerSettings {
    /// The policy.
    pub policy: SchedulerPolicy,
    /// Whether vGPUs that used too much get less later.
    pub strict_round_robin: Option<bool>,
    /// 1 to 60; only with strict round robin.
    pub averaging_factor: Option<u32>,
    /// In Hz; only with strict round robin.
    pub frequency: Option<u32>,
    /// In ns; only without strict round robin.
    pub time_slice_ns: Option<u32>,
}

impl From<&SchedulerSettings> for nvml::Scheduler {
    fn from(settings: &SchedulerSettings) -> Self {
        Self {
            policy: match settings.policy {
                SchedulerPolicy::BestEffort => nvml::SchedulerPolicy::BestEffort,
                SchedulerPolicy::EqualShare => nvml::SchedulerPolicy::EqualShare,
                SchedulerPolicy::FixedShare => nvml::SchedulerPolicy::FixedShare,
            },
            strict_round_robin: settings.strict_round_robin,
            averaging_factor: settings.averaging_factor,
            frequency: settings.frequency,
            time_slice_ns: settings.time_slice_ns,
        }
    }
}

/// The contents of `[scheduler]`.
#[derive(Debug)]
struct SchedulerFragment {
    at: Position,
    policy: Option<Written<String>>,
    strict_round_robin: Option<Written<bool>>,
    averaging_factor: Option<Written<u32>>,
    frequency: Option<Written<u32>>,
    time_slice_ns: Option<Written<u32>>,
}

impl SchedulerFragment {
    /// Reads `[scheduler]`, if it is there.
    fn read(top: &Table<'_, '_>) -> Result<Option<Self>, ConfigError> {
        let Some(node) = top.get("scheduler") else {
            return Ok(None);
        };
        let table = node.table("a table, [scheduler]")?;
        table.check_keys(SCHEDULER, |_| None)?;
        let flag = |node: &Node<'_, '_>| Ok(node.written(node.flag()?));
        let number = |node: &Node<'_, '_>| Ok(node.written(node.number()?));
        let nanoseconds = |node: &Node<'_, '_>| Ok(node.written(node.millionths("milliseconds")?));
        Ok(Some(Self {
            at: table.at.clone(),
            policy: table.get("policy").map(Node::text).transpose()?,
            strict_round_robin: table.get("strict-round-robin").map(flag).transpose()?,
            averaging_factor: table.get("averaging-factor").map(number).transpose()?,
            frequency: table.get("frequency").map(number).transpose()?,
            time_slice_ns: table.get("time-slice-ms").map(nanoseconds).transpose()?,
        }))
    }

    /// Checks the values; `heterogeneous` is the pool's setting for mixed sizes.
    fn check(&self, file: &Path, heterogeneous: bool) -> Result<SchedulerSettings, ConfigError> {
        let (at, policy) = self.policy(file)?;
        if policy == SchedulerPolicy::FixedShare && heterogeneous {
            let what =
                "'fixed-share' does not work with heterogeneous = true: all shares have one size";
            return Err(at.refuse(file, what, &["best-effort", "equal-share"]));
        }
        self.check_parameters(file, policy)?;
        self.check_ranges(file)?;
        Ok(SchedulerSettings {
            policy,
            strict_round_robin: value(&self.strict_round_robin),
            averaging_factor: value(&self.averaging_factor),
            frequency: value(&self.frequency),
            time_slice_ns: value(&self.time_slice_ns),
        })
    }

    fn policy(&self, file: &Path) -> Result<(&Position, SchedulerPolicy), ConfigError> {
        let Some(Written { value, at }) = &self.policy else {
            let at = self.at.inside("policy");
            return Err(at.refuse(file, "is missing", SchedulerPolicy::NAMES));
        };
        let policy = value.parse().map_err(|_| {
            let meant = did_you_mean(value, SchedulerPolicy::NAMES);
            let what = format!("unknown policy '{}'{meant}", shown(value));
            at.refuse(file, &what, SchedulerPolicy::NAMES)
        })?;
        Ok((at, policy))
    }

    /// Checks parameters that depend on each other: the time slice is set directly, or
    /// results from averaging factor and frequency (`nvmlVgpuSchedulerSetParams_t`).
    fn check_parameters(&self, file: &Path, policy: SchedulerPolicy) -> Result<(), ConfigError> {
        let strict = value(&self.strict_round_robin);
        let parameters = [
            (place(&self.strict_round_robin), strict),
            (place(&self.averaging_factor), Some(true)),
            (place(&self.frequency), Some(true)),
            (place(&self.time_slice_ns), Some(false)),
        ];
        for (at, wants) in parameters {
            let Some(at) = at else { continue };
            if policy == SchedulerPolicy::BestEffort {
                let what = "has no effect with policy 'best-effort'; leave it out";
                return Err(at.refuse(file, what, &[]));
            }
            if let Some(wants) = wants.filter(|_| wants != strict) {
                let what = format!("wants strict-round-robin = {wants}");
                return Err(at.refuse(file, &what, &[]));
            }
        }
        Ok(())
    }

    /// Refuses values that no card accepts; each card may have narrower limits.
    fn check_ranges(&self, file: &Path) -> Result<(), ConfigError> {
        const MOST_FACTOR: u32 = 60;
        if let Some(Written { value, at }) = &self.averaging_factor {
            if !(1..=MOST_FACTOR).contains(value) {
                return Err(at.refuse(file, "wants 1 to 60", &[]));
            }
        }
        for written in [&self.frequency, &self.time_slice_ns] {
            if let Some(Written { value: 0, at }) = written {
                return Err(at.refuse(file, "wants more than 0", &[]));
            }
        }
        Ok(())
    }
}

fn value<T: Copy>(written: &Option<Written<T>>) -> Option<T> {
    written.as_ref().map(|written| written.value)
}

fn place<T>(written: &Option<Written<T>>) -> Option<&Position> {
    written.as_ref().map(|written| &written.at)
}
