//! How a GPU shares its time: what pools want, against what is and what the card takes.

use std::fmt;

use crate::{
    device::nvml::{Scheduler, SchedulerLimits, SchedulerPolicy},
    kind::SchedulerPolicy as Policy,
};

/// How a scheduler stands to the wanted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Same,
    /// Nothing differs, but not everything that is wanted was told.
    Untold,
    Different,
}

pub(super) fn comparison(wanted: &Scheduler, is: &Scheduler) -> Comparison {
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
pub(super) fn outside(wanted: &Scheduler, limits: &SchedulerLimits) -> Option<String> {
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
