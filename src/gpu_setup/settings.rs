//! Compares the wanted settings of a GPU with the present ones, and gives reasons for
//! differences.

use serde::Serialize;

use super::{
    instances::InstanceReport,
    module_options::ModuleOptions,
    state,
    steps::{Actual, SetupPlan, SetupStep, setup_plan, step_in_words},
    survey::Surveyed,
    users::{self, User},
    wanted::WantedMig,
};
use crate::{
    device::{
        driver_option::{self, FILE},
        nvml::Scheduler,
        readiness::Driver,
    },
    host::Host,
    model::{PciAddress, PoolName},
};

/// The wanted and the present settings of a GPU.
#[derive(Debug, Serialize)]
pub struct GpuSettings {
    /// The GPU.
    pub gpu: PciAddress,
    /// Those that take it; empty: it is never touched.
    pub pools: Vec<PoolName>,
    /// None: no driver is bound.
    pub driver: Option<String>,
    /// How many there are.
    pub virtual_functions: Setting<u32>,
    /// MIG mode.
    pub mig: Setting<bool>,
    /// The GPU instances once all is as wanted, drawn in one line; None: no pool of the GPU has
    /// any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_instances: Option<String>,
    /// Those that there are, in the order of their memory slots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceReport>,
    /// Whether sizes are mixed.
    pub heterogeneous: Setting<bool>,
    /// How time is shared.
    pub scheduler: Setting<Scheduler>,
    /// The vGPUs on it, and those to come.
    pub vgpus: Vec<User>,
    /// The differences, with reasons.
    pub differences: Vec<String>,
}

/// A wanted and a present value.
#[derive(Debug, Serialize)]
pub struct Setting<T> {
    /// None: nothing is wanted.
    pub wanted: Option<T>,
    /// None: it cannot be told.
    pub actual: Option<T>,
}

/// Compares what pools want of a GPU with what is.
///
/// # Errors
/// When sysfs cannot be read.
pub fn gpu_settings(
    host: &Host,
    surveyed: &Surveyed,
    options: &ModuleOptions,
) -> anyhow::Result<GpuSettings> {
    let gpu = surveyed.gpu;
    let wanted = surveyed.wanted.as_ref().ok().and_then(Option::as_ref);
    let (users, doubt) = match users::users(host, gpu) {
        Ok(users) => (users, None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    let actual = state::complete(host, gpu, wanted, &users, state::of(host, gpu)?);
    let mut gpu_instances = None;
    let mut differences = match (&surveyed.wanted, wanted) {
        (Err(conflict), _) => vec![conflict.to_string()],
        (_, Some(wanted)) => {
            let plan = setup_plan(gpu, wanted, &actual);
            let differences = differences(gpu, &plan, &actual, &users, options);
            gpu_instances = plan.layout;
            differences
        }
        _ => Vec::new(),
    };
    differences.extend(doubt);
    let facts = actual.facts.as_ref().and_then(|facts| facts.as_ref().ok());
    let scheduler = facts.and_then(|facts| facts.scheduler.value());
    let heterogeneous = facts.and_then(|facts| facts.heterogeneous.value());
    let functions = &actual.functions;
    Ok(GpuSettings {
        gpu,
        pools: wanted
            .map(|wanted| wanted.pools.clone())
            .unwrap_or_default(),
        driver: match actual.driver {
            Driver::Nvidia => Some("nvidia".to_owned()),
            Driver::None => None,
            Driver::Other(name) => Some(name),
        },
        virtual_functions: Setting {
            wanted: wanted.map(|_| functions.total),
            actual: Some(functions.enabled),
        },
        mig: Setting {
            wanted: wanted.and_then(|wanted| match wanted.mig {
                WantedMig::Off => Some(false),
                WantedMig::On(_) => Some(true),
                WantedMig::ByOthers => None,
            }),
            actual: match (&actual.mig, facts) {
                (Some(Ok(mig)), _) => Some(mig.on),
                (_, facts) => facts.and_then(|facts| facts.mig.value().copied()),
            },
        },
        gpu_instances,
        instances: match &actual.mig {
            Some(Ok(mig)) => mig.report(),
            _ => Vec::new(),
        },
        heterogeneous: Setting {
            wanted: wanted.map(|wanted| wanted.heterogeneous),
            actual: heterogeneous.map(|mode| mode.enabled),
        },
        scheduler: Setting {
            wanted: wanted.and_then(|wanted| Some(wanted.scheduler.as_ref()?.0)),
            actual: scheduler.copied(),
        },
        vgpus: users,
        differences,
    })
}

/// A sentence for each step that is still to be done, with what holds it up.
fn differences(
    gpu: PciAddress,
    plan: &SetupPlan,
    actual: &Actual,
    users: &[User],
    options: &ModuleOptions,
) -> Vec<String> {
    let refusal = users::refusal(gpu, users);
    let reason = |step: &SetupStep| {
        if let SetupStep::SetScheduler(scheduler) = step {
            let waits = driver_option::encode(scheduler).ok();
            if waits.is_some() && options.options.get(&gpu).copied() == waits {
                return format!("it waits in {FILE} until the driver is loaded again");
            }
        }
        let apply = || match step {
            // Nothing can be done here but to wait for what may never come.
            SetupStep::AwaitDriver => {
                "'modprobe nvidia' loads it, 'journalctl -k -g NVRM' shows its messages".to_owned()
            }
            SetupStep::AwaitTypes if actual.driver == Driver::None => {
                "they come with its driver".to_owned()
            }
            SetupStep::AwaitTypes if actual.functions.total == 0 => {
                "its driver may be one without vGPUs, or not know this kernel; 'systemctl status \
                 nvidia-vgpud' shows whether NVIDIA's types were loaded"
                    .to_owned()
            }
            _ => format!("'virt-vgpu host apply {gpu}' does it"),
        };
        let refusal = refusal.clone().filter(|_| step.needs_free_gpu());
        refusal.unwrap_or_else(apply)
    };
    let steps = plan.steps.iter();
    let steps = steps.filter(|planned| !actual.gives_back(&planned.step));
    let steps = steps.map(|planned| {
        format!(
            "{} ({}): {}",
            step_in_words(gpu, &planned.step),
            planned.why,
            reason(&planned.step)
        )
    });
    let others = plan.pending.iter().chain(&plan.obstacles);
    steps.chain(others.cloned()).collect()
}
