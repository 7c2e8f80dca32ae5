//! Joint promises of the two codecs: one verdict and one row for one record, and a reject
//! instead of a panic for any other input.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::LazyLock;

use lambda_core::batch::{Body, Slice};
use lambda_core::dead_letter::{Reason, Reject};
use lambda_core::decode::csv::Rows;
use lambda_core::decode::{Decode, Message};
use lambda_core::record::{Decimal, RowRef, RowWriter, Scratch, UnixMicros};
use lambda_core::transaction::synthetic::{Expectation, Format, Options, Synthetic};
use lambda_core::transaction::{self, CSV_HEADER};
use lambda_core::{Pipeline, Record, Transaction};
use proptest::prelude::*;

const TYPES: [&str; 5] = ["purchase", "withdrawal", "transfer", "refund", "deposit"];

type Decoded = Result<Vec<u8>, Reject>;

static TRANSACTIONS: LazyLock<Pipeline> = LazyLock::new(transaction::pipeline);

/// Checks what was made of a record after existing bytes: a reject leaves only those.
fn kept(body: Body, rows: &[u8]) -> Decoded {
    assert!(rows.starts_with(b"before"));
    match body {
        Body::Row { content, .. } => {
            assert_eq!(content, Slice::new(6..rows.len()));
            Ok(rows[6..].to_vec())
        }
        Body::Rejected(reject) => {
            assert_eq!(rows.len(), 6, "a reject takes its bytes back");
            Err(*reject)
        }
        Body::Skipped => panic!("no record of these tests is skipped"),
    }
}

fn decoded(decoder: &dyn Decode, scratch: &mut Scratch, message: Message<'_>) -> Decoded {
    let mut rows = b"before".to_vec();
    let body = Body::decode(decoder, TRANSACTIONS.table(), &message, &mut rows, scratch);
    kept(body, &rows)
}

fn of_json(payload: &[u8]) -> Decoded {
    let message = Message::of(Some(payload));
    decoded(&**TRANSACTIONS.decoder(), &mut Scratch::default(), message)
}

fn decoder(header: &str) -> Rows {
    TRANSACTIONS.files().open(header.as_bytes(), TRANSACTIONS.table()).unwrap()
}

fn of_csv(row: &[u8]) -> Decoded {
    let (decoder, mut scratch) = (decoder(CSV_HEADER), Scratch::default());
    // Earlier records of the decoder must not matter.
    let _ = decoded(&decoder, &mut scratch, Message::of(Some(b"a,\"unterminated")));
    decoded(&decoder, &mut scratch, Message::of(Some(row)))
}

fn written(transaction: &Transaction) -> Decoded {
    let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
    let mut row = RowWriter::new(TRANSACTIONS.table(), &mut rows, &mut scratch);
    transaction.write(&mut row);
    row.finish()?;
    Ok(rows)
}

fn csv_of(transaction: &Transaction) -> Vec<u8> {
    let mut row = Vec::new();
    transaction.write_csv(&mut row);
    row
}

/// Any text that fields may hold, about half of it awkward.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z ]{1,12}", "[\"',\\\\\\r\\n\t\u{feff}é]{1,6}", "\\PC{1,16}"]
}

prop_compose! {
    fn transaction()(
        id in text(), account in text(), kind in 0..5_usize,
        cents in -9_999_999_999..=9_999_999_999_i64,
        micros in -62_135_596_800_000_000..253_402_300_800_000_000_i64,
        merchant in prop::option::of(text()), location in prop::option::of(text()),
        card_present in any::<Option<bool>>(), risk in prop::option::of(0..=100_u8),
    ) -> Transaction {
        Transaction {
            transaction_id: id,
            account_id: account,
            transaction_type: TYPES[kind].into(),
            amount: Decimal { unscaled: cents.into(), scale: 2 },
            timestamp: UnixMicros(micros),
            merchant_category: merchant,
            location,
            card_present,
            risk_score: risk.map(|risk| Decimal { unscaled: risk.into(), scale: 2 }),
        }
    }
}

/// Texts around the limits of each field.
fn field_texts() -> impl Strategy<Value = Vec<String>> {
    let of = |valid: &'static str, other: &'static [&'static str]| {
        prop_oneof![
            6 => Just(valid.to_owned()),
            1 => prop::sample::select(other).prop_map(str::to_owned),
            1 => text(),
        ]
    };
    let id: &[&str] =
        &["", "a\0b", "é", "0123456789012345678901234567890123456789012345678901234567890123"];
    let number: &[&str] = &[
        "",
        "0",
        "-0.00",
        "1e0",
        "1E-2",
        "0.005",
        "0.995",
        "1.001",
        "99999999.99",
        "1e8",
        "+1",
        ".5",
        "5.",
        "1e-400",
        "0e999999999",
        "0.10000000000000000000000000000001",
        "NaN",
        "1_0",
        " 1",
        "1 ",
    ];
    let time: &[&str] = &["", "2026-01-01", "2026-01-01T00:00:00Z", "2026-01-01 00:00:60"];
    (
        of("TXN-1", id),
        of("ACC-1", id),
        of("refund", &["", "Refund", "gift"]),
        of("12.50", number),
        of("2026-01-01 00:00:00.5", time),
        of("fuel", id),
        of("Austin, TX", id),
        of("true", &["", "TRUE", "False", "0", "yes"]),
        of("0.25", number),
    )
        .prop_map(|(a, b, c, d, e, f, g, h, i)| vec![a, b, c, d, e, f, g, h, i])
}

/// The texts as a JSON object, with booleans and, if `numbers`, numbers in JSON's form.
fn json_of(texts: &[String], numbers: bool) -> Vec<u8> {
    let members: Vec<String> = CSV_HEADER
        .split(',')
        .zip(texts)
        .map(|(name, text)| {
            let number = serde_json::from_str::<serde_json::Number>(text).is_ok();
            let lower = text.to_ascii_lowercase();
            let value = match name {
                _ if text.is_empty() => "null".to_owned(),
                "card_present" if lower == "true" || lower == "false" => lower,
                "amount" | "risk_score" if numbers && number && text.trim() == text => text.clone(),
                _ => serde_json::to_string(text).unwrap(),
            };
            format!("\"{name}\":{value}")
        })
        .collect();
    format!("{{{}}}", members.join(",")).into_bytes()
}

fn row_of(texts: &[String]) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    writer.write_record(texts).unwrap();
    writer.into_inner().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_transaction_is_the_same_row_by_either_codec(transaction in transaction()) {
        let row = written(&transaction);
        prop_assert!(row.is_ok(), "{:?}", row);
        let json = transaction.to_json();
        prop_assert_eq!(&of_json(&json), &row);
        prop_assert_eq!(&of_csv(&csv_of(&transaction)), &row);
        let row = RowRef::new(TRANSACTIONS.table(), row.as_deref().unwrap());
        prop_assert_eq!(Transaction::read(row), Ok(transaction));
    }

    #[test]
    fn both_codecs_give_one_verdict(texts in field_texts(), numbers: bool) {
        let (json, csv) = (of_json(&json_of(&texts, numbers)), of_csv(&row_of(&texts)));
        prop_assert_eq!(json, csv, "{:?}", texts);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(of_json(&bytes).is_err());
        prop_assert!(of_csv(&bytes).is_err());
    }

    #[test]
    fn no_mutation_panics(
        transaction in transaction(), at in any::<prop::sample::Index>(), by: u8, cut: bool,
    ) {
        for (mut bytes, decode) in [
            (transaction.to_json(), of_json as fn(&[u8]) -> Decoded),
            (csv_of(&transaction), of_csv),
        ] {
            let at = at.index(bytes.len());
            bytes[at] = by;
            if cut {
                bytes.truncate(at);
            }
            if let Err(reject) = decode(&bytes) {
                prop_assert!(!reject.detail.is_empty());
            }
        }
    }

    #[test]
    fn generated_lines_have_the_kind_that_they_announce(seed: u64, csv: bool) {
        let format = if csv { Format::Csv } else { Format::Json };
        let options = Options { accounts: 50, duplicate_ratio: 0.2, invalid_ratio: 0.3 };
        let traffic = || Synthetic::new(seed).with(options);
        let (mut once, mut again) = (traffic(), traffic());
        let mut last = None;
        let mut seen = std::collections::HashMap::new();
        for _ in 0..60 {
            let line = once.line(format);
            prop_assert_eq!(&line, &again.line(format), "one seed is one sequence");
            prop_assert!(!line.payload.contains(&b'\n'));
            let decoded = if csv { of_csv(&line.payload) } else { of_json(&line.payload) };
            match line.expectation {
                Expectation::Valid => {
                    prop_assert!(decoded.is_ok(), "{:?}", decoded);
                    prop_assert!(last < Some(line.id.clone()), "ids ascend");
                    last = Some(line.id.clone());
                    prop_assert!(seen.insert(line.id, line.payload).is_none());
                }
                Expectation::Duplicate => prop_assert_eq!(seen.get(&line.id), Some(&line.payload)),
                Expectation::Invalid => prop_assert!(decoded.is_err(), "{:?}", line),
            }
        }
        prop_assert!(!seen.is_empty());
    }
}

const VALID: &str = r#"{"transaction_id":"T","account_id":"A","transaction_type":"deposit","amount":1,"timestamp":"2026-01-01 00:00:00"}"#;

fn reason(payload: &str) -> (Reason, String) {
    let reject = of_json(payload.as_bytes()).unwrap_err();
    (reject.reason, reject.detail)
}

#[test]
fn json_of_any_legal_spelling_is_read() {
    let plain = of_json(VALID.as_bytes());
    assert!(plain.is_ok());
    for spelling in [
        VALID.replace("\"T\"", "\"\\u0054\""),
        VALID.replace("\"amount\"", "\"\\u0061mount\""),
        VALID.replace(":1,", ":\"1.00\","),
        VALID.replace(":1,", ":100e-2,"),
        VALID.replace('}', r#","location":null,"extra":{"amount":[1,{"amount":2}]}}"#),
        VALID.replace('}', r#","merchant_category":""}"#),
        format!(" \n{VALID}\t"),
    ] {
        assert_eq!(of_json(spelling.as_bytes()), plain, "{spelling}");
    }
}

#[test]
fn a_reject_names_the_reason_and_the_field_but_no_value() {
    let json = |payload: Option<&[u8]>| {
        decoded(&**TRANSACTIONS.decoder(), &mut Scratch::default(), Message::of(payload))
    };
    assert_eq!(json(None).unwrap_err().reason, Reason::EmptyPayload);
    assert_eq!(json(Some(b"")).unwrap_err().reason, Reason::EmptyPayload);
    let invalid = json(Some(b"{\"a\":\"\xff\"}")).unwrap_err();
    assert_eq!((invalid.reason, invalid.detail.contains("byte 6")), (Reason::InvalidUtf8, true));
    for none in ["[]", "5", "\"secret\"", "null", "{", "{}x", "{\"a\":01}", "{'a':1}"] {
        let (reason, detail) = reason(none);
        assert_eq!(reason, Reason::InvalidJson, "{none}");
        assert!(!detail.contains("secret"));
    }
    for (from, to, expected, field) in [
        ("\"T\"", "null", Reason::MissingField, "transaction_id"),
        ("\"T\"", "\"\"", Reason::MissingField, "transaction_id"),
        ("\"T\"", "4711", Reason::InvalidField, "transaction_id"),
        ("\"T\"", "\"4711\\u0000\"", Reason::NulCharacter, "transaction_id"),
        ("\"T\"", "\"4711\\ud800\"", Reason::InvalidField, "transaction_id"),
        (":1,", ":47.115,", Reason::InvalidField, "amount"),
        (":1,", ":true,", Reason::InvalidField, "amount"),
        (":1,", ":1,\"amount\":4711,", Reason::DuplicateKey, "amount"),
        (":1,", ":1,\"x\":4711,\"x\":1,", Reason::DuplicateKey, "key"),
        (":1,", ":1,\"risk_score\":4711,", Reason::InvalidField, "risk_score"),
        (":1,", ":1,\"card_present\":\"true\",", Reason::InvalidField, "card_present"),
    ] {
        let (reason, detail) = reason(&VALID.replace(from, to));
        assert_eq!(reason, expected, "{to}");
        assert!(detail.contains(field) && !detail.contains("47"), "{detail}");
    }
}

#[test]
fn a_header_finds_columns_by_name() {
    let header = "\u{feff}extra,risk_score,card_present,location,merchant_category,timestamp,\
                  amount,transaction_type,account_id,\"transaction_id\"\r\n";
    let (decoder, mut scratch) = (decoder(header), Scratch::default());
    let mut of_row = |row: &[u8]| decoded(&decoder, &mut scratch, Message::of(Some(row)));
    let row = of_row(b"x,,,,,2026-01-01 00:00:00,1.0,deposit,A,T\r\n");
    assert_eq!(row, of_json(VALID.as_bytes()));
    let ragged = of_row(b"T,A\n").unwrap_err();
    assert_eq!(ragged.to_string(), "ragged_row: expected 10 fields, found 2");
    let refused = |line: &str| {
        TRANSACTIONS.files().open(line.as_bytes(), TRANSACTIONS.table()).unwrap_err().to_string()
    };
    let without = CSV_HEADER.replace("amount,", "");
    assert_eq!(refused(&without), "the header line has no column amount");
    let twice = format!("{CSV_HEADER},amount");
    assert_eq!(refused(&twice), "the header line has the column amount twice");
    assert_eq!(refused(""), "the header line has no column transaction_id");
}

#[test]
fn a_header_that_nearly_fits_names_the_difference_and_quotes_nothing_else() {
    let refused = |line: &str| {
        TRANSACTIONS.files().open(line.as_bytes(), TRANSACTIONS.table()).unwrap_err().to_string()
    };
    let quoted = format!("\"{}\"", CSV_HEADER.replace(',', "\";\""));
    for (line, name) in [
        (CSV_HEADER.replace(',', ";"), "semicolons"),
        (CSV_HEADER.replace(',', "; "), "semicolons"),
        (quoted, "semicolons"),
        (CSV_HEADER.replace(',', "\t"), "tabs"),
        (CSV_HEADER.replace(',', "|"), "pipes"),
    ] {
        let expected = format!(
            "the header line separates its columns with {name}: write the file with commas"
        );
        assert_eq!(refused(&line), expected);
    }
    for (from, to, differs) in [
        ("account_id", "Account_ID", "case"),
        ("account_id", " account_id", "spaces and case"),
        ("account_id", "\"ACCOUNT_ID \"", "spaces and case"),
    ] {
        let name = to.trim_matches('"');
        let expected = format!(
            "the header line has no column account_id but {name:?}: \
             names must match exactly, {differs} included"
        );
        assert_eq!(refused(&CSV_HEADER.replace(from, to)), expected);
    }
    let record = "T,secret,deposit,1.00,2026-01-01 00:00:00,fuel;tabs\t|,,,";
    assert_eq!(refused(record), "the header line has no column transaction_id");
    let open = CSV_HEADER.replace("account_id", "\"account_id");
    assert_eq!(
        refused(&open),
        "the header line is malformed at line 1 column 16: the quote that opens here is not closed"
    );
}

#[test]
fn a_misplaced_quote_rejects_its_record_with_line_and_column() {
    let (decoder, mut scratch) = (decoder(CSV_HEADER), Scratch::default());
    // A caret marks the reported place.
    for (location, why) in [
        ("\"Joe\\\"^s Bar\"", "expected a delimiter or the line's end after a closing quote"),
        ("\"two\nlines\"^ ", "expected a delimiter or the line's end after a closing quote"),
        ("5^\" pipe", "a quote in a field that does not begin with one"),
        (" ^\"Paris\"", "a quote in a field that does not begin with one"),
        ("\u{e9}^\"", "a quote in a field that does not begin with one"),
        ("^\"Memphis", "the quote that opens here is not closed"),
        ("^\"\"\"", "the quote that opens here is not closed"),
    ] {
        let row = format!("T,A,deposit,1,2026-01-01 00:00:00,,{location},,");
        let (before, behind) = row.split_once('^').unwrap();
        let (line, column) = (
            7 + before.matches('\n').count(),
            before.rsplit('\n').next().unwrap().chars().count() + 1,
        );
        let row = format!("{before}{behind}");
        let message = Message::of(Some(row.as_bytes())).on_line(7);
        let reject = decoded(&decoder, &mut scratch, message).unwrap_err();
        let expected = format!("invalid_csv: line {line} column {column}: {why}");
        assert_eq!(reject.to_string(), expected, "{row:?}");
    }
}

#[test]
fn rows_are_read_as_the_csv_crate_reads_them() {
    let (decoder, mut scratch) = (decoder(CSV_HEADER), Scratch::default());
    // A byte order mark below the header is text; quotes may hold line ends, and
    // the last row may end inside them; a lone return ends a row.
    for (row, id) in [
        ("\u{feff}T,A,deposit,1,2026-01-01 00:00:00,,,,\n", "\u{feff}T"),
        ("\"T\n\"\"1\"\"\",A,deposit,1,2026-01-01 00:00:00,,,,", "T\n\"1\""),
        ("T,A,deposit,1,2026-01-01 00:00:00,,\"x,,\n", ""),
        ("T,A,deposit,1,2026-01-01 00:00:00,,,TRUE,\"0.5\r", ""),
        ("T,A,deposit,1,2026-01-01 00:00:00,,,TRUE,0.5\r", "T"),
        ("\n", ""),
        ("T,A,deposit,1,2026-01-01 00:00:00,,,fAlSe,1\r\n", "T"),
        ("T,A,deposit,1,2026-01-01 00:00:00,,,,\nT,A\n", ""),
        ("T,A,deposit,1,2026-01-01 00:00:00,,,,", "T"),
    ] {
        let verdict = decoded(&decoder, &mut scratch, Message::of(Some(row.as_bytes())));
        assert_eq!(verdict.is_ok(), !id.is_empty(), "{row:?}: {verdict:?}");
        if let Ok(content) = verdict {
            assert!(content[4..].starts_with(id.as_bytes()), "{row:?}");
        }
    }
    let message = Message::of(Some(b"T\xc3,\xa9,deposit\n"));
    let invalid = decoded(&decoder, &mut scratch, message).unwrap_err();
    assert_eq!((invalid.reason, invalid.detail.contains("byte 1")), (Reason::InvalidUtf8, true));
}
