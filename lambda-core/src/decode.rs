//! Message and file codecs.

pub mod csv;
pub mod json;
