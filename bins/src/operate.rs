//! The operator's commands, one module each: arguments, a call of the library, and output
//! of its answer.

pub mod dead_letters;
pub mod doctor;
pub mod jobs;
pub mod pipelines;
pub mod table;
pub mod timeout;
pub mod topic;
pub mod wait_for;

use std::time::Duration;

/// Formats a duration for people, in one unit.
fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7_200 => format!("{} m", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
