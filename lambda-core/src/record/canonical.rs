//! The one form of each value. The server returns some values in another form than they are
//! sent: this is applied to both, so that equal values have equal bytes.

use crate::record::ColumnType;
use crate::record::column_type::FRACTION_DIGITS_MAX;
use crate::record::value::time;

/// Rewrites a value in PostgreSQL's binary form into the one form that it has in a row. Its
/// length stays.
#[inline]
pub(crate) fn make(kind: &ColumnType, value: &mut [u8]) {
    match kind {
        // What most columns are, without a call.
        ColumnType::Text
        | ColumnType::Numeric { .. }
        | ColumnType::Timestamptz { precision: FRACTION_DIGITS_MAX } => {}
        kind => make_other(kind, value),
    }
}

fn make_other(kind: &ColumnType, value: &mut [u8]) {
    match kind {
        ColumnType::Float4 => {
            if let Ok(bytes) = <&mut [u8; 4]>::try_from(value) {
                let float = f32::from_be_bytes(*bytes);
                // Zero has two signs, and there are many values that are no number.
                let float = if float.is_nan() { f32::NAN } else { float + 0.0 };
                *bytes = float.to_be_bytes();
            }
        }
        ColumnType::Float8 => {
            if let Ok(bytes) = <&mut [u8; 8]>::try_from(value) {
                let float = f64::from_be_bytes(*bytes);
                let float = if float.is_nan() { f64::NAN } else { float + 0.0 };
                *bytes = float.to_be_bytes();
            }
        }
        ColumnType::UnconstrainedNumeric => cut_zeros(value),
        // A wider column may hold digits that the record does not have.
        ColumnType::Time { precision }
        | ColumnType::Timestamp { precision }
        | ColumnType::Timestamptz { precision } => {
            if let Ok(bytes) = <&mut [u8; 8]>::try_from(value) {
                *bytes = time::cut(i64::from_be_bytes(*bytes), *precision).to_be_bytes();
            }
        }
        ColumnType::Array(element) => elements(element, value),
        _ => {}
    }
}

/// Whether a value that is not null in PostgreSQL is null as a record's: JSON has a null of its own.
#[cfg(feature = "postgres")]
pub(crate) fn is_null(kind: &ColumnType, value: &[u8]) -> bool {
    *kind == ColumnType::Jsonb && value.get(1..) == Some(b"null")
}

/// Sets the display scale of a numeric to the digits of its fraction without zeros at the end.
fn cut_zeros(value: &mut [u8]) {
    let Some((head, digits)) = value.split_first_chunk_mut::<8>() else { return };
    let [_, _, weight_high, weight_low, ..] = *head;
    let groups = digits.as_chunks::<2>().0;
    // Groups of four digits after the point.
    let behind = groups.len() as i32 - 1 - i32::from(i16::from_be_bytes([weight_high, weight_low]));
    let last = groups.last().map_or(0, |group| u16::from_be_bytes(*group));
    let zeros = (1..4).take_while(|digits| last % 10_u16.pow(*digits) == 0).count();
    let scale = if groups.is_empty() { 0 } else { (behind * 4 - zeros as i32).max(0) };
    head[6..].copy_from_slice(&(scale as u16).to_be_bytes());
}

/// Rewrites the elements of a one-dimensional array, whose first element gets the index 1.
fn elements(kind: &ColumnType, value: &mut [u8]) {
    let Some((head, mut rest)) = value.split_first_chunk_mut::<20>() else { return };
    if head[..4] != 1_i32.to_be_bytes() {
        return;
    }
    head[16..].copy_from_slice(&1_i32.to_be_bytes());
    let mut has_null = false;
    while let Some((length, fields)) = rest.split_first_chunk_mut::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length));
        has_null |= length.is_err();
        let Some((element, fields)) = fields.split_at_mut_checked(length.unwrap_or(0)) else {
            return;
        };
        make(kind, element);
        rest = fields;
    }
    head[4..8].copy_from_slice(&i32::from(has_null).to_be_bytes());
}
