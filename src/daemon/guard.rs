//! Limits how often a domain is edited. Two programs could edit one definition against
//! each other forever: a program that writes its own version of a domain again and
//! again, or a libvirt that stores something other than it was told. A domain is edited
//! only so many times per minute, and then not again until the minute is over.

use std::{collections::BTreeMap, time::Duration};

use crate::model::DomainUuid;

/// How many times a domain is edited within [`WHILE`].
const TIMES: u32 = 60;

/// How long an edit counts.
const WHILE: Duration = Duration::from_secs(60);

/// The recent edits.
#[derive(Debug, Default)]
pub(super) struct Guard(BTreeMap<DomainUuid, Repeated>);

#[derive(Debug)]
struct Repeated {
    times: u32,
    since: Duration,
}

impl Guard {
    /// Whether the domain may be edited; times are since boot.
    pub(super) fn allows(&mut self, domain: DomainUuid, now: Duration) -> bool {
        if let Some(repeated) = self.0.get(&domain) {
            if now.saturating_sub(repeated.since) < WHILE {
                return repeated.times < TIMES;
            }
            self.0.remove(&domain);
        }
        true
    }

    /// Records an edit, even one that was made only in part. Returns whether it was the
    /// last one allowed for now.
    pub(super) fn note(&mut self, domain: DomainUuid, now: Duration) -> bool {
        let repeated = self.0.entry(domain).or_insert(Repeated {
            times: 0,
            since: now,
        });
        repeated.times += 1;
        repeated.times == TIMES
    }

    /// Forgets a domain that is gone.
    pub(super) fn forget(&mut self, domain: DomainUuid) {
        self.0.remove(&domain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(1000);

    fn domain() -> DomainUuid {
        "aaaaaaaa-0000-4000-8000-000000000001".parse().unwrap()
    }

    #[test]
    fn a_domain_is_edited_so_often_and_then_not_until_time_has_passed() {
        let mut guard = Guard::default();
        for turn in 1..=TIMES {
            assert!(guard.allows(domain(), AT));
            assert_eq!(guard.note(domain(), AT), turn == TIMES);
        }
        assert!(!guard.allows(domain(), AT));
        assert!(!guard.allows(domain(), AT + WHILE - Duration::from_secs(1)));
        assert!(guard.allows(domain(), AT + WHILE));
        assert!(!guard.note(domain(), AT + WHILE));
        guard.forget(domain());
        assert!(guard.allows(domain(), AT));
    }
}
