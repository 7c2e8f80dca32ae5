//! The header line: which column of a file is which column of the table.

use std::iter;
use std::sync::Arc;

use super::BOM;
use super::split::{self, Defect};
use crate::error::Error;
use crate::record::{Scratch, Table};

/// A file's header: the position of each of the table's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub(super) table: Arc<Table>,
    /// Index in a row of each of the table's columns.
    pub(super) columns: Vec<usize>,
    /// Fields in a row.
    pub(super) width: usize,
}

impl Header {
    /// Reads the header line, with or without byte order mark and line end. The
    /// columns of `table` are found by name, in any order; others are ignored.
    ///
    /// # Errors
    /// [`Error::Input`] for a line that is not text or has a misplaced quote, or that lacks
    /// a column or has it twice; the error names the column. It quotes no other text of the
    /// line: in a file without a header, that line is a record.
    pub fn parse(line: &[u8], table: &Arc<Table>) -> Result<Self, Error> {
        let input = |what: String| Error::Input { what: format!("the header line {what}") };
        let line = line.strip_prefix(BOM).unwrap_or(line);
        let text = std::str::from_utf8(line);
        let text = text.map_err(|_| input("is not UTF-8: convert the file".into()))?;
        let separated = |what: String| input(other_delimiter(table, text).unwrap_or(what));
        let names = names(line).map_err(separated)?;
        let mut columns = Vec::with_capacity(table.columns().len());
        for column in table.columns() {
            let field = &*column.field;
            let mut places = names.iter().enumerate().filter(|(_, name)| *name == field);
            let Some((place, _)) = places.next() else {
                return Err(separated(missing(field, &names)));
            };
            if places.next().is_some() {
                return Err(input(format!("has the column {field} twice")));
            }
            columns.push(place);
        }
        Ok(Self { table: Arc::clone(table), columns, width: names.len() })
    }

    /// Number of fields that every row must have.
    pub fn width(&self) -> usize {
        self.width
    }
}

/// The names in a header line, or what is wrong with it.
fn names(line: &[u8]) -> Result<Vec<String>, String> {
    let mut fields = Scratch::default();
    match fields.split(line) {
        Ok(()) | Err(Defect::Blank) => {}
        Err(Defect::More) => return Err("has another line after it".into()),
        Err(Defect::Quote { at, misplaced }) => {
            let (line, column) = split::place(line, at, 1);
            return Err(format!("is malformed at line {line} column {column}: {misplaced}"));
        }
    }
    let starts = iter::once(0).chain(fields.ends.iter().copied());
    let name = |(start, end): (usize, &usize)| String::from_utf8_lossy(&fields.text[start..*end]);
    Ok(starts.zip(&fields.ends).map(|place| name(place).into_owned()).collect())
}

/// Describes the missing `field`, and the name that was probably meant.
fn missing(field: &str, names: &[String]) -> String {
    let Some(name) = names.iter().find(|name| is_nearly(name, field)) else {
        return format!("has no column {field}");
    };
    let differs = if name.eq_ignore_ascii_case(field) { "case" } else { "spaces and case" };
    format!("has no column {field} but {name:?}: names must match exactly, {differs} included")
}

/// Names the other delimiter that separates columns of `table`, if one does.
fn other_delimiter(table: &Table, line: &str) -> Option<String> {
    let delimiters = [(';', "semicolons"), ('\t', "tabs"), ('|', "pipes")];
    let separates = |delimiter: char| {
        let is_column = |name: &str| {
            table.columns().iter().any(|column| is_nearly(name.trim_matches('"'), &column.field))
        };
        line.contains(delimiter) && line.split(delimiter).any(is_column)
    };
    let (_, name) = delimiters.into_iter().find(|(delimiter, _)| separates(*delimiter))?;
    Some(format!("separates its columns with {name}: write the file with commas"))
}

/// Whether `name` equals `field` apart from case and surrounding spaces.
fn is_nearly(name: &str, field: &str) -> bool {
    name.trim().eq_ignore_ascii_case(field)
}
