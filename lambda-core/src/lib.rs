//! Stores records in PostgreSQL exactly once, live from Kafka and nightly from files, by
//! one delivery protocol.
//!
//! A [`source::Source`] yields batches of decoded records with the span of each
//! lane that they cover; a [`sink::Sink`] makes a batch durable in one
//! transaction, progress included; [`delivery::flow`] joins the two.

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
