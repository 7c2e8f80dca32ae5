#![expect(clippy::unwrap_used, reason = "a test")]

use syn::parse_quote;

use super::expand;

/// The expansion of a record, without spaces.
fn expansion(input: &syn::DeriveInput) -> String {
    without_spaces(&expand(input).unwrap().to_string())
}

fn without_spaces(text: &str) -> String {
    text.split_whitespace().collect()
}

/// The texts of all errors of a record.
fn errors(source: &str) -> Vec<String> {
    let errors = expand(&syn::parse_str(source).unwrap()).unwrap_err();
    errors.into_iter().map(|error| error.to_string()).collect()
}

/// The errors of a record with these fields, whose key is `id`.
fn errors_of_fields(fields: &str) -> Vec<String> {
    errors(&format!(r#"#[record(table = "t", key(id))] struct R {{ id: i32, {fields} }}"#))
}

#[test]
fn a_record_has_a_column_for_each_field_in_their_order() {
    let expansion = expansion(&parse_quote! {
        #[record(table = "ops.flights", key(flight_id, "flight_day"))]
        struct Flight {
            #[record(length = 1..=20)]
            flight_id: String,
            #[record(column = "flight_day")]
            day: Date,
            r#type: Option<i16>,
        }
    });
    for piece in [
        r#"#[automatically_derived]
        impl ::lambda_core::Record for Flight {
            fn table() -> ::lambda_core::record::Table {
                ::lambda_core::record::Table::new("ops.flights")
                    .column(::lambda_core::record::Column::of::<String>("flight_id")
                        .rule(::lambda_core::record::Rule::length(1u32, 20u32)))
                    .column(::lambda_core::record::Column::of::<Date>("flight_day"))
                    .column(::lambda_core::record::Column::of::<Option<i16>>("type"))
                    .key(["flight_id", "flight_day"])
            }"#,
        "fn write(&self, row: &mut ::lambda_core::record::RowWriter<'_>) {
            row.put(&self.flight_id);
            row.put(&self.day);
            row.put(&self.r#type);
        }",
        "fn read(mut row: ::lambda_core::record::RowRef<'_>,)
            -> ::core::result::Result<Self, ::lambda_core::dead_letter::Reject>
        {
            ::core::result::Result::Ok(Self {
                flight_id: row.take::<String>()?,
                day: row.take::<Date>()?,
                r#type: row.take::<Option<i16>>()?
            })
        }",
    ] {
        assert!(expansion.contains(&without_spaces(piece)), "{piece} in {expansion}");
    }
}

#[test]
fn an_option_is_a_call_on_the_column() {
    let max = u32::MAX;
    let cases = [
        (r#"path = "times.departure""#, r#".from_field("times.departure")"#.to_owned()),
        ("numeric(12, 4)", ".numeric(12u8, 4u8)".to_owned()),
        ("numeric(38, 38)", ".numeric(38u8, 38u8)".to_owned()),
        ("varchar(10485760)", ".varchar(10485760u32)".to_owned()),
        ("precision = 0", ".precision(0u8)".to_owned()),
        (r#"sql = "ops.cabin""#, r#".enumeration("ops.cabin")"#.to_owned()),
        ("length = ..=20", rule("length(0u32, 20u32)")),
        ("bytes = 1..", rule(&format!("bytes(1u32, {max}u32)"))),
        ("bytes = 7..=7", rule("bytes(7u32, 7u32)")),
        (r#"one_of("a", "b",)"#, rule(r#"one_of(["a", "b"])"#)),
        ("between(-90_000, 60000)", between("-90000", "60000")),
        ("between(-0.5, 0.5)", between("-0.5", "0.5")),
        (r#"between(0, "12.50")"#, between("0", "12.50")),
        (
            r#"varchar(9), length = 1.., path = "b""#,
            format!(
                r#".from_field("b").varchar(9u32){}"#,
                rule(&format!("length(1u32, {max}u32)"))
            ),
        ),
        (
            r#"round = "half_away""#,
            ".rounded(::lambda_core::record::Rounding::HalfAway)".to_owned(),
        ),
        ("empty_is_null", ".empty_is_null()".to_owned()),
        (r#"default = "a b""#, r#".or_default("a b")"#.to_owned()),
        ("default = -5", r#".or_default("-5")"#.to_owned()),
        ("default = 1_000", r#".or_default("1000")"#.to_owned()),
        ("default = true", r#".or_default("true")"#.to_owned()),
        (
            r#"from = "timestamp""#,
            ".from_origin(::lambda_core::record::Origin::Timestamp)".to_owned(),
        ),
        (
            r#"from = "header:a b""#,
            r#".from_origin(::lambda_core::record::Origin::Header(::std::string::String::from("a b")))"#
                .to_owned(),
        ),
    ];
    for (options, calls) in cases {
        let source = format!(
            r#"#[record(table = "t", key(id))] struct R {{ id: i32, #[record({options})] a: T }}"#
        );
        let expansion = expansion(&syn::parse_str(&source).unwrap());
        let column = format!(r#".column(::lambda_core::record::Column::of::<T>("a"){calls})"#);
        assert!(expansion.contains(&without_spaces(&column)), "{column} in {expansion}");
    }
}

fn between(first: &str, last: &str) -> String {
    let decimal = |text| format!(r#"::lambda_core::record::Decimal::literal("{text}")"#);
    rule(&format!("between({}, {})", decimal(first), decimal(last)))
}

fn rule(call: &str) -> String {
    format!(".rule(::lambda_core::record::Rule::{call})")
}

#[test]
fn types_are_checked_against_options_and_key() {
    let expansion = expansion(&parse_quote! {
        #[record(table = "t", key("{id}"))]
        struct R {
            #[record(column = "{id}")]
            id: Id,
            #[record(numeric(9, 2), between(0, 9))]
            fare: Fare,
            #[record(precision = 3)]
            at: At,
            #[record(varchar(9), length = 1.., bytes = 1.., one_of("a"))]
            r#type: Label,
            #[record(sql = "cabin")]
            cabin: Cabin,
        }
    });
    let only = |ty: &str, test: &str, option: &str, field: &str, types: &str| {
        (
            format!("<{ty} as ::lambda_core::record::Field>::FAMILY.{test}()"),
            format!(
                "the option `{option}` of the field `{field}` is for {types} only: remove it, or \
                 change the field's type"
            ),
        )
    };
    let checks = [
        only("Fare", "is_numeric", "numeric", "fare", "decimals"),
        only("Fare", "is_number", "between", "fare", "numbers"),
        only("At", "is_time", "precision", "at", "times and timestamps"),
        only("Label", "is_text", "varchar", "type", "text"),
        only("Label", "is_text", "length", "type", "text"),
        only("Label", "is_text", "bytes", "type", "text"),
        only("Label", "is_text", "one_of", "type", "text"),
        only("Cabin", "is_text", "sql", "cabin", "text"),
        (
            "!<Id as ::lambda_core::record::Field>::NULLABLE".to_owned(),
            "the key column `{{id}}` is an Option: a key cannot be null, so remove the Option or \
             take the column out of the key"
                .to_owned(),
        ),
        (
            "<Id as ::lambda_core::record::Field>::FAMILY.is_key()".to_owned(),
            "the key column `{{id}}` is of a type that cannot be a key: use text, an integer, \
             bool, uuid, date or timestamptz"
                .to_owned(),
        ),
    ];
    for (condition, message) in &checks {
        let check = format!(r#"const _: () = {{ ::core::assert!({condition}, "{message}"); }};"#);
        assert!(expansion.contains(&without_spaces(&check)), "{check} in {expansion}");
    }
    assert_eq!(expansion.matches("::core::assert!").count(), checks.len());
}

#[test]
fn a_wrong_option_of_a_field_is_refused() {
    let bound = "a bound must be a decimal number of at most 38 digits without an exponent, such \
                 as -0.5";
    let end = "an end of a range must be from 0 to 4294967295";
    let precision_of_numeric = "the precision of `numeric` must be from 1 to 38";
    let varchar = "the length of `varchar` must be from 1 to 10485760";
    let cases = [
        (
            "lenght = 1..=20",
            "unknown option `lenght`; the options here are `column`, `path`, `numeric`, `varchar`, \
             `precision`, `sql`, `length`, `bytes`, `one_of`, `between`, `round`, `empty_is_null`, \
             `default`, `from`",
        ),
        ("5", "expected the name of an option"),
        ("precision = 3, precision = 3", "the option `precision` is given twice"),
        ("column", r#"expected `column = "name"`"#),
        ("column = b", r#"expected `column = "name"`"#),
        (r#"column("b")"#, r#"expected `column = "name"`"#),
        (r#"column = "b" "c""#, r#"expected `column = "name"`"#),
        ("path = 5", r#"expected `path = "times.departure"`"#),
        ("numeric", "expected `numeric(12, 4)`"),
        ("numeric = 12", "expected `numeric(12, 4)`"),
        ("numeric(12)", "expected `numeric(12, 4)`"),
        ("numeric(12, 4, 1)", "expected `numeric(12, 4)`"),
        ("numeric(0, 0)", precision_of_numeric),
        ("numeric(39, 0)", precision_of_numeric),
        ("numeric(300, 0)", precision_of_numeric),
        ("numeric(-1, 0)", precision_of_numeric),
        ("numeric(4, 5)", "the scale of `numeric` must be from 0 to 4"),
        ("numeric(4, -1)", "the scale of `numeric` must be from 0 to 4"),
        ("varchar()", "expected `varchar(20)`"),
        (r#"varchar("20")"#, "expected `varchar(20)`"),
        ("varchar(0)", varchar),
        ("varchar(10485761)", varchar),
        ("precision(3)", "expected `precision = 3`"),
        ("precision = 7", "`precision` must be from 0 to 6"),
        ("sql = cabin", r#"expected `sql = "ops.cabin"`"#),
        ("length", "expected `length = 1..=20`"),
        ("length = 20", "expected `length = 1..=20`"),
        ("length = 1..20", "expected `length = 1..=20`"),
        ("length = ..", "expected `length = 1..=20`"),
        ("length = ..20", "expected `length = 1..=20`"),
        ("length = 5..=4", "the range 5..=4 is empty"),
        ("length = -1..=4", end),
        ("length = ..=4294967296", end),
        ("bytes = 1..64", "expected `bytes = 1..=64`"),
        ("bytes = 64..=1", "the range 64..=1 is empty"),
        ("one_of()", r#"expected `one_of("a", "b")`"#),
        ("one_of(a, b)", r#"expected `one_of("a", "b")`"#),
        (r#"one_of = "a""#, r#"expected `one_of("a", "b")`"#),
        ("between = 1..=2", "expected `between(0, 100)`"),
        ("between(1)", "expected `between(0, 100)`"),
        ("between(true, false)", "expected `between(0, 100)`"),
        (r#"between(0, "many")"#, bound),
        (r#"between(0, "")"#, bound),
        (r#"between(0, "+1")"#, bound),
        (r#"between(".5", 1)"#, bound),
        ("between(0, 1e3)", bound),
        ("between(0, 100000000000000000000000000000000000000)", bound),
        ("between(1, -1)", "no value is between 1 and -1; write the smaller bound first"),
        (
            r#"varchar(20), sql = "ops.cabin""#,
            "`varchar` and `sql` both set the column's type; keep one",
        ),
        (r#"column = "id""#, "two fields have the column `id`"),
        ("round", r#"expected `round = "half_away"`"#),
        (r#"round = "up""#, r#"expected `round = "half_away"`"#),
        ("empty_is_null = true", "expected `empty_is_null`"),
        ("default", r#"expected `default = "0"`"#),
        ("default = 'x'", r#"expected `default = "0"`"#),
        (
            r#"from = "value""#,
            r#"expected `from = "key" (or "header:NAME", "message", "timestamp")`"#,
        ),
        (
            r#"from = "header:""#,
            r#"expected `from = "key" (or "header:NAME", "message", "timestamp")`"#,
        ),
    ];
    for (options, expected) in cases {
        assert_eq!(
            errors_of_fields(&format!("#[record({options})] a: T")),
            [expected],
            "{options}"
        );
    }
}

const BY_SERDE: &str = "serde does not decode this record, so its attributes have no effect: use \
                        options of `#[record(…)]`, or add `#[record(serde)]` to the struct";

#[test]
fn a_wrong_struct_is_refused() {
    let shape = |found| format!("a record is a struct with named fields, but `R` is {found}");
    let no_table = r#"`R` has no table; add `#[record(table = "ops.flights")]`"#;
    let no_key = "`R` has no key; add `#[record(key(flight_id, day))]`";
    let cases = [
        (r#"#[record(table = "t", key(a))] enum R { A }"#, shape("an enum")),
        (r#"#[record(table = "t", key(a))] union R { a: i32 }"#, shape("a union")),
        ("struct R;", shape("a struct without named fields")),
        ("struct R(i32);", shape("a struct without named fields")),
        (
            r#"#[record(table = "t", key(a))] struct R<T> { a: T }"#,
            "a record cannot be generic, since its table has fixed columns: remove the parameters"
                .to_owned(),
        ),
        ("#[record(key(a))] struct R { a: i32 }", no_table.to_owned()),
        (r#"#[record(table = "t")] struct R { a: i32 }"#, no_key.to_owned()),
        (
            "#[record(table = t, key(a))] struct R { a: i32 }",
            r#"expected `table = "ops.flights"`"#.to_owned(),
        ),
        (
            r#"#[record(table = "t", key())] struct R { a: i32 }"#,
            "expected `key(flight_id, day)`".to_owned(),
        ),
        (
            r#"#[record(table = "t", key = "a")] struct R { a: i32 }"#,
            "expected `key(flight_id, day)`".to_owned(),
        ),
        (
            r#"#[record(table = "t", key(a))] #[record(key(a))] struct R { a: i32 }"#,
            "the option `key` is given twice".to_owned(),
        ),
        (
            r#"#[record(table = "t", key(a), schema = "s")] struct R { a: i32 }"#,
            "unknown option `schema`; the options here are `table`, `key`, `serde`".to_owned(),
        ),
        (
            r#"#[record(table = "t", key(a), serde = "yes")] struct R { a: i32 }"#,
            "expected `serde`".to_owned(),
        ),
        (
            r#"#[record(table = "t", key(a))] #[serde(default)] struct R { a: i32 }"#,
            BY_SERDE.to_owned(),
        ),
        (
            r#"#[record(table = "t", key(a))] struct R { #[serde(alias = "b")] a: i32 }"#,
            BY_SERDE.to_owned(),
        ),
        (
            r#"#[record(table = "t", key(a, c))] struct R { a: i32, b: i32 }"#,
            "the key names `c`, but the columns are `a`, `b`".to_owned(),
        ),
        (
            r#"#[record(table = "t", key(a))] struct R { #[record(column = "b")] a: i32 }"#,
            "the key names `a`, but the columns are `b`".to_owned(),
        ),
        (
            r#"#[record(table = "t", key(a, "a"))] struct R { a: i32 }"#,
            "the key has the column `a` twice".to_owned(),
        ),
    ];
    for (source, expected) in cases {
        assert_eq!(errors(source), [expected], "{source}");
    }
}

#[test]
fn all_errors_of_a_struct_are_reported() {
    let source = r#"
        #[record(tabel = "t", key(a, z))]
        struct R<T> {
            #[record(varchar(0), sql = 5, colour = "red")]
            a: T,
            #[record(length = 2..=1)]
            #[record(column = "a")]
            b: String,
        }
    "#;
    let expected = [
        "a record cannot be generic",
        "unknown option `tabel`",
        "`R` has no table",
        "the length of `varchar`",
        "expected `sql = ",
        "unknown option `colour`",
        "the range 2..=1 is empty",
        "two fields have the column `a`",
        "the key names `z`",
    ];
    let errors = errors(source);
    assert_eq!(errors.len(), expected.len(), "{errors:?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}");
    }
}
