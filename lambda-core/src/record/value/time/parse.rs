//! Dates and times from their texts: ISO 8601 as PostgreSQL and RFC 3339 write it, years 1 to
//! 9999.

use std::fmt;
use std::str::FromStr;

use super::{CivilMicros, DayMicros, UnixDays, UnixMicros};

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Microseconds that the last digit of a fraction counts, by the number of digits.
const UNITS: [i64; 6] = [100_000, 10_000, 1_000, 100, 10, 1];

/// The microseconds since the Unix epoch of the years 1 to 9999.
const MICROS: std::ops::Range<i64> =
    -62_135_596_800 * MICROS_PER_SECOND..253_402_300_800 * MICROS_PER_SECOND;

/// A text is no date or time; it says which form is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct TimeError(&'static str);

impl FromStr for UnixDays {
    type Err = TimeError;

    /// Reads `YYYY-MM-DD`.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let read = || match date(text.as_bytes())? {
            (days, []) => i32::try_from(days).ok(),
            _ => None,
        };
        read().map(Self).ok_or(TimeError("a date as YYYY-MM-DD"))
    }
}

impl FromStr for DayMicros {
    type Err = TimeError;

    /// Reads `HH:MM:SS[.f]`.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let read = || match clock(text.as_bytes())? {
            (micros, []) => Some(micros),
            _ => None,
        };
        read().map(Self).ok_or(TimeError("a time as HH:MM:SS[.ffffff]"))
    }
}

impl FromStr for CivilMicros {
    type Err = TimeError;

    /// Reads `YYYY-MM-DD HH:MM:SS[.f]`, also with a `T`; no offset.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let read = || match date(text.as_bytes())? {
            (days, [b' ' | b'T' | b't', time @ ..]) => match clock(time)? {
                (micros, []) => Some(days * SECONDS_PER_DAY * MICROS_PER_SECOND + micros),
                _ => None,
            },
            _ => None,
        };
        read().map(Self).ok_or(TimeError("a time as YYYY-MM-DD HH:MM:SS[.ffffff], without offset"))
    }
}

impl FromStr for UnixMicros {
    type Err = TimeError;

    /// Reads `YYYY-MM-DD HH:MM:SS[.f]`, taken as UTC, or RFC 3339 with an offset, which a `T`
    /// requires: a text with a `T` and none is local time in some programs.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        moment(text.as_bytes()).filter(|micros| MICROS.contains(micros)).map(Self).ok_or(TimeError(
            "a time as YYYY-MM-DD HH:MM:SS[.ffffff] in UTC, or as RFC 3339 with an offset",
        ))
    }
}

impl fmt::Display for UnixMicros {
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

fn moment(text: &[u8]) -> Option<i64> {
    let (days, rest) = date(text)?;
    let (mark, rest) = rest.split_first()?;
    let (micros, rest) = clock(rest)?;
    let offset = match (mark, rest) {
        (b' ', []) => 0,
        (b' ' | b'T' | b't', offset) => offset_seconds(offset)?,
        _ => return None,
    };
    Some((days * SECONDS_PER_DAY - offset) * MICROS_PER_SECOND + micros)
}

/// The days since the Unix epoch that a text begins with, and the rest of it.
fn date(text: &[u8]) -> Option<(i64, &[u8])> {
    let ([y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2], rest) = text.split_first_chunk()? else {
        return None;
    };
    let year = two(*y1, *y2)? * 100 + two(*y3, *y4)?;
    let days = days_of(year, two(*m1, *m2)?, two(*d1, *d2)?)?;
    Some((days, rest))
}

/// The microseconds since midnight that a text begins with, and the rest of it. Digits of the
/// fraction after the sixth are cut.
fn clock(text: &[u8]) -> Option<(i64, &[u8])> {
    let ([h1, h2, b':', m1, m2, b':', s1, s2], rest) = text.split_first_chunk()? else {
        return None;
    };
    let (hour, minute, second) = (two(*h1, *h2)?, two(*m1, *m2)?, two(*s1, *s2)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (micros, rest) = fraction(rest)?;
    Some(((hour * 3600 + minute * 60 + second) * MICROS_PER_SECOND + micros, rest))
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    let digits = [tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0')];
    (digits[0] < 10 && digits[1] < 10).then(|| i64::from(digits[0] * 10 + digits[1]))
}

fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let [b'.', rest @ ..] = rest else { return Some((0, rest)) };
    let (mut micros, mut length) = (0, 0);
    for digit in rest.iter().take_while(|byte| byte.is_ascii_digit()) {
        if length < UNITS.len() {
            micros = micros * 10 + i64::from(digit - b'0');
        }
        length += 1;
    }
    let unit = UNITS[length.clamp(1, UNITS.len()) - 1];
    (length > 0).then(|| (micros * unit, &rest[length..]))
}

fn offset_seconds(offset: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match offset {
        [b'Z' | b'z'] => return Some(0),
        // As PostgreSQL writes whole hours.
        [b'+', h1, h2] => (1, two(*h1, *h2)?, 0),
        [b'-', h1, h2] => (-1, two(*h1, *h2)?, 0),
        [b'+', h1, h2, b':', m1, m2] => (1, two(*h1, *h2)?, two(*m1, *m2)?),
        [b'-', h1, h2, b':', m1, m2] => (-1, two(*h1, *h2)?, two(*m1, *m2)?),
        _ => return None,
    };
    (hours < 24 && minutes < 60).then(|| sign * (hours * 3600 + minutes * 60))
}

/// The days since the Unix epoch of a day that exists, in years from 1 on.
///
/// Counts in years that begin in March, by Howard Hinnant's `days_from_civil`.
fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        1..=12 => 31,
        _ => return None,
    };
    if year < 1 || day < 1 || day > days_in_month {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Year, month and day of a day since the Unix epoch; the inverse of [`days_of`].
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
    use proptest::prelude::*;

    use super::*;

    fn micros(text: &str) -> Option<i64> {
        text.parse::<UnixMicros>().ok().map(|moment| moment.0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn agrees_with_jiff(
            year in 0..=9999_i16, month in 0..=13_i8, day in 0..=32_i8,
            hour in 0..=24_i8, minute in 0..=60_i8, second in 0..=60_i8,
            fraction in "[0-9]{1,9}", zone in -1439..=1439_i64,
        ) {
            let day_text = format!("{year:04}-{month:02}-{day:02}");
            let clock = format!("{hour:02}:{minute:02}:{second:02}.{fraction}");
            let behind: i64 = format!("{fraction:0<6}")[..6].parse().expect("digits");
            let date = jiff::civil::Date::new(year, month, day).ok().filter(|_| year > 0);
            let time = jiff::civil::Time::new(hour, minute, second, 0).ok();
            let days = date.map(|date| {
                date.duration_since(jiff::civil::date(1970, 1, 1)).as_hours() / 24
            });
            let micros_of_day = time.map(|time| {
                let seconds = time.duration_since(jiff::civil::Time::midnight()).as_secs();
                seconds * MICROS_PER_SECOND + behind
            });
            prop_assert_eq!(day_text.parse::<UnixDays>().ok().map(|it| i64::from(it.0)), days);
            prop_assert_eq!(clock.parse::<DayMicros>().ok().map(|it| it.0), micros_of_day);
            let civil = days.zip(micros_of_day);
            let civil = civil.map(|(days, micros)| days * 86_400 * MICROS_PER_SECOND + micros);
            for mark in [' ', 'T'] {
                let text = format!("{day_text}{mark}{clock}");
                prop_assert_eq!(text.parse::<CivilMicros>().ok().map(|it| it.0), civil);
            }
            prop_assert_eq!(micros(&format!("{day_text} {clock}")), civil);
            let sign = if zone < 0 { '-' } else { '+' };
            let (hours, minutes) = (zone.abs() / 60, zone.abs() % 60);
            let text = format!("{day_text}T{clock}{sign}{hours:02}:{minutes:02}");
            let expected = civil.map(|civil| civil - zone * 60 * MICROS_PER_SECOND);
            prop_assert_eq!(micros(&text), expected.filter(|it| MICROS.contains(it)), "{}", text);
        }

        #[test]
        fn every_moment_reads_back(micros in MICROS) {
            prop_assert_eq!(UnixMicros(micros).to_string().parse(), Ok(UnixMicros(micros)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", mutation in 0..40_usize, by in any::<char>()) {
            let mut characters: Vec<char> = "2026-01-31 23:59:58.123456+02:00".chars().collect();
            if let Some(place) = characters.get_mut(mutation) {
                *place = by;
            }
            for text in [text, characters.into_iter().collect()] {
                let _ = (text.parse::<UnixDays>(), text.parse::<DayMicros>());
                let _ = (text.parse::<CivilMicros>(), micros(&text));
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
            "2025-06-15 15:06:40+00",
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
            "infinity",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
        for text in ["2025-06-15 15:06:40Z", "2025-06-15 15:06:40+00:00", "2025-06-15"] {
            assert!(text.parse::<CivilMicros>().is_err(), "{text}");
        }
        for text in ["24:00:00", "23:59", "23:59:60", "23:59:59Z", "-infinity"] {
            assert!(text.parse::<DayMicros>().is_err(), "{text}");
            assert!(text.parse::<UnixDays>().is_err(), "{text}");
        }
    }
}
