//! Applies the outcome function to a whole batch: pure, so that every sink resolves alike
//! and a test can drive it without a server.

use crate::batch::{Batch, Body};
use crate::dead_letter::{Reason, Reject};
use crate::failpoint::{Protection, off};
use crate::outcome::{Authority, Existing, Outcome, decide};
use crate::progress::Counts;

/// An existing row in the table, under a key of a batch.
#[derive(Debug, Clone, Copy)]
pub struct ExistingRow<'a> {
    /// The key, in the form of [`crate::record::Row`].
    pub key: &'a [u8],
    /// All fields (see [`crate::record::row`]).
    pub content: &'a [u8],
    /// Its last writer's authority.
    pub authority: Authority,
}

/// A batch's entry, and the row that it changes, as indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Index in [`Batch::entries`].
    pub entry: usize,
    /// Index in the rows given to [`Keys::resolve`].
    pub row: usize,
}

/// Effect of a batch on the table, and the outcomes of its records.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Resolution {
    /// Entries that become new rows, sorted by key.
    pub inserts: Vec<usize>,
    /// Rows taken over unchanged, sorted by key.
    pub confirms: Vec<Change>,
    /// Rows replaced, sorted by key.
    pub corrections: Vec<Change>,
    /// Entries that become dead letters, sorted by (lane, position).
    pub dead_letters: Vec<(usize, Reject)>,
    /// Outcome of each entry.
    pub outcomes: Vec<Outcome>,
    /// The outcomes, counted span by span.
    pub counts: Vec<Counts>,
}

/// The keys of a batch, sorted as bytes; repeats of a key in the order (partition,
/// position) (rule R1, docs/protocol.md).
///
/// ```
/// use lambda_core::outcome::{Authority, Outcome};
/// use lambda_core::resolve::Keys;
/// use lambda_core::testing::draft::{Draft, SAMPLES, Sample};
/// # use lambda_core::progress::{Counts, LaneId, LaneName, Progress, Sums};
/// # let (pipeline, source) = ("samples".into(), "a-source".into());
/// # let lane = Progress {
/// #     lane: LaneId(1),
/// #     name: LaneName { pipeline, source, partition: 0 },
/// #     position: 0,
/// #     end_position: None,
/// #     claim: None,
/// #     high: 0,
/// #     counts: Counts::default(),
/// #     sums: Sums::default(),
/// #     last: None,
/// # };
///
/// let batch = Draft::new(Authority::Stream, &SAMPLES).lane(&lane, 2);
/// let batch = batch.record(0, &Sample::new("a", 1)).record(1, &Sample::new("a", 2)).build();
///
/// // The table has no row under the key "a".
/// let resolution = Keys::of(&batch).resolve(&[]);
/// assert_eq!(resolution.outcomes, [Outcome::Inserted, Outcome::Rejected]);
/// ```
#[derive(Debug)]
pub struct Keys<'a> {
    batch: &'a Batch,
    sorted: Vec<(&'a [u8], usize)>,
}

impl<'a> Keys<'a> {
    /// Sorts the keys of a batch.
    pub fn of(batch: &'a Batch) -> Self {
        let mut sorted: Vec<(&[u8], usize)> = batch
            .entries()
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| match &entry.body {
                Body::Row { key, .. } => Some((batch.row(*key), index)),
                Body::Rejected(_) | Body::Skipped => None,
            })
            .collect();
        sorted.sort();
        if off(Protection::RepeatsInOrder) {
            sorted.sort_by(|a, b| a.0.cmp(b.0).then(b.1.cmp(&a.1)));
        }
        Self { batch, sorted }
    }

    /// Distinct keys, sorted.
    pub fn distinct(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.first_of_each().map(|(key, _)| key)
    }

    /// The content of one row under each distinct key, in the order of the keys.
    pub fn contents(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        let batch = self.batch;
        self.first_of_each().filter_map(|(_, index)| match &batch.entries()[index].body {
            Body::Row { content, .. } => Some(batch.row(*content)),
            Body::Rejected(_) | Body::Skipped => None,
        })
    }

    fn first_of_each(&self) -> impl Iterator<Item = (&'a [u8], usize)> + '_ {
        self.sorted.chunk_by(|a, b| a.0 == b.0).map(|repeats| repeats[0])
    }

    /// Resolves the batch against the existing rows under its keys, sorted by key. Without
    /// rows none of the keys is taken.
    pub fn resolve(&self, existing: &[ExistingRow<'_>]) -> Resolution {
        let batch = self.batch;
        let mut resolution = Resolution {
            // Those of rows are decided below.
            outcomes: batch.entries().iter().map(|entry| undecided(&entry.body)).collect(),
            counts: vec![Counts::default(); batch.spans().len()],
            inserts: Vec::with_capacity(self.sorted.len()),
            ..Resolution::default()
        };
        let mut rows = existing.iter().enumerate().peekable();
        for repeats in self.sorted.chunk_by(|a, b| a.0 == b.0) {
            let key = repeats[0].0;
            while rows.next_if(|(_, row)| row.key < key).is_some() {}
            let row = rows.next_if(|(_, row)| row.key == key);
            self.resolve_key(repeats, row, &mut resolution);
        }
        for (index, entry) in batch.entries().iter().enumerate() {
            resolution.counts[entry.span as usize].add(resolution.outcomes[index]);
            if let Body::Rejected(reject) = &entry.body {
                resolution.dead_letters.push((index, (**reject).clone()));
            }
        }
        resolution.dead_letters.sort_by_key(|(index, _)| {
            let entry = &batch.entries()[*index];
            (batch.span(entry).lane, entry.position)
        });
        resolution
    }

    /// Takes the repeats of one key in order, each against the row that the one before
    /// left.
    fn resolve_key(
        &self,
        repeats: &[(&[u8], usize)],
        row: Option<(usize, &ExistingRow<'_>)>,
        resolution: &mut Resolution,
    ) {
        let batch = self.batch;
        let mut current = row.map(|(_, row)| (row.authority, row.content));
        for (_, index) in repeats {
            let entry = &batch.entries()[*index];
            let Body::Row { content, .. } = &entry.body else { continue };
            let content = batch.row(*content);
            let existing = current
                .map(|(authority, stored)| Existing { authority, same_content: stored == content });
            let outcome = decide(batch.authority, existing);
            resolution.outcomes[*index] = outcome;
            let change = row.map(|(row, _)| Change { entry: *index, row });
            match outcome {
                Outcome::Inserted => resolution.inserts.push(*index),
                Outcome::Confirmed => resolution.confirms.extend(change),
                Outcome::Corrected => resolution.corrections.extend(change),
                Outcome::Superseded | Outcome::Duplicate => continue,
                Outcome::Rejected | Outcome::Skipped => {
                    let detail = "this id is already stored with other content";
                    resolution.dead_letters.push((*index, Reject::new(Reason::IdConflict, detail)));
                    continue;
                }
            }
            current = Some((batch.authority, content));
        }
    }
}

/// The outcome of an entry that is not a row.
fn undecided(body: &Body) -> Outcome {
    match body {
        Body::Skipped => Outcome::Skipped,
        Body::Row { .. } | Body::Rejected(_) => Outcome::Rejected,
    }
}
