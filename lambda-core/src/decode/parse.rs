//! From a value as a format spells it to the value of a column: the one place for all types and
//! both formats.

use std::fmt::Display;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use uuid::Uuid;

use super::json::elements;
use super::spelled::Spelled;
use crate::dead_letter::Reason;
use crate::record::value::numeric::Number;
use crate::record::{Cell, CivilMicros, ColumnType, DayMicros, Jsonb, UnixDays, UnixMicros, Value};

impl Spelled<'_> {
    fn write_unescaped(self, cell: &mut Cell<'_>) {
        match self.unescaped() {
            Some(text) => Spelled::Text(&text).write(cell),
            None => cell.reject(Reason::InvalidField, "expected text without unpaired surrogates"),
        }
    }

    /// Rejects the record for this value. `expected` describes what is expected, never the value.
    fn reject(self, cell: &mut Cell<'_>, expected: impl Display) {
        if self.text().is_some_and(|text| text.contains('\0')) {
            let expected = "PostgreSQL's text cannot hold a NUL character";
            return cell.reject(Reason::NulCharacter, expected);
        }
        cell.reject(Reason::InvalidField, format_args!("expected {expected}"));
    }

    /// Writes the value that the type's own parser makes of a text.
    fn parsed<T: FromStr<Err: Display> + Value>(self, cell: &mut Cell<'_>) {
        match self.text().map(str::parse::<T>) {
            Some(Ok(value)) => value.write(cell),
            Some(Err(error)) => {
                let text = error.to_string();
                self.reject(cell, text.strip_prefix("expected ").unwrap_or(&text));
            }
            None => self.reject(cell, "text"),
        }
    }

    /// Writes a whole number of `bits` bits.
    fn integer<T: TryFrom<i128> + Value>(self, cell: &mut Cell<'_>, bits: u32) {
        let whole = self.digits().and_then(whole);
        match whole.and_then(|whole| T::try_from(whole).ok()) {
            Some(value) => value.write(cell),
            None => self.reject(cell, format_args!("a whole number of {bits} bits")),
        }
    }

    /// Writes a number parsed at its own width: one that is too large for it is no infinity.
    fn float<T: FromStr + Value + Copy>(
        self,
        cell: &mut Cell<'_>,
        is_infinite: impl Fn(T) -> bool,
    ) {
        let number = self.digits().and_then(|text| {
            let has_digits = text.bytes().any(|byte| byte.is_ascii_digit());
            let named = matches!(text, "NaN" | "Infinity" | "-Infinity");
            let value = text.parse().ok().filter(|_| has_digits || named)?;
            (named || !is_infinite(value)).then_some(value)
        });
        match number {
            Some(value) => value.write(cell),
            None => self.reject(cell, "a number in the type's range"),
        }
    }

    fn bool(self, cell: &mut Cell<'_>) {
        let is = |word: &str| {
            let (Self::Field(text) | Self::PlainField(text)) = self else { return false };
            text.eq_ignore_ascii_case(word)
        };
        match self {
            Self::Bool(value) => value.write(cell),
            _ if is("true") => true.write(cell),
            _ if is("false") => false.write(cell),
            Self::Field(_) => self.reject(cell, "true or false"),
            _ => cell.reject(Reason::InvalidField, "expected true or false"),
        }
    }

    fn bytea(self, cell: &mut Cell<'_>) {
        let bytes = self.text().and_then(|text| match text.strip_prefix("\\x") {
            Some(hex) => HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok(),
            None => BASE64.decode(text.as_bytes()).ok(),
        });
        match bytes {
            Some(bytes) => bytes.write(cell),
            None => self.reject(cell, "bytes in base64, or \\x and hexadecimal digits"),
        }
    }

    fn jsonb(self, cell: &mut Cell<'_>) {
        match self.json().map(Jsonb::parse) {
            Some(Ok(value)) => value.write(cell),
            Some(Err(error)) => cell.reject(error.reason(), error),
            None => self.reject(cell, "JSON"),
        }
    }

    fn array(self, cell: &mut Cell<'_>, element: &ColumnType) {
        match self.json().map(|json| elements(json, *element == ColumnType::Jsonb)) {
            Some(Some(elements)) => elements.write(cell),
            _ => self.reject(cell, "an array of JSON"),
        }
    }
}

impl Value for Spelled<'_> {
    #[inline]
    fn write(&self, cell: &mut Cell<'_>) {
        match self {
            Spelled::Null => {}
            Spelled::Plain(text) | Spelled::PlainField(text)
                if matches!(cell.kind, ColumnType::Text) =>
            {
                cell.put_text(text);
            }
            other => other.write_other(cell),
        }
    }
}

impl Spelled<'_> {
    fn write_other(self, cell: &mut Cell<'_>) {
        if let Spelled::Escaped(_) = self {
            return self.write_unescaped(cell);
        }
        if self.text().is_some_and(|text| cell.is_null(text)) {
            return;
        }
        let kind = cell.kind;
        match kind {
            ColumnType::Text | ColumnType::Varchar { .. } | ColumnType::Enum { .. } => match self {
                Spelled::Plain(text) | Spelled::PlainField(text) => cell.put_text(text),
                Spelled::Text(text) | Spelled::Field(text) => text.write(cell),
                _ => self.reject(cell, "text"),
            },
            ColumnType::Numeric { .. } | ColumnType::UnconstrainedNumeric => {
                match self.digits().and_then(Number::parse) {
                    Some(number) => number.write(cell),
                    None => self.reject(cell, "a decimal number"),
                }
            }
            ColumnType::Bool => self.bool(cell),
            ColumnType::Int2 => self.integer::<i16>(cell, 16),
            ColumnType::Int4 => self.integer::<i32>(cell, 32),
            ColumnType::Int8 => self.integer::<i64>(cell, 64),
            ColumnType::Float4 => self.float(cell, f32::is_infinite),
            ColumnType::Float8 => self.float(cell, f64::is_infinite),
            ColumnType::Bytea => self.bytea(cell),
            ColumnType::Uuid => self.uuid(cell),
            ColumnType::Date => self.parsed::<UnixDays>(cell),
            ColumnType::Time { .. } => self.parsed::<DayMicros>(cell),
            ColumnType::Timestamp { .. } => self.parsed::<CivilMicros>(cell),
            ColumnType::Timestamptz { .. } => self.parsed::<UnixMicros>(cell),
            ColumnType::Jsonb => self.jsonb(cell),
            ColumnType::Array(element) => self.array(cell, element),
        }
    }

    fn uuid(self, cell: &mut Cell<'_>) {
        match self.text().and_then(|text| Uuid::try_parse(text).ok()) {
            Some(uuid) => uuid.write(cell),
            None => self.reject(cell, "a uuid"),
        }
    }
}

/// The whole number that a text spells; the value decides, so `1e2` and `100.0` are one.
fn whole(text: &str) -> Option<i128> {
    match text.parse::<i64>() {
        Ok(whole) => Some(whole.into()),
        Err(_) => Number::parse(text)?.whole(),
    }
}

#[cfg(test)]
mod tests;
