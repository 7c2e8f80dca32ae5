//! A column: its name, where its value is in a message, and its type.

use crate::dead_letter::{Reason, Reject};
use crate::record::table::quoted;
use crate::record::{Cell, ColumnType, Family, Field, Rule, Value, rules};

/// A column of a [`Table`](crate::record::Table).
///
/// ```
/// use lambda_core::record::{Column, Decimal};
///
/// let fare = Column::of::<Option<Decimal>>("fare").numeric(12, 4).from_field("price.amount");
/// assert_eq!(fare.kind.to_string(), "numeric(12,4)");
/// assert!(fare.nullable);
/// assert_eq!((fare.name.as_str(), fare.field.as_str()), ("fare", "price.amount"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Column {
    /// The name in the table.
    pub name: String,
    /// The name in file headers, and the path into a message: names of nested objects, separated
    /// by points; a point after a backslash is part of a name. Rejects name it.
    pub field: String,
    /// Where a message has the value.
    pub origin: Origin,
    /// The type in PostgreSQL.
    pub kind: ColumnType,
    /// Whether the value may be null.
    pub nullable: bool,
    /// Rules that every value satisfies, or its record is rejected.
    pub rules: Vec<Rule>,
    /// How decimals that the column does not have are rounded, after the rules; without it, their
    /// record is rejected.
    pub rounding: Option<Rounding>,
    /// Whether an empty text is null. CSV cannot distinguish them, unless it spells null.
    pub empty_is_null: bool,
    /// The value of records that lack the field, as a file spells it; a null stays null.
    pub default: Option<String>,
    /// The default as the field of a row.
    pub(crate) default_field: Option<Vec<u8>>,
}

/// Where a message has the value of a column. In files it is in the column of the field's name.
///
/// ```
/// use lambda_core::record::{Column, ColumnType, Origin};
///
/// let device = Column::new("device", ColumnType::Text).from_origin(Origin::Key);
/// let raw = Column::new("raw", ColumnType::Jsonb).from_field(".");
/// assert_eq!((device.origin, raw.origin), (Origin::Key, Origin::Message));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Origin {
    /// The field.
    #[default]
    Field,
    /// The whole message.
    Message,
    /// The message's key.
    Key,
    /// The value of the message's header of this name; of several, the last one.
    Header(String),
    /// The time at which the message was produced.
    Timestamp,
}

impl Origin {
    /// The part of a message other than a field that this text names: `key`, `header:NAME`,
    /// `message` or `timestamp`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "key" => Some(Self::Key),
            "message" => Some(Self::Message),
            "timestamp" => Some(Self::Timestamp),
            _ => {
                let name = text.strip_prefix("header:").filter(|name| !name.is_empty());
                name.map(|name| Self::Header(name.to_owned()))
            }
        }
    }
}

/// How a number is rounded.
///
/// ```
/// use lambda_core::record::{Column, Decimal, Rounding, RowRef, RowWriter, Scratch, Table};
///
/// let score = Column::of::<Decimal>("score").numeric(4, 2).rounded(Rounding::HalfAway);
/// let table = Table::new("scores").column(Column::of::<String>("id")).column(score);
/// let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
/// let mut row = RowWriter::new(&table, &mut rows, &mut scratch);
/// row.put("S-1").put(Decimal::literal("0.125"));
/// let row = row.finish()?;
///
/// let mut stored = RowRef::new(&table, &rows[row.content]);
/// assert_eq!(stored.take::<String>()?, "S-1");
/// assert_eq!(stored.take::<Decimal>()?, Decimal::literal("0.13"));
/// # Ok::<(), lambda_core::dead_letter::Reject>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rounding {
    /// To the nearest number, and away from zero halfway between two.
    HalfAway,
}

impl Column {
    /// A required column whose field has the same name.
    pub fn new(name: &str, kind: ColumnType) -> Self {
        Self {
            name: name.to_owned(),
            field: name.to_owned(),
            origin: Origin::Field,
            kind,
            nullable: false,
            rules: Vec::new(),
            rounding: None,
            empty_is_null: false,
            default: None,
            default_field: None,
        }
    }

    /// The column that holds a Rust type.
    pub fn of<T: Field>(name: &str) -> Self {
        Self { nullable: T::NULLABLE, ..Self::new(name, T::column_type()) }
    }

    /// The same column as `numeric(precision, scale)`, or with such elements.
    #[must_use]
    pub fn numeric(self, precision: u8, scale: u8) -> Self {
        self.with_element(|_| ColumnType::Numeric { precision, scale })
    }

    /// The same column as `varchar(length)`, or with such elements.
    #[must_use]
    pub fn varchar(self, length: u32) -> Self {
        self.with_element(|_| ColumnType::Varchar { length })
    }

    /// The same column with this number of digits in a second's fraction.
    #[must_use]
    pub fn precision(self, precision: u8) -> Self {
        self.with_element(|kind| match kind {
            ColumnType::Time { .. } => ColumnType::Time { precision },
            ColumnType::Timestamp { .. } => ColumnType::Timestamp { precision },
            ColumnType::Timestamptz { .. } => ColumnType::Timestamptz { precision },
            other => other,
        })
    }

    /// The same column of an enum type (see [`ColumnType::enumeration`]).
    #[must_use]
    pub fn enumeration(self, name: &str) -> Self {
        self.with_element(|_| ColumnType::enumeration(name))
    }

    /// The same column with one rule more.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Changes the type, or that of the elements.
    fn with_element(self, change: impl FnOnce(ColumnType) -> ColumnType) -> Self {
        let kind = match self.kind {
            ColumnType::Array(element) => change(*element).array(),
            kind => change(kind),
        };
        Self { kind, ..self }
    }

    /// The same column, read from a field of another name or path; `.` is the whole message.
    #[must_use]
    pub fn from_field(self, field: &str) -> Self {
        match field {
            "." => self.from_origin(Origin::Message),
            field => Self { field: field.to_owned(), ..self },
        }
    }

    /// The same column, allowed to be null.
    #[must_use]
    pub fn nullable(self) -> Self {
        Self { nullable: true, ..self }
    }

    /// The same column, read from another part of a message than a field.
    #[must_use]
    pub fn from_origin(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// The same column, with numbers rounded instead of rejected.
    #[must_use]
    pub fn rounded(self, rounding: Rounding) -> Self {
        Self { rounding: Some(rounding), ..self }
    }

    /// The same column, with an empty text as null.
    #[must_use]
    pub fn empty_is_null(self) -> Self {
        Self { empty_is_null: true, ..self }
    }

    /// The same column, with a value for records that lack the field, as a file spells it. A null
    /// stays null.
    #[must_use]
    pub fn or_default(self, text: &str) -> Self {
        Self { default: Some(text.to_owned()), ..self }
    }

    /// Appends a value to `out` as the field of a row.
    #[inline]
    pub(crate) fn put(&self, out: &mut Vec<u8>, value: &impl Value) -> Result<(), Reject> {
        let from = out.len() + 4;
        match Cell::fill(self, &self.kind, out, value)? {
            true if self.nullable => Ok(()),
            true => Err(self.missing()),
            false => rules::check(self, &out[from..]),
        }
    }

    /// Describes what of the column contradicts its type, if anything does.
    pub(crate) fn defect(&self) -> Option<String> {
        let kind = &self.kind;
        let of_rules = || self.rules.iter().find_map(|rule| rule.defect(kind));
        let of_rounding = || {
            let fits = kind.family() == Family::NUMERIC || self.rounding.is_none();
            (!fits).then(|| format!("{kind} is not rounded, only numeric is"))
        };
        let of_origin = || {
            let needs = match self.origin {
                Origin::Field | Origin::Key | Origin::Header(_) => return None,
                Origin::Message => Family::JSON,
                Origin::Timestamp => Family::TIMESTAMPTZ,
            };
            (kind.family() != needs).then(|| match self.origin {
                Origin::Message => format!("the whole message is jsonb, not {kind}"),
                _ => format!("the message's time is timestamptz, not {kind}"),
            })
        };
        kind.defect().or_else(of_rules).or_else(of_rounding).or_else(of_origin)
    }

    /// The name in file headers.
    pub(crate) fn header(&self) -> String {
        self.field.replace("\\.", ".")
    }

    /// The reject of a record without a value for the column.
    pub(crate) fn missing(&self) -> Reject {
        Reject::field(Reason::MissingField, &self.field, "a value is required")
    }

    /// The column as SQL names it.
    pub fn sql(&self) -> String {
        quoted(&self.name)
    }
}
