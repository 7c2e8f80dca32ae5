//! Any bytes as a row, in any dialect: no panic, and the fields that the crate `csv` finds.

#![no_main]

use std::sync::Arc;

use lambda_core::batch::Body;
use lambda_core::decode::{Csv, Message};
use lambda_core::record::{Column, ColumnType, RowRef, Scratch, Table};
use libfuzzer_sys::fuzz_target;

const MARKS: [(char, char); 4] = [(',', '"'), (';', '\''), ('\t', '"'), ('|', '~')];

fuzz_target!(|data: &[u8]| {
    let Some((choice, row)) = data.split_first() else { return };
    let (delimiter, quote) = MARKS[usize::from(*choice) % MARKS.len()];
    let names = ["a", "b", "c"];
    let table = Arc::new(names.iter().fold(Table::new("t"), |table, name| {
        table.column(Column::new(name, ColumnType::Text).nullable())
    }));
    let csv = Csv::new().delimiter(delimiter).quote(quote);
    let header = names.join(&delimiter.to_string());
    let decoder = csv.open(header.as_bytes(), &table).expect("the header has all columns");
    let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
    let body = Body::decode(&decoder, &table, &Message::of(Some(row)), &mut rows, &mut scratch);
    let Body::Row { .. } = body else { return };
    // A line end in front keeps the other reader from removing a byte order mark.
    let shielded = [b"\n", row].concat();
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter as u8)
        .quote(quote as u8)
        .from_reader(&shielded[..]);
    let records: Vec<csv::StringRecord> =
        reader.records().map(|record| record.expect("the row is UTF-8")).collect();
    assert_eq!(records.len(), 1, "a row is one record");
    let mut fields = RowRef::new(&table, &rows);
    for expected in &records[0] {
        let found: Option<String> = fields.take().expect("a column of text");
        assert_eq!(found.unwrap_or_default(), expected);
    }
});
