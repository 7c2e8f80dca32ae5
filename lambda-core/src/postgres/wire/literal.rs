//! Arrays as the text that PostgreSQL reads.

use std::fmt::Write as _;

use uuid::Uuid;

use crate::record::value::{array_elements, numeric};
use crate::record::{CellRef, ColumnType, Field as _, Jsonb};

/// Julian day of PostgreSQL's epoch, 2000-01-01.
const EPOCH_JULIAN_DAY: i64 = 2_451_545;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The literal of an array in its canonical binary form; nothing if it is malformed.
pub(crate) fn of_array(element: &ColumnType, array: &[u8]) -> Option<String> {
    let mut literal = String::from("{");
    for (index, value) in array_elements(array)?.into_iter().enumerate() {
        literal.push_str(if index > 0 { "," } else { "" });
        match value {
            None => literal.push_str("NULL"),
            Some(value) => put_quoted(&mut literal, &text(element, value)?),
        }
    }
    literal.push('}');
    Some(literal)
}

fn put_quoted(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}

/// A text that the type's input function reads as this value.
fn text(kind: &ColumnType, value: &[u8]) -> Option<String> {
    let cell = CellRef::new(kind, Some(value));
    Some(match kind {
        ColumnType::Bool => bool::read(cell)?.to_string(),
        ColumnType::Int2 => i16::read(cell)?.to_string(),
        ColumnType::Int4 => i32::read(cell)?.to_string(),
        ColumnType::Int8 => i64::read(cell)?.to_string(),
        // The shortest text of which the same value is read.
        ColumnType::Float4 => f32::read(cell)?.to_string(),
        ColumnType::Float8 => f64::read(cell)?.to_string(),
        ColumnType::Numeric { .. } | ColumnType::UnconstrainedNumeric => {
            numeric::get(value)?.to_string()
        }
        ColumnType::Text | ColumnType::Varchar { .. } => String::read(cell)?,
        ColumnType::Bytea => value.iter().fold(String::from("\\x"), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        ColumnType::Uuid => Uuid::read(cell)?.to_string(),
        ColumnType::Date => day(i64::from(i32::from_be_bytes(value.try_into().ok()?))),
        ColumnType::Time { .. } => time(i64::from_be_bytes(value.try_into().ok()?)),
        ColumnType::Timestamp { .. } | ColumnType::Timestamptz { .. } => {
            let micros = i64::from_be_bytes(value.try_into().ok()?);
            let (days, micros) =
                (micros.div_euclid(MICROS_PER_DAY), micros.rem_euclid(MICROS_PER_DAY));
            let zone = if matches!(kind, ColumnType::Timestamptz { .. }) { "+00" } else { "" };
            format!("{} {}{zone}", day(days), time(micros))
        }
        ColumnType::Jsonb => Jsonb::read(cell)?.as_str().to_owned(),
        ColumnType::Enum { .. } | ColumnType::Array(_) => return None,
    })
}

/// A day as a Julian day, which needs no calendar.
fn day(days: i64) -> String {
    format!("J{}", days + EPOCH_JULIAN_DAY)
}

fn time(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{fraction:06}")
}
