//! The database: the sink in memory, with transactions that stay open for a while, lock
//! their lanes, and may land after their owner was given up. A crash loses commits that were
//! not durable. Checks everything that lands against the records.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use lambda_core::batch::Batch;
use lambda_core::delivery::settle::settle;
use lambda_core::job::JobRef;
use lambda_core::memory::{Contents, MemorySink};
use lambda_core::outcome::Authority;
use lambda_core::progress::{ClaimId, LaneId, LaneName, Progress};
use lambda_core::sink::{ClaimRequest, Committed, Durability, Sink};
use lambda_core::source::Grant;
use lambda_core::testing::draft::{Draft, SAMPLES};

use crate::topic::{Content, Entry, Expected, Log, REFUSED};

/// Result of a step, or the invariant that it violates.
pub(crate) type Checked<T = ()> = Result<T, String>;

/// Number of events, by name.
pub(crate) type Tally = BTreeMap<String, u64>;

pub(crate) type TxId = usize;

/// A writing process: each start of a member is a new one.
pub(crate) type Writer = usize;

/// A transaction that has locked its lanes.
struct Tx {
    writer: Writer,
    batch: Arc<Batch>,
    durability: Durability,
}

/// The server's answer to a transaction's owner, if it waits for one.
pub(crate) enum Answer {
    Committed(Committed),
    Refused,
    Gone,
}

/// Outcome of a commit whose answer was lost.
pub(crate) enum Settled {
    /// Another transaction has its lanes locked.
    Waits,
    Committed(Committed),
    Failed,
}

/// States that a crash may go back to.
#[derive(Clone)]
struct Moment {
    contents: Contents,
    expected: Expected,
    landed: BTreeSet<TxId>,
}

pub(crate) struct Database {
    sink: MemorySink,
    open: BTreeMap<TxId, Tx>,
    next: TxId,
    answers: BTreeMap<TxId, Answer>,
    /// Transactions whose owner no longer waits for them.
    orphans: BTreeSet<TxId>,
    /// The last durable state and those since; the last one is current.
    timeline: Vec<Moment>,
    /// By lane: its authority and records.
    logs: BTreeMap<LaneId, (Authority, Log)>,
    topic: Vec<Log>,
    /// Last process that took each lane, and its claim.
    held: BTreeMap<LaneId, (Writer, ClaimId)>,
    pub(crate) claims: usize,
    writers: Writer,
    /// Claims that were given up and still wait in the server, and the claim that each is to
    /// replace.
    ghosts: Vec<(Grant, Option<ClaimId>)>,
    jobs: i64,
    pub(crate) before: i64,
    pub(crate) tally: Tally,
}

/// The sink in memory never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("the sink in memory waits for nothing"),
    }
}

impl Database {
    pub(crate) fn new(topic: Vec<Log>, before: i64) -> Self {
        let sink = MemorySink::new();
        let now = Moment {
            contents: sink.contents(),
            expected: Expected::default(),
            landed: BTreeSet::new(),
        };
        Self {
            sink,
            open: BTreeMap::new(),
            next: 0,
            answers: BTreeMap::new(),
            orphans: BTreeSet::new(),
            timeline: vec![now],
            logs: BTreeMap::new(),
            topic,
            held: BTreeMap::new(),
            claims: 0,
            writers: 0,
            ghosts: Vec::new(),
            jobs: 0,
            before,
            tally: Tally::new(),
        }
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        *self.tally.entry(what.into()).or_default() += 1;
    }

    pub(crate) fn log(&self, partition: i32) -> &Log {
        &self.topic[partition as usize]
    }

    /// A new process.
    pub(crate) fn new_writer(&mut self) -> Writer {
        self.writers += 1;
        self.writers
    }

    fn now(&self) -> &Moment {
        &self.timeline[self.timeline.len() - 1]
    }

    pub(crate) fn progress(&self, lane: LaneId) -> Option<&Progress> {
        self.now().contents.lanes.get(&lane)
    }

    pub(crate) fn of_partition(&self, partition: i32) -> Option<&Progress> {
        self.now().contents.lanes.values().find(|lane| lane.name == name(partition))
    }

    pub(crate) fn is_held_by(&self, writer: Writer, lane: LaneId) -> bool {
        self.held.get(&lane).is_some_and(|(holder, _)| *holder == writer)
    }

    /// Whether everything stored of a lane is durable.
    pub(crate) fn is_durable(&self, lane: LaneId) -> bool {
        let position = |moment: &Moment| moment.contents.lanes.get(&lane).map(|l| l.position);
        position(&self.timeline[0]) == position(self.now())
    }

    /// Opens a transaction, which locks its lanes. If it has to wait for another one, it may
    /// end that one.
    pub(crate) fn begin(
        &mut self,
        writer: Writer,
        batch: &Arc<Batch>,
        durability: Durability,
        end: bool,
    ) -> Option<TxId> {
        let lanes: Vec<LaneId> = batch.spans().iter().map(|span| span.lane).collect();
        if !self.free(&lanes, end) {
            return None;
        }
        self.next += 1;
        self.open.insert(self.next, Tx { writer, batch: Arc::clone(batch), durability });
        Some(self.next)
    }

    fn free(&mut self, lanes: &[LaneId], end: bool) -> bool {
        let locks = |tx: &Tx| tx.batch.spans().iter().any(|span| lanes.contains(&span.lane));
        let holders: Vec<TxId> =
            self.open.iter().filter(|(_, tx)| locks(tx)).map(|(id, _)| *id).collect();
        if !holders.is_empty() && !end {
            self.note("a transaction waits for a lane");
            return false;
        }
        for id in holders {
            self.note("a backend that holds a lane is ended");
            self.end(id);
        }
        true
    }

    /// Ends an open transaction, which will not land.
    pub(crate) fn end(&mut self, id: TxId) -> bool {
        let was_open = self.open.remove(&id).is_some();
        if was_open {
            self.answers.insert(id, Answer::Gone);
        }
        was_open
    }

    /// Marks it as no longer waited for.
    pub(crate) fn abandon(&mut self, id: TxId) {
        self.orphans.insert(id);
    }

    pub(crate) fn is_open(&self, id: TxId) -> bool {
        self.open.contains_key(&id)
    }

    pub(crate) fn answer(&mut self, id: TxId) -> Option<Answer> {
        self.answers.remove(&id)
    }

    /// Ends an open transaction by its index.
    pub(crate) fn end_any(&mut self, index: usize) {
        if let Some(id) = self.any(index) {
            self.note("a backend dies");
            self.end(id);
        }
    }

    /// Lets an open transaction land, even if its owner no longer waits.
    pub(crate) fn land_any(&mut self, index: usize) -> Checked {
        self.any(index).map_or(Ok(()), |id| self.land(id))
    }

    fn any(&self, index: usize) -> Option<TxId> {
        self.open.keys().nth(index % self.open.len().max(1)).copied()
    }

    pub(crate) fn land(&mut self, id: TxId) -> Checked {
        let Some(tx) = self.open.remove(&id) else { return Ok(()) };
        let committed = now(self.sink.commit(&tx.batch, tx.durability));
        let committed = committed.map_err(|error| error.to_string())?;
        let contents = self.sink.contents();
        if contents.rows.keys().any(|key| key.starts_with(REFUSED.as_bytes())) {
            self.note("refused");
            self.sink.rewind(self.now().contents.clone());
            self.answers.insert(id, Answer::Refused);
            return Ok(());
        }
        if !committed.fenced.is_empty() {
            self.note("fenced");
        }
        if !committed.fenced.is_empty() && !committed.stored.is_empty() {
            self.note("fenced in part");
        }
        if tx.batch.spans().iter().all(|span| span.from == span.to) {
            self.note("compared");
        }
        let alone = self.orphans.contains(&id) && !committed.stored.is_empty();
        self.note(if alone { "landed after its owner gave up" } else { "landed" });
        self.answers.insert(id, Answer::Committed(committed));
        self.landed(id, &tx, contents)
    }

    /// Invariants 1 to 3 and 5: a lane that moved was held by the batch's claim, moved forward,
    /// and holds what its records require.
    fn landed(&mut self, id: TxId, tx: &Tx, contents: Contents) -> Checked {
        let mut moment = self.now().clone();
        for (lane, after) in &contents.lanes {
            let Some(before) = moment.contents.lanes.get(lane) else { continue };
            if before == after {
                continue;
            }
            let span = tx.batch.spans().iter().find(|span| span.lane == *lane);
            let span = span.ok_or_else(|| format!("{lane} moved, and was in no batch"))?;
            let held = self.held.get(lane);
            if held != Some(&(tx.writer, span.claim)) || after.claim != before.claim {
                return Err(format!("{lane} moved under a claim that was replaced"));
            }
            if after.position < before.position {
                return Err(format!("{lane} went back to {}", after.position));
            }
        }
        // In the order (partition, position), as one transaction takes them.
        let mut moved: Vec<&Progress> = contents.lanes.values().collect();
        moved.sort_by_key(|lane| lane.name.partition);
        for after in moved {
            let before = moment.contents.lanes[&after.lane].position;
            let (authority, log) = &self.logs[&after.lane];
            for entry in &log.records {
                if (before..after.position).contains(&entry.position) {
                    let outcome = moment.expected.take(*authority, after.lane, entry);
                    *self.tally.entry(outcome.to_owned()).or_default() += 1;
                }
            }
        }
        moment.landed.insert(id);
        moment.contents = contents;
        moment.expected.compare(&moment.contents)?;
        let durable = tx.durability == Durability::Durable;
        self.passed(moment, durable);
        Ok(())
    }

    fn passed(&mut self, moment: Moment, durable: bool) {
        if durable {
            self.timeline.clear();
        }
        self.timeline.push(moment);
    }

    /// Takes a lane, and ends the transaction that holds its lock.
    pub(crate) fn claim(&mut self, writer: Writer, grant: &Grant) -> Checked<Progress> {
        let known = self.now().contents.lanes.values().find(|lane| lane.name == grant.name);
        if let Some(lane) = known.map(|lane| lane.lane) {
            self.free(&[lane], true);
        }
        let (name, first_position) = (grant.name.clone(), grant.first_position);
        let owner = "a member".to_owned();
        let request = ClaimRequest {
            format: "json".into(),
            name,
            first_position,
            owner,
            group: None,
            take_over: false,
            given_up: None,
        };
        let claimed = now(self.sink.claim(&request)).map_err(|error| error.to_string())?;
        let claim = claimed.claim.ok_or("a claim without a claim")?;
        self.claims += 1;
        if self.held.insert(claimed.lane, (writer, claim)).is_some() {
            self.note("a claim is replaced");
        }
        let partition = claimed.name.partition;
        if let Some(log) = self.topic.get(partition as usize) {
            let log = (Authority::Stream, log.clone());
            self.logs.entry(claimed.lane).or_insert(log);
        }
        let contents = self.sink.contents();
        let mut moment = self.now().clone();
        moment.contents = contents;
        moment.expected.compare(&moment.contents)?;
        self.passed(moment, true);
        Ok(claimed)
    }

    /// A claim is given up while it waits in the server.
    pub(crate) fn give_up(&mut self, grant: Grant) {
        let current = self.of_partition(grant.name.partition).and_then(|lane| lane.claim);
        self.ghosts.push((grant, current));
    }

    /// Grants a claim that was given up, which replaces the claim that it was to replace, if
    /// that one still exists.
    pub(crate) fn ghost_claim(&mut self, index: usize) -> Checked {
        if self.ghosts.is_empty() {
            return Ok(());
        }
        let (grant, current) = self.ghosts.swap_remove(index % self.ghosts.len());
        let stored = self.of_partition(grant.name.partition).and_then(|lane| lane.claim);
        if stored == current {
            self.note("a claim that was given up lands");
            let writer = self.new_writer();
            self.claim(writer, &grant)?;
        }
        Ok(())
    }

    /// Settles a commit whose answer was lost: ends its backend, waits for the lanes' locks, and
    /// decides as the sink on PostgreSQL does. Returns nothing while the lanes are
    /// locked.
    pub(crate) fn settle(&mut self, id: TxId, batch: &Batch) -> Checked<Settled> {
        self.end(id);
        self.answers.remove(&id);
        let lanes: Vec<LaneId> = batch.spans().iter().map(|span| span.lane).collect();
        if !self.free(&lanes, false) {
            return Ok(Settled::Waits);
        }
        let stored = now(self.sink.stored(&lanes)).map_err(|error| error.to_string())?;
        let settled = settle(batch.spans(), &stored);
        let landed = self.now().landed.contains(&id);
        let moves = batch.spans().iter().any(|span| span.from != span.to);
        match &settled {
            None if landed && moves => {
                Err("a commit that happened is reported as failed".to_owned())
            }
            Some(told) if !landed && !told.stored.is_empty() => {
                Err("a commit that did not happen is reported as stored".to_owned())
            }
            Some(told) if told.stored.is_empty() => Ok("settled as fenced"),
            Some(_) => Ok("settled as stored"),
            None => Ok("settled as not stored"),
        }
        .map(|what| self.note(what))?;
        Ok(settled.map_or(Settled::Failed, Settled::Committed))
    }

    /// Crashes the server: every transaction is lost, and up to `back` of the commits since
    /// the last durable one.
    pub(crate) fn crash(&mut self, back: usize) -> Checked {
        while let Some(id) = self.open.keys().next().copied() {
            self.end(id);
        }
        let kept = self.timeline.len() - back.min(self.timeline.len() - 1);
        if kept < self.timeline.len() {
            self.note("commits are lost");
        }
        self.timeline.truncate(kept);
        // Whatever recovery has read is on disk.
        let moment = self.now().clone();
        self.sink.rewind(moment.contents.clone());
        for (lane, progress) in &moment.contents.lanes {
            if progress.claim != self.held.get(lane).map(|(_, claim)| *claim) {
                return Err(format!("a claim on {lane} was lost"));
            }
        }
        self.passed(moment, true);
        self.ghosts.clear();
        Ok(())
    }

    /// Loads a whole file, by a job that ranks above the stream.
    pub(crate) fn job(&mut self, contents: &[Content]) -> Checked {
        self.jobs += 1;
        let number = self.jobs;
        // Later jobs mostly rank above earlier ones, sometimes below.
        let job = JobRef { as_of_micros: number * 7 % 5, number };
        let (pipeline, source) = (SAMPLES.name().into(), format!("file {number}"));
        let name = LaneName { pipeline, source, partition: 1_000 + number as i32 };
        let writer = self.new_writer();
        let progress =
            self.claim(writer, &Grant { name, first_position: 0.into(), given_up: None })?;
        let mut log = Log::default();
        let mut draft = Draft::new(Authority::Batch(job), &SAMPLES);
        draft = draft.lane(&progress, contents.len() as i64);
        for content in contents {
            let (position, content) = (log.end, content.clone());
            let payload;
            (draft, payload) = match content.sample() {
                // The draft uses the key as the record's bytes.
                Some(sample) => (draft.record(position, &sample), sample.id.into_bytes()),
                None => (draft.rejected(position, &content.payload()), content.payload()),
            };
            log.records.push(Entry { position, content, payload });
            log.end += 1;
        }
        self.logs.insert(progress.lane, (Authority::Batch(job), log));
        let batch = Arc::new(draft.build());
        let id = self.begin(writer, &batch, Durability::Visible, true);
        let id = id.ok_or("a job's lane is locked")?;
        self.land(id)?;
        self.answers.remove(&id);
        Ok(())
    }

    /// Checks at the end that every record is stored, each once.
    pub(crate) fn everything_is_stored(&self) -> bool {
        let stored = |(partition, log): (usize, &Log)| {
            self.of_partition(partition as i32).is_some_and(|lane| lane.position == log.end)
        };
        self.topic.iter().enumerate().all(stored)
    }
}

/// The lane of a partition of the topic.
pub(crate) fn name(partition: i32) -> LaneName {
    LaneName { pipeline: SAMPLES.name().into(), source: "topic".into(), partition }
}
