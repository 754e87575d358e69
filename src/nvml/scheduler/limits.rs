//! Checks scheduler settings against NVML's own rules and a card's limits. This is done
//! before the driver is called, because it only says that an argument is invalid.

use crate::device::nvml::{Scheduler, SchedulerLimits, SchedulerPolicy};

/// Refuses impossible settings; the driver decides if the limits are unknown.
pub(super) fn check(wanted: Scheduler, limits: Option<&SchedulerLimits>) -> Result<(), String> {
    among_themselves(wanted)?;
    let Some(limits) = limits else {
        return Ok(());
    };
    if !limits.policies.contains(&wanted.policy) {
        let names: Vec<&str> = limits.policies.iter().map(|policy| name(*policy)).collect();
        return Err(format!(
            "policy {}, but the card accepts {}",
            name(wanted.policy),
            names.join(", ")
        ));
    }
    if wanted.strict_round_robin == Some(true) && !limits.strict_round_robin {
        return Err("the card has no strict round robin".to_owned());
    }
    within(
        "time slice",
        wanted.time_slice_ns,
        limits.time_slice_ns,
        " ns",
    )?;
    within("frequency", wanted.frequency, limits.frequency, " Hz")?;
    let factor = wanted.averaging_factor;
    within("averaging factor", factor, limits.averaging_factor, "")
}

fn among_themselves(wanted: Scheduler) -> Result<(), String> {
    let averages = wanted.averaging_factor.is_some() || wanted.frequency.is_some();
    let slices = wanted.time_slice_ns.is_some();
    let strict = wanted.strict_round_robin == Some(true);
    let refused = if wanted.policy == SchedulerPolicy::BestEffort && (averages || slices || strict)
    {
        "best effort has no parameters"
    } else if averages && !strict {
        "averaging factor and frequency need strict round robin"
    } else if slices && strict {
        "a time slice needs strict round robin to be off"
    } else {
        return Ok(());
    };
    Err(refused.to_owned())
}

fn within(
    what: &str,
    value: Option<u32>,
    (least, most): (u32, u32),
    unit: &str,
) -> Result<(), String> {
    match value {
        Some(value) if value < least || value > most => Err(format!(
            "{what} {value}{unit}, but the card accepts {least} to {most}"
        )),
        _ => Ok(()),
    }
}

/// The scheduler in words, without settings that the driver decides.
pub(super) fn words(scheduler: Scheduler) -> String {
    let mut words = vec![name(scheduler.policy).to_owned()];
    words.extend(scheduler.strict_round_robin.map(|strict| {
        let with = if strict { "with" } else { "without" };
        format!("{with} strict round robin")
    }));
    let factor = scheduler.averaging_factor;
    words.extend(factor.map(|factor| format!("averaging factor {factor}")));
    words.extend(
        scheduler
            .frequency
            .map(|frequency| format!("{frequency} Hz")),
    );
    words.extend(scheduler.time_slice_ns.map(|slice| format!("{slice} ns")));
    words.join(", ")
}

/// The policy's name in pool files.
fn name(policy: SchedulerPolicy) -> &'static str {
    match policy {
        SchedulerPolicy::BestEffort => "best-effort",
        SchedulerPolicy::EqualShare => "equal-share",
        SchedulerPolicy::FixedShare => "fixed-share",
    }
}
