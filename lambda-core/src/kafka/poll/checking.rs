//! Queries to the brokers between two polls, and their consequences: where granted
//! partitions start, whether lanes are still what was read of them (rule R18,
//! docs/protocol.md), and where quiet partitions end (rule R8).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;

use super::{ASK_AGAIN, Polling, SEEK_TIMEOUT, TELL_AFTER};
use crate::delivery::batcher::Changed;
use crate::error::{Error, Kind};
use crate::kafka::context::list_from;
use crate::kafka::partition_end::Look;
use crate::kafka::position::{
    OnSourceChange, Verdict, Watermarks, judge_message, judge_range, source_changed,
};
use crate::kafka::shared::Recheck;
use crate::kafka::{topic, unreadable};
use crate::metrics::{self, Retry};
use crate::progress::{LaneId, Progress};
use crate::source::{FirstPosition, Gained};

/// How often within this time messages may be unreadable although each partition alone can be
/// read.
const UNFOUND_MAX: usize = 5;
const UNFOUND_WITHIN: Duration = Duration::from_mins(10);

impl Polling<'_> {
    /// Reads the lanes that the flow wants read, if their partitions still hold the stored
    /// positions; handles the others by the options.
    pub(super) fn start_lanes(&mut self) -> Result<(), Error> {
        let lanes: Vec<Progress> = self.shared.lock().starting.values().cloned().collect();
        if lanes.is_empty() {
            self.offsets.idle();
            return Ok(());
        }
        if Instant::now() < self.ask_at {
            return Ok(());
        }
        let partitions: Vec<i32> = lanes.iter().map(|lane| lane.name.partition).collect();
        let watermarks = match self.watermarks(&partitions) {
            Ok(watermarks) => watermarks,
            Err(error) => return self.ask_later(error),
        };
        let mut start = Vec::with_capacity(lanes.len());
        for lane in lanes {
            let partition = lane.name.partition;
            let Some(watermarks) = watermarks.get(&partition).copied() else { continue };
            self.shared.lock().starting.remove(&partition);
            match judge_range(&lane, watermarks) {
                Some(Verdict::Other(what)) => {
                    self.source_changed(partition, lane.lane, lane.position, &what)?;
                    continue;
                }
                Some(Verdict::Gone) => self.warn_of_gone(partition, lane.position),
                Some(Verdict::Same) | None => {}
            }
            start.push((lane, watermarks));
        }
        self.start_reading(&start);
        Ok(())
    }

    pub(super) fn warn_of_gone(&self, partition: i32, position: i64) {
        tracing::warn!(
            topic = self.topic,
            partition,
            position,
            "the last message read is gone (expired or compacted): cannot check whether the \
             topic has changed; reading on"
        );
    }

    /// Handles a partition with another message where its lane's last one was.
    pub(super) fn changed(&mut self, partition: i32, changed: &Changed) -> Result<(), Error> {
        if changed.gathered {
            // What was read before must be stored first; the claim then starts at the last
            // stored message, and finds the same.
            self.shared.recheck(Recheck::Topic);
            return Ok(());
        }
        if let Verdict::Other(what) = judge_message(changed.last, Some(changed.found)) {
            self.source_changed(partition, changed.lane, changed.position, &what)?;
        }
        Ok(())
    }

    fn source_changed(
        &mut self,
        partition: i32,
        lane: LaneId,
        position: i64,
        what: &str,
    ) -> Result<(), Error> {
        if self.member.options.on_source_change == OnSourceChange::Stop {
            return Err(source_changed(self.topic, partition, lane, position, what));
        }
        tracing::warn!(
            topic = self.topic, partition, given_up = lane.0, position,
            start = %self.member.options.start,
            "the partition has changed since it was read: {what}; reading it again as another lane"
        );
        self.resets = 0;
        self.stop_reading(partition);
        let mut state = self.shared.lock();
        state.lanes.remove(&partition);
        state.assignment.start_over(partition, Some(lane));
        drop(state);
        self.shared.notify();
        Ok(())
    }

    /// Handles a topic or cluster that may be another one: stops reading and, once what was
    /// read before is on its way, has every lane claimed and checked again.
    pub(super) fn settle_doubt(&mut self) -> Result<(), Error> {
        let (recheck, assigned) = {
            let state = self.shared.lock();
            let Some(recheck) = state.recheck else { return Ok(()) };
            (recheck, state.assignment.assigned())
        };
        for partition in assigned {
            self.shared.lock().assignment.unassigned(partition);
            self.unassign(&[partition]);
        }
        // A truncated log has lost some of what was read. Stored, it is safe, and the
        // claims that follow compare the last stored message.
        if self.shared.lock().has_unstored() || Instant::now() < self.ask_at {
            return Ok(());
        }
        match recheck {
            Recheck::Cluster => match topic::source(self.consumer.client(), self.topic) {
                Ok(source) => self.member.same_cluster(&source)?,
                Err(error) => return self.ask_later(error),
            },
            Recheck::Unreadable => self.find_unreadable()?,
            Recheck::Topic => {}
        }
        tracing::warn!(topic = self.topic, "reading each partition again from its stored position");
        let mut state = self.shared.lock();
        state.recheck = None;
        for partition in state.assignment.held() {
            state.forget(partition);
            state.assignment.start_over(partition, None);
        }
        drop(state);
        self.quiet.clear();
        self.shared.notify();
        Ok(())
    }

    /// Fails with the place of unreadable messages, if they are still unreadable.
    fn find_unreadable(&mut self) -> Result<(), Error> {
        let mut offsets = Vec::new();
        {
            let state = self.shared.lock();
            for partition in state.assignment.held() {
                // A partition is read from its last message on, then from its position.
                offsets.extend(state.batcher.last_offset(partition).map(|it| (partition, it)));
                offsets.extend(state.batcher.position(partition).map(|it| (partition, it)));
            }
        }
        if let Some(error) =
            unreadable::find(&self.member.config, &offsets, || self.member.pulse.beat())?
        {
            return Err(error);
        }
        self.unfound.retain(|found| found.elapsed() < UNFOUND_WITHIN);
        self.unfound.push(Instant::now());
        if self.unfound.len() > UNFOUND_MAX {
            return Err(unreadable::unfound(&self.member.config));
        }
        Ok(())
    }

    /// Finds the first positions of granted partitions that were never read before, so that
    /// they can be passed to the flow.
    pub(super) fn locate_granted(&mut self) -> Result<(), Error> {
        let wanted = self.shared.lock().assignment.without_first_position();
        if wanted.is_empty() || Instant::now() < self.ask_at {
            return Ok(());
        }
        match self.watermarks(&wanted) {
            Ok(watermarks) => {
                let mut state = self.shared.lock();
                for (partition, watermarks) in watermarks {
                    let position = self.member.options.start.position(watermarks);
                    let known = self.partitions.last().map_or(0, |last| last + 1);
                    let partitions = known.max(partition + 1);
                    let gained = Some(Gained { beginning: watermarks.low, partitions });
                    state.assignment.first_position(partition, FirstPosition { position, gained });
                }
                drop(state);
                self.shared.notify();
                Ok(())
            }
            Err(error) => self.ask_later(error),
        }
    }

    fn watermarks(&mut self, partitions: &[i32]) -> Result<BTreeMap<i32, Watermarks>, Error> {
        let watermarks = self.offsets.of(partitions)?;
        self.unanswered = None;
        Ok(watermarks)
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
                "waiting for the brokers to report the offsets of partitions before reading them"
            );
        }
        self.ask_at = Instant::now() + ASK_AGAIN;
        Ok(())
    }

    /// Handles a partition whose end was reached.
    pub(super) fn ended(&mut self, partition: i32) -> Result<(), Error> {
        let now = Instant::now();
        self.fairness.ended(partition);
        let next = {
            let state = self.shared.lock();
            state.batcher.position(partition).filter(|_| state.recheck.is_none())
        };
        let Some(next) = next else { return Ok(()) };
        if !self.quiet.ended(partition, next, now) {
            return Ok(());
        }
        // Uses the client that fetched, and so the broker that it fetched from.
        match topic::watermarks(self.consumer.client(), self.topic, partition) {
            Ok(watermarks) => {
                if let Some(end) = self.quiet.found(partition, watermarks.high, now) {
                    self.shared.lock().batcher.advance(partition, end);
                    self.shared.notify();
                }
                Ok(())
            }
            Err(error) => {
                self.quiet.postpone(partition, now);
                self.ask_later(error)
            }
        }
    }

    pub(super) fn look_at_tails(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let due = self.quiet.due(now);
        if due.is_empty() || now < self.ask_at {
            return Ok(());
        }
        let watermarks = match self.watermarks(&due) {
            Ok(watermarks) => watermarks,
            Err(error) => {
                for partition in due {
                    self.quiet.postpone(partition, now);
                }
                return self.ask_later(error);
            }
        };
        let mut refetch = Vec::new();
        for partition in due {
            let Some(watermarks) = watermarks.get(&partition) else {
                self.quiet.postpone(partition, now);
                continue;
            };
            let mut state = self.shared.lock();
            let next = state.batcher.position(partition);
            if self.quiet.looked(partition, next, watermarks.high) == Look::Refetch
                && let Some(from) = state.batcher.read_again(partition)
            {
                refetch.push((partition, from.max(watermarks.low)));
            }
        }
        self.refetch(&refetch);
        Ok(())
    }

    /// Fetches partitions once more from their last messages, so that librdkafka reports
    /// their ends again.
    fn refetch(&mut self, partitions: &[(i32, i64)]) {
        if partitions.is_empty() {
            return;
        }
        let from = list_from(self.topic, partitions);
        let sought = from.and_then(|from| self.consumer.seek_partitions(from, SEEK_TIMEOUT));
        let failed: Vec<i32> = match &sought {
            Ok(sought) => {
                let failed = sought.elements().into_iter().filter(|it| it.error().is_err());
                failed.map(|it| it.partition()).collect()
            }
            Err(error) => {
                tracing::debug!(%error, "could not read the ends of partitions; trying later");
                partitions.iter().map(|(partition, _)| *partition).collect()
            }
        };
        for partition in failed {
            self.quiet.postpone(partition, Instant::now());
        }
    }
}
