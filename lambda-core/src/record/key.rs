//! Keys in a form whose byte order is PostgreSQL's order of their columns, text in `collate
//! "C"`: all writers insert and lock rows in one order (rule R4, docs/protocol.md).
//!
//! `bool` is one byte and `uuid` 16; integers, `date` and `timestamptz` are big endian with the
//! sign bit flipped; text is its UTF-8 and, unless it is the last column, a zero byte, which no
//! text has.

use std::ops::Range;

use crate::record::{ColumnType, Table};

/// Locates the key of a row whose fields begin at `start` and end `out`. Appends the key, unless
/// the row has it in this form already, as most rows do.
pub(crate) fn locate(table: &Table, out: &mut Vec<u8>, start: usize) -> Range<usize> {
    let end = out.len();
    if let [index] = table.key_indexes()
        && is_as_sent(&table.columns()[*index].kind)
    {
        return value(out, start, *index);
    }
    for (number, index) in table.key_indexes().iter().enumerate() {
        let (from, value) = (out.len(), value(out, start, *index));
        out.extend_from_within(value);
        match &table.columns()[*index].kind {
            kind if kind.is_text() && number + 1 < table.key_indexes().len() => out.push(0),
            kind if is_as_sent(kind) => {}
            _ => {
                if let Some(first) = out.get_mut(from) {
                    *first ^= 0x80;
                }
            }
        }
    }
    end..out.len()
}

/// Whether a value's binary form orders as the value does.
fn is_as_sent(kind: &ColumnType) -> bool {
    kind.is_text() || matches!(kind, ColumnType::Bool | ColumnType::Uuid)
}

/// The value of the field `index` of a row that begins at `start`; empty for null.
fn value(out: &[u8], start: usize, index: usize) -> Range<usize> {
    let mut at = start;
    for _ in 0..index {
        at += 4 + length(out, at);
    }
    at + 4..at + 4 + length(out, at)
}

fn length(out: &[u8], at: usize) -> usize {
    let length = out.get(at..).and_then(|rest| rest.first_chunk::<4>());
    length.map_or(0, |length| usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0))
}
