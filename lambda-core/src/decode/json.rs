//! JSON messages.

use serde::de::DeserializeOwned;

use crate::dead_letter::{Reason, Reject};

/// Decodes by serde.
pub fn by_serde<R: DeserializeOwned>(json: &str) -> Result<R, Reject> {
    serde_json::from_str(json).map_err(|error| Reject::new(Reason::InvalidJson, error.to_string()))
}
