//! A [`Sink`] in memory: for tests of sources and flows, and as the simplest form of the
//! protocol. Everything is as durable as the process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::batch::{Batch, Body};
use crate::dead_letter::Reject;
use crate::delivery::settle;
use crate::error::Error;
use crate::failpoint::{Protection, off};
use crate::outcome::Authority;
use crate::progress::{ClaimId, Counts, LaneId, LaneName, Progress, Sums};
use crate::record::checksum::{Checksum, ContentHash};
use crate::resolve::{ExistingRow, Keys, Resolution};
use crate::sink::{ClaimRequest, Committed, Durability, Sink};
use crate::source::{FirstPosition, Gained};

/// A stored row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// All fields (see [`crate::record::row`]).
    pub content: Vec<u8>,
    /// Its last writer's authority.
    pub authority: Authority,
    /// Lane in which its content was read.
    pub lane: LaneId,
    /// Position in the lane.
    pub position: i64,
    /// Checksum of all of these.
    pub checksum: Checksum,
    /// The commit that inserted it.
    pub written_xid: i64,
}

impl StoredRow {
    /// Hash of its content and origin.
    pub fn hash(&self) -> ContentHash {
        ContentHash::of(&self.content, self.lane, self.position)
    }

    /// The checksum that its columns have.
    pub fn recomputed(&self) -> Checksum {
        let job_id = self.authority.job().map(|job| job.job_id());
        self.hash().checksum(self.written_xid, job_id.as_deref())
    }

    /// The same row, owned by `authority`.
    fn owned_by(mut self, authority: Authority) -> Self {
        self.authority = authority;
        self.checksum = self.recomputed();
        self
    }
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDeadLetter {
    /// Lane in which it was read.
    pub lane: LaneId,
    /// Position in the lane.
    pub position: i64,
    /// Its bytes as read.
    pub payload: Vec<u8>,
    /// Reason of the rejection.
    pub reject: Reject,
}

/// A correction: a row before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCorrection {
    /// The row's key.
    pub key: Vec<u8>,
    /// The row before.
    pub before: StoredRow,
    /// The row after.
    pub after: StoredRow,
    /// The commit that made the correction.
    pub written_xid: i64,
}

/// Everything a [`MemorySink`] holds.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Rows by key.
    pub rows: BTreeMap<Vec<u8>, StoredRow>,
    /// Dead letters by lane and position.
    pub dead_letters: BTreeMap<(LaneId, i64), StoredDeadLetter>,
    /// Corrections in the order of their commits.
    pub corrections: Vec<StoredCorrection>,
    /// Progress by lane.
    pub lanes: BTreeMap<LaneId, Progress>,
    names: HashMap<LaneName, LaneId>,
    /// Number of partitions of each source when its lanes were first claimed, by pipeline
    /// and source.
    partitions: HashMap<(String, String), i32>,
    commits: i64,
}

/// A sink that keeps everything in memory.
///
/// ```
/// use lambda_core::memory::MemorySink;
/// use lambda_core::outcome::Authority;
/// use lambda_core::progress::LaneName;
/// use lambda_core::sink::{ClaimRequest, Durability, Sink};
/// use lambda_core::testing::draft::{Draft, SAMPLES, Sample};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lambda_core::Error> {
/// let sink = MemorySink::new();
/// let request = ClaimRequest {
///     name: LaneName { pipeline: "samples".into(), source: "a-source".into(), partition: 0 },
///     first_position: 0.into(),
///     format: "json".into(),
///     owner: "an example".into(),
///     group: None,
///     take_over: false,
///     given_up: None,
/// };
/// let lane = sink.claim(&request).await?;
///
/// let batch = Draft::new(Authority::Stream, &SAMPLES).lane(&lane, 2);
/// let batch = batch.record(0, &Sample::new("a", 1)).record(1, &Sample::new("a", 1)).build();
/// let committed = sink.commit(&batch, Durability::Durable).await?;
/// assert_eq!(committed.stored[0].position, 2);
/// assert_eq!(sink.contents().rows.len(), 1, "the second record is a duplicate");
///
/// // The same batch again is fenced: the lane is no longer at its position.
/// let repeated = sink.commit(&batch, Durability::Durable).await?;
/// assert_eq!(repeated.fenced, [lane.lane]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct MemorySink {
    contents: Mutex<Contents>,
}

impl MemorySink {
    /// An empty sink.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of everything stored.
    pub fn contents(&self) -> Contents {
        self.lock().clone()
    }

    /// Returns to `earlier` contents, as a database that crashed and lost its last commits.
    /// A claim is durable: `earlier` must not be from before one.
    pub fn rewind(&self, earlier: Contents) {
        *self.lock() = earlier;
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    /// First position of a request's lane, if it is new.
    fn first_position(&mut self, request: &ClaimRequest) -> i64 {
        let FirstPosition { position, gained } = request.first_position;
        let Some(Gained { beginning, partitions }) = gained else { return position };
        let source = (request.name.pipeline.clone(), request.name.source.clone());
        let known = self.partitions.entry(source).or_insert(partitions);
        if *known <= request.name.partition { beginning } else { position }
    }
}

#[async_trait]
impl Sink for MemorySink {
    async fn claim(&self, request: &ClaimRequest) -> Result<Progress, Error> {
        let mut contents = self.lock();
        contents.give_up(request);
        let first_position = contents.first_position(request);
        let next = LaneId(i32::try_from(contents.names.len() + 1).unwrap_or(i32::MAX));
        let lane = *contents.names.entry(request.name.clone()).or_insert(next);
        let progress = contents.lanes.entry(lane).or_insert_with(|| Progress {
            lane,
            name: request.name.clone(),
            position: first_position,
            end_position: None,
            high: 0,
            claim: None,
            counts: Counts::default(),
            sums: Sums::default(),
            last: None,
        });
        if progress.claim.is_none() || !off(Protection::NewClaimOnTakeover) {
            progress.claim = Some(ClaimId::random());
        }
        Ok(progress.clone())
    }

    async fn commit(&self, batch: &Batch, _: Durability) -> Result<Committed, Error> {
        let mut contents = self.lock();
        let (batch, fenced) = settle::fence(batch, |span| {
            contents.lanes.get(&span.lane).is_some_and(|lane| settle::holds(span, lane))
        });
        Ok(Committed { stored: contents.store(&batch), fenced })
    }

    async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error> {
        let contents = self.lock();
        Ok(lanes.iter().filter_map(|lane| contents.lanes.get(lane).cloned()).collect())
    }
}

impl Contents {
    /// Sets aside the lane whose number the request gives up.
    fn give_up(&mut self, request: &ClaimRequest) {
        let holder = self.names.get(&request.name).copied();
        let Some(lane) = holder.filter(|lane| request.given_up == Some(*lane)) else { return };
        let aside = request.name.set_aside(lane);
        if let Some(progress) = self.lanes.get_mut(&lane) {
            (progress.name, progress.claim) = (aside.clone(), None);
        }
        self.names.remove(&request.name);
        self.names.insert(aside, lane);
    }

    fn store(&mut self, batch: &Batch) -> Vec<Progress> {
        let keys = Keys::of(batch);
        let taken: Vec<(Vec<u8>, StoredRow)> = keys
            .distinct()
            .filter_map(|key| Some((key.to_vec(), self.rows.get(key)?.clone())))
            .collect();
        let existing: Vec<ExistingRow<'_>> = taken
            .iter()
            .map(|(key, row)| ExistingRow { key, content: &row.content, authority: row.authority })
            .collect();
        let resolution = keys.resolve(&existing);
        self.commits += 1;
        let mut sums = vec![Sums::default(); batch.spans().len()];
        self.insert(batch, &resolution, &mut sums);
        self.supersede(batch, &resolution, &taken, &mut sums);
        self.reject(batch, &resolution);
        let spans = batch.spans().iter().enumerate();
        spans
            .filter_map(|(index, span)| {
                let lane = self.lanes.get_mut(&span.lane)?;
                lane.position = span.to;
                lane.high = lane.high.max(span.to);
                lane.counts += resolution.counts[index];
                lane.sums.add(sums[index]);
                lane.last = span.last.or(lane.last);
                Some(lane.clone())
            })
            .collect()
    }

    fn row(batch: &Batch, index: usize, written_xid: i64) -> Option<(Vec<u8>, StoredRow)> {
        let entry = &batch.entries()[index];
        let Body::Row { content, key } = &entry.body else { return None };
        let lane = batch.span(entry).lane;
        let content = batch.row(*content).to_vec();
        let (authority, position, checksum) = (batch.authority, entry.position, Checksum(0));
        let row = StoredRow { content, authority, lane, position, checksum, written_xid };
        Some((batch.row(*key).to_vec(), row.owned_by(authority)))
    }

    fn insert(&mut self, batch: &Batch, resolution: &Resolution, sums: &mut [Sums]) {
        for index in &resolution.inserts {
            let Some((key, row)) = Self::row(batch, *index, self.commits) else { continue };
            sums[batch.entries()[*index].span as usize].add(Sums {
                written: row.hash().written(row.written_xid),
                owned: row.checksum.0,
                displaced: 0,
            });
            self.rows.insert(key, row);
        }
    }

    fn supersede(
        &mut self,
        batch: &Batch,
        resolution: &Resolution,
        taken: &[(Vec<u8>, StoredRow)],
        sums: &mut [Sums],
    ) {
        for change in &resolution.confirms {
            let (key, before) = &taken[change.row];
            let after = before.clone().owned_by(batch.authority);
            let owned = after.checksum.0.wrapping_sub(before.checksum.0);
            sums[batch.entries()[change.entry].span as usize]
                .add(Sums { owned, ..Sums::default() });
            self.rows.insert(key.clone(), after);
        }
        for change in &resolution.corrections {
            let (key, before) = &taken[change.row];
            let Some((_, after)) = Self::row(batch, change.entry, before.written_xid) else {
                continue;
            };
            sums[batch.entries()[change.entry].span as usize].add(Sums {
                written: after.hash().written(after.written_xid),
                owned: after.checksum.0.wrapping_sub(before.checksum.0),
                displaced: before.checksum.displacement(after.checksum, self.commits),
            });
            self.rows.insert(key.clone(), after.clone());
            let (key, before, written_xid) = (key.clone(), before.clone(), self.commits);
            self.corrections.push(StoredCorrection { key, before, after, written_xid });
        }
    }

    fn reject(&mut self, batch: &Batch, resolution: &Resolution) {
        for (index, reject) in &resolution.dead_letters {
            let entry = &batch.entries()[*index];
            let lane = batch.span(entry).lane;
            let payload = batch.payload(entry).to_vec();
            let (position, reject) = (entry.position, reject.clone());
            let letter = StoredDeadLetter { lane, position, payload, reject };
            self.dead_letters.insert((lane, position), letter);
        }
    }
}
