//! Tests for your own sink or source: the promises of [`crate::sink::Sink`] as cases that
//! run on any implementation, and batches to drive them.

pub mod draft;
pub mod sink;
pub mod source;
