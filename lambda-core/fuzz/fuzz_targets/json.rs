//! Any bytes as a message: no panic, and a syntax error exactly where `serde_json` finds one.

#![no_main]

use std::sync::LazyLock;

use lambda_core::Pipeline;
use lambda_core::batch::Body;
use lambda_core::decode::Message;
use lambda_core::record::{Column, ColumnType, Decimal, Rounding, Rule, Scratch, Table};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

/// One column of each type, under names of one letter, some of them in nested objects.
static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| {
    let numeric = ColumnType::Numeric { precision: 9, scale: 2 };
    let columns = [
        Column::new("a", ColumnType::Int4).rule(Rule::between(Decimal::literal("-9"), Decimal::literal("9"))),
        Column::new("b", ColumnType::Text).rule(Rule::length(1, 3)).empty_is_null(),
        Column::new("c", numeric.clone()).rounded(Rounding::HalfAway),
        Column::new("d", ColumnType::TIMESTAMPTZ),
        Column::new("e", ColumnType::Jsonb),
        Column::new("f", ColumnType::Text.array()),
        Column::new("g", ColumnType::Float4),
        Column::new("h", ColumnType::Bytea),
        Column::new("i", ColumnType::Uuid),
        Column::new("j", ColumnType::UnconstrainedNumeric),
        Column::new("k", ColumnType::Bool).from_field("o.k"),
        Column::new("l", ColumnType::Date).from_field("o.p.l"),
        Column::new("m", numeric.array()),
        Column::new("n", ColumnType::Varchar { length: 3 }).or_default("x"),
    ];
    let table = Table::new("t").column(Column::new("id", ColumnType::Int8).or_default("1"));
    let table = columns.into_iter().fold(table, |table, column| table.column(column.nullable()));
    Pipeline::builder("fuzz", table).build().expect("the table is one of a pipeline")
});

fuzz_target!(|data: &[u8]| {
    let (mut rows, mut scratch) = (b"before".to_vec(), Scratch::default());
    let message = Message::of(Some(data));
    let body = Body::decode(&**PIPELINE.decoder(), PIPELINE.table(), &message, &mut rows, &mut scratch);
    let Ok(text) = std::str::from_utf8(data) else {
        assert!(matches!(body, Body::Rejected(_)));
        return;
    };
    let is_object = text.trim_start().starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok();
    // `serde_json` gives up at a depth of 128, and looks for surrogates only where it reads them.
    match body {
        Body::Row { .. } => assert!(is_object || text.matches(['[', '{']).count() > 100, "{text}"),
        Body::Rejected(reject) => {
            assert_eq!(rows, b"before", "a reject leaves nothing");
            let is_syntax = reject.to_string().starts_with("invalid_json: expected");
            assert!(!is_syntax || !is_object || text.contains("\\u"), "{text}: {reject}");
        }
        Body::Skipped => unreachable!("every message is a record"),
    }
});
