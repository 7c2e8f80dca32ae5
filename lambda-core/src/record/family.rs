//! What is known of a field's type when a record is compiled.

/// The family of a [`Field`](crate::record::Field)'s column type: it decides at compile time
/// which keys and rules a field may have.
///
/// ```
/// use lambda_core::record::Field;
///
/// assert!(String::FAMILY.is_key());
/// assert!(!f64::FAMILY.is_key(), "floats are not compared reliably");
/// assert!(Vec::<i32>::FAMILY.is_array());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    scalar: Scalar,
    is_array: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalar {
    Bool,
    Integer,
    Float,
    Numeric,
    Text,
    Bytes,
    Uuid,
    Date,
    /// Without a zone, or of a day.
    Time,
    Timestamptz,
    Json,
}

impl Family {
    /// `boolean`
    pub const BOOL: Self = Self::of(Scalar::Bool);
    /// `smallint`, `integer` and `bigint`
    pub const INTEGER: Self = Self::of(Scalar::Integer);
    /// `real` and `double precision`
    pub const FLOAT: Self = Self::of(Scalar::Float);
    /// `numeric`
    pub const NUMERIC: Self = Self::of(Scalar::Numeric);
    /// `text`, `varchar` and enums
    pub const TEXT: Self = Self::of(Scalar::Text);
    /// `bytea`
    pub const BYTES: Self = Self::of(Scalar::Bytes);
    /// `uuid`
    pub const UUID: Self = Self::of(Scalar::Uuid);
    /// `date`
    pub const DATE: Self = Self::of(Scalar::Date);
    /// `time` and `timestamp`
    pub const TIME: Self = Self::of(Scalar::Time);
    /// `timestamptz`
    pub const TIMESTAMPTZ: Self = Self::of(Scalar::Timestamptz);
    /// `jsonb`
    pub const JSON: Self = Self::of(Scalar::Json);

    const fn of(scalar: Scalar) -> Self {
        Self { scalar, is_array: false }
    }

    /// The family of arrays of these.
    #[must_use]
    pub const fn array(self) -> Self {
        Self { is_array: true, ..self }
    }

    /// Whether it is that of arrays.
    pub const fn is_array(self) -> bool {
        self.is_array
    }

    /// Whether a key may have such a column.
    pub const fn is_key(self) -> bool {
        use Scalar::{Bool, Date, Integer, Text, Timestamptz, Uuid};
        !self.is_array && matches!(self.scalar, Bool | Date | Integer | Text | Timestamptz | Uuid)
    }

    /// Whether values, or those of an array, are text.
    pub const fn is_text(self) -> bool {
        matches!(self.scalar, Scalar::Text)
    }

    /// Whether values, or those of an array, are exact decimal numbers.
    pub const fn is_numeric(self) -> bool {
        matches!(self.scalar, Scalar::Numeric)
    }

    /// Whether values, or those of an array, are numbers of any kind.
    pub const fn is_number(self) -> bool {
        matches!(self.scalar, Scalar::Integer | Scalar::Float | Scalar::Numeric)
    }

    /// Whether values, or those of an array, have a fraction of a second.
    pub const fn is_time(self) -> bool {
        matches!(self.scalar, Scalar::Time | Scalar::Timestamptz)
    }
}
