//! Values of columns: the Rust types that write them, and read them back.
//!
//! The form is that of PostgreSQL's binary COPY, which is also the form of a query's result.

#[cfg(any(feature = "jiff", feature = "rust_decimal", feature = "serde_json"))]
mod foreign;
mod jsonb;
pub(crate) mod numeric;
pub(crate) mod time;

use uuid::Uuid;

use crate::dead_letter::{Reason, Reject};
use crate::record::{Column, ColumnType, Family, canonical};

pub use self::jsonb::{Jsonb, JsonbError};
pub use self::numeric::{Decimal, DecimalError};
pub use self::time::{CivilMicros, DayMicros, TimeError, UnixDays, UnixMicros};

/// A value that can be written into a column.
///
/// ```
/// use lambda_core::record::{Cell, Value};
///
/// enum Cabin {
///     Economy,
///     Business,
/// }
///
/// impl Value for Cabin {
///     fn write(&self, cell: &mut Cell<'_>) {
///         let label = match self {
///             Self::Economy => "economy",
///             Self::Business => "business",
///         };
///         label.write(cell);
///     }
/// }
/// # use lambda_core::record::{Column, ColumnType, RowWriter, Scratch, Table};
/// #
/// # let table = Table::new("seats").column(Column::new("cabin", ColumnType::Text));
/// # let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
/// # let mut row = RowWriter::new(&table, &mut rows, &mut scratch);
/// # row.put(Cabin::Business);
/// # let row = row.finish()?;
/// # assert_eq!(rows[row.key], *b"business");
/// # let mut row = RowWriter::new(&table, &mut rows, &mut scratch);
/// # row.put(Cabin::Economy);
/// # assert!(row.finish().is_ok());
/// # Ok::<(), lambda_core::dead_letter::Reject>(())
/// ```
pub trait Value {
    /// Writes the value; leaving `cell` untouched makes the column null.
    fn write(&self, cell: &mut Cell<'_>);
}

/// A Rust type of which a column is made: it has a type in PostgreSQL, and its values can be
/// read back.
///
/// ```
/// use lambda_core::record::{Cell, CellRef, ColumnType, Family, Field, Value};
///
/// /// A sensor's number.
/// struct Sensor(i32);
///
/// impl Value for Sensor {
///     fn write(&self, cell: &mut Cell<'_>) {
///         self.0.write(cell);
///     }
/// }
///
/// impl Field for Sensor {
///     const FAMILY: Family = i32::FAMILY;
///
///     fn column_type() -> ColumnType {
///         i32::column_type()
///     }
///
///     fn read(cell: CellRef<'_>) -> Option<Self> {
///         i32::read(cell).map(Self)
///     }
/// }
///
/// assert!(Sensor::FAMILY.is_key());
/// assert_eq!(Sensor::column_type(), ColumnType::Int4);
/// ```
pub trait Field: Value + Sized {
    /// The family of its column's type.
    const FAMILY: Family;

    /// Whether a column of it may be null.
    const NULLABLE: bool = false;

    /// The type of its column, unless the record says otherwise.
    fn column_type() -> ColumnType;

    /// Reads a stored value; nothing if the value is not of this type.
    fn read(cell: CellRef<'_>) -> Option<Self>;
}

/// The destination of a [`Value`].
#[derive(Debug)]
pub struct Cell<'a> {
    pub(crate) column: &'a Column,
    /// The column's type, or that of its elements.
    pub(crate) kind: &'a ColumnType,
    out: &'a mut Vec<u8>,
    null: bool,
    defect: Option<Reject>,
}

impl<'a> Cell<'a> {
    /// Appends a value of the column, or an element of it, with its length to `out`. Returns
    /// whether it is null.
    #[inline]
    pub(crate) fn fill(
        column: &'a Column,
        kind: &'a ColumnType,
        out: &'a mut Vec<u8>,
        value: &(impl Value + ?Sized),
    ) -> Result<bool, Reject> {
        let from = out.len() + 4;
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        let mut cell = Cell { column, kind, out, null: true, defect: None };
        value.write(&mut cell);
        let Cell { out, null, defect, .. } = cell;
        if let Some(defect) = defect {
            return Err(defect);
        }
        if !null {
            let length = i32::try_from(out.len() - from).unwrap_or(i32::MAX);
            out[from - 4..from].copy_from_slice(&length.to_be_bytes());
            canonical::make(kind, &mut out[from..]);
        }
        Ok(null)
    }

    /// The type of the column.
    pub fn kind(&self) -> &ColumnType {
        self.kind
    }

    /// Whether the column takes this text for null.
    #[inline]
    pub(crate) fn is_null(&self, text: &str) -> bool {
        text.is_empty() && self.column.empty_is_null && *self.kind == self.column.kind
    }

    /// Rejects the record for this value. `expected` describes the form that is expected.
    ///
    /// ```
    /// use lambda_core::dead_letter::Reason;
    /// use lambda_core::record::{Cell, Column, ColumnType, RowWriter, Scratch, Table, Value};
    ///
    /// struct Percent(i16);
    ///
    /// impl Value for Percent {
    ///     fn write(&self, cell: &mut Cell<'_>) {
    ///         match self.0 {
    ///             0..=100 => self.0.write(cell),
    ///             _ => cell.reject(Reason::InvalidField, "expected 0 to 100"),
    ///         }
    ///     }
    /// }
    ///
    /// let table = Table::new("discs").column(Column::new("used", ColumnType::Int2));
    /// let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
    /// let mut row = RowWriter::new(&table, &mut rows, &mut scratch);
    /// row.put(Percent(101));
    /// let reject = row.finish().map(drop);
    /// assert!(reject.is_err_and(|reject| reject.detail == "used: expected 0 to 100"));
    /// ```
    pub fn reject(&mut self, reason: Reason, expected: impl std::fmt::Display) {
        if self.defect.is_none() {
            self.defect = Some(Reject::field(reason, &self.column.field, expected));
        }
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.null = false;
        self.out.extend_from_slice(bytes);
    }

    /// Puts a text without a NUL character.
    #[inline]
    pub(crate) fn put_text(&mut self, text: &str) {
        if matches!(self.kind, ColumnType::Text) && !text.is_empty() {
            return self.put(text.as_bytes());
        }
        self.put_other_text(text);
    }

    fn put_other_text(&mut self, text: &str) {
        if self.is_null(text) {
            return;
        }
        match self.kind {
            ColumnType::Text | ColumnType::Enum { .. } => {}
            // PostgreSQL cuts spaces at the end instead of refusing them.
            ColumnType::Varchar { length } => {
                let most = *length as usize;
                if text.len() > most && text.chars().count() > most {
                    let expected = format_args!("expected at most {most} characters");
                    self.reject(Reason::InvalidField, expected);
                }
            }
            _ => return self.misfit("text"),
        }
        self.put(text.as_bytes());
    }

    /// Puts the bytes of a value if the column is of its type.
    fn put_as(&mut self, kind: &ColumnType, bytes: &[u8]) {
        if self.kind == kind { self.put(bytes) } else { self.misfit(kind) }
    }

    /// Rejects a value that is of another type than its column. Only a record whose `write`
    /// contradicts its table does this.
    fn misfit(&mut self, found: impl std::fmt::Display) {
        let kind = self.kind;
        self.reject(Reason::InvalidField, format!("the record gives {found} for {kind}"));
    }
}

/// A stored value.
#[derive(Debug, Clone, Copy)]
pub struct CellRef<'a> {
    kind: &'a ColumnType,
    bytes: Option<&'a [u8]>,
}

impl<'a> CellRef<'a> {
    pub(crate) fn new(kind: &'a ColumnType, bytes: Option<&'a [u8]>) -> Self {
        Self { kind, bytes }
    }

    /// The type of the column.
    pub fn kind(self) -> &'a ColumnType {
        self.kind
    }

    /// The value in PostgreSQL's binary form; nothing for null.
    pub fn bytes(self) -> Option<&'a [u8]> {
        self.bytes
    }

    /// The value if the column is of this type and the value is of this many bytes.
    fn chunk<const N: usize>(self, kind: &ColumnType) -> Option<[u8; N]> {
        self.bytes.filter(|_| self.kind == kind)?.try_into().ok()
    }
}

impl<T: Value + ?Sized> Value for &T {
    fn write(&self, cell: &mut Cell<'_>) {
        (**self).write(cell);
    }
}

impl<T: Value> Value for Option<T> {
    fn write(&self, cell: &mut Cell<'_>) {
        if let Some(value) = self {
            value.write(cell);
        }
    }
}

impl<T: Field> Field for Option<T> {
    const FAMILY: Family = T::FAMILY;
    const NULLABLE: bool = true;

    fn column_type() -> ColumnType {
        T::column_type()
    }

    fn read(cell: CellRef<'_>) -> Option<Self> {
        if cell.bytes.is_none() { Some(None) } else { T::read(cell).map(Some) }
    }
}

/// Numbers and other values of a fixed length.
macro_rules! fixed {
    ($($type:ty: $kind:ident, $family:ident, $bytes:ident, $of:path;)*) => {
        $(
            impl Value for $type {
                fn write(&self, cell: &mut Cell<'_>) {
                    cell.put_as(&ColumnType::$kind, &self.$bytes());
                }
            }

            impl Field for $type {
                const FAMILY: Family = Family::$family;

                fn column_type() -> ColumnType {
                    ColumnType::$kind
                }

                fn read(cell: CellRef<'_>) -> Option<Self> {
                    cell.chunk(&ColumnType::$kind).map($of)
                }
            }
        )*
    };
}

fixed! {
    i16: Int2, INTEGER, to_be_bytes, i16::from_be_bytes;
    i32: Int4, INTEGER, to_be_bytes, i32::from_be_bytes;
    i64: Int8, INTEGER, to_be_bytes, i64::from_be_bytes;
    f32: Float4, FLOAT, to_be_bytes, f32::from_be_bytes;
    f64: Float8, FLOAT, to_be_bytes, f64::from_be_bytes;
    Uuid: Uuid, UUID, into_bytes, Uuid::from_bytes;
}

impl Value for bool {
    fn write(&self, cell: &mut Cell<'_>) {
        cell.put_as(&ColumnType::Bool, &[u8::from(*self)]);
    }
}

impl Field for bool {
    const FAMILY: Family = Family::BOOL;

    fn column_type() -> ColumnType {
        ColumnType::Bool
    }

    fn read(cell: CellRef<'_>) -> Option<Self> {
        cell.chunk(&ColumnType::Bool).map(|[byte]| byte != 0)
    }
}

impl Value for str {
    /// Text goes into columns of text, and into those of an enum as its label.
    fn write(&self, cell: &mut Cell<'_>) {
        if self.as_bytes().contains(&0) {
            cell.reject(Reason::NulCharacter, "PostgreSQL's text cannot hold a NUL character");
        }
        cell.put_text(self);
    }
}

impl Value for String {
    fn write(&self, cell: &mut Cell<'_>) {
        self.as_str().write(cell);
    }
}

impl Field for String {
    const FAMILY: Family = Family::TEXT;

    fn column_type() -> ColumnType {
        ColumnType::Text
    }

    fn read(cell: CellRef<'_>) -> Option<Self> {
        let family = cell.kind.family();
        let is_text = family.is_text() && !family.is_array();
        String::from_utf8(cell.bytes.filter(|_| is_text)?.to_vec()).ok()
    }
}

/// A label of an enum type, for a column that names it (see [`Column::enumeration`]).
///
/// [`Column::enumeration`]: crate::record::Column::enumeration
///
/// ```
/// use lambda_core::Record;
/// use lambda_core::record::Label;
///
/// #[derive(Record)]
/// #[record(table = "ops.seats", key(id))]
/// struct Seat {
///     id: String,
///     #[record(sql = "ops.cabin")]
///     cabin: Label,
/// }
///
/// assert_eq!(Seat::table().columns()[1].kind.to_string(), "ops.cabin");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(transparent)]
pub struct Label(pub String);

impl Value for Label {
    fn write(&self, cell: &mut Cell<'_>) {
        self.0.write(cell);
    }
}

impl Field for Label {
    const FAMILY: Family = Family::TEXT;

    fn column_type() -> ColumnType {
        ColumnType::Text
    }

    fn read(cell: CellRef<'_>) -> Option<Self> {
        String::read(cell).map(Self)
    }
}

impl Value for [u8] {
    fn write(&self, cell: &mut Cell<'_>) {
        cell.put_as(&ColumnType::Bytea, self);
    }
}

impl Value for Vec<u8> {
    fn write(&self, cell: &mut Cell<'_>) {
        self.as_slice().write(cell);
    }
}

impl Field for Vec<u8> {
    const FAMILY: Family = Family::BYTES;

    fn column_type() -> ColumnType {
        ColumnType::Bytea
    }

    fn read(cell: CellRef<'_>) -> Option<Self> {
        Some(cell.bytes.filter(|_| *cell.kind == ColumnType::Bytea)?.to_vec())
    }
}

impl<T: Value> Value for [T] {
    fn write(&self, cell: &mut Cell<'_>) {
        let kind = cell.kind;
        let ColumnType::Array(element) = kind else { return cell.misfit("an array") };
        let (Some(oid), Ok(count)) = (element.oid(), i32::try_from(self.len())) else {
            return cell.misfit("an array");
        };
        // Dimensions, whether there are nulls, the elements' type, their number, the first index.
        cell.put(&i32::from(count > 0).to_be_bytes());
        cell.put(&0_i32.to_be_bytes());
        cell.put(&oid.to_be_bytes());
        if count > 0 {
            cell.put(&count.to_be_bytes());
            cell.put(&1_i32.to_be_bytes());
        }
        for value in self {
            if let Err(defect) = Cell::fill(cell.column, element, cell.out, value) {
                cell.defect.get_or_insert(defect);
                return;
            }
        }
    }
}

impl<T: Value> Value for Vec<T> {
    fn write(&self, cell: &mut Cell<'_>) {
        self.as_slice().write(cell);
    }
}

impl<T: Field> Field for Vec<T> {
    const FAMILY: Family = {
        assert!(!T::FAMILY.is_array(), "an array of arrays cannot be a column");
        T::FAMILY.array()
    };

    fn column_type() -> ColumnType {
        T::column_type().array()
    }

    fn read(cell: CellRef<'_>) -> Option<Self> {
        let ColumnType::Array(kind) = cell.kind else { return None };
        let elements = array_elements(cell.bytes?)?;
        elements.into_iter().map(|element| T::read(CellRef::new(kind, element))).collect()
    }
}

/// Splits off the first field, which is its length and its value; nothing if it is malformed.
pub(crate) fn split_field(fields: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = fields.split_first_chunk::<4>()?;
    match usize::try_from(i32::from_be_bytes(*length)) {
        Ok(length) => rest.split_at_checked(length).map(|(value, rest)| (Some(value), rest)),
        Err(_) => Some((None, rest)),
    }
}

/// The elements of a one-dimensional array in binary form; nothing if it is malformed.
pub(crate) fn array_elements(array: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (head, rest) = array.split_first_chunk::<12>()?;
    let mut rest = match i32::from_be_bytes(*head.first_chunk()?) {
        0 => rest,
        1 => rest.get(8..)?,
        _ => return None,
    };
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let (element, others) = split_field(rest)?;
        elements.push(element);
        rest = others;
    }
    Some(elements)
}

/// A text that the type's input function reads as this value; nothing if it is malformed, or an
/// array or an enum.
#[cfg(feature = "postgres")]
pub(crate) fn text(kind: &ColumnType, value: &[u8]) -> Option<String> {
    use std::fmt::Write as _;

    let cell = CellRef::new(kind, Some(value));
    Some(match kind {
        ColumnType::Bool => bool::read(cell)?.to_string(),
        ColumnType::Int2 => i16::read(cell)?.to_string(),
        ColumnType::Int4 => i32::read(cell)?.to_string(),
        ColumnType::Int8 => i64::read(cell)?.to_string(),
        // The shortest text of which the same value is read.
        ColumnType::Float4 => f32::read(cell)?.to_string(),
        ColumnType::Float8 => f64::read(cell)?.to_string(),
        ColumnType::Numeric { .. } | ColumnType::UnconstrainedNumeric => {
            numeric::get(value)?.to_string()
        }
        ColumnType::Text | ColumnType::Varchar { .. } => String::read(cell)?,
        ColumnType::Bytea => value.iter().fold(String::from("\\x"), |mut hex, byte| {
            // A string takes any text.
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        ColumnType::Uuid => Uuid::read(cell)?.to_string(),
        ColumnType::Date
        | ColumnType::Time { .. }
        | ColumnType::Timestamp { .. }
        | ColumnType::Timestamptz { .. } => time::text(kind, value)?,
        ColumnType::Jsonb => Jsonb::read(cell)?.as_str().to_owned(),
        ColumnType::Enum { .. } | ColumnType::Array(_) => return None,
    })
}

/// Writes a value into a column of this type, whose field is called `f`.
#[cfg(test)]
fn fill(
    kind: ColumnType,
    out: &mut Vec<u8>,
    value: &(impl Value + ?Sized),
) -> Result<bool, Reject> {
    let column = Column::new("f", kind);
    Cell::fill(&column, &column.kind, out, value)
}

#[cfg(test)]
mod tests;
