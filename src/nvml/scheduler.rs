//! How vGPUs share the time of a GPU or of a GPU instance. The setting lasts until the module
//! is loaded again, and a GPU instance's no longer than the instance. It can be changed only
//! while there is no vGPU.

use nvml_wrapper::{
    Device,
    struct_wrappers::device::{VgpuSchedulerSetParams, VgpuSchedulerSetState},
};
use virt_vgpu_nvml_raw as raw;

use super::{
    failure::{Call, reading},
    gpu::hosts_vgpus,
    heterogeneous, mig,
};
use crate::{
    device::nvml::{
        Failure, FailureKind, GpuInstance, InstancePlace, Scheduler, SchedulerLimits,
        SchedulerPolicy,
    },
    model::PciAddress,
};

mod limits;

/// `NVML_VGPU_SCHEDULER_ARR_*`
const ARR_DEFAULT: u32 = 0;
const ARR_OFF: u32 = 1;
const ARR_ON: u32 = 2;

const NS_PER_SECOND: u32 = 1_000_000_000;

/// The scheduler's present settings.
pub(super) fn read(device: &Device<'_>, gpu: PciAddress) -> Result<Scheduler, Failure> {
    let call = reading(device, gpu, "scheduler");
    understood(raw::scheduler(device), &call)
}

fn understood(
    state: raw::Answer<raw::SchedulerState>,
    call: &Call<'_>,
) -> Result<Scheduler, Failure> {
    let state = state.map_err(|error| call.failed(error))?;
    from_nvml(state)
        .ok_or_else(|| call.unreadable(&format_args!("policy {} is none", state.policy)))
}

/// The present settings of a GPU instance, if it has a scheduler of its own.
pub(super) fn of_instance(device: &Device<'_>, id: u32) -> Option<Scheduler> {
    raw::instance_scheduler(device, id).ok().and_then(from_nvml)
}

/// Best effort has no parameters, whatever the fields contain. 0 means nothing in every
/// field: the default, or that no vGPU runs.
fn from_nvml(state: raw::SchedulerState) -> Option<Scheduler> {
    let policy = policy(state.policy)?;
    let given = |value: u32| (policy != SchedulerPolicy::BestEffort && value > 0).then_some(value);
    let strict = match state.arr {
        Some(ARR_ON) => Some(true),
        Some(ARR_OFF) => Some(false),
        Some(_) => None,
        // The second interface has an averaging factor only with strict round robin.
        None => given(state.factor).map(|_| true),
    };
    let strict = strict.filter(|_| policy != SchedulerPolicy::BestEffort);
    let (factor, slice) = (given(state.factor), given(state.time_slice));
    Some(if strict == Some(true) {
        Scheduler {
            policy,
            strict_round_robin: strict,
            averaging_factor: factor,
            // NVML gives the length of a slice; the frequency is the number of slices
            // per second.
            frequency: slice.map(|slice| (NS_PER_SECOND + slice / 2) / slice),
            time_slice_ns: None,
        }
    } else {
        Scheduler {
            policy,
            strict_round_robin: strict,
            averaging_factor: None,
            frequency: None,
            time_slice_ns: slice,
        }
    })
}

fn policy(number: u32) -> Option<SchedulerPolicy> {
    match number {
        1 => Some(SchedulerPolicy::BestEffort),
        2 => Some(SchedulerPolicy::EqualShare),
        3 => Some(SchedulerPolicy::FixedShare),
        _ => None,
    }
}

fn number(policy: SchedulerPolicy) -> u32 {
    match policy {
        SchedulerPolicy::BestEffort => 1,
        SchedulerPolicy::EqualShare => 2,
        SchedulerPolicy::FixedShare => 3,
    }
}

/// The limits of the card.
pub(super) fn limits(device: &Device<'_>, gpu: PciAddress) -> Result<SchedulerLimits, Failure> {
    let found = device.vgpu_scheduler_capabilities();
    let found = found.map_err(|error| reading(device, gpu, "scheduler's limits").failed(error))?;
    let numbers = found.supported_schedulers.iter();
    let mut policies: Vec<_> = numbers.filter_map(|number| policy(*number)).collect();
    policies.sort_unstable();
    policies.dedup();
    Ok(SchedulerLimits {
        policies,
        strict_round_robin: found.is_arr_mode_supported,
        time_slice_ns: (found.min_time_slice, found.max_time_slice),
        frequency: (found.min_freq_for_arr, found.max_freq_for_arr),
        averaging_factor: (found.min_avg_factor_for_arr, found.max_avg_factor_for_arr),
    })
}

/// Sets the scheduler of the GPU.
pub(super) fn set(device: &Device<'_>, gpu: PciAddress, wanted: Scheduler) -> Result<(), Failure> {
    let setting = Setting {
        device,
        gpu,
        owner: Owner::Gpu,
        call: Call::new(device.nvml(), format!("set the scheduler of {gpu}")),
    };
    setting.make(wanted)
}

/// Sets the scheduler of the GPU instance at that place.
pub(super) fn set_in_instance(
    device: &Device<'_>,
    gpu: PciAddress,
    place: InstancePlace,
    wanted: Scheduler,
) -> Result<(), Failure> {
    let call = Call::new(
        device.nvml(),
        format!("set the scheduler of the GPU instance of {gpu}: {place}"),
    );
    let instance = mig::existing(device, gpu, place, &call)?;
    let setting = Setting {
        device,
        gpu,
        owner: Owner::Instance(instance),
        call,
    };
    setting.make(wanted)
}

/// What has a scheduler of its own.
#[derive(Clone, Copy)]
enum Owner {
    Gpu,
    /// As it was before the setting.
    Instance(GpuInstance),
}

/// A setting that is being made.
struct Setting<'a> {
    device: &'a Device<'a>,
    gpu: PciAddress,
    owner: Owner,
    call: Call<'a>,
}

impl Setting<'_> {
    /// Sets the scheduler, unless it already reads as requested: while there are vGPUs the
    /// driver refuses even that.
    fn make(&self, wanted: Scheduler) -> Result<(), Failure> {
        let limits = limits(self.device, self.gpu);
        let invalid = |why| self.call.failure(FailureKind::Invalid, why);
        limits::check(wanted, limits.as_ref().ok()).map_err(invalid)?;
        if self.is_mixed() && wanted.policy == SchedulerPolicy::FixedShare {
            return Err(invalid(
                "fixed share does not work in heterogeneous mode".to_owned(),
            ));
        }
        if self.read().is_ok_and(|found| is_exactly(wanted, found)) {
            return Ok(());
        }
        if let Err(error) = self.tell(wanted) {
            return Err(self.refused(error, limits.is_ok()));
        }
        let found = self.read()?;
        if agrees(wanted, found) {
            Ok(())
        } else {
            let (wanted, found) = (limits::words(wanted), limits::words(found));
            Err(self.call.failure(
                FailureKind::Other,
                format_args!("set to {wanted}, but the driver reports {found}"),
            ))
        }
    }

    fn is_mixed(&self) -> bool {
        match self.owner {
            Owner::Gpu => heterogeneous::read(self.device, self.gpu).is_ok_and(|mode| mode.enabled),
            Owner::Instance(instance) => instance.heterogeneous == Some(true),
        }
    }

    fn read(&self) -> Result<Scheduler, Failure> {
        match self.owner {
            Owner::Gpu => read(self.device, self.gpu),
            Owner::Instance(instance) => {
                let state = raw::instance_scheduler(self.device, instance.id);
                understood(state, &self.call)
            }
        }
    }

    fn tell(&self, wanted: Scheduler) -> Result<(), Refusal> {
        let first = to_nvml(wanted);
        let told = match self.owner {
            Owner::Gpu => {
                let told = self.device.set_vgpu_scheduler_state(first);
                told.map_err(raw::Error::from)
            }
            Owner::Instance(instance) => {
                raw::set_instance_scheduler(self.device, instance.id, &first)
            }
        };
        // A driver older than the schedulers of GPU instances has neither interface.
        let may_have_second = match self.owner {
            Owner::Gpu => true,
            Owner::Instance(instance) => instance.scheduler.is_some(),
        };
        match told {
            Err(
                raw::Error::NoSymbol(_)
                | raw::Error::Code(raw::FUNCTION_NOT_FOUND | raw::VERSION_MISMATCH),
            ) if may_have_second => {}
            told => return told.map_err(Refusal::Call),
        }
        if wanted.time_slice_ns.is_some() {
            return Err(Refusal::Older("this driver no longer has time slices"));
        }
        let shares = wanted.policy != SchedulerPolicy::BestEffort;
        if shares && wanted.strict_round_robin == Some(false) {
            return Err(Refusal::Older("this driver has strict round robin only"));
        }
        let policy = number(wanted.policy);
        let factor = wanted.averaging_factor.unwrap_or(0);
        let frequency = wanted.frequency.unwrap_or(0);
        let told = match self.owner {
            Owner::Gpu => raw::set_scheduler_v2(self.device, policy, factor, frequency),
            Owner::Instance(instance) => {
                let id = instance.id;
                raw::set_instance_scheduler_v2(self.device, id, policy, factor, frequency)
            }
        };
        told.map_err(Refusal::Call)
    }

    /// Why the driver has not set the scheduler.
    fn refused(&self, error: Refusal, has_limits: bool) -> Failure {
        match error {
            Refusal::Older(why) => self.call.failure(FailureKind::NotSupported, why),
            Refusal::Call(raw::Error::Code(raw::NOT_SUPPORTED)) if self.is_in_use(has_limits) => {
                let why = match self.owner {
                    Owner::Gpu => "there are vGPUs on it",
                    Owner::Instance(_) => "there are vGPUs in it",
                };
                self.call.failure(FailureKind::InUse, why)
            }
            Refusal::Call(error) => self.call.failed(error),
        }
    }

    /// Whether NOT_SUPPORTED can only mean that there is a vGPU. NVML lists open vGPUs only,
    /// so the other possible causes are checked.
    fn is_in_use(&self, has_limits: bool) -> bool {
        let has_scheduler = match self.owner {
            Owner::Gpu => has_limits && !mig::mode(self.device, self.gpu).is_ok_and(|(on, _)| on),
            Owner::Instance(instance) => instance.scheduler.is_some(),
        };
        has_scheduler && hosts_vgpus(self.device, self.gpu).unwrap_or(false)
    }
}

enum Refusal {
    Call(raw::Error),
    /// The driver has only the other interface, which cannot express this.
    Older(&'static str),
}

fn to_nvml(wanted: Scheduler) -> VgpuSchedulerSetState {
    let arr = match wanted.strict_round_robin {
        Some(true) => ARR_ON,
        Some(false) => ARR_OFF,
        // Time slices are used only without strict round robin.
        None if wanted.time_slice_ns.is_some() => ARR_OFF,
        None => ARR_DEFAULT,
    };
    let scheduler_params = if arr == ARR_ON {
        VgpuSchedulerSetParams {
            // Without a factor the wrapper would put the frequency in its place.
            avg_factor: Some(wanted.averaging_factor.unwrap_or(0)),
            frequency_or_timeslice: wanted.frequency.unwrap_or(0),
        }
    } else {
        VgpuSchedulerSetParams {
            avg_factor: None,
            frequency_or_timeslice: wanted.time_slice_ns.unwrap_or(0),
        }
    };
    VgpuSchedulerSetState {
        scheduler_policy: number(wanted.policy),
        enable_arr_mode: arr,
        scheduler_params,
    }
}

/// Whether the scheduler has the requested settings. A None was not requested or is
/// unknown. NVML gives a frequency as a time slice, so it can be off by one.
fn agrees(wanted: Scheduler, found: Scheduler) -> bool {
    let within = |wanted: Option<u32>, found: Option<u32>, most| {
        let both = wanted.zip(found);
        both.is_none_or(|(wanted, found)| wanted.abs_diff(found) <= most)
    };
    let strict = |scheduler: Scheduler| scheduler.strict_round_robin.map(u32::from);
    let has_parameters = wanted.policy != SchedulerPolicy::BestEffort;
    wanted.policy == found.policy
        && (!has_parameters
            || within(strict(wanted), strict(found), 0)
                && within(wanted.averaging_factor, found.averaging_factor, 0)
                && within(wanted.time_slice_ns, found.time_slice_ns, 0)
                && within(wanted.frequency, found.frequency, 1))
}

/// Whether everything was requested and set, so that no unknown default is left.
fn is_exactly(wanted: Scheduler, found: Scheduler) -> bool {
    let is_complete =
        wanted.policy == SchedulerPolicy::BestEffort || wanted.strict_round_robin.is_some();
    is_complete && wanted == found
}

#[cfg(test)]
mod tests;
