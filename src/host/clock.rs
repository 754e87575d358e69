//! Time that does not jump: everything is measured since boot.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::fault;
pub use crate::device::boot_id;

/// Time since boot, suspension included (`CLOCK_BOOTTIME`). Comparable between
/// processes as long as [`boot_id`] is the same.
#[must_use]
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .unwrap_or_default()
}

/// Seconds since 1970, by the host's clock. It may jump: only for what is dated.
#[cfg(feature = "cli")]
#[must_use]
pub fn since_1970() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// The moment that far from now, or the farthest one that the clock can express.
fn later(span: Duration) -> Instant {
    const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(span)
        .or_else(|| now.checked_add(FOR_EVER))
        .unwrap_or(now)
}

/// The time at which waiting ends.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

/// A pause of ours that nobody but people would notice if it were left out: tests leave
/// it out.
#[must_use]
pub fn patience(span: Duration) -> Deadline {
    Deadline::after(if fault::has_pauses() {
        span
    } else {
        Duration::ZERO
    })
}

impl Deadline {
    /// The deadline after that time span.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        Self(later(span))
    }

    /// The time that is left; zero when the deadline has passed.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether the deadline has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.left().is_zero()
    }

    /// The earlier of this deadline and the end of that time span.
    #[must_use]
    pub fn at_most(self, span: Duration) -> Self {
        Self(self.0.min(later(span)))
    }

    /// Asks `question` until it says yes or time is up; for states of the
    /// kernel that announce themselves by no event.
    pub fn wait_until(self, mut question: impl FnMut() -> bool) -> bool {
        let mut pause = Duration::from_millis(1);
        loop {
            if question() {
                return true;
            }
            if self.has_passed() {
                return false;
            }
            std::thread::sleep(pause.min(self.left()));
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_span_is_too_long() {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        for span in [Duration::MAX, Duration::from_secs(u64::MAX)] {
            assert!(Deadline::after(span).left() > 90 * YEAR);
            assert!(Deadline::after(YEAR).at_most(span).left() <= YEAR);
        }
        assert!(Deadline::after(Duration::ZERO).has_passed());
    }
}
