//! The operator's commands, one module each: arguments, a call of the library,
//! and what is printed of its answer.

pub mod doctor;
pub mod jobs;
pub mod table;
pub mod topic;
pub mod wait_for;
