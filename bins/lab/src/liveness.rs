//! Waits for a condition that must come true; how soon is not promised.

use std::fmt;
use std::time::Duration;

use crate::Failure;

/// Deadline of any condition, including a session that must time out first.
pub const LIVENESS: Duration = Duration::from_mins(1);

/// Time between two checks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `done` is true, at most [`LIVENESS`]. `what` completes "timed out waiting until".
///
/// # Errors
/// If it did not come true in time; errors of `done`.
pub async fn until(
    what: impl fmt::Display,
    mut done: impl AsyncFnMut() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let waited = tokio::time::timeout(LIVENESS, async {
        while !done().await? {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok::<_, Failure>(())
    });
    waited.await.map_err(|_| format!("timed out waiting until {what}"))?
}
