//! The poll thread: a series of consumers, each polled until it breaks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::delivery::retry::Backoff;
use crate::error::{Error, Kind};
use crate::kafka::config::refused;
use crate::kafka::context::Context;
use crate::kafka::member::Member;
use crate::kafka::offsets::Offsets;
use crate::kafka::poll::{GivenUp, Polling};
use crate::kafka::shared::Shared;
use crate::kafka::{remedy, topic};
use crate::metrics::{self, Retry};

/// Lifetime after which a consumer counts as having worked: the delay before the next one
/// is then short again.
const LASTED: Duration = Duration::from_mins(1);

/// Polls until the flow closes the source or an error needs a person.
pub(super) fn run(member: &Member) {
    // This also runs if the thread panics: the flow must not wait for it without end.
    let _ended = Ended(&member.shared);
    let mut backoff = Backoff::default();
    loop {
        let begun = Instant::now();
        let broken = match consume(member) {
            Ok(GivenUp::Closing) => return,
            Ok(GivenUp::Broken) => "librdkafka cannot recover it".to_owned(),
            Err(error) if error.kind() == Kind::Transient => error.chain(),
            Err(error) => return member.shared.fail(error),
        };
        // The consumer has left the group, and so returned its partitions.
        member.shared.lock().lost();
        member.shared.notify();
        if begun.elapsed() >= LASTED {
            backoff.reset();
        }
        let retry_in = backoff.next_delay();
        tracing::warn!(broken, ?retry_in, "the consumer broke; starting another one");
        metrics::retried(Retry::Consumer);
        member.shared.kafka.missing(broken);
        if wait_for_close(member, retry_in) {
            return;
        }
    }
}

fn consume(member: &Member) -> Result<GivenUp, Error> {
    let mut offsets = Offsets::new(&member.config)?;
    let context = Context::new(member.config.topic().to_owned(), Arc::clone(&member.shared));
    let settings = member.config.consumer();
    let consumer: BaseConsumer<Context> =
        settings.create_with_context(context).map_err(|error| refused(&error))?;
    // Uses the client that will read, which from then on reports any other cluster.
    let Some(partitions) = wait_for_topic(member, &consumer)? else {
        return Ok(GivenUp::Closing);
    };
    let subscribed = consumer.subscribe(&[member.config.topic()]);
    subscribed.map_err(|error| remedy::explain(error, "subscribe to the topic in Kafka"))?;
    Polling::new(member, &consumer, &mut offsets, partitions).poll()
}

/// Waits for the topic's partitions. `None`: closed before they were found.
///
/// # Errors
/// `Transient`: another consumer may find it. `Fatal`.
fn wait_for_topic(
    member: &Member,
    consumer: &BaseConsumer<Context>,
) -> Result<Option<Vec<i32>>, Error> {
    let mut backoff = Backoff::default();
    loop {
        member.pulse.beat();
        let described = topic::describe(consumer.client(), member.config.topic());
        match described.map_err(|error| topic::reason(consumer, error)) {
            Ok(topic) => {
                member.same_cluster(&topic.source)?;
                tracing::info!(
                    source = topic.source,
                    partitions = topic.partitions.len(),
                    group = member.config.group_id(),
                    "joining the group"
                );
                member.shared.lock().source = Some(topic.source);
                // Statistics, which say more, come a second later.
                member.shared.kafka.met();
                return Ok(Some(topic.partitions));
            }
            Err(error) if error.kind() == Kind::Transient => {
                if consumer.context().stranded.is_certain() {
                    return Err(error);
                }
                let retry_in = backoff.next_delay();
                let chain = error.chain();
                tracing::warn!(error = chain, ?retry_in, "waiting for {}", member.config);
                metrics::retried(Retry::Topic);
                member.shared.kafka.missing(chain);
                if wait_for_close(member, retry_in) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn wait_for_close(member: &Member, patience: Duration) -> bool {
    member.pulse.beat();
    member.shared.wait_for_close(patience)
}

/// Reports to the flow, when dropped, that the poll thread has ended.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
