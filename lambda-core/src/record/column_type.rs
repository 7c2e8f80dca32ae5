//! The types that a column can have.

use std::fmt;

use crate::record::Family;
use crate::record::table::quoted;

/// Most digits of a `numeric`, as columns of records have it.
pub(crate) const NUMERIC_DIGITS_MAX: u8 = 38;

/// Most digits of a fraction of a second.
pub(crate) const FRACTION_DIGITS_MAX: u8 = 6;

/// Longest `varchar`, in characters.
pub(crate) const VARCHAR_LENGTH_MAX: u32 = 10_485_760;

/// The type of a column in PostgreSQL.
///
/// ```
/// use lambda_core::record::ColumnType;
///
/// assert_eq!(ColumnType::TIMESTAMPTZ.to_string(), "timestamp with time zone");
/// assert_eq!(ColumnType::Text.array().to_string(), "text[]");
/// assert_eq!(ColumnType::enumeration("ops.cabin").to_string(), "ops.cabin");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ColumnType {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric(precision, scale)`
    Numeric {
        /// Number of digits, at most 38.
        precision: u8,
        /// Number of digits after the point, at most `precision`.
        scale: u8,
    },
    /// `numeric` without a precision, of values with at most 38 digits. Zeros at the end of a
    /// fraction are not part of a value.
    UnconstrainedNumeric,
    /// `text`, or `varchar` without a length
    Text,
    /// `varchar(length)`
    Varchar {
        /// Most characters.
        length: u32,
    },
    /// `bytea`
    Bytea,
    /// `uuid`
    Uuid,
    /// `date`
    Date,
    /// `time(precision)`
    Time {
        /// Digits of a second's fraction, at most 6.
        precision: u8,
    },
    /// `timestamp(precision)`
    Timestamp {
        /// Digits of a second's fraction, at most 6.
        precision: u8,
    },
    /// `timestamptz(precision)`
    Timestamptz {
        /// Digits of a second's fraction, at most 6.
        precision: u8,
    },
    /// `jsonb`
    Jsonb,
    /// A type made by `create type … as enum`
    Enum {
        /// Its schema.
        schema: String,
        /// Its name.
        name: String,
    },
    /// A one-dimensional array of any other of these, but of no enum.
    Array(Box<Self>),
}

impl ColumnType {
    /// `time` in microseconds.
    pub const TIME: Self = Self::Time { precision: FRACTION_DIGITS_MAX };
    /// `timestamp` in microseconds.
    pub const TIMESTAMP: Self = Self::Timestamp { precision: FRACTION_DIGITS_MAX };
    /// `timestamptz` in microseconds.
    pub const TIMESTAMPTZ: Self = Self::Timestamptz { precision: FRACTION_DIGITS_MAX };

    /// The enum type of this name, which may begin with its schema and a point; else it is in
    /// `public`.
    pub fn enumeration(name: &str) -> Self {
        let (schema, name) = name.split_once('.').unwrap_or(("public", name));
        Self::Enum { schema: schema.to_owned(), name: name.to_owned() }
    }

    /// The type of arrays of this one.
    #[must_use]
    pub fn array(self) -> Self {
        Self::Array(Box::new(self))
    }

    /// The number by which the server knows a built-in type that is no array, the same in every
    /// database.
    pub(crate) fn oid(&self) -> Option<u32> {
        Some(match self {
            Self::Bool => 16,
            Self::Bytea => 17,
            Self::Int8 => 20,
            Self::Int2 => 21,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Float4 => 700,
            Self::Float8 => 701,
            Self::Varchar { .. } => 1043,
            Self::Date => 1082,
            Self::Time { .. } => 1083,
            Self::Timestamp { .. } => 1114,
            Self::Timestamptz { .. } => 1184,
            Self::Numeric { .. } | Self::UnconstrainedNumeric => 1700,
            Self::Uuid => 2950,
            Self::Jsonb => 3802,
            Self::Enum { .. } | Self::Array(_) => return None,
        })
    }

    /// The family of its values, which decides what keys and rules a column may have.
    pub(crate) fn family(&self) -> Family {
        match self {
            Self::Bool => Family::BOOL,
            Self::Int2 | Self::Int4 | Self::Int8 => Family::INTEGER,
            Self::Float4 | Self::Float8 => Family::FLOAT,
            Self::Numeric { .. } | Self::UnconstrainedNumeric => Family::NUMERIC,
            Self::Text | Self::Varchar { .. } | Self::Enum { .. } => Family::TEXT,
            Self::Bytea => Family::BYTES,
            Self::Uuid => Family::UUID,
            Self::Date => Family::DATE,
            Self::Time { .. } | Self::Timestamp { .. } => Family::TIME,
            Self::Timestamptz { .. } => Family::TIMESTAMPTZ,
            Self::Jsonb => Family::JSON,
            Self::Array(element) => element.family().array(),
        }
    }

    /// Whether a column of this type may be part of a key. Labels of an enum have an order of their
    /// own.
    pub(crate) fn is_key(&self) -> bool {
        self.family().is_key() && !matches!(self, Self::Enum { .. })
    }

    /// Whether its values are text, whose order depends on a collation.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self, Self::Text | Self::Varchar { .. })
    }

    /// Describes what is out of range, if anything is.
    pub(crate) fn defect(&self) -> Option<String> {
        match self {
            Self::Numeric { precision, scale } => {
                let fits = (1..=NUMERIC_DIGITS_MAX).contains(precision) && scale <= precision;
                let most = NUMERIC_DIGITS_MAX;
                (!fits)
                    .then(|| format!("{self} is not of 1 to {most} digits, or its scale is more"))
            }
            Self::Varchar { length } => {
                let fits = (1..=VARCHAR_LENGTH_MAX).contains(length);
                (!fits).then(|| format!("{self} is not of 1 to {VARCHAR_LENGTH_MAX} characters"))
            }
            Self::Time { precision }
            | Self::Timestamp { precision }
            | Self::Timestamptz { precision } => {
                let most = FRACTION_DIGITS_MAX;
                (*precision > most).then(|| format!("{self} has more than {most} digits"))
            }
            Self::Array(element) => match &**element {
                Self::Enum { .. } | Self::Array(_) => {
                    Some(format!("{self} is an array of an array or of an enum"))
                }
                element => element.defect(),
            },
            _ => None,
        }
    }

    /// The type's name in SQL, without modifiers.
    pub(crate) fn sql(&self) -> String {
        let name = match self {
            Self::Bool => "boolean",
            Self::Int2 => "smallint",
            Self::Int4 => "integer",
            Self::Int8 => "bigint",
            Self::Float4 => "real",
            Self::Float8 => "double precision",
            Self::Numeric { .. } | Self::UnconstrainedNumeric => "numeric",
            Self::Text => "text",
            Self::Varchar { .. } => "varchar",
            Self::Bytea => "bytea",
            Self::Uuid => "uuid",
            Self::Date => "date",
            Self::Time { .. } => "time",
            Self::Timestamp { .. } => "timestamp",
            Self::Timestamptz { .. } => "timestamptz",
            Self::Jsonb => "jsonb",
            Self::Enum { schema, name } => {
                return format!("{}.{}", quoted(schema), quoted(name));
            }
            Self::Array(element) => return format!("{}[]", element.sql()),
        };
        name.to_owned()
    }
}

impl fmt::Display for ColumnType {
    /// Writes the type as the server's `format_type` does, with modifiers; an enum with its
    /// schema.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |f: &mut fmt::Formatter<'_>, name, precision: u8, zone| match precision {
            FRACTION_DIGITS_MAX => write!(f, "{name} {zone} time zone"),
            digits => write!(f, "{name}({digits}) {zone} time zone"),
        };
        match self {
            Self::Numeric { precision, scale } => write!(f, "numeric({precision},{scale})"),
            Self::Varchar { length } => write!(f, "character varying({length})"),
            Self::Time { precision } => time(f, "time", *precision, "without"),
            Self::Timestamp { precision } => time(f, "timestamp", *precision, "without"),
            Self::Timestamptz { precision } => time(f, "timestamp", *precision, "with"),
            Self::Enum { schema, name } => write!(f, "{schema}.{name}"),
            Self::Array(element) => write!(f, "{element}[]"),
            other => f.write_str(&other.sql()),
        }
    }
}
