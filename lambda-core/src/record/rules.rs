//! Rules for the values of a column, beyond its type.

use std::cmp::Ordering;

use crate::dead_letter::{Reason, Reject};
use crate::record::value::{array_elements, numeric};
use crate::record::{CellRef, Column, ColumnType, Decimal, Field as _};

/// A rule for the values of a column; of a column of arrays, for each element. Null satisfies
/// every rule.
///
/// ```
/// use lambda_core::record::{Column, ColumnType, Rule};
///
/// let column = Column::new("flight_id", ColumnType::Text).rule(Rule::length(1, 20));
/// assert_eq!(column.rules, [Rule::length(1, 20)]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// A text's length in characters, both ends included.
    Length(u32, u32),
    /// A text's length in bytes of UTF-8, both ends included.
    Bytes(u32, u32),
    /// The texts that are allowed.
    OneOf(Vec<String>),
    /// The numbers that are allowed, both ends included.
    Between(Decimal, Decimal),
}

impl Rule {
    /// Text of `least` to `most` characters.
    pub fn length(least: u32, most: u32) -> Self {
        Self::Length(least, most)
    }

    /// Text of `least` to `most` bytes.
    pub fn bytes(least: u32, most: u32) -> Self {
        Self::Bytes(least, most)
    }

    /// One of these texts.
    pub fn one_of<'t>(texts: impl IntoIterator<Item = &'t str>) -> Self {
        Self::OneOf(texts.into_iter().map(ToOwned::to_owned).collect())
    }

    /// Numbers from `from` to `to`.
    pub fn between(from: Decimal, to: Decimal) -> Self {
        Self::Between(from, to)
    }

    /// Describes why a column of this type cannot have the rule, if it cannot.
    pub(crate) fn defect(&self, kind: &ColumnType) -> Option<String> {
        let kind = element(kind);
        let (is_text, is_number) = (kind.family().is_text(), kind.family().is_number());
        let (fits, is_empty) = match self {
            Self::Length(least, most) | Self::Bytes(least, most) => (is_text, least > most),
            Self::OneOf(texts) => (is_text, texts.is_empty()),
            Self::Between(from, to) => (is_number, from.compare(*to) == Ordering::Greater),
        };
        if fits {
            is_empty.then(|| format!("no value satisfies \"{self}\""))
        } else {
            Some(format!("a rule that says \"{self}\" cannot be for {kind}"))
        }
    }

    /// Whether a value of the type satisfies the rule.
    fn allows(&self, kind: &ColumnType, value: &[u8]) -> bool {
        let within = |length: usize, least: &u32, most: &u32| {
            (*least as usize..=*most as usize).contains(&length)
        };
        match self {
            Self::Length(least, most) => {
                let characters = std::str::from_utf8(value).map_or(0, |text| text.chars().count());
                within(characters, least, most)
            }
            Self::Bytes(least, most) => within(value.len(), least, most),
            Self::OneOf(texts) => texts.iter().any(|text| text.as_bytes() == value),
            Self::Between(from, to) => is_between(CellRef::new(kind, Some(value)), *from, *to),
        }
    }
}

/// The type of a column's values, or of the elements of its arrays.
fn element(kind: &ColumnType) -> &ColumnType {
    match kind {
        ColumnType::Array(element) => element,
        kind => kind,
    }
}

fn is_between(value: CellRef<'_>, from: Decimal, to: Decimal) -> bool {
    let exact = match value.kind() {
        ColumnType::Int2 => i16::read(value).map(i128::from),
        ColumnType::Int4 => i32::read(value).map(i128::from),
        ColumnType::Int8 => i64::read(value).map(i128::from),
        ColumnType::Float4 | ColumnType::Float8 => {
            // Bounds are taken at the column's own width, or 0.1 would be above 0.1.
            let single = |bound: Decimal| bound.to_string().parse::<f32>().unwrap_or(f32::NAN);
            let double = |bound: Decimal| bound.to_string().parse::<f64>().unwrap_or(f64::NAN);
            let (one, other) = (f32::read(value), f64::read(value));
            return one.is_some_and(|float| (single(from)..=single(to)).contains(&float))
                || other.is_some_and(|float| (double(from)..=double(to)).contains(&float));
        }
        _ => None,
    };
    let exact = exact.map(|unscaled| Decimal { unscaled, scale: 0 });
    let exact = exact.or_else(|| numeric::get(value.bytes()?));
    exact.is_some_and(|exact| {
        from.compare(exact) != Ordering::Greater && exact.compare(to) != Ordering::Greater
    })
}

/// Checks a written value against the rules of its column.
#[inline]
pub(crate) fn check(column: &Column, value: &[u8]) -> Result<(), Reject> {
    if column.rules.is_empty() { Ok(()) } else { check_all(column, value) }
}

fn check_all(column: &Column, value: &[u8]) -> Result<(), Reject> {
    let kind = element(&column.kind);
    for rule in &column.rules {
        if column.rounding.is_some() && matches!(rule, Rule::Between(..)) {
            // It held for the number before it was rounded.
            continue;
        }
        let allowed = match column.kind {
            ColumnType::Array(_) => array_elements(value)
                .is_some_and(|elements| elements.iter().flatten().all(|it| rule.allows(kind, it))),
            _ => rule.allows(kind, value),
        };
        if !allowed {
            let detail = format!("expected {rule}");
            return Err(Reject::field(Reason::InvalidField, &column.field, detail));
        }
    }
    Ok(())
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lengths = |f: &mut std::fmt::Formatter<'_>, least: &u32, most: &u32, what| match (
            *least, *most,
        ) {
            (least, u32::MAX) => write!(f, "at least {least} {what}"),
            (0, most) => write!(f, "at most {most} {what}"),
            (least, most) => write!(f, "{least} to {most} {what}"),
        };
        match self {
            Self::Length(least, most) => lengths(f, least, most, "characters"),
            Self::Bytes(least, most) => lengths(f, least, most, "bytes"),
            Self::OneOf(texts) => write!(f, "one of {}", texts.join(", ")),
            Self::Between(from, to) => write!(f, "a number from {from} to {to}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::record::{RowWriter, Scratch, Table, Value};

    fn put(column: Column, value: impl Value) -> Result<(), Reject> {
        let table = Table::new("t").column(column.nullable());
        let mut out = Vec::new();
        let mut scratch = Scratch::default();
        let mut row = RowWriter::new(&table, &mut out, &mut scratch);
        row.put(value);
        row.finish().map(drop)
    }

    #[test]
    fn a_rule_holds_for_every_value() {
        let decimal = Decimal::literal;
        let text = |rule| Column::new("f", ColumnType::Text).rule(rule);
        let number =
            |kind, from, to| Column::new("f", kind).rule(Rule::between(decimal(from), decimal(to)));
        let texts = || Column::new("f", ColumnType::Text.array()).rule(Rule::length(1, 2));
        let cents = || number(ColumnType::Numeric { precision: 9, scale: 2 }, "-0.5", "10");
        let int = |kind| number(kind, "-3", "5");
        let cases: [(Column, &dyn Value, &str); 20] = [
            (text(Rule::length(1, 3)), &"äöü".to_owned(), ""),
            (text(Rule::length(1, 3)), &String::new(), "f: expected 1 to 3 characters"),
            (text(Rule::length(0, 3)), &"abcd".to_owned(), "f: expected at most 3 characters"),
            (text(Rule::bytes(2, u32::MAX)), &"ä".to_owned(), ""),
            (text(Rule::bytes(3, u32::MAX)), &"ä".to_owned(), "f: expected at least 3 bytes"),
            (text(Rule::one_of(["a", "b"])), &"b".to_owned(), ""),
            (text(Rule::one_of(["a", "b"])), &"B".to_owned(), "f: expected one of a, b"),
            (text(Rule::one_of(["a", "b"])), &None::<String>, ""),
            (int(ColumnType::Int2), &-3_i16, ""),
            (int(ColumnType::Int4), &6_i32, "f: expected a number from -3 to 5"),
            (int(ColumnType::Int8), &i64::MIN, "f: expected a number from -3 to 5"),
            (int(ColumnType::Float8), &5.0_f64, ""),
            (int(ColumnType::Float8), &f64::NAN, "f: expected a number from -3 to 5"),
            (int(ColumnType::Float4), &5.1_f32, "f: expected a number from -3 to 5"),
            (number(ColumnType::Float4, "0", "0.1"), &0.1_f32, ""),
            (cents(), &decimal("-0.50"), ""),
            (cents(), &decimal("-0.51"), "f: expected a number from -0.5 to 10"),
            (cents(), &decimal("10.01"), "f: expected a number from -0.5 to 10"),
            (texts(), &vec!["a", "bb"], ""),
            (texts(), &vec!["a", "bbb"], "f: expected 1 to 2 characters"),
        ];
        for (column, value, says) in cases {
            let described = format!("{column:?}");
            let result = put(column, value);
            assert_eq!(
                result.map_or_else(|reject| reject.detail, |()| String::new()),
                says,
                "{described}"
            );
        }
    }

    #[test]
    fn a_rule_that_cannot_be_for_a_type_is_named() {
        let decimal = Decimal::literal;
        let cases = [
            (Rule::length(1, 2), ColumnType::Int4, "cannot be for integer"),
            (Rule::one_of([]), ColumnType::Text, "no value satisfies"),
            (Rule::bytes(3, 2), ColumnType::Text.array(), "no value satisfies"),
            (Rule::between(decimal("1"), decimal("0.5")), ColumnType::Int4, "no value satisfies"),
            (Rule::between(decimal("0"), decimal("1")), ColumnType::Text, "cannot be for text"),
        ];
        for (rule, kind, says) in cases {
            assert!(rule.defect(&kind).unwrap().contains(says), "{rule}");
        }
        assert_eq!(Rule::length(1, 2).defect(&ColumnType::enumeration("a.b")), None);
    }

    #[test]
    fn decimals_compare_by_value() {
        let decimal = Decimal::literal;
        let largest = Decimal { unscaled: i128::MAX, scale: 0 };
        for (one, other, order) in [
            (decimal("1.50"), decimal("1.5"), Ordering::Equal),
            (decimal("-2"), decimal("1.5"), Ordering::Less),
            (decimal("2"), decimal("1.5"), Ordering::Greater),
            (largest, decimal("0.00001"), Ordering::Greater),
            (decimal("0.00001"), largest, Ordering::Less),
            (Decimal { unscaled: i128::MIN, scale: 0 }, decimal("0.1"), Ordering::Less),
        ] {
            assert_eq!(one.compare(other), order, "{one} {other}");
        }
    }
}
