//! Moments in UTC.

use std::fmt;

use super::Expected;
use crate::record::{Cell, UnixMicros, Value};

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// 0001-01-01 00:00:00 UTC, in microseconds since the Unix epoch.
const FIRST: i64 = -62_135_596_800 * MICROS_PER_SECOND;
/// 10000-01-01 00:00:00 UTC, in microseconds since the Unix epoch.
const END: i64 = 253_402_300_800 * MICROS_PER_SECOND;

/// A moment of the years 1 to 9999 UTC, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    const EXPECTED: Expected =
        Expected("a time as YYYY-MM-DD HH:MM:SS[.ffffff] in UTC, or as RFC 3339 with an offset");

    /// The moment that `text` spells: `YYYY-MM-DD HH:MM:SS[.f]`, taken as UTC, or RFC 3339
    /// with an offset, which a `T` requires. Digits of the fraction after the sixth are
    /// cut.
    ///
    /// # Errors
    /// For any other text, a date or time that does not exist (second 60 and
    /// hour 24 among them), and a moment outside the years 1 to 9999.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        parse(text.as_bytes()).ok_or(Self::EXPECTED).and_then(Self::from_unix_micros)
    }

    /// Creates a moment from microseconds since the Unix epoch.
    ///
    /// # Errors
    /// If it is outside the years 1 to 9999.
    pub const fn from_unix_micros(micros: i64) -> Result<Self, Expected> {
        if FIRST <= micros && micros < END { Ok(Self(micros)) } else { Err(Self::EXPECTED) }
    }

    /// Microseconds since the Unix epoch.
    pub const fn unix_micros(self) -> i64 {
        self.0
    }
}

impl Value for Timestamp {
    fn write(&self, cell: &mut Cell<'_>) {
        UnixMicros(self.unix_micros()).write(cell);
    }
}

impl fmt::Display for Timestamp {
    /// Writes `YYYY-MM-DD HH:MM:SS` in UTC, with six more digits unless they are zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(MICROS_PER_SECOND);
        let (year, month, day) = date_of(seconds.div_euclid(SECONDS_PER_DAY));
        let second = seconds.rem_euclid(SECONDS_PER_DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")?;
        match self.0.rem_euclid(MICROS_PER_SECOND) {
            0 => Ok(()),
            micros => write!(f, ".{micros:06}"),
        }
    }
}

/// Microseconds since the Unix epoch.
fn parse(bytes: &[u8]) -> Option<i64> {
    let (clock, rest) = bytes.split_at_checked(19)?;
    for (at, mark) in [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')] {
        if clock[at] != mark {
            return None;
        }
    }
    let year = number(&clock[0..4])?;
    let (month, day) = (number(&clock[5..7])?, number(&clock[8..10])?);
    let (hour, minute, second) =
        (number(&clock[11..13])?, number(&clock[14..16])?, number(&clock[17..19])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (micros, rest) = fraction(rest)?;
    let offset = match (clock[10], rest) {
        (b' ', []) => 0,
        (b' ' | b'T' | b't', offset) => offset_seconds(offset)?,
        _ => return None,
    };
    let seconds = days_of(year, month, day)? * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
    Some((seconds - offset) * MICROS_PER_SECOND + micros)
}

/// The value of ASCII digits, few enough not to overflow.
fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0'))
    })
}

/// Parses an optional fraction into microseconds; returns the remaining bytes too.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let [b'.', rest @ ..] = rest else {
        return Some((0, rest));
    };
    let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let kept = length.min(6);
    let missing = u32::try_from(6 - kept).ok()?;
    let micros = number(&rest[..kept])? * 10_i64.pow(missing);
    (length > 0).then(|| (micros, &rest[length..]))
}

/// Seconds east of UTC.
fn offset_seconds(offset: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match offset {
        [b'Z' | b'z'] => return Some(0),
        [b'+', h1, h2, b':', m1, m2] => (1, [*h1, *h2], [*m1, *m2]),
        [b'-', h1, h2, b':', m1, m2] => (-1, [*h1, *h2], [*m1, *m2]),
        _ => return None,
    };
    let (hours, minutes) = (number(&hours)?, number(&minutes)?);
    (hours < 24 && minutes < 60).then(|| sign * (hours * 3600 + minutes * 60))
}

/// Days from the Unix epoch to a date of the proleptic Gregorian calendar
/// (`days_from_civil` of Howard Hinnant's "chrono-Compatible Low-Level Date
/// Algorithms": years begin in March, so that the leap day is the last).
fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        1..=12 => 31,
        _ => return None,
    };
    if day < 1 || day > days_in_month {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// The date so many days after the Unix epoch (`civil_from_days` of the same).
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12 + 1;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use proptest::prelude::*;

    use super::*;

    fn micros(text: &str) -> Option<i64> {
        Timestamp::parse(text).ok().map(Timestamp::unix_micros)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn every_moment_reads_back(micros in FIRST..END) {
            let moment = Timestamp::from_unix_micros(micros).unwrap();
            prop_assert_eq!(Timestamp::parse(&moment.to_string()), Ok(moment));
        }

        #[test]
        fn agrees_with_jiff(
            year in 1..=9999_i16, month in 0..=13_i8, day in 0..=32_i8,
            hour in 0..=24_i8, minute in 0..=60_i8, second in 0..=60_i8,
            fraction in "[0-9]{1,6}", zone in -1439..=1439_i64,
        ) {
            let clock = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
            let micros_behind: i64 = format!("{fraction:0<6}").parse().unwrap();
            let sign = if zone < 0 { '-' } else { '+' };
            let (hours, minutes) = (zone.abs() / 60, zone.abs() % 60);
            let text = format!("{clock}.{fraction}{sign}{hours:02}:{minutes:02}");
            let expected = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0)
                .ok()
                .map(|civil| civil.duration_since(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0)))
                .map(|since| (since.as_secs() - zone * 60) * MICROS_PER_SECOND + micros_behind)
                .filter(|micros| (FIRST..END).contains(micros));
            prop_assert_eq!(micros(&text), expected, "{}", text);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", mutation in 0..40_usize, by in any::<char>()) {
            let _ = Timestamp::parse(&text);
            let mut characters: Vec<char> = "2026-01-31 23:59:58.123456+02:00".chars().collect();
            if let Some(place) = characters.get_mut(mutation) {
                *place = by;
            }
            let mutated: String = characters.into_iter().collect();
            if let Ok(moment) = Timestamp::parse(&mutated) {
                prop_assert_eq!(Timestamp::parse(&moment.to_string()), Ok(moment));
            }
        }
    }

    #[test]
    fn both_forms_and_cut_fractions_are_read() {
        let second = 1_750_000_000 * MICROS_PER_SECOND;
        for text in [
            "2025-06-15 15:06:40",
            "2025-06-15 15:06:40.0000009",
            "2025-06-15T15:06:40Z",
            "2025-06-15t15:06:40z",
            "2025-06-15T17:06:40+02:00",
            "2025-06-15 11:06:40-04:00",
        ] {
            assert_eq!(micros(text), Some(second), "{text}");
        }
        assert_eq!(micros("2025-06-15 15:06:40.1234567"), Some(second + 123_456));
        assert_eq!(micros("1969-12-31 23:59:59.9"), Some(-100_000));
    }

    #[test]
    fn a_text_that_is_not_a_moment_is_refused() {
        for text in [
            "",
            "2025-06-15",
            "2025-06-15T15:06:40",
            "2025-06-15 24:00:00",
            "2025-06-15 15:06:60",
            "2025-06-15 15:06",
            "2025-06-15 15:06:40.",
            "2025-06-15 15:06:40 ",
            "2025-06-15 15:06:40 UTC",
            "2025-06-15T15:06:40+0200",
            "2025-06-15T15:06:40+24:00",
            "2025-06-15T15:06:40Z[UTC]",
            "2025-02-29 00:00:00",
            "1900-02-29 00:00:00",
            "0000-01-01 00:00:00",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "+2025-06-15 15:06:40",
            " 2025-06-15 15:06:40",
            "2025-06-15 1\u{661}:06:40",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
    }
}
