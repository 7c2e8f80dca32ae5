//! Arrays as the text that PostgreSQL reads.

use crate::record::ColumnType;
use crate::record::value::{array_elements, text};

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
