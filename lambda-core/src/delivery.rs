//! The protocol between a source and a sink.

pub mod retry;
