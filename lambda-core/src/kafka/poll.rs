//! One consumer, polled on a thread of its own. It decodes messages, does what the flow
//! wants between two polls, and never pauses polling for long, since the group expels a
//! member that does.

mod checking;

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaErrorCode;

use crate::delivery::batcher::{self, Pushed, Received};
use crate::error::{Error, Kind};
use crate::kafka::committed::Committed;
use crate::kafka::context::{Context, list, list_from};
use crate::kafka::fairness::Fairness;
use crate::kafka::member::Member;
use crate::kafka::offsets::Offsets;
use crate::kafka::partition_end::QuietPartitions;
use crate::kafka::position::Watermarks;
use crate::kafka::rebalance::Start;
use crate::kafka::remedy;
use crate::kafka::shared::{Command, Recheck, Shared};
use crate::kafka::source_identity::{as_read, headers};
use crate::kafka::unreadable::{self, is_unreadable};
use crate::progress::Progress;

/// Longest wait for a message, and so for a command of the flow.
const POLL: Duration = Duration::from_millis(20);

/// Number of messages between two rounds of other work.
const BURST: usize = 512;

/// Time to wait for room in a full batcher before partitions are paused, which discards
/// what was fetched of them. A commit takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Interval at which stored positions are committed to Kafka.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// Time that librdkafka may take to set another position.
const SEEK_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval at which a query that no broker answers is repeated.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Time after which, and interval at which, a query without an answer is logged.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// Number of messages and reports to discard at once: more than librdkafka's queue usually
/// holds.
const DRAINED_MAX: u32 = 100_000;

/// How often in a row, without a message in between, Kafka may report that it does not hold
/// the next message although the offsets say that it does.
const RESETS_MAX: u32 = 3;

/// Reason to give up a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// The flow has closed the source.
    Closing,
    /// The consumer can do nothing more; another one can.
    Broken,
}

/// One consumer, being polled.
pub(super) struct Polling<'a> {
    member: &'a Member,
    topic: &'a str,
    shared: &'a Shared,
    consumer: &'a BaseConsumer<Context>,
    offsets: &'a mut Offsets,
    /// Partitions that are quiet at their ends.
    quiet: QuietPartitions,
    fairness: Fairness,
    committed: Committed,
    /// All partitions of the topic at the time of joining the group.
    partitions: Vec<i32>,
    /// Whether the assigned partitions are paused.
    paused: bool,
    report_at: Instant,
    ask_at: Instant,
    /// Start of the current series of unanswered queries, or time of the last report of it.
    unanswered: Option<Instant>,
    /// Number of consecutive times that Kafka did not hold the next message.
    resets: u32,
    /// Size of the largest message that is accepted, in bytes.
    message_bytes_max: u64,
    /// When messages could not be read, but each partition alone could.
    unfound: Vec<Instant>,
}

impl<'a> Polling<'a> {
    pub(super) fn new(
        member: &'a Member,
        consumer: &'a BaseConsumer<Context>,
        offsets: &'a mut Offsets,
        partitions: Vec<i32>,
    ) -> Self {
        let now = Instant::now();
        Self {
            member,
            topic: member.config.topic(),
            shared: &member.shared,
            consumer,
            offsets,
            quiet: QuietPartitions::default(),
            fairness: Fairness::default(),
            committed: Committed::new(&member.config, &member.options.database, now),
            partitions,
            paused: false,
            report_at: now + REPORT_EVERY,
            ask_at: now,
            unanswered: None,
            resets: 0,
            message_bytes_max: member.config.receive_bytes_max(),
            unfound: Vec::new(),
        }
    }

    /// Polls until the source is closed or the consumer is unusable.
    ///
    /// # Errors
    /// `Transient`: another consumer may work. `Fatal`.
    pub(super) fn poll(mut self) -> Result<GivenUp, Error> {
        loop {
            self.member.pulse.beat();
            if self.shared.closing() {
                self.report();
                return Ok(GivenUp::Closing);
            }
            if self.consumer.context().stranded.is_certain() {
                return Ok(GivenUp::Broken);
            }
            self.settle_doubt()?;
            self.grant_wishes();
            self.make_room();
            self.locate_granted()?;
            if !self.paused {
                self.start_lanes()?;
                self.look_at_tails()?;
                self.share_fairly();
            }
            if Instant::now() >= self.report_at {
                self.report();
                self.committed.look(self.consumer, &self.partitions, Instant::now())?;
            }
            // Last, so that the group's next decision is heard soon after.
            if !self.paused {
                self.read_on();
            }
            if let Some(given_up) = self.burst()? {
                return Ok(given_up);
            }
        }
    }

    /// Reads what has arrived, or waits briefly for something.
    fn burst(&mut self) -> Result<Option<GivenUp>, Error> {
        let mut patience = POLL;
        for _ in 0..BURST {
            match self.consumer.poll(patience) {
                None => break,
                Some(Ok(message)) => {
                    self.resets = 0;
                    if self.push(&message)? {
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

    /// Decodes a message into the next batch. Returns whether other work must come before
    /// the next message.
    fn push(&mut self, message: &BorrowedMessage<'_>) -> Result<bool, Error> {
        let headers = headers(message);
        let message = Received { headers: &headers, ..as_read(message) };
        let mut state = self.shared.lock();
        if state.recheck.is_some() {
            return Ok(true);
        }
        let of_headers = message.headers.iter().flat_map(|it| [Some(it.name.as_bytes()), it.value]);
        let parts = [message.key, message.payload].into_iter().chain(of_headers).flatten();
        let bytes = parts.map(|part| part.len() as u64).sum();
        if bytes > self.message_bytes_max
            && state.batcher.position(message.partition).is_some_and(|it| message.position >= it)
        {
            return Err(unreadable::too_large(&self.member.config, &message, bytes));
        }
        let first = state.batcher.is_empty();
        let pushed = state.batcher.push(&message);
        let full = state.batcher.is_full();
        if pushed == Pushed::MostlyRejected {
            let why = state.batcher.last_reject().map(ToString::to_string).unwrap_or_default();
            // Or the flow could take the batch before it hears of the error.
            state.batcher.drop_partition(message.partition);
            return Err(mostly_rejected(self.topic, message.partition, message.position, &why));
        }
        drop(state);
        self.fairness.heard(message.partition, message.payload.map_or(0, <[u8]>::len));
        match pushed {
            Pushed::Changed(changed) => self.changed(message.partition, &changed)?,
            Pushed::GatheredWithoutLast => self.warn_of_gone(message.partition, message.position),
            Pushed::Gathered | Pushed::MostlyRejected | Pushed::Below | Pushed::NotStarted => {}
        }
        if first {
            self.shared.notify();
        }
        Ok(full)
    }

    fn failed(&mut self, error: KafkaError) -> Result<Option<GivenUp>, Error> {
        if let KafkaError::MessageConsumptionFatal(_) = error {
            return self.died().map(Some);
        }
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::AutoOffsetReset) {
            // Kafka does not hold the next message of some partition, which the error does
            // not name: the checks find it. Each of them reports its own error.
            self.resets += u32::from(self.shared.recheck(Recheck::Topic));
            if self.resets > RESETS_MAX {
                return Err(remedy::explain(
                    error,
                    "read the topic in Kafka from the stored position",
                ));
            }
            return self.drain();
        }
        if let Some(code) = code.filter(|code| is_unreadable(*code)) {
            // What follows in the queue lies after those messages.
            tracing::warn!(topic = self.topic, %code, "messages could not be read");
            self.shared.recheck(Recheck::Unreadable);
            return self.drain();
        }
        match code.map(remedy::of_code).map(|verdict| verdict.kind) {
            Some(Kind::Fatal) => Err(remedy::explain(error, "read the topic in Kafka")),
            // librdkafka continues by itself; the context has logged the error.
            _ => Ok(None),
        }
    }

    /// Discards what waits in librdkafka's queue: nothing of it is stored while the source
    /// is checked. It may include the same report about other partitions, which would
    /// outlast their assignment and be taken for one about the next.
    fn drain(&self) -> Result<Option<GivenUp>, Error> {
        for _ in 0..DRAINED_MAX {
            match self.consumer.poll(Duration::ZERO) {
                Some(Err(KafkaError::MessageConsumptionFatal(_))) => return self.died().map(Some),
                Some(Ok(_) | Err(_)) => {}
                None => break,
            }
        }
        Ok(None)
    }

    /// Handles a fatal error of librdkafka: decides whether another consumer can continue.
    fn died(&self) -> Result<GivenUp, Error> {
        let Some((code, reason)) = self.consumer.client().fatal_error() else {
            return Ok(GivenUp::Broken);
        };
        let remedy = remedy::of_code(code).remedy;
        tracing::warn!(%code, reason, remedy, "librdkafka gave the consumer up");
        if remedy::needs_a_person(code) {
            let error = KafkaError::MessageConsumptionFatal(code);
            return Err(remedy::explain(error, "stay in the consumer group in Kafka"));
        }
        Ok(GivenUp::Broken)
    }

    /// Pauses while a full batch waits for long, and resumes afterwards.
    fn make_room(&mut self) {
        let patience = if self.paused { Duration::ZERO } else { PATIENCE };
        let full = self.shared.wait_for_room(patience) && !self.shared.closing();
        // A command ends the wait early; it is carried out first.
        let has_command = !self.paused && !self.shared.lock().commands.is_empty();
        if full != self.paused && !has_command {
            let mut assigned = self.shared.lock().assignment.assigned();
            assigned.retain(|partition| full || !self.fairness.holds_back(*partition));
            let assigned = list(self.topic, &assigned);
            let (done, what) = if full {
                (self.consumer.pause(&assigned), "pausing: the database accepts no batches")
            } else {
                (self.consumer.resume(&assigned), "resuming")
            };
            tracing::info!(topic = self.topic, "{what}");
            log_failure(&done, what);
            self.quiet.clear();
            self.fairness.resumed(Instant::now());
            self.paused = full;
        }
    }

    /// Pauses partitions while others wait to be read.
    fn share_fairly(&mut self) {
        let (assigned, behind) = {
            let mut state = self.shared.lock();
            if state.recheck.is_some() {
                return;
            }
            (state.assignment.assigned(), state.behind.take())
        };
        let now = Instant::now();
        if let Some(behind) = behind {
            self.fairness.behind(&behind, now);
            self.shared.lock().unread = self.fairness.unread(now);
        }
        let change = self.fairness.change(&assigned, now);
        if !change.pause.is_empty() {
            let done = self.consumer.pause(&list(self.topic, &change.pause));
            log_failure(&done, "holding a partition back");
        }
        if !change.resume.is_empty() {
            let done = self.consumer.resume(&list(self.topic, &change.resume));
            log_failure(&done, "reading a partition again");
        }
    }

    fn grant_wishes(&mut self) {
        let commands = {
            let mut state = self.shared.lock();
            let starts_wait = self.paused || state.recheck.is_some();
            // A partition that starts now would read into a full batcher.
            let keep = |_: &i32, command: &mut Command| {
                !(starts_wait && matches!(command, Command::Start(_)))
            };
            state.commands.extract_if(.., keep).collect::<Vec<_>>()
        };
        for (partition, command) in commands {
            self.quiet.forget(partition);
            let mut state = self.shared.lock();
            state.starting.remove(&partition);
            match command {
                Command::Start(progress) if state.assignment.holds(partition) => {
                    state.starting.insert(partition, *progress);
                }
                Command::Start(_) => {}
                Command::Stop => {
                    drop(state);
                    self.stop_reading(partition);
                }
            }
        }
    }

    /// Reads lanes from their stored positions: each starts at its last message, which must
    /// be the one that was read, if that is `kept`.
    fn start_reading(&mut self, lanes: &[(Progress, Watermarks)]) {
        let mut from = Vec::with_capacity(lanes.len());
        for (progress, watermarks) in lanes {
            let partition = progress.name.partition;
            let start = self.shared.lock().assignment.start(partition);
            match start {
                Start::Ignore => continue,
                Start::Assign => {}
                Start::Reassign => self.unassign(&[partition]),
            }
            let Some(claim) = progress.claim else { continue };
            let expected = progress.last.is_some_and(|last| last.position >= watermarks.low);
            let Progress { lane: id, position, last, counts, .. } = *progress;
            let start = batcher::Start { id, claim, from: position, last, expected, counts };
            let mut state = self.shared.lock();
            // Before the assignment, so that every message finds its lane; unassigning has
            // discarded what was fetched earlier.
            state.batcher.start(partition, start);
            let offset = if expected { state.batcher.read_again(partition) } else { None };
            // Without a last message, the one before the position shows the leader epoch.
            from.push((partition, offset.unwrap_or(position - 1).max(watermarks.low)));
        }
        if from.is_empty() || self.assign(&from) {
            return;
        }
        for (progress, _) in lanes {
            self.start_later(progress);
        }
    }

    /// Tries to start a lane again after the next poll, since the group is about to change
    /// its assignment; not if the flow wants something else by then or the partition is
    /// gone.
    fn start_later(&self, progress: &Progress) {
        let partition = progress.name.partition;
        let mut state = self.shared.lock();
        state.assignment.unassigned(partition);
        state.batcher.drop_partition(partition);
        if state.assignment.holds(partition) {
            state
                .commands
                .entry(partition)
                .or_insert_with(|| Command::Start(Box::new(progress.clone())));
        }
    }

    /// Continues with partitions that the group's last decision may have left paused, from
    /// where they were read to.
    fn read_on(&mut self) {
        let stalled: Vec<(i32, i64)> = {
            let mut state = self.shared.lock();
            let stalled = state.assignment.stalled().into_iter();
            stalled.filter_map(|it| Some((it, state.batcher.read_again(it)?))).collect()
        };
        if stalled.is_empty() {
            return;
        }
        let partitions: Vec<i32> = stalled.iter().map(|(partition, _)| *partition).collect();
        for partition in &partitions {
            self.quiet.forget(*partition);
        }
        self.unassign(&partitions);
        if self.assign(&stalled) {
            return;
        }
        let mut state = self.shared.lock();
        for partition in partitions {
            state.assignment.unassigned(partition);
            state.forget(partition);
            state.assignment.start_over(partition, None);
        }
        drop(state);
        self.shared.notify();
    }

    fn stop_reading(&self, partition: i32) {
        let assigned = {
            let mut state = self.shared.lock();
            state.batcher.drop_partition(partition);
            state.assignment.unassigned(partition)
        };
        if assigned {
            self.unassign(&[partition]);
        }
    }

    /// Reads partitions, each from an offset.
    fn assign(&mut self, partitions: &[(i32, i64)]) -> bool {
        let now = Instant::now();
        for (partition, _) in partitions {
            self.fairness.started(*partition, now);
        }
        let assigned = list_from(self.topic, partitions).and_then(|from| {
            self.consumer.incremental_assign(&from)?;
            // A partition that was paused when it was last read still is.
            self.consumer.resume(&from)
        });
        log_failure(&assigned, "reading a partition")
    }

    fn unassign(&self, partitions: &[i32]) {
        let done = self.consumer.incremental_unassign(&list(self.topic, partitions));
        log_failure(&done, "letting go of a partition");
    }

    /// Commits stored positions to Kafka, for those who watch lag there (rule R17,
    /// docs/protocol.md).
    fn report(&mut self) {
        self.report_at = Instant::now() + REPORT_EVERY;
        if self.consumer.context().stranded.is_likely() {
            // Giving up the consumer would wait for it.
            return;
        }
        let stored = std::mem::take(&mut self.shared.lock().stored);
        if stored.is_empty() {
            return;
        }
        if let Err(error) = self.committed.commit(self.consumer, &stored) {
            tracing::debug!(%error, "could not commit stored positions to Kafka");
        }
    }
}

/// The error for a partition that holds something else than records.
fn mostly_rejected(topic: &str, partition: i32, offset: i64, why: &str) -> Error {
    Error::misconfigured(
        format!(
            "most of the first messages of partition {partition} of {topic} are not records, the \
             last one at offset {offset}: {why}"
        ),
        "check KAFKA_TOPIC and its producers; to store the records among them and move the \
         others into the dead letters, start with --max-rejects 1000",
    )
}

/// Logs what librdkafka refused. Returns whether it succeeded.
fn log_failure(done: &KafkaResult<()>, what: &str) -> bool {
    if let Err(error) = done {
        tracing::warn!(%error, "librdkafka refused: {what}");
    }
    done.is_ok()
}
