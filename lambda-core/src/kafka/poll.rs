//! The thread that polls librdkafka: it decodes what arrives, does what the flow
//! wishes between two polls, and never stops polling for long, since a member that
//! does is thrown out of its group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use crate::delivery::batcher::Message;
use crate::delivery::retry::Backoff;
use crate::error::{Error, Kind};
use crate::kafka::config::{KafkaConfig, refused};
use crate::kafka::context::{Context, list};
use crate::kafka::idle::{Look, Tails};
use crate::kafka::position::{Kept, StartAt};
use crate::kafka::rebalance::Start;
use crate::kafka::shared::{Shared, Wish};
use crate::kafka::topic::{self, Observer};
use crate::progress::Progress;
use crate::record::Record;
use crate::remedy;

/// Longest wait for a message, and so for a wish of the flow.
const POLL: Duration = Duration::from_millis(20);

/// Messages between two looks at everything else.
const BURST: usize = 512;

/// How long a full batcher is waited for before partitions are paused, which
/// throws away what was fetched of them. A commit takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often Kafka is told what is stored.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// How long librdkafka may take to note another position.
const SEEK_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a question to a broker that does not answer is repeated.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Why a consumer is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GivenUp {
    Closing,
    /// It can do nothing any more; another one can.
    Broken,
}

/// One consumer after the other.
#[derive(Debug)]
pub(super) struct Poller<R> {
    pub(super) config: KafkaConfig,
    pub(super) start: StartAt,
    pub(super) shared: Arc<Shared<R>>,
}

impl<R: Record> Poller<R> {
    /// Polls until the flow closes the source or an error needs a person.
    pub(super) fn run(self) {
        // Also if this thread panics: the flow must not wait for it for ever.
        let _ended = Ended(&self.shared);
        let mut backoff = Backoff::default();
        while let Err(error) = self.consume() {
            if error.kind() != Kind::Transient {
                self.shared.fail(error);
                return;
            }
            let retry_in = backoff.next_delay();
            tracing::warn!(error = error.chain(), ?retry_in, "starting another consumer");
            if self.shared.wait_for_close(retry_in) {
                return;
            }
        }
    }

    fn consume(&self) -> Result<(), Error> {
        let mut backoff = Backoff::default();
        // On the consumer's own connection an answer waits behind the fetch under
        // way, a tenth of a second on a quiet topic.
        let observer = topic::observer(&self.config)?;
        if !self.wait_for_topic(&observer)? {
            return Ok(());
        }
        loop {
            let context = Context::new(self.config.topic().to_owned(), Arc::clone(&self.shared));
            let settings = self.config.consumer();
            let consumer: BaseConsumer<Context<R>> =
                settings.create_with_context(context).map_err(|error| refused(&error))?;
            let subscribed = consumer.subscribe(&[self.config.topic()]);
            subscribed.map_err(|error| remedy::kafka(error, "let us subscribe to the topic"))?;
            let given_up = Polling::new(self, &consumer, &observer).poll()?;
            // Leaves the group, and so gives back what it holds.
            drop(consumer);
            self.shared.lock().assignment.lost();
            self.shared.notify();
            if given_up == GivenUp::Closing {
                return Ok(());
            }
            let retry_in = backoff.next_delay();
            tracing::warn!(?retry_in, "the consumer broke; starting another one");
            if self.shared.wait_for_close(retry_in) {
                return Ok(());
            }
        }
    }

    /// Finds the topic, however long it takes. False: closed before.
    fn wait_for_topic(&self, observer: &Observer) -> Result<bool, Error> {
        let mut backoff = Backoff::default();
        loop {
            match topic::describe(observer.client(), self.config.topic()) {
                Ok(topic) => {
                    tracing::info!(
                        source = topic.source,
                        partitions = topic.partitions.len(),
                        group = self.config.group_id(),
                        "joining the group"
                    );
                    self.shared.lock().source = Some(topic.source);
                    return Ok(true);
                }
                Err(error) if error.kind() == Kind::Transient => {
                    let retry_in = backoff.next_delay();
                    tracing::warn!(error = error.chain(), ?retry_in, "waiting for {}", self.config);
                    if self.shared.wait_for_close(retry_in) {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Tells the flow, when it is dropped, that the poll thread has ended.
struct Ended<'a, R: Record>(&'a Shared<R>);

impl<R: Record> Drop for Ended<'_, R> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// One consumer being polled.
struct Polling<'a, R: Record> {
    topic: &'a str,
    start: StartAt,
    shared: &'a Shared<R>,
    consumer: &'a BaseConsumer<Context<R>>,
    observer: &'a Observer,
    /// Partitions that are quiet at their ends.
    tails: Tails,
    /// Whether what is assigned is paused.
    paused: bool,
    report_at: Instant,
    ask_at: Instant,
}

impl<'a, R: Record> Polling<'a, R> {
    fn new(
        poller: &'a Poller<R>,
        consumer: &'a BaseConsumer<Context<R>>,
        observer: &'a Observer,
    ) -> Self {
        let now = Instant::now();
        Self {
            topic: poller.config.topic(),
            start: poller.start,
            shared: &poller.shared,
            consumer,
            observer,
            tails: Tails::default(),
            paused: false,
            report_at: now + REPORT_EVERY,
            ask_at: now,
        }
    }

    fn poll(mut self) -> Result<GivenUp, Error> {
        loop {
            if self.shared.closing() {
                self.report();
                return Ok(GivenUp::Closing);
            }
            self.grant_wishes();
            self.make_room();
            self.locate_granted()?;
            if !self.paused {
                self.look_at_tails()?;
            }
            if Instant::now() >= self.report_at {
                self.report();
            }
            if let Some(given_up) = self.burst()? {
                return Ok(given_up);
            }
        }
    }

    /// Reads what is there, or waits a little for something.
    fn burst(&mut self) -> Result<Option<GivenUp>, Error> {
        let mut patience = POLL;
        for _ in 0..BURST {
            match self.consumer.poll(patience) {
                None => break,
                Some(Ok(message)) => {
                    if self.push(&message) {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.ended(partition)?,
                Some(Err(error)) => {
                    if let Some(given_up) = self.failed(error)? {
                        return Ok(Some(given_up));
                    }
                }
            }
            patience = Duration::ZERO;
        }
        Ok(None)
    }

    /// Decodes a message into the next batch. Whether that is full now.
    fn push(&self, message: &BorrowedMessage<'_>) -> bool {
        let message = Message {
            partition: message.partition(),
            position: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
            key: message.key(),
            payload: message.payload(),
        };
        let mut state = self.shared.lock();
        let first = state.batcher.is_empty();
        state.batcher.push(&message);
        let full = state.batcher.is_full();
        drop(state);
        if first {
            self.shared.notify();
        }
        full
    }

    fn failed(&self, error: KafkaError) -> Result<Option<GivenUp>, Error> {
        if let KafkaError::MessageConsumptionFatal(code) = error {
            tracing::warn!(%code, "librdkafka raised a fatal error");
            return Ok(Some(GivenUp::Broken));
        }
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::AutoOffsetReset) {
            return Err(self.out_of_range(error));
        }
        match code.map(remedy::of_kafka).map(|verdict| verdict.kind) {
            Some(Kind::Fatal) => Err(remedy::kafka(error, "let us read the topic")),
            // librdkafka goes on by itself; the context has told of it.
            _ => Ok(None),
        }
    }

    /// Kafka does not hold what is to be read next, of a partition that the error
    /// does not name.
    fn out_of_range(&self, error: KafkaError) -> Error {
        let assigned = self.shared.lock().assignment.assigned();
        for partition in assigned {
            let Some(next) = self.shared.lock().batcher.position(partition) else { continue };
            match self.kept(partition) {
                Ok(kept) if !kept.holds(next) => {
                    return kept.out_of_range(self.topic, partition, next);
                }
                _ => {}
            }
        }
        remedy::kafka(error, "continue at the stored position")
    }

    /// Pauses while nobody takes a full batch for long, and resumes afterwards.
    fn make_room(&mut self) {
        let patience = if self.paused { Duration::ZERO } else { PATIENCE };
        let full = self.shared.wait_for_room(patience) && !self.shared.closing();
        // A wish ends the wait early; it is granted first.
        let wished = !self.paused && !self.shared.lock().wishes.is_empty();
        if full != self.paused && !wished {
            let assigned = self.shared.lock().assignment.assigned();
            let assigned = list(self.topic, &assigned);
            let (done, what) = if full {
                (self.consumer.pause(&assigned), "pausing: the database takes nothing")
            } else {
                (self.consumer.resume(&assigned), "resuming")
            };
            tracing::info!(topic = self.topic, "{what}");
            complain(&done, what);
            self.tails.clear();
            self.paused = full;
        }
    }

    fn grant_wishes(&mut self) {
        let wishes = {
            let mut state = self.shared.lock();
            let starts_wait = self.paused;
            // A partition that starts now would read into a full batcher.
            let keep = |_: &i32, wish: &mut Wish| !(starts_wait && matches!(wish, Wish::Start(_)));
            state.wishes.extract_if(.., keep).collect::<Vec<_>>()
        };
        for (partition, wish) in wishes {
            self.tails.forget(partition);
            match wish {
                Wish::Stop => self.stop_reading(partition),
                Wish::Start(progress) => self.start_reading(&progress),
            }
        }
    }

    fn start_reading(&self, progress: &Progress) {
        let partition = progress.name.partition;
        let start = self.shared.lock().assignment.start(partition);
        match start {
            Start::Ignore => return,
            Start::Assign => {}
            Start::Reassign => self.unassign(partition),
        }
        let Some(claim) = progress.claim else { return };
        // Before the assignment, so that no message finds its lane missing; what
        // was fetched under an earlier one was dropped by unassigning.
        let position = progress.position;
        self.shared.lock().batcher.start(partition, progress.lane, claim, position);
        if self.assign(partition, position) {
            return;
        }
        let mut state = self.shared.lock();
        state.assignment.unassigned(partition);
        state.batcher.drop_partition(partition);
        // The group changes its mind just now: again after the next poll, unless
        // the flow wants something else by then or the partition is gone.
        if state.assignment.holds(partition) {
            state
                .wishes
                .entry(partition)
                .or_insert_with(|| Wish::Start(Box::new(progress.clone())));
        }
    }

    fn stop_reading(&self, partition: i32) {
        let assigned = {
            let mut state = self.shared.lock();
            state.batcher.drop_partition(partition);
            state.assignment.unassigned(partition)
        };
        if assigned {
            self.unassign(partition);
        }
    }

    fn assign(&self, partition: i32, position: i64) -> bool {
        let mut from = TopicPartitionList::with_capacity(1);
        let assigned = from
            .add_partition_offset(self.topic, partition, Offset::Offset(position))
            .and_then(|()| self.consumer.incremental_assign(&from))
            // A partition that was paused when it was last read still is.
            .and_then(|()| self.consumer.resume(&from));
        complain(&assigned, "reading a partition")
    }

    fn unassign(&self, partition: i32) {
        let done = self.consumer.incremental_unassign(&list(self.topic, &[partition]));
        complain(&done, "letting go of a partition");
    }

    /// Finds out where granted partitions start if they were never read before, so
    /// that the flow can be told of them.
    fn locate_granted(&mut self) -> Result<(), Error> {
        while Instant::now() >= self.ask_at {
            let wanted = self.shared.lock().assignment.without_first_position();
            let Some(partition) = wanted else { break };
            match self.kept(partition) {
                Ok(kept) => {
                    let first = self.start.position(kept);
                    self.shared.lock().assignment.first_position(partition, first);
                    self.shared.notify();
                }
                Err(error) => return self.ask_later(error),
            }
        }
        Ok(())
    }

    fn kept(&self, partition: i32) -> Result<Kept, Error> {
        // Its log and errors are the consumer's too; they must not pile up.
        self.observer.poll(Duration::ZERO);
        topic::kept(self.observer.client(), self.topic, partition)
    }

    fn ask_later(&mut self, error: Error) -> Result<(), Error> {
        if error.kind() != Kind::Transient {
            return Err(error);
        }
        tracing::debug!(error = error.chain(), "a broker does not answer");
        self.ask_at = Instant::now() + ASK_AGAIN;
        Ok(())
    }

    /// The end of a partition was reached.
    fn ended(&mut self, partition: i32) -> Result<(), Error> {
        let now = Instant::now();
        let Some(next) = self.shared.lock().batcher.position(partition) else { return Ok(()) };
        let Some(sought) = self.tails.ended(partition, next, now) else { return Ok(()) };
        match self.kept(partition) {
            Ok(kept) if kept.high == sought => {
                self.shared.lock().batcher.advance(partition, sought);
                self.shared.notify();
                Ok(())
            }
            Ok(_) => {
                self.tails.ended(partition, next, now);
                Ok(())
            }
            Err(error) => {
                self.tails.ended(partition, next, now);
                self.ask_later(error)
            }
        }
    }

    fn look_at_tails(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let Some(partition) = self.tails.due(now).filter(|_| now >= self.ask_at) else {
            return Ok(());
        };
        let next = self.shared.lock().batcher.position(partition);
        match self.kept(partition) {
            Ok(kept) => {
                let look = self.tails.looked(partition, next, kept.high);
                if let (Look::Refetch, Some(next)) = (look, next) {
                    self.refetch(partition, next);
                }
                Ok(())
            }
            Err(error) => {
                self.tails.postpone(partition, now);
                self.ask_later(error)
            }
        }
    }

    /// Fetches from where a partition was read to, so that its end is told anew.
    fn refetch(&mut self, partition: i32, next: i64) {
        let offset = Offset::Offset(next);
        if let Err(error) = self.consumer.seek(self.topic, partition, offset, SEEK_TIMEOUT) {
            tracing::debug!(partition, %error, "the end of a partition is looked at later");
            self.tails.postpone(partition, Instant::now());
        }
    }

    /// Tells Kafka what is stored, for those who watch lag there (R17).
    fn report(&mut self) {
        self.report_at = Instant::now() + REPORT_EVERY;
        let stored = std::mem::take(&mut self.shared.lock().stored);
        if stored.is_empty() {
            return;
        }
        let mut offsets = TopicPartitionList::with_capacity(stored.len());
        for (partition, position) in stored {
            let offset = Offset::Offset(position);
            complain(&offsets.add_partition_offset(self.topic, partition, offset), "a position");
        }
        if let Err(error) = self.consumer.commit(&offsets, CommitMode::Async) {
            tracing::debug!(%error, "Kafka did not take our positions");
        }
    }
}

/// Logs what librdkafka did not do. Whether it did.
fn complain(done: &KafkaResult<()>, what: &str) -> bool {
    if let Err(error) = done {
        tracing::warn!(%error, "librdkafka refuses: {what}");
    }
    done.is_ok()
}
