//! The header line: which column of a file is which column of the table.

use super::split::{self, Defect, split};
use super::{BOM, Marks};
use crate::error::Error;
use crate::record::Table;

/// A file's header: which column of the table each field of a row is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Index of the table's column of each field.
    pub(super) columns: Vec<Option<usize>>,
}

impl Header {
    /// Reads the header line.
    pub(super) fn parse(line: &[u8], marks: Marks, table: &Table) -> Result<Self, Error> {
        let input = |what: String| Error::Input { what: format!("the header line {what}") };
        let line = line.strip_prefix(BOM).unwrap_or(line);
        let text = std::str::from_utf8(line);
        let text = text.map_err(|_| input("is not UTF-8: convert the file".into()))?;
        let separated = |what: String| input(other_delimiter(table, text, marks).unwrap_or(what));
        let names = names(text, marks).map_err(separated)?;
        let mut columns = vec![None; names.len()];
        for (index, column) in table.columns().iter().enumerate() {
            let header = column.header();
            let field = &*header;
            let mut places = names.iter().enumerate().filter(|(_, name)| *name == field);
            let Some((place, _)) = places.next() else {
                if column.default.is_some() {
                    continue;
                }
                return Err(separated(missing(field, &names)));
            };
            if places.next().is_some() {
                return Err(input(format!("has the column {field} twice")));
            }
            columns[place] = Some(index);
        }
        Ok(Self { columns })
    }
}

/// The names in a header line, or what is wrong with it.
fn names(text: &str, marks: Marks) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let found = split(text, marks, &mut String::new(), |_, name, _| names.push(name.to_owned()));
    match found {
        Ok(_) | Err(Defect::Blank) => Ok(names),
        Err(Defect::More) => Err("has another line after it".into()),
        Err(Defect::Quote { at, misplaced }) => {
            let (line, column) = split::place(text.as_bytes(), at, 1);
            Err(format!("is malformed at line {line} column {column}: {misplaced}"))
        }
    }
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
fn other_delimiter(table: &Table, line: &str, marks: Marks) -> Option<String> {
    let delimiters = [(',', "commas"), (';', "semicolons"), ('\t', "tabs"), ('|', "pipes")];
    let separates = |delimiter: char| {
        let is_column = |name: &str| {
            table.columns().iter().any(|column| is_nearly(name.trim_matches('"'), &column.field))
        };
        line.contains(delimiter) && line.split(delimiter).any(is_column)
    };
    let ours = char::from(marks.delimiter);
    let mut others = delimiters.into_iter().filter(|(delimiter, _)| *delimiter != ours);
    let (_, name) = others.find(|(delimiter, _)| separates(*delimiter))?;
    let known = delimiters.into_iter().find(|(delimiter, _)| *delimiter == ours);
    let ours = known.map_or_else(|| format!("{ours:?}"), |(_, name)| name.to_owned());
    Some(format!("separates its columns with {name}: write the file with {ours}"))
}

/// Whether `name` equals `field` apart from case and surrounding spaces.
fn is_nearly(name: &str, field: &str) -> bool {
    name.trim().eq_ignore_ascii_case(field)
}
