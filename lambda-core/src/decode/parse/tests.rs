//! Every type and every rule, as both formats spell their values.

#![expect(clippy::unwrap_used, reason = "a test")]

use uuid::Uuid;

use crate::Pipeline;
use crate::batch::Body;
use crate::decode::{Decode, Message};
use crate::record::{
    CivilMicros, Column, ColumnType, DayMicros, Decimal, Jsonb, Rounding, RowWriter, Rule, Scratch,
    Table, UnixDays, UnixMicros, Value,
};

/// Result of a value.
enum Gives {
    /// What this value gives.
    Row(Box<dyn Value>),
    /// A null.
    Null,
    /// The reject.
    Reject(&'static str),
}

fn row(value: impl Value + 'static) -> Gives {
    Gives::Row(Box::new(value))
}

impl Value for Box<dyn Value> {
    fn write(&self, cell: &mut crate::record::Cell<'_>) {
        (**self).write(cell);
    }
}

/// A table of a key, and of this column as `f`.
fn pipeline(column: Column) -> Pipeline {
    let table = Table::new("t").column(Column::new("id", ColumnType::Int4)).column(column);
    Pipeline::builder("t", table).build().unwrap()
}

fn decode(pipeline: &Pipeline, decoder: &dyn Decode, payload: &str) -> Result<Vec<u8>, String> {
    let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
    let message = Message::of(Some(payload.as_bytes()));
    match Body::decode(decoder, pipeline.table(), &message, &mut rows, &mut scratch) {
        Body::Rejected(reject) => Err(reject.to_string()),
        _ => Ok(rows),
    }
}

/// Reads the value in both formats; an empty spelling is for the other format only.
fn check(column: &Column, json: &str, csv: &str, gives: &Gives) {
    let pipeline = pipeline(column.clone());
    let expected = match gives {
        Gives::Reject(says) => Err((*says).to_owned()),
        Gives::Row(_) | Gives::Null => {
            let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
            let mut row = RowWriter::new(pipeline.table(), &mut rows, &mut scratch);
            row.put(1_i32);
            match gives {
                Gives::Row(value) => row.put(value),
                _ => row.put(None::<bool>),
            };
            row.finish().unwrap();
            Ok(rows)
        }
    };
    if !json.is_empty() {
        let payload = format!("{{\"id\":1,\"f\":{json}}}");
        let found = decode(&pipeline, &**pipeline.decoder(), &payload);
        assert_eq!(found, expected, "{payload} as {}", column.kind);
    }
    if !csv.is_empty() {
        let rows = pipeline.files().open(b"f,id", pipeline.table()).unwrap();
        let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
        writer.write_record([csv, "1"]).unwrap();
        let payload = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        assert_eq!(decode(&pipeline, &rows, &payload), expected, "{payload} as {}", column.kind);
    }
}

fn nullable(kind: ColumnType) -> Column {
    Column::new("f", kind).nullable()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_type_is_read_from_both_formats() {
    use Gives::{Null, Reject};
    const NUMBER: &str =
        "invalid_field: f: expected a number of at most 4 digits before the point and 2 after it";
    let money = || ColumnType::Numeric { precision: 6, scale: 2 };
    let decimal = |text| row(Decimal::literal(text));
    let cabin = || ColumnType::enumeration("ops.cabin");
    let any = ColumnType::UnconstrainedNumeric;
    let moment = 1_767_225_600_123_456;
    let uuid = "c1d7ee0b-4b1c-4b6b-a2f3-0123456789ab";
    let jsonb = |text| row(Jsonb::parse(text).unwrap());
    let of = |kind: ColumnType| kind.array();
    let cases: Vec<(ColumnType, &str, &str, Gives)> = vec![
        (ColumnType::Bool, "true", "TRUE", row(true)),
        (ColumnType::Bool, "false", "false", row(false)),
        (ColumnType::Bool, "\"t\"", "t", Reject("invalid_field: f: expected true or false")),
        (ColumnType::Bool, "\"true\"", "1", Reject("invalid_field: f: expected true or false")),
        (ColumnType::Bool, "null", "", Null),
        (ColumnType::Int2, "-32768", "-32768", row(-32_768_i16)),
        (ColumnType::Int2, "\"7\"", "+7", row(7_i16)),
        (
            ColumnType::Int2,
            "32768",
            "32768",
            Reject("invalid_field: f: expected a whole number of 16 bits"),
        ),
        (ColumnType::Int4, "1e3", "1000.0", row(1_000_i32)),
        (
            ColumnType::Int4,
            "1.5",
            "1.5",
            Reject("invalid_field: f: expected a whole number of 32 bits"),
        ),
        (ColumnType::Int8, "-9223372036854775808", "-9223372036854775808", row(i64::MIN)),
        (
            ColumnType::Int8,
            "9223372036854775808",
            "x",
            Reject("invalid_field: f: expected a whole number of 64 bits"),
        ),
        (
            ColumnType::Int8,
            "true",
            "",
            Reject("invalid_field: f: expected a whole number of 64 bits"),
        ),
        (ColumnType::Float4, "0.1", "0.1", row(0.1_f32)),
        (
            ColumnType::Float4,
            "1e39",
            "1e39",
            Reject("invalid_field: f: expected a number in the type's range"),
        ),
        (ColumnType::Float8, "-0.0", "-0", row(0.0_f64)),
        (ColumnType::Float8, "\"NaN\"", "NaN", row(f64::NAN)),
        (ColumnType::Float8, "\"-Infinity\"", "-Infinity", row(f64::NEG_INFINITY)),
        (
            ColumnType::Float8,
            "\"inf\"",
            "nan",
            Reject("invalid_field: f: expected a number in the type's range"),
        ),
        (money(), "12.5", "12.50", decimal("12.5")),
        (money(), "\"-1e2\"", "-100", decimal("-100")),
        (money(), "12.345", "12.345", Reject(NUMBER)),
        (money(), "10000", "1e4", Reject(NUMBER)),
        (money(), "\"NaN\"", "NaN", Reject("invalid_field: f: expected a decimal number")),
        (money(), "[1]", "1,5", Reject("invalid_field: f: expected a decimal number")),
        (any.clone(), "1.500", "1.5", decimal("1.5")),
        (any, "1e38", "1e38", Reject("invalid_field: f: expected a decimal number")),
        (ColumnType::Text, "\"\\u00e9\\n\"", "é\n", row("é\n".to_owned())),
        (ColumnType::Text, "7", "", Reject("invalid_field: f: expected text")),
        (
            ColumnType::Text,
            "\"a\\u0000\"",
            "a\0",
            Reject("nul_character: f: PostgreSQL's text cannot hold a NUL character"),
        ),
        (
            ColumnType::Text,
            "\"\\ud800\"",
            "",
            Reject("invalid_field: f: expected text without unpaired surrogates"),
        ),
        (ColumnType::Text, "\"\"", "", row(String::new())),
        (ColumnType::Varchar { length: 3 }, "\"äöü\"", "äöü", row("äöü".to_owned())),
        (
            ColumnType::Varchar { length: 3 },
            "\"abc \"",
            "abc ",
            Reject("invalid_field: f: expected at most 3 characters"),
        ),
        (cabin(), "\"first\"", "first", row("first".to_owned())),
        (ColumnType::Bytea, "\"\\\\xC0ff\"", "\\xC0ff", row(vec![0xc0_u8, 0xff])),
        (ColumnType::Bytea, "\"wP8=\"", "wP8=", row(vec![0xc0_u8, 0xff])),
        (
            ColumnType::Bytea,
            "\"\\\\xc\"",
            "wP8",
            Reject("invalid_field: f: expected bytes in base64, or \\x and hexadecimal digits"),
        ),
        (
            ColumnType::Uuid,
            "\"c1d7ee0b-4b1c-4b6b-a2f3-0123456789ab\"",
            uuid,
            row(Uuid::parse_str(uuid).unwrap()),
        ),
        (ColumnType::Uuid, "\"c1d7\"", "c1d7", Reject("invalid_field: f: expected a uuid")),
        (ColumnType::Date, "\"2026-01-01\"", "2026-01-01", row(UnixDays(20_454))),
        (ColumnType::Date, "20454", "", Reject("invalid_field: f: expected text")),
        (
            ColumnType::Date,
            "",
            "01.01.2026",
            Reject("invalid_field: f: expected a date as YYYY-MM-DD"),
        ),
        (ColumnType::TIME, "\"23:59:59.5\"", "23:59:59.5", row(DayMicros(86_399_500_000))),
        (
            ColumnType::TIME,
            "\"24:00:00\"",
            "24:00:00",
            Reject("invalid_field: f: expected a time as HH:MM:SS[.ffffff]"),
        ),
        (
            ColumnType::TIMESTAMP,
            "\"2026-01-01T00:00:00.1234569\"",
            "2026-01-01 00:00:00.123456",
            row(CivilMicros(moment)),
        ),
        (
            ColumnType::TIMESTAMP,
            "\"2026-01-01T00:00:00Z\"",
            "2026-01-01 00:00:00Z",
            Reject(
                "invalid_field: f: expected a time as YYYY-MM-DD HH:MM:SS[.ffffff], without offset",
            ),
        ),
        (
            ColumnType::TIMESTAMPTZ,
            "\"2026-01-01T01:00:00.123456+01:00\"",
            "2026-01-01 00:00:00.123456",
            row(UnixMicros(moment)),
        ),
        (
            ColumnType::Timestamptz { precision: 0 },
            "\"2026-01-01T00:00:00.9Z\"",
            "2026-01-01 00:00:00.1",
            row(UnixMicros(1_767_225_600_000_000)),
        ),
        (
            ColumnType::TIMESTAMPTZ,
            "\"infinity\"",
            "infinity",
            Reject(
                "invalid_field: f: expected a time as YYYY-MM-DD HH:MM:SS[.ffffff] in UTC, or as RFC 3339 with an offset",
            ),
        ),
        (
            ColumnType::Jsonb,
            "{\"b\":1,\"a\":[\"\\u00e9\"]}",
            "{\"a\":[\"é\"],\"b\":1}",
            jsonb(r#"{"a":["é"],"b":1}"#),
        ),
        (ColumnType::Jsonb, "\"1\"", "\"1\"", jsonb("\"1\"")),
        (ColumnType::Jsonb, "null", "null", Null),
        (
            ColumnType::Jsonb,
            "{\"a\":1,\"a\":2}",
            "{\"a\":1,\"a\":2}",
            Reject("duplicate_key: f: expected each key of an object once"),
        ),
        (
            ColumnType::Jsonb,
            "\"\\u0000\"",
            "",
            Reject("nul_character: f: PostgreSQL's jsonb cannot hold a NUL character"),
        ),
        (
            of(ColumnType::Text),
            "[\"a\",null,\"b\\\"\"]",
            "[\"a\",null,\"b\\\"\"]",
            row(vec![Some("a"), None, Some("b\"")]),
        ),
        (of(ColumnType::Int4), "[1,\"2\"]", "[1,2]", row(vec![1_i32, 2])),
        (of(ColumnType::Int4), "[]", "[ ]", row(Vec::<i32>::new())),
        (
            of(ColumnType::Int4),
            "[[1]]",
            "[true]",
            Reject("invalid_field: f: expected a whole number of 32 bits"),
        ),
        (of(ColumnType::Int4), "{}", "1", Reject("invalid_field: f: expected an array of JSON")),
        (
            of(ColumnType::Jsonb),
            "[{\"a\":1}]",
            "[{\"a\":1}]",
            row(vec![Jsonb::parse("{\"a\":1}").unwrap()]),
        ),
    ];
    for (kind, json, csv, gives) in cases {
        check(&nullable(kind), json, csv, &gives);
    }
}

#[test]
fn every_rule_is_applied_to_both_formats() {
    use Gives::{Null, Reject};
    let text = || nullable(ColumnType::Text);
    let score = || {
        nullable(ColumnType::Numeric { precision: 4, scale: 2 })
            .rule(Rule::between(Decimal::literal("0"), Decimal::literal("1")))
            .rounded(Rounding::HalfAway)
    };
    let signed =
        || nullable(ColumnType::Numeric { precision: 4, scale: 2 }).rounded(Rounding::HalfAway);
    let decimal = |text| row(Decimal::literal(text));
    let length = || text().rule(Rule::length(1, 2));
    let bytes = || text().rule(Rule::bytes(1, 2));
    let one_of = || text().rule(Rule::one_of(["a", "b"]));
    let between = || {
        nullable(ColumnType::Int4)
            .rule(Rule::between(Decimal::literal("-5"), Decimal::literal("5")))
    };
    let cases: Vec<(Column, &str, &str, Gives)> = vec![
        (length(), "\"äö\"", "äö", row("äö".to_owned())),
        (length(), "\"\"", "abc", Reject("invalid_field: f: expected 1 to 2 characters")),
        (bytes(), "\"ä\"", "ä", row("ä".to_owned())),
        (bytes(), "\"äö\"", "äö", Reject("invalid_field: f: expected 1 to 2 bytes")),
        (one_of(), "\"a\"", "a", row("a".to_owned())),
        (one_of(), "\"A\"", "c", Reject("invalid_field: f: expected one of a, b")),
        (between(), "-5", "-5", row(-5_i32)),
        (between(), "6", "6", Reject("invalid_field: f: expected a number from -5 to 5")),
        (score(), "0.125", "0.125", decimal("0.13")),
        (score(), "0.124999999999999999999999999999999999999999999", "0.124", decimal("0.12")),
        (score(), "0.9999999999999999999999999999999999999999999999", "0.995", decimal("1")),
        (
            score(),
            "1.0000000000000000000000000000000000000000000001",
            "1.001",
            Reject("invalid_field: f: expected a number from 0 to 1"),
        ),
        (score(), "-1e-60", "-0.001", Reject("invalid_field: f: expected a number from 0 to 1")),
        (score(), "1e-60", "0.004", decimal("0")),
        (score(), "0.50000000000000000000000000000000000000000001", "0.5", decimal("0.5")),
        (score(), "0.12000000000000000000000000000000000000000001", "0.12", decimal("0.12")),
        (signed(), "-0.125", "-0.125", decimal("-0.13")),
        (signed(), "99.994", "99.994", decimal("99.99")),
        (
            signed(),
            "99.995",
            "-99.995",
            Reject(
                "invalid_field: f: expected a number of at most 2 digits before the point and 2 after it",
            ),
        ),
        (text().empty_is_null(), "\"\"", "", Null),
        (nullable(ColumnType::Int4).empty_is_null(), "\"\"", "", Null),
    ];
    for (column, json, csv, gives) in cases {
        check(&column, json, csv, &gives);
    }
}

#[test]
fn a_default_is_for_an_absent_field_and_not_for_a_null() {
    let table = Table::new("t")
        .column(Column::new("id", ColumnType::Int4))
        .column(Column::new("f", ColumnType::Int4).nullable().or_default("7"))
        .column(Column::new("g", ColumnType::Text).or_default("x"));
    let pipeline = Pipeline::builder("t", table).build().unwrap();
    let field = |rows: Result<Vec<u8>, String>| rows.map(|rows| rows[8..rows.len() - 4].to_vec());
    let (seven, x) = ([&[0, 0, 0, 4], &7_i32.to_be_bytes()[..]].concat(), [0, 0, 0, 1, b'x']);
    let null = (-1_i32).to_be_bytes();
    for (json, expected) in [
        (r#"{"id":1}"#, Ok([&seven[..], &x].concat())),
        (r#"{"g":"x","id":1}"#, Ok([&seven[..], &x].concat())),
        (r#"{"id":1,"f":null}"#, Ok([&null[..], &x].concat())),
        (r#"{"id":1,"g":null}"#, Err("missing_field: g: a value is required".to_owned())),
    ] {
        assert_eq!(field(decode(&pipeline, &**pipeline.decoder(), json)), expected, "{json}");
    }
    let rows = pipeline.files().open(b"id", pipeline.table()).unwrap();
    assert_eq!(field(decode(&pipeline, &rows, "1")), Ok([&seven[..], &x].concat()));
    let rows = pipeline.files().open(b"id,f,g", pipeline.table()).unwrap();
    assert_eq!(field(decode(&pipeline, &rows, "1,,x")), Ok([&null[..], &x].concat()));

    let wrong = Table::new("t").column(Column::new("id", ColumnType::Int4).or_default("x"));
    let refused = Pipeline::builder("t", wrong).build().unwrap_err();
    assert!(refused.chain().contains("the default of invalid_field: id"), "{}", refused.chain());
    assert_eq!(refused.exit_code(), 78);
}
