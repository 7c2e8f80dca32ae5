//! The batch layer: CSV files into PostgreSQL, resumable and exactly once, with
//! one job for each content.

pub mod frame;
