//! The batch layer: CSV files into PostgreSQL, resumable and exactly once, with
//! one job for each content.

pub mod content;
pub mod frame;
pub mod input;
pub mod plan;
