//! Valid and malformed JSON of every kind: what its grammar admits and what it does not.

use crate::Pipeline;
use crate::batch::Body;
use crate::decode::{Json, Message};
use crate::record::{Column, ColumnType, Scratch, Table};

/// Values of RFC 8259.
const VALUES: [&str; 47] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-1",
    "20",
    "123.456",
    "-0.1",
    "0e1",
    "0e+1",
    "1E22",
    "1e-2",
    "1E+2",
    "0.0",
    "123456789012345678901234567890",
    "1.000000000000000000000000000005",
    "-123.456e-78",
    "\"\"",
    "\"a\"",
    "\" \"",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    "\"\\u0041\"",
    "\"\\u00e9\\u00E9\"",
    "\"\\ud83d\\ude00\"",
    "\"\\uD834\\uDD1E\"",
    "\"\\u2028\"",
    "\"\\uFFFF\"",
    "\"\u{7f}\"",
    "\"\u{2028}\u{2029}\"",
    "\"é\"",
    "\"\u{1F980}\"",
    "\"\u{feff}\"",
    "\"\\\\u0000\"",
    "\"/*\"",
    "\"null\"",
    "[]",
    "[ ]",
    "[null]",
    "[1,\n2\t,\r3 ]",
    "[[[]]]",
    "[\"]\"]",
    "{}",
    "{ }",
    "{\"\":0}",
    "{\"a\":{\"b\":[{}]}}",
    "{\"a\" :\t1 ,\n\"b\":2}",
];

/// What is none: wrong numbers, texts, words, arrays, objects and spaces.
const MALFORMED: [&str; 105] = [
    // Numbers.
    "+1",
    "-",
    "--1",
    "-a",
    "- 1",
    "01",
    "-01",
    "00",
    "-012",
    ".5",
    "-.5",
    "2.",
    "-2.",
    "2.e3",
    "0.3e",
    "0.3e+",
    "0e",
    "0E+",
    "1e",
    "1e+",
    "1eE2",
    "1.0e-",
    "1e1.5",
    "1.2.3",
    "1 000",
    "1,000.5.",
    "0x1",
    "0x42",
    "1a",
    "1_000",
    "１",
    "Infinity",
    "-Infinity",
    "NaN",
    "-NaN",
    "Inf",
    "1e1e1",
    "0.1.2",
    "++1",
    "1-",
    "1+2",
    "9.e+",
    "0.e1",
    "-1.0.",
    // Texts.
    "\"",
    "\"a",
    "a\"",
    "'a'",
    "\"\\\"",
    "\"\\a\"",
    "\"\\x00\"",
    "\"\\",
    "\"\\u\"",
    "\"\\u1\"",
    "\"\\u12\"",
    "\"\\u123\"",
    "\"\\u00G0\"",
    "\"\\U0041\"",
    "\"\\u 041\"",
    "\"\\u+041\"",
    "\"\t\"",
    "\"\n\"",
    "\"\r\"",
    "\"\0\"",
    "\"\u{1f}\"",
    "\"a\nb\"",
    "\"\\\u{e9}\"",
    "\"\\\n\"",
    "\"\"\"",
    "\"a\"b\"",
    "“a”",
    "\\u0041",
    "\\\"a\\\"",
    // Words.
    "nul",
    "tru",
    "fals",
    "True",
    "NULL",
    "truefalse",
    "nil",
    "undefined",
    "yes",
    "a",
    "é",
    // Arrays and objects.
    "[",
    "]",
    "[1",
    "[1,",
    "[,1]",
    "[1,,2]",
    "[1 2]",
    "[1,]",
    "[1}",
    "{",
    "{]",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\" 1}",
    "{\"a\":1,}",
    "{a:1}",
    "{1:1}",
    "{'a':1}",
    "{\"a\"::1}",
    "{,}",
    // Spaces and comments.
    "\u{c}1",
];

/// A table whose column `f` is read, of messages in which `x` is not.
fn pipeline() -> Pipeline {
    let table = Table::new("t").column(Column::new("id", ColumnType::Int4));
    let table = table.column(Column::new("f", ColumnType::Jsonb).nullable());
    let table = table.column(Column::new("nested", ColumnType::Jsonb).nullable().from_field("o.f"));
    Pipeline::builder("t", table).messages(Json::new()).build().unwrap()
}

/// The reject of a message, if it is one.
fn rejected(pipeline: &Pipeline, message: &[u8]) -> Option<String> {
    let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
    let message = Message::of(Some(message));
    match Body::decode(&**pipeline.decoder(), pipeline.table(), &message, &mut rows, &mut scratch) {
        Body::Rejected(reject) => Some(reject.to_string()),
        Body::Row { .. } | Body::Skipped => None,
    }
}

/// Messages with a value everywhere that a value can be: read, skipped, first, last, nested.
fn messages(value: &str) -> [String; 6] {
    [
        format!("{{\"id\":1,\"f\":{value}}}"),
        format!("{{\"f\":{value},\"id\":1}}"),
        format!("{{\"id\":1,\"x\":{value}}}"),
        format!("{{\"x\":[0,{value}],\"id\":1}}"),
        format!("{{\"id\":1,\"o\":{{\"f\":{value}}}}}"),
        format!("{{\"id\":1,\"x\":{{\"o\":{{\"y\":{value}}}}}}}"),
    ]
}

#[test]
fn every_value_of_json_is_read_or_skipped() {
    let pipeline = pipeline();
    for value in VALUES {
        for message in messages(value) {
            assert!(serde_json::from_str::<serde::de::IgnoredAny>(&message).is_ok(), "{message}");
            assert_eq!(rejected(&pipeline, message.as_bytes()), None, "{message}");
        }
    }
}

#[test]
fn what_is_no_json_is_rejected_wherever_it_is() {
    let pipeline = pipeline();
    for value in MALFORMED {
        for message in messages(value) {
            assert!(serde_json::from_str::<serde::de::IgnoredAny>(&message).is_err(), "{message}");
            let reject = rejected(&pipeline, message.as_bytes()).unwrap_or_default();
            assert!(reject.starts_with("invalid_json: "), "{message}: {reject:?}");
        }
    }
}

#[test]
fn what_is_around_the_object_is_rejected() {
    let pipeline = pipeline();
    let around: [&[u8]; 16] = [
        b"\xef\xbb\xbf{\"id\":1}",
        b"\xff\xfe{\0}\0",
        b"{\"id\":1}{}",
        b"{\"id\":1}1",
        b"{\"id\":1},",
        b"{\"id\":1}]",
        b"{\"id\":1}//",
        b"/**/{\"id\":1}",
        b"{\"id\":1}\0",
        b"{\"id\":1}\x0c",
        b"[{\"id\":1}]",
        b"\"id\"",
        b"1",
        b" ",
        b"{\"id\":1}}",
        b"({\"id\":1})",
    ];
    for message in around {
        let reject = rejected(&pipeline, message);
        assert!(
            reject.as_ref().is_some_and(|it| it.starts_with("invalid_")),
            "{message:?}: {reject:?}"
        );
    }
    for message in [" {\"id\":1} ", "\n{\"id\":1}\r\n", "\t{\"id\" : 1 }"] {
        assert_eq!(rejected(&pipeline, message.as_bytes()), None, "{message}");
    }
}

#[test]
fn bytes_that_are_no_utf8_are_rejected_with_their_place() {
    let pipeline = pipeline();
    let broken: [&[u8]; 9] = [
        b"\xff",
        b"\xc0\x80",
        b"\xc3",
        b"\xe2\x82",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\x80",
        b"\xf0\x9f\xa6",
    ];
    for bytes in broken {
        let message = [b"{\"id\":1,\"x\":\"", bytes, b"\"}"].concat();
        let reject = rejected(&pipeline, &message).unwrap_or_default();
        assert!(
            reject.starts_with("invalid_utf8: invalid UTF-8 at byte 13"),
            "{bytes:?}: {reject}"
        );
    }
}

/// Half of a pair of surrogates is no character. It is admitted where nothing reads it, as in
/// `serde_json`.
#[test]
fn half_a_surrogate_pair_is_rejected_where_it_is_read() {
    let pipeline = pipeline();
    for text in
        ["\\ud800", "\\udc00", "\\ud800\\u0041", "\\ud800\\ud800", "\\udc00\\ud800", "\\ud83d\\n"]
    {
        let [read, _, skipped, ..] = messages(&format!("\"{text}\""));
        assert!(rejected(&pipeline, read.as_bytes()).is_some(), "{read}");
        assert_eq!(rejected(&pipeline, skipped.as_bytes()), None, "{skipped}");
    }
}
