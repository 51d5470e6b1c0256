//! Points in time, given by the caller: nothing here reads a clock.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Microseconds since 1970-01-01T00:00:00Z. Shown as Ceph shows times: `2026-11-21T03:07:10.079378+0000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// How far two points are apart, whichever is the earlier: clocks of several machines are compared with it.
    pub fn distance(self, other: Self) -> Duration {
        Duration::from_micros(self.0.abs_diff(other.0))
    }

    /// Year, month, day of the civil calendar for a count of days since 1970-01-01.
    ///
    /// The year is taken to begin in March, so that the leap day is the last one of it; 146,097 days are 400 years.
    fn civil(days: u64) -> (u64, u64, u64) {
        const DAYS_TO_1970: u64 = 719_468; // from 0000-03-01
        const DAYS_IN_400_YEARS: u64 = 146_097;
        let shifted = days + DAYS_TO_1970;
        let era = shifted / DAYS_IN_400_YEARS;
        let day_of_era = shifted % DAYS_IN_400_YEARS;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        (year, month, day)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = Self::civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+0000")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn civil_dates() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000+0000"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000+0000"),
            (951_868_799_999_999, "2000-02-29T23:59:59.999999+0000"),
            (1_795_230_430_079_378, "2026-11-21T03:07:10.079378+0000"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000+0000"),
        ] {
            assert_eq!(Timestamp(micros).to_string(), text);
        }
    }
}
