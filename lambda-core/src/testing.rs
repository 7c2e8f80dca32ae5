//! For those who write a sink or a source of their own: the promises of
//! [`crate::sink::Sink`] as cases that run on any implementation, and batches to
//! drive them with.

pub mod draft;
pub mod sink;
pub mod source;
