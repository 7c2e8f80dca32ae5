//! Waiting for what must come true: how soon is nobody's promise, that it does is.

use std::fmt;
use std::time::Duration;

use crate::Failure;

/// How long anything may take, a session that has to time out included.
pub const LIVENESS: Duration = Duration::from_mins(1);

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `done` is, at most [`LIVENESS`]. `what` completes "waited in vain until".
///
/// # Errors
/// When it never came true; those of `done`.
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
    waited.await.map_err(|_| format!("waited in vain until {what}"))?
}
