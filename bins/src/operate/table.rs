//! Prints tables for people, as wide as the terminal.

use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets,
};

/// The width where standard output is no terminal, in columns.
const ELSEWHERE: u16 = 100;

/// Narrowest column of prose that can still be read.
const PROSE_MIN: u16 = 16;

/// Content of a column, which decides how it is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Names, ids and times: never wrapped, so that they can be copied.
    Id,
    /// Numbers: never wrapped, aligned to the right.
    Number,
    /// Text, wrapped between words.
    Prose,
}

/// Formats `rows` under the titles of `columns`. Wraps prose to fit the terminal; only
/// columns that are never wrapped can make the table wider.
pub fn fitted<const N: usize>(
    columns: [(&str, Holds); N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    let width = table.width().unwrap_or(ELSEWHERE);
    table
        .load_style(presets::NOTHING)
        .set_width(width)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(columns.map(|(title, holds)| cell(title, holds)));
    for row in rows {
        let mut holds = columns.iter().map(|(_, holds)| *holds);
        table.add_row(row.map(|text| cell(text, holds.next().unwrap_or(Holds::Prose))));
    }
    for (column, (_, holds)) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2)).set_constraint(match holds {
            Holds::Id | Holds::Number => ColumnConstraint::ContentWidth,
            Holds::Prose => ColumnConstraint::LowerBoundary(Width::Fixed(PROSE_MIN)),
        });
    }
    table.trim_fmt()
}

fn cell(text: impl ToString, holds: Holds) -> Cell {
    let alignment = match holds {
        Holds::Number => CellAlignment::Right,
        Holds::Id | Holds::Prose => CellAlignment::Left,
    };
    Cell::new(text).set_alignment(alignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_wrapped_and_ids_are_not() {
        let id = "an-id-that-is-long-enough-to-be-cut-if-anything-were";
        let prose = "words ".repeat(60);
        let columns = [("id", Holds::Id), ("count", Holds::Number), ("text", Holds::Prose)];
        let rows = [[id.into(), "7".into(), prose], ["b".into(), "1234567".into(), "x".into()]];
        let table = fitted(columns, rows);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines.iter().all(|line| line.len() <= ELSEWHERE.into()), "{table}");
        assert!(lines[1].starts_with(id), "{table}");
        assert!(lines[1].contains("        7  words words"), "{table}");
        assert!(lines.iter().all(|line| line.trim_end() == *line), "{table}");
        assert_eq!(table.matches("words").count(), 60, "{table}");
    }

    #[test]
    fn an_id_stays_on_one_line_even_if_it_is_too_wide() {
        let id = "x".repeat(150);
        let table = fitted([("id", Holds::Id), ("text", Holds::Prose)], [[id.clone(), "y".into()]]);
        assert!(table.contains(&id), "{table}");
    }
}
