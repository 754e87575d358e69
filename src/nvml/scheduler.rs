//! How vGPUs share a GPU's time. The setting lasts until the module is loaded again.
//! It can be changed only while the GPU has no vGPU.

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
    device::nvml::{Failure, FailureKind, Scheduler, SchedulerLimits, SchedulerPolicy},
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
    let state = raw::scheduler(device).map_err(|error| call.failed(error))?;
    from_nvml(state)
        .ok_or_else(|| call.unreadable(&format_args!("policy {} is none", state.policy)))
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

/// Sets the scheduler, unless it already reads as requested: while there are vGPUs the
/// driver refuses even that.
pub(super) fn set(device: &Device<'_>, gpu: PciAddress, wanted: Scheduler) -> Result<(), Failure> {
    let call = Call::new(device.nvml(), format!("set the scheduler of {gpu}"));
    let limits = limits(device, gpu);
    let invalid = |why| call.failure(FailureKind::Invalid, why);
    limits::check(wanted, limits.as_ref().ok()).map_err(invalid)?;
    let mixed = heterogeneous::read(device, gpu).is_ok_and(|mode| mode.enabled);
    if mixed && wanted.policy == SchedulerPolicy::FixedShare {
        return Err(invalid(
            "fixed share does not work in heterogeneous mode".to_owned(),
        ));
    }
    if read(device, gpu).is_ok_and(|found| is_exactly(wanted, found)) {
        return Ok(());
    }
    if let Err(error) = tell(device, wanted) {
        return Err(refused(device, gpu, &call, error, limits.is_ok()));
    }
    let found = read(device, gpu)?;
    if agrees(wanted, found) {
        Ok(())
    } else {
        let (wanted, found) = (limits::words(wanted), limits::words(found));
        Err(call.failure(
            FailureKind::Other,
            format_args!("set to {wanted}, but the driver reports {found}"),
        ))
    }
}

/// Why the driver has not set the scheduler.
fn refused(
    device: &Device<'_>,
    gpu: PciAddress,
    call: &Call<'_>,
    error: Refusal,
    has_scheduler: bool,
) -> Failure {
    match error {
        Refusal::Older(why) => call.failure(FailureKind::NotSupported, why),
        Refusal::Call(raw::Error::Code(raw::NOT_SUPPORTED)) if has_scheduler => {
            // The driver gives this answer if there is any vGPU, but NVML lists only
            // open vGPUs. So the other possible causes are checked first.
            let no_mig = !mig::mode(device, gpu).is_ok_and(|(on, _)| on);
            let in_use = no_mig && hosts_vgpus(device, gpu).unwrap_or(false);
            if in_use {
                call.failure(FailureKind::InUse, "there are vGPUs on it")
            } else {
                call.failed(raw::Error::Code(raw::NOT_SUPPORTED))
            }
        }
        Refusal::Call(error) => call.failed(error),
    }
}

enum Refusal {
    Call(raw::Error),
    /// The driver has only the old interface, which cannot express this.
    Older(&'static str),
}

fn tell(device: &Device<'_>, wanted: Scheduler) -> Result<(), Refusal> {
    let told = device.set_vgpu_scheduler_state(to_nvml(wanted));
    match told.map_err(raw::Error::from) {
        Err(raw::Error::NoSymbol(_) | raw::Error::Code(raw::FUNCTION_NOT_FOUND)) => {}
        told => return told.map_err(Refusal::Call),
    }
    if wanted.time_slice_ns.is_some() {
        return Err(Refusal::Older("this driver no longer has time slices"));
    }
    let shares = wanted.policy != SchedulerPolicy::BestEffort;
    if shares && wanted.strict_round_robin == Some(false) {
        return Err(Refusal::Older("this driver has strict round robin only"));
    }
    let factor = wanted.averaging_factor.unwrap_or(0);
    let frequency = wanted.frequency.unwrap_or(0);
    raw::set_scheduler_v2(device, number(wanted.policy), factor, frequency).map_err(Refusal::Call)
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
