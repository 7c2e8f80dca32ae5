//! Values in PostgreSQL's binary form, passed through unchanged.

use std::error::Error;

use bytes::BytesMut;
use postgres_types::{FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};

use crate::record::value::split_field;

/// A value of any type as the server sent it.
#[derive(Debug)]
pub(crate) struct RawValue<'a>(pub(crate) Option<&'a [u8]>);

impl<'a> FromSql<'a> for RawValue<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Appends a value as a field of a row (see [`crate::record::row`]).
pub(crate) fn put_field(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        Some(bytes) => {
            out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            out.extend_from_slice(bytes);
        }
    }
}

/// The fields of an encoded row, each with its length.
pub(crate) fn fields(mut row: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (_, rest) = split_field(row)?;
        let field = &row[..row.len() - rest.len()];
        row = rest;
        Some(field)
    })
}

/// An array of any element type, built from encoded elements.
#[derive(Debug, Default)]
pub(crate) struct RawArray {
    count: i32,
    has_null: bool,
    elements: Vec<u8>,
}

impl RawArray {
    /// Appends an element, given as a field with its length.
    pub(crate) fn push_field(&mut self, field: &[u8]) {
        self.count += 1;
        self.has_null |= field.len() == 4 && field[0] & 0x80 != 0;
        self.elements.extend_from_slice(field);
    }
}

impl ToSql for RawArray {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Kind::Array(element) = ty.kind() else { return Err("not an array".into()) };
        let dimensions = i32::from(self.count > 0);
        out.extend_from_slice(&dimensions.to_be_bytes());
        out.extend_from_slice(&i32::from(self.has_null).to_be_bytes());
        out.extend_from_slice(&element.oid().to_be_bytes());
        if self.count > 0 {
            out.extend_from_slice(&self.count.to_be_bytes());
            out.extend_from_slice(&1_i32.to_be_bytes());
            out.extend_from_slice(&self.elements);
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), Kind::Array(_))
    }

    to_sql_checked!();
}
