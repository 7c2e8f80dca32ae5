//! Rows in the dialects of files, held to the crate `csv`.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use proptest::prelude::*;

use super::Csv;
use crate::batch::Body;
use crate::decode::Message;
use crate::record::value::split_field;
use crate::record::{Column, ColumnType, Scratch, Table};

fn table(kinds: &[ColumnType]) -> Arc<Table> {
    let columns = kinds.iter().enumerate();
    Arc::new(columns.fold(Table::new("t"), |table, (index, kind)| {
        table.column(Column::new(&format!("c{index}"), kind.clone()).nullable())
    }))
}

/// The fields of a row as PostgreSQL receives them, or the reject.
fn fields(csv: &Csv, table: &Arc<Table>, row: &[u8]) -> Result<Vec<Option<Vec<u8>>>, String> {
    let names: Vec<&str> = table.columns().iter().map(|column| &*column.name).collect();
    let delimiter = char::from(csv.marks().delimiter).to_string();
    let rows = csv.open(names.join(&delimiter).as_bytes(), table).unwrap();
    let (mut out, mut scratch) = (Vec::new(), Scratch::default());
    match Body::decode(&rows, table, &Message::of(Some(row)), &mut out, &mut scratch) {
        Body::Rejected(reject) => return Err(reject.to_string()),
        Body::Row { .. } | Body::Skipped => {}
    }
    let (mut rest, mut fields) = (&out[..], Vec::new());
    while let Some((field, others)) = split_field(rest) {
        fields.push(field.map(<[u8]>::to_vec));
        rest = others;
    }
    Ok(fields)
}

fn text(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

proptest! {
    #[test]
    fn any_texts_are_read_as_the_crate_csv_writes_them(
        texts in prop::collection::vec("[a-c,;|\t'\"\n\r\\\\N ]{0,6}", 1..5),
        delimiter in prop::sample::select(vec![',', ';', '\t', '|', ' ']),
        quote in prop::sample::select(vec!['"', '\'', '~']),
        has_null in any::<bool>(),
    ) {
        let csv = Csv::new().delimiter(delimiter).quote(quote);
        // Never written outside quotes, since it is written there for null only.
        let csv = if has_null { csv.null("\\N") } else { csv };
        let mut writer = csv::WriterBuilder::new()
            .delimiter(delimiter as u8)
            .quote(quote as u8)
            .quote_style(csv::QuoteStyle::Always)
            .from_writer(Vec::new());
        writer.write_record(&texts).unwrap();
        let row = writer.into_inner().unwrap();
        let expected: Vec<Option<Vec<u8>>> = texts
            .iter()
            .map(|it| Some(text(it)).filter(|it| has_null || !it.is_empty()))
            .collect();
        let table = table(&vec![ColumnType::Text; texts.len()]);
        prop_assert_eq!(fields(&csv, &table, &row), Ok(expected));
    }
}

#[test]
fn null_has_the_text_of_the_dialect() {
    let table = table(&[ColumnType::Text, ColumnType::Int4]);
    let csv = Csv::new().null("NULL");
    assert_eq!(fields(&csv, &table, b"NULL,NULL"), Ok(vec![None, None]));
    assert_eq!(fields(&csv, &table, b"\"NULL\",NULL"), Ok(vec![Some(text("NULL")), None]));
    assert_eq!(fields(&csv, &table, b",NULL"), Ok(vec![Some(text("")), None]));
    let refused = fields(&csv, &table, b"a,").unwrap_err();
    assert_eq!(refused, "invalid_field: c1: expected a whole number of 32 bits");
}

#[test]
fn dates_and_times_have_the_format_of_the_dialect() {
    let kinds = [ColumnType::Date, ColumnType::TIMESTAMPTZ, ColumnType::Timestamp { precision: 3 }];
    let table = table(&kinds);
    let csv = Csv::new().delimiter(';');
    let csv = csv.date_format("%d.%m.%Y").time_format("%d/%m/%y %H:%M:%S%.f");
    let usual = b"2026-12-31,2026-12-31 23:59:58.1234567,2026-12-31 23:59:58.1239";
    let expected = fields(&Csv::new(), &table, usual).unwrap();
    let row = b"31.12.2026;31/12/26 23:59:58.1234567;31/12/26 23:59:58.1239";
    assert_eq!(fields(&csv, &table, row), Ok(expected));
    assert_eq!(fields(&csv, &table, b";;"), Ok(vec![None; 3]));
    let refused = fields(&csv, &table, b"2026-12-31;;").unwrap_err();
    assert_eq!(refused, "invalid_field: c0: expected a text in the format %d.%m.%Y");
    let zoned = csv.time_format("%Y-%m-%dT%H:%M:%S%:z");
    let at = fields(&zoned, &table, b";2026-01-01T02:00:00+02:00;").unwrap();
    assert_eq!(at, fields(&Csv::new(), &table, b",2026-01-01 00:00:00,").unwrap());
    // A timestamp has no offset.
    assert!(fields(&zoned, &table, b";;2026-01-01T02:00:00+02:00").is_err());
    // Beyond what jiff's own moments can be.
    let last = fields(&zoned, &table, b";9999-12-31T23:59:59+01:00;").unwrap();
    assert_eq!(last, fields(&Csv::new(), &table, b",9999-12-31 22:59:59,").unwrap());
    for leap in ["1960-12-31T23:59:60+00:00", "2016-12-31T23:59:60+01:00"] {
        assert!(fields(&zoned, &table, format!(";{leap};").as_bytes()).is_err(), "{leap}");
    }
    assert!(fields(&zoned, &table, b";1960-12-31T23:59:59+00:00;").is_ok());
    let epoch = Csv::new().time_format("%s");
    let at = fields(&epoch, &table, b",1767225600,-1").unwrap();
    let usual = b",2026-01-01 00:00:00,1969-12-31 23:59:59";
    assert_eq!(at, fields(&Csv::new(), &table, usual).unwrap());
}
