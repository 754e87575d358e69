//! A moment by the calendar, in UTC.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};

/// A moment by the calendar, in UTC, to the second. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcTime {
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl UtcTime {
    /// Year, month, day, hour, minute, second; None if that is no moment.
    #[must_use]
    pub fn new([year, month, day, hour, minute, second]: [u32; 6]) -> Option<Self> {
        // A leap second is a moment.
        let is_one = (1970..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && hour < 24
            && minute < 60
            && second <= 60;
        is_one.then_some(Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
        })
    }

    /// The moment that long after the beginning of 1970, at the latest the end of the year 9999.
    #[must_use]
    pub fn after_epoch(span: Duration) -> Self {
        const SECONDS: u64 = 24 * 60 * 60;
        const LAST: u64 = 253_402_300_799;
        let seconds = span.as_secs().min(LAST);
        let (mut days, rest) = (seconds / SECONDS, seconds % SECONDS);
        let mut year = 1970;
        while days >= days_of(year) {
            days -= days_of(year);
            year += 1;
        }
        let february = days_of(year) - 337;
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            year: number(year),
            month,
            day: number(days + 1),
            hour: number(rest / 3600),
            minute: number(rest / 60 % 60),
            second: number(rest % 60),
        }
    }

    /// Its day: `2030-01-31`.
    #[must_use]
    pub fn date(&self) -> String {
        let Self {
            year, month, day, ..
        } = self;
        format!("{year:04}-{month:02}-{day:02}")
    }
}

/// How many days a year of the Gregorian calendar has.
fn days_of(year: u64) -> u64 {
    let is_leap = year % 4 == 0 && year % 100 != 0 || year % 400 == 0;
    if is_leap { 366 } else { 365 }
}

/// For people: to the minute.
impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hour, minute) = (self.hour, self.minute);
        write!(f, "{} {hour:02}:{minute:02} UTC", self.date())
    }
}

/// As in RFC 3339.
impl Serialize for UtcTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            hour,
            minute,
            second,
            ..
        } = self;
        let date = self.date();
        serializer.collect_str(&format_args!("{date}T{hour:02}:{minute:02}:{second:02}Z"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(seconds: u64) -> String {
        let moment = UtcTime::after_epoch(Duration::from_secs(seconds));
        serde_json::to_string(&moment).unwrap()
    }

    /// The numbers are those of `date --utc --date=@SECONDS`.
    #[test]
    fn seconds_become_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(shown(seconds), format!("\"{date}\""), "{seconds}");
        }
    }

    #[test]
    fn a_moment_is_read_and_compared() {
        let moment = |parts| UtcTime::new(parts);
        let first = moment([2030, 1, 31, 9, 8, 7]).unwrap();
        assert_eq!(first.to_string(), "2030-01-31 09:08 UTC");
        assert!(first < moment([2030, 2, 1, 0, 0, 0]).unwrap());
        for bad in [
            [0, 0, 0, 0, 0, 0],
            [2030, 13, 1, 0, 0, 0],
            [2030, 1, 0, 0, 0, 0],
            [2030, 1, 1, 24, 0, 0],
            [70000, 1, 1, 0, 0, 0],
        ] {
            assert_eq!(moment(bad), None, "{bad:?}");
        }
    }
}
