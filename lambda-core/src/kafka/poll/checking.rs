//! What is asked of the brokers between two polls, and what follows from it: where
//! granted partitions start, whether lanes are still what was read of them (R18),
//! and where quiet partitions end (R8).

use std::time::Instant;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::Offset;

use super::{ASK_AGAIN, Polling, SEEK_TIMEOUT, TELL_AFTER};
use crate::error::{Error, Kind};
use crate::kafka::idle::Look;
use crate::kafka::position::{Kept, OnSourceChange, Verdict, source_changed};
use crate::kafka::shared::Doubt;
use crate::kafka::topic;
use crate::metrics::{self, Retry};
use crate::progress::Progress;
use crate::record::Record;

impl<R: Record> Polling<'_, R> {
    /// Reads lanes on whose last message is there as it was read, or gone; does as
    /// the options say about those of which it is another one (R18).
    pub(super) fn check_lanes(&mut self) -> Result<(), Error> {
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
        self.unanswered = None;
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
        if self.member.options.on_source_change == OnSourceChange::Stop {
            return Err(source_changed(self.topic, lane, what));
        }
        let partition = lane.name.partition;
        tracing::warn!(
            topic = self.topic, partition, given_up = lane.lane.0, position = lane.position,
            start = %self.member.options.start,
            "the partition is not what was read: {what}; it is read anew as another lane"
        );
        self.resets = 0;
        self.stop_reading(partition);
        let mut state = self.shared.lock();
        state.lanes.remove(&partition);
        state.assignment.anew(partition, Some(lane.lane));
        drop(state);
        self.shared.notify();
        Ok(())
    }

    /// The topic or the cluster may be another one. Nothing more is read; once what
    /// was read before is on its way, every lane is claimed and checked anew.
    pub(super) fn settle_doubt(&mut self) -> Result<(), Error> {
        let (doubt, assigned) = {
            let state = self.shared.lock();
            let Some(doubt) = state.doubt else { return Ok(()) };
            (doubt, state.assignment.assigned())
        };
        for partition in assigned {
            self.shared.lock().assignment.unassigned(partition);
            self.unassign(&[partition]);
        }
        if !self.shared.lock().batcher.is_empty() || Instant::now() < self.ask_at {
            return Ok(());
        }
        if doubt == Doubt::Cluster {
            match topic::source(self.consumer.client(), self.topic) {
                Ok(source) => self.member.same_cluster(&source)?,
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

    /// Finds out where granted partitions start if they were never read before, so
    /// that the flow can be told of them.
    pub(super) fn locate_granted(&mut self) -> Result<(), Error> {
        while Instant::now() >= self.ask_at {
            // There may be many partitions, and each may take its time.
            self.member.pulse.beat();
            let wanted = self.shared.lock().assignment.without_first_position(self.turn);
            let Some(partition) = wanted else { break };
            match self.kept(partition) {
                Ok(kept) => {
                    let first = self.member.options.start.position(kept);
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

    fn kept(&mut self, partition: i32) -> Result<Kept, Error> {
        let kept = self.checks.kept(partition)?;
        self.unanswered = None;
        Ok(kept)
    }

    fn ask_later(&mut self, error: Error) -> Result<(), Error> {
        if error.kind() != Kind::Transient {
            return Err(error);
        }
        metrics::retried(Retry::Topic);
        let since = *self.unanswered.get_or_insert_with(Instant::now);
        if since.elapsed() >= TELL_AFTER {
            self.unanswered = None;
            tracing::warn!(
                topic = self.topic,
                error = error.chain(),
                "waiting for the brokers' answer about partitions, which are not read before"
            );
        }
        self.ask_at = Instant::now() + ASK_AGAIN;
        Ok(())
    }

    /// The end of a partition was reached.
    pub(super) fn ended(&mut self, partition: i32) -> Result<(), Error> {
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

    pub(super) fn look_at_tails(&mut self) -> Result<(), Error> {
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
}
