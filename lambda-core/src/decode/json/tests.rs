//! JSON messages, held to `serde_json`.

#![expect(clippy::unwrap_used, clippy::float_cmp, reason = "a test of exact values")]

mod suite;

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::value::RawValue;

use crate::Pipeline;
use crate::batch::Body;
use crate::dead_letter::{Reason, Reject};
use crate::decode::{Decode as _, Json, Message};
use crate::header::Header;
use crate::record::{CellRef, Column, ColumnType, Field as _, Origin, Scratch, Table};

/// The columns of a row, as `column: bytes`; or the reject.
fn decoded(pipeline: &Pipeline, message: &Message<'_>) -> Result<Vec<Option<Vec<u8>>>, String> {
    let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
    let decoder = &**pipeline.decoder();
    match Body::decode(decoder, pipeline.table(), message, &mut rows, &mut scratch) {
        Body::Row { .. } => {}
        Body::Rejected(reject) => return Err(reject.to_string()),
        Body::Skipped => return Err("skipped".into()),
    }
    let (mut rest, mut fields) = (&rows[..], Vec::new());
    for _ in pipeline.table().columns() {
        let (field, others) = crate::record::value::split_field(rest).unwrap();
        fields.push(field.map(<[u8]>::to_vec));
        rest = others;
    }
    Ok(fields)
}

fn of(pipeline: &Pipeline, payload: &str) -> Result<Vec<Option<Vec<u8>>>, String> {
    decoded(pipeline, &Message::of(Some(payload.as_bytes())))
}

/// A table of nullable columns, of which `id` is the key.
fn table(columns: impl IntoIterator<Item = Column>) -> Pipeline {
    let table = Table::new("t").column(Column::new("id", ColumnType::Int4).or_default("1"));
    let table = columns.into_iter().fold(table, |table, column| table.column(column.nullable()));
    Pipeline::builder("t", table).build().unwrap()
}

fn texts() -> Pipeline {
    table(["a", "b"].map(|name| Column::new(name, ColumnType::Text)))
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a field")]
fn text(value: &str) -> Option<Vec<u8>> {
    Some(value.as_bytes().to_vec())
}

/// Whether a text is an object of JSON whose keys occur once.
fn is_object(json: &str) -> bool {
    serde_json::from_str::<BTreeMap<String, &RawValue>>(json).is_ok()
}

/// Pieces of JSON, whole and broken.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\"a\"",
        "\"b\"",
        "\"x\"",
        "\"a\":",
        ",\"b\":",
        "null",
        "true",
        "false",
        "tru",
        "nul",
        "0",
        "-0",
        "1.5",
        "1e5",
        "-",
        "01",
        "1.",
        ".5",
        "1e",
        "+1",
        "\\",
        "\\n",
        "\\u0041",
        "\\u00",
        "\\ud800",
        "\\ud83d\\ude00",
        "\\x",
        " ",
        "\n",
        "\t",
        "\u{1}",
        "\u{7f}",
        "\u{feff}",
        "é",
        "\u{1F980}",
        "{}",
        "[]",
        "[1,2]",
        "{\"a\":1}",
        "/**/",
        "'",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// An object of random values, to be broken.
fn objects() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "\\PC{0,9}".prop_map(Into::into),
        "[\"\\\\/\n\t\u{1}]{0,4}".prop_map(Into::into),
    ];
    let value = leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map("[a-c]{1,2}", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    });
    prop::collection::btree_map("[abx]", value, 0..4)
        .prop_map(|map| serde_json::Value::Object(map.into_iter().collect()).to_string())
}

/// Whether the decoder finds the same as `serde_json`: a syntax error, or none.
fn agrees(json: &str) -> Result<(), TestCaseError> {
    let syntax = match of(&texts(), json) {
        Err(reject) if reject.starts_with("invalid_json") => false,
        Err(reject) if reject.starts_with("empty_payload") => false,
        _ => true,
    };
    prop_assert_eq!(syntax, is_object(json), "{:?}: {:?}", json, of(&texts(), json));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_text_is_json_exactly_if_serde_json_says_so(
        pieces in pieces(), object in objects(), at in any::<prop::sample::Index>(), by in pieces(),
    ) {
        agrees(&pieces)?;
        agrees(&format!("{{\"a\":{pieces}}}"))?;
        agrees(&object)?;
        let characters: Vec<char> = object.chars().collect();
        let at = at.index(characters.len());
        let (before, behind) = characters.split_at(at);
        let (before, behind) = (String::from_iter(before), String::from_iter(&behind[1..]));
        agrees(&before)?;
        agrees(&format!("{before}{behind}"))?;
        agrees(&format!("{before}{by}{behind}"))?;
    }

    #[test]
    fn any_text_is_read_as_serde_json_reads_it(value in "\\PC{0,20}", escape: bool) {
        let mut json = serde_json::to_string(&value).unwrap();
        if escape {
            json = json.chars().fold(String::new(), |out, it| match it {
                'a'..='z' if !out.ends_with('\\') => format!("{out}\\u{:04x}", it as u32),
                it => format!("{out}{it}"),
            });
        }
        let read: Option<String> = serde_json::from_str(&json).ok();
        let fields = of(&texts(), &format!("{{\"a\":{json}}}"));
        prop_assert_eq!(fields.ok().map(|fields| fields[1].clone()), read.map(|it| text(&it)));
    }

    #[test]
    fn floats_are_read_as_serde_json_reads_them(single: f32, double: f64, digits in "-?[0-9]{1,22}(\\.[0-9]{1,22})?(e-?[0-9]{1,3})?") {
        let floats = table([
            Column::new("single", ColumnType::Float4),
            Column::new("double", ColumnType::Float8),
        ]);
        for (single, double) in [
            (single.to_string(), double.to_string()), (digits.clone(), digits)
        ] {
            let json = format!("{{\"single\":{single},\"double\":{double}}}");
            if !is_object(&json) {
                continue;
            }
            let expected = (serde_json::from_str::<f32>(&single), serde_json::from_str::<f64>(&double));
            match (of(&floats, &json), expected) {
                (Ok(fields), (Ok(single), Ok(double))) => {
                    let read = |index: usize, kind| f64_of(CellRef::new(kind, fields[index].as_deref()));
                    prop_assert_eq!(read(1, &ColumnType::Float4), f64::from(single) + 0.0);
                    prop_assert_eq!(read(2, &ColumnType::Float8), double + 0.0);
                }
                (Err(reject), (single, double)) => {
                    let infinite = single.map_or(true, f32::is_infinite) || double.is_err();
                    prop_assert!(infinite, "{}: {}", json, reject);
                }
                (Ok(fields), expected) => prop_assert!(false, "{json}: {fields:?} {expected:?}"),
            }
        }
    }
}

fn f64_of(cell: CellRef<'_>) -> f64 {
    f32::read(cell).map(f64::from).or_else(|| f64::read(cell)).unwrap()
}

#[test]
fn a_message_is_cut_at_every_byte_and_never_read() {
    let json = r#"{"a": "x\u00e9\ud83d\ude00", "z": [1.5e-3, {"k": [true, null]}], "b" : "é"}"#;
    assert!(of(&texts(), json).is_ok());
    for end in 0..json.len() {
        let message = Message::of(Some(&json.as_bytes()[..end]));
        let reject = decoded(&texts(), &message).unwrap_err();
        assert!(
            ["empty_payload", "invalid_json", "invalid_utf8"]
                .iter()
                .any(|it| reject.starts_with(it)),
            "{reject}"
        );
    }
}

#[test]
fn nesting_costs_no_stack() {
    for (open, close) in [("[", "]"), ("{\"k\":", "}"), ("[{\"k\":[", "]}]")] {
        let nested = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        assert_eq!(
            of(&texts(), &format!("{{\"z\":{nested}}}")),
            Ok(vec![Some(1_i32.to_be_bytes().to_vec()), None, None,])
        );
        let reject = of(&texts(), &format!("{{\"a\":{nested}}}")).unwrap_err();
        assert_eq!(reject, "invalid_field: a: expected text");
        let open = of(&texts(), &format!("{{\"z\":{}", open.repeat(100_000))).unwrap_err();
        assert!(open.starts_with("invalid_json: expected"), "{open}");
    }
}

#[test]
fn a_syntax_error_names_its_place_and_no_value() {
    for (json, says) in [
        ("{\"a\":1,}", "expected a key in quotes at line 1 column 8"),
        ("{\n \"a\" 1}", "expected a colon after the key at line 2 column 6"),
        ("{\"a\":\"secret}", "expected the end of a string at line 1 column 14"),
        ("{\"a\":\"é\u{1}\"}", "expected no control character in a string at line 1 column 8"),
        ("{\"a\":\"\\x\"}", "expected an escape that JSON has at line 1 column 7"),
        ("{\"a\":01}", "expected a number without leading zeros at line 1 column 6"),
        ("{\"a\":1.}", "expected a digit at line 1 column 8"),
        ("{\"a\":tru}", "expected true, false or null at line 1 column 6"),
        ("{\"a\":[1 2]}", "expected a comma or the end of the array at line 1 column 9"),
        ("{\"a\":1 \"b\":2}", "expected a comma or the end of the object at line 1 column 8"),
        ("{} {}", "expected nothing after the value at line 1 column 4"),
        ("{\"\\ud800\":1}", "expected a key without unpaired surrogates at line 1 column 11"),
        ("\u{feff}{}", "expected a JSON object at line 1 column 1"),
        ("[]", "expected a JSON object at line 1 column 1"),
        ("{\"a\":}", "expected a value at line 1 column 6"),
        ("{\"a\":NaN}", "expected a value at line 1 column 6"),
    ] {
        assert_eq!(of(&texts(), json), Err(format!("invalid_json: {says}")), "{json}");
    }
}

#[test]
fn paths_lead_into_nested_objects() {
    let nested = table([
        Column::new("at", ColumnType::Text).from_field("meta.times.at"),
        Column::new("by", ColumnType::Text).from_field("meta.by"),
        Column::new("dotted", ColumnType::Text).from_field("meta\\.by"),
        Column::new("all", ColumnType::Jsonb).from_field("raw"),
    ]);
    let columns = |at, by, dotted, all: Option<&str>| {
        let all = all.map(|all| [b"\x01", all.as_bytes()].concat());
        let id = Some(1_i32.to_be_bytes().to_vec());
        Ok(vec![
            id,
            Option::and_then(at, text),
            Option::and_then(by, text),
            Option::and_then(dotted, text),
            all,
        ])
    };
    for (json, expected) in [
        (
            r#"{"meta":{"x":[{"at":"no"}],"times":{"at":"1"},"by":"me"},"meta.by":"d","raw":{"b":1,"a":[]}}"#,
            columns(Some("1"), Some("me"), Some("d"), Some(r#"{"a": [], "b": 1}"#)),
        ),
        (r#"{"meta":{"by":"me","times":{}}}"#, columns(None, Some("me"), None, None)),
        (r#"{"meta":null,"raw":null}"#, columns(None, None, None, None)),
        (r#"{"raw":"text"}"#, columns(None, None, None, Some(r#""text""#))),
        (r#"{"meta":[]}"#, Err("invalid_field: meta.times.at: expected an object at meta".into())),
        (r#"{"meta":{"by":"a","by":"b"}}"#, Err("duplicate_key: by: expected once".into())),
        (
            r#"{"meta":{"x":1,"\u0078":2}}"#,
            Err("duplicate_key: a key that is none of the record's fields: expected once".into()),
        ),
        (r#"{"a\\b":1}"#, columns(None, None, None, None)),
        (r#"{"x":{"y":1},"meta":{"x":1,"z":{"x":1,"x":2}}}"#, columns(None, None, None, None)),
    ] {
        assert_eq!(of(&nested, json), expected, "{json}");
    }
}

#[test]
fn paths_that_clash_are_refused() {
    for (one, other, says) in [
        ("a", "a", "both have the field a"),
        ("a", "a.b", "is read twice"),
        ("a.b", "a", "is read twice"),
        ("a.b.c", "a.b", "is read twice"),
        ("a.", "b", "has a part without a name"),
    ] {
        let table = [("one", one), ("other", other)].into_iter().fold(
            Table::new("t").column(Column::new("id", ColumnType::Int4)),
            |table, (name, path)| {
                table.column(Column::new(name, ColumnType::Text).from_field(path).nullable())
            },
        );
        let refused = Pipeline::builder("t", table).build().unwrap_err();
        assert_eq!(refused.exit_code(), 78);
        assert!(refused.chain().contains(says), "{one} {other}: {}", refused.chain());
    }
}

#[test]
fn only_some_messages_are_records() {
    let table = || {
        Table::new("t")
            .column(Column::new("id", ColumnType::Int4))
            .column(Column::new("type", ColumnType::Text))
    };
    let json = Json::new().only("type", "reading").only("meta.v", "2");
    let readings = Pipeline::builder("t", table()).messages(json).build().unwrap();
    for (payload, is_record) in [
        (r#"{"id":1,"type":"reading","meta":{"v":2}}"#, true),
        (r#"{"id":1,"meta":{"v":"2"},"type":"\u0072eading"}"#, true),
        (r#"{"id":1,"type":"reading","meta":{"v":2.0}}"#, false),
        (r#"{"id":1,"type":"reading"}"#, false),
        (r#"{"id":"no","type":"other","meta":{"v":2}}"#, false),
        (r#"{"type":"other","x":1,"x":2}"#, false),
        (r#"{"id":1,"type":null,"meta":{"v":2}}"#, false),
    ] {
        let found = of(&readings, payload);
        assert_eq!(found.is_ok(), is_record, "{payload}: {found:?}");
        assert!(is_record || found == Err("skipped".into()), "{payload}: {found:?}");
    }
    assert!(of(&readings, r#"{"type":"other""#).unwrap_err().starts_with("invalid_json"));
}

#[test]
fn filter_and_map_wrap_a_decoder() {
    let wrapped = Json::new()
        .map("v1", |message| {
            let payload = message.payload.and_then(|payload| payload.strip_prefix(b"v1 "));
            let reject = || Reject::new(Reason::InvalidJson, "expected v1 before the JSON");
            payload.map(<[u8]>::to_vec).ok_or_else(reject)
        })
        .filter(|message| message.key.is_some());
    let table = Table::new("t").column(Column::new("id", ColumnType::Int4));
    let pipeline = Pipeline::builder("p", table).messages(wrapped).build().unwrap();
    let keyed = |payload| Message { key: Some(b"k"), ..Message::of(Some(payload)) };
    let fields = decoded(&pipeline, &keyed(b"v1 {\"id\":7}")).unwrap();
    assert_eq!(fields, [Some(7_i32.to_be_bytes().to_vec())]);
    let refused = decoded(&pipeline, &keyed(b"{\"id\":7}")).unwrap_err();
    assert_eq!(refused, "invalid_json: expected v1 before the JSON");
    assert_eq!(decoded(&pipeline, &Message::of(Some(b"v1 {}"))).unwrap_err(), "skipped");
}

#[test]
fn columns_come_from_all_of_a_message() {
    let origin = |name: &str, kind, origin| Column::new(name, kind).from_origin(origin);
    let pipeline = table([
        origin("whole", ColumnType::Jsonb, Origin::Message),
        origin("key", ColumnType::Text, Origin::Key),
        origin("at", ColumnType::TIMESTAMPTZ, Origin::Timestamp),
        origin("trace", ColumnType::Int4, Origin::Header("trace".into())),
        origin("raw", ColumnType::Bytea, Origin::Header("raw".into())),
    ]);
    let headers = [("trace", Some(&b"1"[..])), ("raw", Some(b"\xff")), ("trace", Some(b"7"))];
    let headers = headers.map(|(name, value)| Header::new(name, value));
    let message = Message {
        payload: Some(br#"{"b":1,"aa":2}"#),
        key: Some(b"k"),
        timestamp_ms: Some(946_684_800_001),
        headers: &headers,
        ..Message::default()
    };
    let fields = decoded(&pipeline, &message).unwrap();
    assert_eq!(
        fields[1..],
        [
            Some(b"\x01{\"b\": 1, \"aa\": 2}".to_vec()),
            text("k"),
            Some(1_000_i64.to_be_bytes().to_vec()),
            Some(7_i32.to_be_bytes().to_vec()),
            Some(b"\xff".to_vec()),
        ]
    );
    let headers = [Header::new("trace", Some(b"x")), Header::new("raw", None)];
    let wrong = Message { headers: &headers, ..Message::of(Some(b"{}")) };
    let refused = decoded(&pipeline, &wrong).unwrap_err();
    assert!(refused.starts_with("invalid_field: trace: expected"), "{refused}");
    let bare = Message { key: Some(b"\xff"), ..Message::of(Some(b"{}")) };
    assert_eq!(decoded(&pipeline, &bare).unwrap_err(), "invalid_field: key: expected UTF-8");
    let bare = decoded(&pipeline, &Message::of(Some(b"{}"))).unwrap();
    assert_eq!(bare[2..], [None, None, None, None]);
}
