//! Values, rows and COPY in PostgreSQL's binary form.

pub(crate) mod copy;
mod literal;
pub(crate) mod raw;
pub(crate) mod rows;
