//! The batch layer: loads CSV files into PostgreSQL, resumable and exactly once, with one
//! job for each content.
//!
//! [`load`] goes over files ([`input`]). Each file is opened once ([`content`]),
//! planned in one pass ([`plan`]) on the record borders that [`frame`] finds, and stored by
//! workers that take its chunks from one queue ([`chunk`]). [`lambda_core::postgres::jobs`]
//! keeps the job, its lease and its lanes.

mod archive;
pub mod chunk;
mod config;
pub mod content;
mod dry_run;
mod first;
mod foreign;
pub mod frame;
mod gzip;
pub mod input;
mod load;
mod open;
pub mod plan;
mod rejects;
pub mod report;
mod run;
pub mod tally;

pub use self::config::Step;
pub use self::report::{FileReport, LoadReport, Outcome};
pub use self::run::{Load, check, load};

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
