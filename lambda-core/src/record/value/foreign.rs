//! Fields of other crates' types.

use super::{Cell, CellRef, Field, Value};
use crate::record::{ColumnType, Family};

/// Implements [`Field`] for a type by another type of field.
macro_rules! field_as {
    ($type:ty, $as:ty, $read:expr) => {
        impl Field for $type {
            const FAMILY: Family = <$as>::FAMILY;

            fn column_type() -> ColumnType {
                <$as>::column_type()
            }

            fn read(cell: CellRef<'_>) -> Option<Self> {
                let read: fn($as) -> Option<$type> = $read;
                <$as>::read(cell).and_then(read)
            }
        }
    };
}

#[cfg(feature = "jiff")]
mod times {
    use jiff::civil::{Date, DateTime, Time, date};
    use jiff::{SignedDuration, Timestamp};

    use super::{Cell, CellRef, ColumnType, Family, Field, Value};
    use crate::record::{CivilMicros, DayMicros, UnixDays, UnixMicros};

    const EPOCH: Date = date(1970, 1, 1);

    /// Whole microseconds, cut towards the past.
    fn micros(duration: SignedDuration) -> i64 {
        duration.as_nanos().div_euclid(1_000) as i64
    }

    impl Value for Date {
        fn write(&self, cell: &mut Cell<'_>) {
            UnixDays((self.duration_since(EPOCH).as_hours() / 24) as i32).write(cell);
        }
    }

    field_as!(Date, UnixDays, |days| {
        EPOCH.checked_add(SignedDuration::from_hours(24 * i64::from(days.0))).ok()
    });

    impl Value for Timestamp {
        fn write(&self, cell: &mut Cell<'_>) {
            UnixMicros(micros(self.as_duration())).write(cell);
        }
    }

    field_as!(Timestamp, UnixMicros, |micros| Timestamp::from_microsecond(micros.0).ok());

    impl Value for DateTime {
        fn write(&self, cell: &mut Cell<'_>) {
            CivilMicros(micros(self.duration_since(EPOCH.at(0, 0, 0, 0)))).write(cell);
        }
    }

    field_as!(DateTime, CivilMicros, |micros| {
        EPOCH.at(0, 0, 0, 0).checked_add(SignedDuration::from_micros(micros.0)).ok()
    });

    impl Value for Time {
        fn write(&self, cell: &mut Cell<'_>) {
            DayMicros(micros(self.duration_since(Time::midnight()))).write(cell);
        }
    }

    field_as!(Time, DayMicros, |micros| {
        Time::midnight().checked_add(SignedDuration::from_micros(micros.0)).ok()
    });
}

#[cfg(feature = "rust_decimal")]
mod decimals {
    use rust_decimal::Decimal as Foreign;

    use super::{Cell, CellRef, ColumnType, Family, Field, Value};
    use crate::record::Decimal;

    impl Value for Foreign {
        fn write(&self, cell: &mut Cell<'_>) {
            // It has at most 28 decimals.
            Decimal { unscaled: self.mantissa(), scale: self.scale() as u8 }.write(cell);
        }
    }

    field_as!(Foreign, Decimal, |decimal| {
        Foreign::try_from_i128_with_scale(decimal.unscaled, u32::from(decimal.scale)).ok()
    });
}

#[cfg(feature = "serde_json")]
mod json {
    use serde_json::Value as Json;

    use super::{Cell, CellRef, ColumnType, Family, Field, Value};
    use crate::record::Jsonb;

    impl Value for Json {
        fn write(&self, cell: &mut Cell<'_>) {
            match Jsonb::parse(&self.to_string()) {
                Ok(json) => json.write(cell),
                Err(error) => cell.reject(error.reason(), error),
            }
        }
    }

    field_as!(Json, Jsonb, |json| serde_json::from_str(json.as_str()).ok());
}

#[cfg(all(test, feature = "jiff", feature = "rust_decimal", feature = "serde_json"))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use jiff::Timestamp;
    use jiff::civil::{DateTime, Time, date};
    use rust_decimal::Decimal;
    use serde_json::json;

    use super::*;
    use crate::record::value::fill;
    use crate::record::{UnixDays, UnixMicros};

    fn bytes<T: Field>(value: &T) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(!fill(T::column_type(), &mut out, value).unwrap());
        out.split_off(4)
    }

    fn again<T: Field>(value: &T) -> T {
        T::read(CellRef::new(&T::column_type(), Some(&bytes(value)))).unwrap()
    }

    #[test]
    fn values_of_other_crates_are_read_as_they_were_written() {
        for day in [date(1969, 12, 31), date(1970, 1, 1), date(-9999, 1, 1), date(9999, 12, 31)] {
            if day.year() > -4713 {
                assert_eq!(again(&day), day);
                let moment: DateTime = day.at(23, 59, 59, 999_999_000);
                assert_eq!(again(&moment), moment);
            }
        }
        assert_eq!(bytes(&date(1969, 12, 31)), bytes(&UnixDays(-1)));
        for micros in [-1, 0, 1, 253_402_207_200_000_000, -62_135_596_800_000_000] {
            let moment = Timestamp::from_microsecond(micros).unwrap();
            assert_eq!(again(&moment), moment);
            assert_eq!(bytes(&moment), bytes(&UnixMicros(micros)));
        }
        let before = Timestamp::from_nanosecond(-1).unwrap();
        assert_eq!(again(&before).as_microsecond(), -1, "digits are cut, as in a text");
        for time in [Time::midnight(), Time::new(23, 59, 59, 999_999_000).unwrap()] {
            assert_eq!(again(&time), time);
        }
        for text in
            ["0", "1.50", "-79228162514264337593543950335", "0.0000000000000000000000000001"]
        {
            let decimal: Decimal = text.parse().unwrap();
            assert_eq!(again(&decimal), decimal);
        }
        let value = json!({"b": [1, 2.5, null], "a": {"ä": true}});
        assert_eq!(again(&value), value);
    }

    #[test]
    fn json_that_postgresql_cannot_hold_is_rejected() {
        let mut out = Vec::new();
        let reject = fill(ColumnType::Jsonb, &mut out, &json!("a\0")).unwrap_err();
        assert_eq!(reject.reason.as_str(), "nul_character");
    }
}
