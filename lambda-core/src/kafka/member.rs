//! A member of the group: what its poll thread needs.

use std::sync::Arc;

use crate::error::Error;
use crate::health::Pulse;
use crate::kafka::config::Kafka;
use crate::kafka::options::SourceOptions;
use crate::kafka::shared::Shared;

/// A member of the group.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) config: Kafka,
    pub(super) options: SourceOptions,
    pub(super) shared: Arc<Shared>,
    /// Heartbeat of the poll thread.
    pub(super) pulse: Pulse,
}

impl Member {
    /// Refuses another cluster than before: the lanes that are held belong to the first
    /// one's topic (rule R18, docs/protocol.md).
    pub(super) fn same_cluster(&self, source: &str) -> Result<(), Error> {
        let known = self.shared.lock().source.clone();
        match known.filter(|known| known != source) {
            None => Ok(()),
            Some(known) => Err(Error::misconfigured(
                format!(
                    "another cluster answers at {}: {known} was read, but it has {source}",
                    self.config.bootstrap()
                ),
                "nothing of it was stored; set KAFKA_BOOTSTRAP_SERVERS to the cluster that was \
                 read, or start again to read the new one as another source with its own positions",
            )),
        }
    }
}
