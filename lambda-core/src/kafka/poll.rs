//! The thread that polls librdkafka: it decodes what arrives, does what the flow
//! wishes between two polls, and never stops polling for long, since a member that
//! does is thrown out of its group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use crate::delivery::retry::Backoff;
use crate::error::{Error, Kind};
use crate::kafka::check::{Checks, as_read};
use crate::kafka::config::{KafkaConfig, refused};
use crate::kafka::context::{Context, list};
use crate::kafka::idle::{Look, Tails};
use crate::kafka::position::{Kept, OnSourceChange, Verdict, source_changed};
use crate::kafka::rebalance::Start;
use crate::kafka::shared::{Doubt, Shared, Wish};
use crate::kafka::source::SourceOptions;
use crate::kafka::topic;
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

/// How often in a row, without a message in between, Kafka may not hold what is to
/// be read next although it says that it does.
const RESETS_MAX: u32 = 3;

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
    pub(super) options: SourceOptions,
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
        let mut checks = Checks::new(&self.config)?;
        loop {
            let context = Context::new(self.config.topic().to_owned(), Arc::clone(&self.shared));
            let settings = self.config.consumer();
            let consumer: BaseConsumer<Context<R>> =
                settings.create_with_context(context).map_err(|error| refused(&error))?;
            // Asked over the client that will read, which from then on tells of any
            // other cluster.
            if !self.wait_for_topic(&consumer)? {
                return Ok(());
            }
            let subscribed = consumer.subscribe(&[self.config.topic()]);
            subscribed.map_err(|error| remedy::kafka(error, "let us subscribe to the topic"))?;
            let given_up = Polling::new(self, &consumer, &mut checks).poll()?;
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
    fn wait_for_topic(&self, consumer: &BaseConsumer<Context<R>>) -> Result<bool, Error> {
        let mut backoff = Backoff::default();
        loop {
            let described = topic::describe(consumer.client(), self.config.topic());
            match described.map_err(|error| topic::reason(consumer, error)) {
                Ok(topic) => {
                    self.same_cluster(&topic.source)?;
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

    /// Refuses to go on with another cluster than before: the lanes that are held
    /// are those of the first one's topic (R18).
    fn same_cluster(&self, source: &str) -> Result<(), Error> {
        let known = self.shared.lock().source.clone();
        match known.filter(|known| known != source) {
            None => Ok(()),
            Some(known) => Err(Error::misconfigured(
                format!(
                    "another cluster answers at {}: {known} was read, {source} is there now",
                    self.config.bootstrap()
                ),
                "nothing of it was stored; set KAFKA_BOOTSTRAP_SERVERS to the cluster that was \
                 read, or start again: the topic there is another source, with positions of its \
                 own",
            )),
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
    poller: &'a Poller<R>,
    topic: &'a str,
    shared: &'a Shared<R>,
    consumer: &'a BaseConsumer<Context<R>>,
    checks: &'a mut Checks,
    /// Partitions that are quiet at their ends.
    tails: Tails,
    /// Whether what is assigned is paused.
    paused: bool,
    report_at: Instant,
    ask_at: Instant,
    /// The last partition whose offsets nobody told: the next one is asked for first.
    turn: i32,
    /// How often in a row Kafka did not hold what is to be read next.
    resets: u32,
}

impl<'a, R: Record> Polling<'a, R> {
    fn new(
        poller: &'a Poller<R>,
        consumer: &'a BaseConsumer<Context<R>>,
        checks: &'a mut Checks,
    ) -> Self {
        let now = Instant::now();
        Self {
            poller,
            topic: poller.config.topic(),
            shared: &poller.shared,
            consumer,
            checks,
            tails: Tails::default(),
            paused: false,
            report_at: now + REPORT_EVERY,
            ask_at: now,
            turn: -1,
            resets: 0,
        }
    }

    fn poll(mut self) -> Result<GivenUp, Error> {
        loop {
            if self.shared.closing() {
                self.report();
                return Ok(GivenUp::Closing);
            }
            self.settle_doubt()?;
            self.grant_wishes();
            self.make_room();
            self.locate_granted()?;
            if !self.paused {
                self.check_lanes()?;
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
                    self.resets = 0;
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

    /// Decodes a message into the next batch. Whether nothing more is to be read
    /// before everything else was looked at.
    fn push(&self, message: &BorrowedMessage<'_>) -> bool {
        let message = as_read(message);
        let mut state = self.shared.lock();
        if state.doubt.is_some() {
            return true;
        }
        let first = state.batcher.is_empty();
        state.batcher.push(&message);
        let full = state.batcher.is_full();
        drop(state);
        if first {
            self.shared.notify();
        }
        full
    }

    fn failed(&mut self, error: KafkaError) -> Result<Option<GivenUp>, Error> {
        if let KafkaError::MessageConsumptionFatal(code) = error {
            tracing::warn!(%code, "librdkafka raised a fatal error");
            return Ok(Some(GivenUp::Broken));
        }
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::AutoOffsetReset) {
            // Kafka does not hold what is to be read next, of a partition that the
            // error does not name: the checks find it. Each of them tells of its own.
            self.resets += u32::from(self.shared.doubt(Doubt::Topic));
            if self.resets > RESETS_MAX {
                return Err(remedy::kafka(error, "continue at the stored position"));
            }
            return Ok(None);
        }
        match code.map(remedy::of_kafka).map(|verdict| verdict.kind) {
            Some(Kind::Fatal) => Err(remedy::kafka(error, "let us read the topic")),
            // librdkafka goes on by itself; the context has told of it.
            _ => Ok(None),
        }
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
            let starts_wait = self.paused || state.doubt.is_some();
            // A partition that starts now would read into a full batcher.
            let keep = |_: &i32, wish: &mut Wish| !(starts_wait && matches!(wish, Wish::Start(_)));
            state.wishes.extract_if(.., keep).collect::<Vec<_>>()
        };
        for (partition, wish) in wishes {
            self.tails.forget(partition);
            let mut state = self.shared.lock();
            state.checks.remove(&partition);
            match wish {
                Wish::Start(progress) if state.assignment.holds(partition) => {
                    state.checks.insert(partition, *progress);
                }
                Wish::Start(_) => {}
                Wish::Stop => {
                    drop(state);
                    self.stop_reading(partition);
                }
            }
        }
    }

    /// Reads lanes on whose last message is there as it was read, or gone; does as
    /// the options say about those of which it is another one (R18).
    fn check_lanes(&mut self) -> Result<(), Error> {
        let lanes: Vec<Progress> = self.shared.lock().checks.values().cloned().collect();
        if lanes.is_empty() {
            self.checks.idle();
            return Ok(());
        }
        if Instant::now() < self.ask_at {
            return Ok(());
        }
        let verdicts = match self.checks.verdicts(&lanes) {
            Ok(verdicts) => verdicts,
            Err(error) => return self.ask_later(error),
        };
        for (partition, verdict) in verdicts {
            let Some(lane) = self.shared.lock().checks.remove(&partition) else { continue };
            match verdict {
                Verdict::Same => self.start_reading(&lane),
                Verdict::Gone => {
                    tracing::warn!(
                        topic = self.topic,
                        partition,
                        position = lane.position,
                        last_read = lane.last.map(|last| last.position),
                        "the last message read is gone (expired or compacted), so that it cannot \
                         be seen whether the topic is what was read; going on"
                    );
                    self.start_reading(&lane);
                }
                Verdict::Other(what) => self.source_changed(&lane, &what)?,
            }
        }
        Ok(())
    }

    fn source_changed(&mut self, lane: &Progress, what: &str) -> Result<(), Error> {
        if self.poller.options.on_source_change == OnSourceChange::Stop {
            return Err(source_changed(self.topic, lane, what));
        }
        let partition = lane.name.partition;
        tracing::warn!(
            topic = self.topic, partition, given_up = lane.lane.0, position = lane.position,
            start = %self.poller.options.start,
            "the partition is not what was read: {what}; it is read anew as another lane"
        );
        self.resets = 0;
        self.stop_reading(partition);
        self.shared.lock().assignment.anew(partition, Some(lane.lane));
        self.shared.notify();
        Ok(())
    }

    /// The topic or the cluster may be another one. Nothing more is read; once what
    /// was read before is on its way, every lane is claimed and checked anew.
    fn settle_doubt(&mut self) -> Result<(), Error> {
        let (doubt, assigned) = {
            let state = self.shared.lock();
            let Some(doubt) = state.doubt else { return Ok(()) };
            (doubt, state.assignment.assigned())
        };
        for partition in assigned {
            self.shared.lock().assignment.unassigned(partition);
            self.unassign(partition);
        }
        if !self.shared.lock().batcher.is_empty() || Instant::now() < self.ask_at {
            return Ok(());
        }
        if doubt == Doubt::Cluster {
            match topic::source(self.consumer.client(), self.topic) {
                Ok(source) => self.poller.same_cluster(&source)?,
                Err(error) => return self.ask_later(error),
            }
        }
        tracing::warn!(topic = self.topic, "the topic may be another one; checking each partition");
        let mut state = self.shared.lock();
        state.doubt = None;
        for partition in state.assignment.held() {
            state.forget(partition);
            state.assignment.anew(partition, None);
        }
        drop(state);
        self.tails.clear();
        self.shared.notify();
        Ok(())
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
            let wanted = self.shared.lock().assignment.without_first_position(self.turn);
            let Some(partition) = wanted else { break };
            match self.kept(partition) {
                Ok(kept) => {
                    let first = self.poller.options.start.position(kept);
                    self.shared.lock().assignment.first_position(partition, first);
                    self.shared.notify();
                }
                Err(error) => {
                    self.turn = partition;
                    return self.ask_later(error);
                }
            }
        }
        Ok(())
    }

    fn kept(&self, partition: i32) -> Result<Kept, Error> {
        self.checks.kept(partition)
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
        let next = {
            let state = self.shared.lock();
            state.batcher.position(partition).filter(|_| state.doubt.is_none())
        };
        let Some(next) = next else { return Ok(()) };
        if !self.tails.ended(partition, next, now) {
            return Ok(());
        }
        // Over the client that fetched, and so from the broker that it fetched from.
        match topic::kept(self.consumer.client(), self.topic, partition) {
            Ok(kept) => {
                if let Some(end) = self.tails.found(partition, kept.high, now) {
                    self.shared.lock().batcher.advance(partition, end);
                    self.shared.notify();
                }
                Ok(())
            }
            Err(error) => {
                self.tails.postpone(partition, now);
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
