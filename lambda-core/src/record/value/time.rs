//! Days and moments as numbers.

mod parse;

pub use self::parse::TimeError;

use super::{Cell, CellRef, Field, Value};
use crate::dead_letter::Reason;
use crate::record::column_type::FRACTION_DIGITS_MAX;
use crate::record::{ColumnType, Family};

/// Days from the Unix epoch to PostgreSQL's, 2000-01-01.
const EPOCH_DAYS: i32 = 10_957;

/// The same in microseconds.
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * MICROS_PER_DAY;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The days that a `date` holds, from 4713 BC on, counted from PostgreSQL's epoch (`datetime.h`
/// there).
const DAYS: std::ops::Range<i32> = -2_451_545..2_145_031_949;

/// The microseconds that a timestamp holds, counted from PostgreSQL's epoch (`timestamp.h` there).
const MICROS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// Microseconds since PostgreSQL's epoch, as the server sends and receives a moment; nothing if it
/// is out of the server's range.
pub(crate) fn postgres_micros(unix_micros: i64) -> Option<i64> {
    unix_micros.checked_sub(EPOCH_MICROS).filter(|micros| MICROS.contains(micros))
}

/// Cuts digits of a second's fraction that a column does not have, as the server would round
/// them.
pub(crate) fn cut(micros: i64, precision: u8) -> i64 {
    let unit = 10_i64.pow(u32::from(FRACTION_DIGITS_MAX.saturating_sub(precision)));
    micros.saturating_sub(micros.rem_euclid(unit))
}

/// A day, in days since the Unix epoch, for a `date` column.
///
/// ```
/// use lambda_core::record::UnixDays;
///
/// assert_eq!("1970-01-31".parse::<UnixDays>()?, UnixDays(30));
/// # Ok::<(), lambda_core::record::TimeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixDays(pub i32);

impl Value for UnixDays {
    fn write(&self, cell: &mut Cell<'_>) {
        match self.0.checked_sub(EPOCH_DAYS).filter(|days| DAYS.contains(days)) {
            Some(days) => cell.put_as(&ColumnType::Date, &days.to_be_bytes()),
            None => cell.reject(Reason::InvalidField, "expected a date from 4713 BC on"),
        }
    }
}

impl Field for UnixDays {
    const FAMILY: Family = Family::DATE;

    fn column_type() -> ColumnType {
        ColumnType::Date
    }

    fn read(cell: CellRef<'_>) -> Option<Self> {
        let days = i32::from_be_bytes(cell.chunk(&ColumnType::Date)?);
        Some(Self(days.checked_add(EPOCH_DAYS)?))
    }
}

/// Puts microseconds since the Unix epoch, if they are in PostgreSQL's range.
fn put_moment(cell: &mut Cell<'_>, micros: i64) {
    match postgres_micros(micros) {
        Some(micros) => cell.put(&micros.to_be_bytes()),
        None => cell.reject(Reason::InvalidField, "expected a time from 4713 BC to 294276 AD"),
    }
}

fn read_moment(cell: CellRef<'_>) -> Option<i64> {
    let micros = i64::from_be_bytes(cell.bytes()?.try_into().ok()?);
    micros.checked_add(EPOCH_MICROS)
}

/// A moment, in microseconds since the Unix epoch, for a `timestamptz` column. Digits that the
/// column's precision does not have are cut.
///
/// ```
/// use lambda_core::record::UnixMicros;
///
/// let moment: UnixMicros = "1970-01-01T01:00:00.5+01:00".parse()?;
/// assert_eq!(moment, UnixMicros(500_000));
/// # Ok::<(), lambda_core::record::TimeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMicros(pub i64);

impl Value for UnixMicros {
    fn write(&self, cell: &mut Cell<'_>) {
        match *cell.kind() {
            ColumnType::Timestamptz { .. } => put_moment(cell, self.0),
            _ => cell.misfit("a moment"),
        }
    }
}

impl Field for UnixMicros {
    const FAMILY: Family = Family::TIMESTAMPTZ;

    fn column_type() -> ColumnType {
        ColumnType::TIMESTAMPTZ
    }

    fn read(cell: CellRef<'_>) -> Option<Self> {
        matches!(cell.kind(), ColumnType::Timestamptz { .. }).then(|| read_moment(cell))?.map(Self)
    }
}

/// A day and a time of no zone, in microseconds since 1970-01-01 00:00, for a `timestamp` column.
/// Digits that the column's precision does not have are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CivilMicros(pub i64);

impl Value for CivilMicros {
    fn write(&self, cell: &mut Cell<'_>) {
        match *cell.kind() {
            ColumnType::Timestamp { .. } => put_moment(cell, self.0),
            _ => cell.misfit("a time without a zone"),
        }
    }
}

impl Field for CivilMicros {
    const FAMILY: Family = Family::TIME;

    fn column_type() -> ColumnType {
        ColumnType::TIMESTAMP
    }

    fn read(cell: CellRef<'_>) -> Option<Self> {
        matches!(cell.kind(), ColumnType::Timestamp { .. }).then(|| read_moment(cell))?.map(Self)
    }
}

/// A time of day, in microseconds since midnight, for a `time` column; 24:00 is none. Digits that
/// the column's precision does not have are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DayMicros(pub i64);

impl Value for DayMicros {
    fn write(&self, cell: &mut Cell<'_>) {
        match *cell.kind() {
            ColumnType::Time { .. } if (0..MICROS_PER_DAY).contains(&self.0) => {
                cell.put(&self.0.to_be_bytes());
            }
            ColumnType::Time { .. } => {
                cell.reject(Reason::InvalidField, "expected a time from 00:00 to before 24:00");
            }
            _ => cell.misfit("a time of day"),
        }
    }
}

impl Field for DayMicros {
    const FAMILY: Family = Family::TIME;

    fn column_type() -> ColumnType {
        ColumnType::TIME
    }

    fn read(cell: CellRef<'_>) -> Option<Self> {
        let bytes = cell.bytes().filter(|_| matches!(cell.kind(), ColumnType::Time { .. }))?;
        Some(Self(i64::from_be_bytes(bytes.try_into().ok()?)))
    }
}

/// Julian day of PostgreSQL's epoch.
#[cfg(feature = "postgres")]
const EPOCH_JULIAN_DAY: i64 = 2_451_545;

/// A text that the server reads as this value. A day is given by its Julian day, which needs no
/// calendar.
#[cfg(feature = "postgres")]
pub(super) fn text(kind: &ColumnType, value: &[u8]) -> Option<String> {
    let day = |days: i64| format!("J{}", days + EPOCH_JULIAN_DAY);
    if *kind == ColumnType::Date {
        return Some(day(i64::from(i32::from_be_bytes(value.try_into().ok()?))));
    }
    let micros = i64::from_be_bytes(value.try_into().ok()?);
    let (days, micros) = (micros.div_euclid(MICROS_PER_DAY), micros.rem_euclid(MICROS_PER_DAY));
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let time = format!("{hours:02}:{minutes:02}:{seconds:02}.{fraction:06}");
    match kind {
        ColumnType::Time { .. } => Some(time),
        ColumnType::Timestamp { .. } => Some(format!("{} {time}", day(days))),
        ColumnType::Timestamptz { .. } => Some(format!("{} {time}+00", day(days))),
        _ => None,
    }
}
