//! Stores records in PostgreSQL exactly once, live from Kafka and nightly from files, by
//! one delivery protocol.
//!
//! A [`source::Source`] yields batches of decoded records with the span of each
//! lane that they cover; a [`sink::Sink`] makes a batch durable in one
//! transaction, progress included; [`delivery::flow`] joins the two.
//!
//! A [`Pipeline`] names a table and says how messages and files become its rows:
//!
//! ```
//! use lambda_core::batch::Body;
//! use lambda_core::decode::Message;
//! use lambda_core::record::Scratch;
//! use lambda_core::{Pipeline, Record};
//!
//! #[derive(Record)]
//! #[record(table = "ops.readings", key(id))]
//! struct Reading {
//!     #[record(length = 1..=20)]
//!     id: String,
//!     millidegrees: i32,
//! }
//!
//! let readings = Pipeline::of::<Reading>("readings").build()?;
//! let (decoder, table) = (readings.decoder(), readings.table());
//! let (mut rows, mut scratch) = (Vec::new(), Scratch::default());
//! let mut decode = |payload: &[u8]| {
//!     Body::decode(&**decoder, table, &Message::of(Some(payload)), &mut rows, &mut scratch)
//! };
//! let good = decode(br#"{"id": "R-1", "millidegrees": 21500}"#);
//! assert!(matches!(good, Body::Row { .. }));
//! let bad = decode(br#"{"id": "R-2", "millidegrees": "warm"}"#);
//! assert!(matches!(bad, Body::Rejected(_)));
//! # Ok::<(), lambda_core::Error>(())
//! ```

// Pages of an item then name the feature that it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate self as lambda_core;

pub mod batch;
#[cfg(feature = "config")]
pub mod config;
pub mod dead_letter;
pub mod decode;
pub mod delivery;
pub mod error;
#[cfg(feature = "failpoints")]
pub mod failpoint;
#[cfg(not(feature = "failpoints"))]
mod failpoint;
pub mod header;
pub mod health;
pub mod job;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod memory;
pub mod metrics;
pub mod outcome;
pub mod pipeline;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod progress;
pub mod record;
pub mod resolve;
pub mod sink;
pub mod source;
pub mod stop;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transaction;

pub use self::decode::Record;
pub use self::error::Error;
#[cfg(feature = "kafka")]
pub use self::kafka::Kafka;
pub use self::pipeline::Pipeline;
#[cfg(feature = "postgres")]
pub use self::postgres::Postgres;
pub use self::stop::Stop;
pub use self::transaction::Transaction;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The examples of the README of the macros, which need this crate to compile.
#[cfg(doctest)]
#[doc = include_str!("../derive/README.md")]
struct DeriveReadme;
