//! Values and their bytes, without a server.

#![expect(clippy::unwrap_used, clippy::float_cmp, reason = "a test of exact values")]

use proptest::prelude::*;

use super::time::postgres_micros;
use super::*;

fn write(kind: &ColumnType, value: impl Value) -> Result<Option<Vec<u8>>, Reject> {
    let mut out = Vec::new();
    let null = fill(kind.clone(), &mut out, &value)?;
    Ok((!null).then(|| out[4..].to_vec()))
}

/// Reads back what was written.
fn again<T: Field>(kind: &ColumnType, value: &T) -> T {
    let bytes = write(kind, value).unwrap();
    T::read(CellRef::new(kind, bytes.as_deref())).unwrap()
}

/// Encodes like PostgreSQL's `numeric_send`, from the decimal text: groups of four digits on
/// both sides of the point, zero groups stripped at both ends.
fn numeric_send(unscaled: i128, scale: u8) -> Vec<u8> {
    let scale = usize::from(scale);
    let digits = format!("{:0>1$}", unscaled.unsigned_abs(), scale + 1);
    let (whole, behind) = digits.split_at(digits.len() - scale);
    let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
    let behind = format!("{behind}{}", "0".repeat((4 - behind.len() % 4) % 4));
    let all = format!("{whole}{behind}");
    let mut groups: Vec<i16> =
        (0..all.len()).step_by(4).map(|at| all[at..at + 4].parse().unwrap()).collect();
    let mut weight = whole.len() as i16 / 4 - 1;
    while groups.first() == Some(&0) {
        groups.remove(0);
        weight -= 1;
    }
    while groups.last() == Some(&0) {
        groups.pop();
    }
    if groups.is_empty() {
        weight = 0;
    }
    let mut bytes = (groups.len() as i16).to_be_bytes().to_vec();
    bytes.extend(weight.to_be_bytes());
    bytes.extend(if unscaled < 0 { [0x40, 0] } else { [0, 0] });
    bytes.extend((scale as i16).to_be_bytes());
    bytes.extend(groups.iter().flat_map(|group| group.to_be_bytes()));
    bytes
}

const END: i128 = 10_i128.pow(38);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn numerics_are_as_postgresql_sends_them(
        value in 1 - END..END, cut in 0..38_u32, zeros in 0..38_u32, scale in 0..=38_u8,
    ) {
        // Small and round values as often as long ones.
        let unscaled = value / 10_i128.pow(cut) / 10_i128.pow(zeros) * 10_i128.pow(zeros);
        prop_assume!(unscaled.abs() < END);
        let (kind, decimal) = (ColumnType::Numeric { precision: 38, scale }, Decimal { unscaled, scale });
        let bytes = write(&kind, decimal).unwrap().unwrap();
        prop_assert_eq!(&bytes, &numeric_send(unscaled, scale));
        prop_assert_eq!(again(&kind, &decimal), decimal);
    }

    #[test]
    fn a_numeric_has_one_form_whatever_its_zeros(
        unscaled in -1_000_000_i128..1_000_000, scale in 0..6_u8, zeros in 0..6_u8,
    ) {
        let kind = ColumnType::UnconstrainedNumeric;
        let longer = Decimal {
            unscaled: unscaled * 10_i128.pow(u32::from(zeros)),
            scale: scale + zeros,
        };
        let one = write(&kind, Decimal { unscaled, scale }).unwrap().unwrap();
        prop_assert_eq!(&write(&kind, longer).unwrap().unwrap(), &one);
        let mut sent = numeric_send(longer.unscaled, longer.scale);
        canonical::make(&kind, &mut sent);
        prop_assert_eq!(sent, one);
    }

    #[test]
    fn every_value_is_read_as_it_was_written(
        (small, middle, large) in any::<(i16, i32, i64)>(), (single, double) in any::<(f32, f64)>(),
        flag in any::<bool>(), uuid in any::<u128>(), text in "[^\0]{0,9}",
        bytes in any::<Vec<u8>>(), texts in proptest::collection::vec("[^\0]{0,9}", 0..4),
        numbers in any::<Vec<Option<i32>>>(), days in -2_000_000..2_000_000_i32,
        micros in -200_000_000_000_000_000..200_000_000_000_000_000_i64,
        day_micros in 0..86_400_000_000_i64,
    ) {
        prop_assert_eq!(again(&ColumnType::Int2, &small), small);
        prop_assert_eq!(again(&ColumnType::Int4, &Some(middle)), Some(middle));
        prop_assert_eq!(again(&ColumnType::Int4, &None::<i32>), None);
        prop_assert_eq!(again(&ColumnType::Int8, &large), large);
        prop_assert_eq!(again(&ColumnType::Float4, &single), single);
        prop_assert_eq!(again(&ColumnType::Float8, &double), double);
        prop_assert_eq!(again(&ColumnType::Bool, &flag), flag);
        prop_assert_eq!(again(&ColumnType::Uuid, &Uuid::from_u128(uuid)), Uuid::from_u128(uuid));
        prop_assert_eq!(again(&ColumnType::Text, &text), text);
        prop_assert_eq!(again(&ColumnType::Bytea, &bytes), bytes);
        prop_assert_eq!(again(&ColumnType::Text.array(), &texts), texts);
        prop_assert_eq!(again(&ColumnType::Int4.array(), &numbers), numbers);
        prop_assert_eq!(again(&ColumnType::Date, &UnixDays(days)), UnixDays(days));
        for precision in 0..=6 {
            let cut = 10_i64.pow(6 - u32::from(precision));
            let micros = micros / cut * cut;
            let kind = ColumnType::Timestamptz { precision };
            prop_assert_eq!(again(&kind, &UnixMicros(micros)), UnixMicros(micros));
            let kind = ColumnType::Timestamp { precision };
            prop_assert_eq!(again(&kind, &CivilMicros(micros)), CivilMicros(micros));
            let day_micros = day_micros / cut * cut;
            let kind = ColumnType::Time { precision };
            prop_assert_eq!(again(&kind, &DayMicros(day_micros)), DayMicros(day_micros));
        }
    }

    #[test]
    fn no_json_panics_and_its_form_is_stable(text in "[{}\\[\\]\",:0-9eE.+\\- atruflsn\\\\]{0,30}") {
        if let Ok(value) = Jsonb::parse(&text) {
            prop_assert_eq!(Jsonb::parse(value.as_str()), Ok(value));
        }
    }
}

#[test]
fn digits_of_a_second_are_cut_and_not_rounded() {
    let kind = ColumnType::Timestamptz { precision: 3 };
    for (micros, cut) in [(1_999, 1_000), (-1, -1_000), (-1_000, -1_000), (0, 0)] {
        assert_eq!(again(&kind, &UnixMicros(micros)), UnixMicros(micros.min(cut)), "{micros}");
        let bytes = write(&kind, UnixMicros(micros)).unwrap().unwrap();
        assert_eq!(Some(i64::from_be_bytes(bytes.try_into().unwrap())), postgres_micros(cut));
    }
}

#[test]
fn no_exponent_overflows() {
    for text in ["10e9223372036854775807", "1e99999999999999999999999", "0.1e9223372036854775808"] {
        assert!(text.parse::<Decimal>().is_err(), "{text}");
    }
    for text in ["0e99999999999999999999", "-0.000e-99999999999999999999999", "00"] {
        assert_eq!(text.parse::<Decimal>().map(|it| it.unscaled), Ok(0), "{text}");
    }
    assert!("1e-9223372036854775808".parse::<Decimal>().is_err(), "digits are not dropped");
}

#[test]
fn a_value_that_its_column_cannot_hold_is_rejected() {
    let rejected = |kind: ColumnType, value: &dyn Value| {
        let mut out = Vec::new();
        let reject = fill(kind, &mut out, value).unwrap_err();
        assert_eq!(reject.field.as_deref(), Some("f"));
        format!("{}: {}", reject.reason, reject.detail)
    };
    let money = || ColumnType::Numeric { precision: 6, scale: 2 };
    let decimal = |unscaled, scale| Decimal { unscaled, scale };
    let varchar = || ColumnType::Varchar { length: 3 };
    let cases: [(ColumnType, &dyn Value, &str); 16] = [
        (
            money(),
            &decimal(1_000_000, 2),
            "invalid_field: f: expected a number of at most 4 digits before the point and 2 after it",
        ),
        (money(), &decimal(10_000, 0), "invalid_field: f: expected a number of at most 4 digits"),
        (
            money(),
            &decimal(i128::MAX, 0),
            "invalid_field: f: expected a number of at most 4 digits",
        ),
        (money(), &decimal(12_345, 3), "invalid_field: f: expected a number of at most 4 digits"),
        (
            ColumnType::UnconstrainedNumeric,
            &decimal(END, 0),
            "invalid_field: f: expected a number of at most 38 digits",
        ),
        (
            ColumnType::UnconstrainedNumeric,
            &decimal(1, 39),
            "invalid_field: f: expected a number of at most 38 digits",
        ),
        (varchar(), &"äöüx".to_owned(), "invalid_field: f: expected at most 3 characters"),
        (varchar(), &"abc ".to_owned(), "invalid_field: f: expected at most 3 characters"),
        (ColumnType::Text, &"a\0".to_owned(), "nul_character: f"),
        (ColumnType::Text.array(), &vec!["a", "\0"], "nul_character: f"),
        (ColumnType::Date, &UnixDays(i32::MIN), "invalid_field: f: expected a date"),
        (ColumnType::TIMESTAMPTZ, &UnixMicros(i64::MIN), "invalid_field: f: expected a time"),
        (ColumnType::TIMESTAMP, &CivilMicros(i64::MIN), "invalid_field: f: expected a time"),
        (
            ColumnType::Timestamp { precision: 0 },
            &CivilMicros(i64::MIN),
            "invalid_field: f: expected a time",
        ),
        (ColumnType::TIME, &DayMicros(86_400_000_000), "invalid_field: f: expected a time"),
        (ColumnType::Int8, &7_i32, "invalid_field: f: the record gives integer for bigint"),
    ];
    for (kind, value, says) in cases {
        let reject = rejected(kind, value);
        assert!(reject.starts_with(says), "{reject}");
    }
    for value in ["äöü", "abc", "ab "] {
        assert_eq!(again(&varchar(), &value.to_owned()), value);
    }
    assert_eq!(again(&money(), &decimal(12_340, 3)), decimal(1_234, 2), "no digit is lost");
}

#[test]
fn floats_have_one_zero_and_one_nan() {
    let double = |bits: u64| write(&ColumnType::Float8, f64::from_bits(bits)).unwrap().unwrap();
    assert_eq!(double(1 << 63), double(0));
    assert_eq!(double(0x7ff8_0000_0000_0001), double(0xfff8_0000_0000_0000));
    assert_eq!(double(0x7ff8_0000_0000_0001), 0x7ff8_0000_0000_0000_u64.to_be_bytes());
    let single = |bits: u32| write(&ColumnType::Float4, f32::from_bits(bits)).unwrap().unwrap();
    assert_eq!(single(1 << 31), single(0));
    assert_eq!(single(0xffc0_0001), 0x7fc0_0000_u32.to_be_bytes());
}

#[test]
fn an_array_has_one_form_whatever_the_server_sends() {
    let kind = ColumnType::Float8.array();
    let sent = write(&kind, vec![1.5, 0.0]).unwrap().unwrap();
    let mut returned = write(&kind, vec![1.5, 0.0]).unwrap().unwrap();
    returned[7] = 1; // nulls may follow
    returned[19] = 7; // the first index
    returned[36] = 0x80; // a negative zero
    canonical::make(&kind, &mut returned);
    assert_eq!(returned, sent);
}

#[test]
fn json_is_as_postgresql_prints_it() {
    let parsed = [
        (" { } ", "{}"),
        ("[ ]", "[]"),
        ("null", "null"),
        (
            r#"{"bb":1,"a":[true,false,null],"":{}}"#,
            r#"{"": {}, "a": [true, false, null], "bb": 1}"#,
        ),
        (r#"{"b":1,"a":2,"ä":3}"#, r#"{"a": 2, "b": 1, "ä": 3}"#),
        (r#""\u00e4\/\u001f\u007f\t\"\\\ud83d\ude00""#, "\"ä/\\u001f\u{7f}\\t\\\"\\\\😀\""),
        (
            "[1.50,-0,-0.0,0e5,0.00e1,1E+2,1.5e3,1.5e-3,-1.23e-2,12e0,100e-2]",
            "[1.50, 0, 0.0, 0, 0.0, 100, 1500, 0.0015, -0.0123, 12, 1.00]",
        ),
    ];
    for (text, printed) in parsed {
        assert_eq!(Jsonb::parse(text).unwrap().as_str(), printed, "{text}");
    }
    let refused = [
        (r#"{"a":1,"b":{"c":1,"\u0063":2}}"#, JsonbError::DuplicateKey),
        (r#"["\u0000"]"#, JsonbError::Nul),
        (r#""\ud800""#, JsonbError::Surrogate),
        ("1e1000", JsonbError::Digits),
        ("1e-1001", JsonbError::Digits),
        ("1e99999999999999999999", JsonbError::Digits),
    ];
    for (text, error) in refused {
        assert_eq!(Jsonb::parse(text), Err(error), "{text}");
    }
    let short = format!("[{}1]", "1e999,".repeat(1_000));
    assert_eq!(Jsonb::parse(&short), Err(JsonbError::Digits), "a hundred times as long");
    let deep = |depth| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(Jsonb::parse(&deep(127)).unwrap().as_str(), deep(127));
    for depth in [128, 1_000_000] {
        assert_eq!(Jsonb::parse(&deep(depth)), Err(JsonbError::Depth));
    }
    for text in ["", "{", "[1,]", "01", "{\"a\"}", "nul", "1 2"] {
        assert!(matches!(Jsonb::parse(text), Err(JsonbError::Syntax(_))), "{text}");
    }
}
