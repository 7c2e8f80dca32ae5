//! The promises of every [`Sink`], as cases. Run each on a fresh sink for
//! [`crate::testing::draft::SAMPLES`].

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::batch::Batch;
use crate::dead_letter::Reason;
use crate::error::Kind;
use crate::job::JobRef;
use crate::memory::Contents;
use crate::outcome::{Authority, Outcome};
use crate::progress::{Counts, LaneName, Progress};
use crate::sink::{ClaimRequest, Durability, Sink};
use crate::source::{FirstPosition, Gained};
use crate::testing::draft::{Draft, SAMPLES, Sample};

/// A sink under test, and an independent view of its contents. [`CASES`] has an example.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The sink.
    fn sink(&self) -> &dyn Sink;

    /// Opens another sink on the same store, as a process does that starts after a crash.
    async fn reopen(&self) -> Arc<dyn Sink>;

    /// Creates a job with this effective time, known to the sink.
    async fn job(&self, as_of_micros: i64) -> JobRef;

    /// Reads everything stored, by other means than the sink's.
    async fn contents(&self) -> Contents;
}

/// The future of a case.
pub type Running<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A case: the promise, and the function that tests a sink for it.
pub type Case = (&'static str, for<'a> fn(&'a dyn Subject) -> Running<'a>);

/// All cases.
///
/// A test of [`MemorySink`](crate::memory::MemorySink):
///
/// ```
/// use std::sync::Arc;
///
/// use async_trait::async_trait;
/// use lambda_core::job::JobRef;
/// use lambda_core::memory::{Contents, MemorySink};
/// use lambda_core::sink::Sink;
/// use lambda_core::testing::sink::{CASES, Subject};
///
/// struct InMemory(Arc<MemorySink>);
///
/// #[async_trait]
/// impl Subject for InMemory {
///     fn sink(&self) -> &dyn Sink {
///         &*self.0
///     }
///
///     async fn reopen(&self) -> Arc<dyn Sink> {
///         Arc::clone(&self.0) as _
///     }
///
///     async fn job(&self, as_of_micros: i64) -> JobRef {
///         JobRef { as_of_micros, number: as_of_micros }
///     }
///
///     async fn contents(&self) -> Contents {
///         self.0.contents()
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// for (promise, case) in CASES {
///     println!("{promise}");
///     case(&InMemory(Arc::default())).await;
/// }
/// # }
/// ```
pub const CASES: &[Case] = &[
    ("a claim creates the lane, and a later one keeps its progress", |s| Box::pin(claims(s))),
    ("a lane given up keeps its number and counts, and a new one takes its name", |s| {
        Box::pin(gives_up(s))
    }),
    ("a partition that its source gained starts at its beginning", |s| Box::pin(gains(s))),
    ("a commit moves rows, counts and position together", |s| Box::pin(commits(s))),
    ("nothing lands under a replaced claim, nor from another position", |s| Box::pin(fences(s))),
    ("a fenced lane leaves the batch and the rest is stored", |s| Box::pin(fences_one(s))),
    ("the same record again is a duplicate, another content an id conflict", |s| {
        Box::pin(repeats(s))
    }),
    ("repeats inside a batch are taken in order", |s| Box::pin(repeats_inside(s))),
    ("a later job confirms and corrects, an earlier one is superseded", |s| {
        Box::pin(authorities(s))
    }),
    ("an undecodable record is a dead letter with its payload", |s| Box::pin(dead_letters(s))),
    ("a skipped record is counted and stored nowhere", |s| Box::pin(skips(s))),
    ("an empty advance moves the position alone", |s| Box::pin(advances(s))),
    ("halves of a batch, in order, are the batch", |s| Box::pin(halves(s))),
    ("a sink that is opened again has what was stored, and fences the one before", |s| {
        Box::pin(reopens(s))
    }),
    ("concurrent commits of the same keys store each once", |s| Box::pin(concurrent(s))),
    ("of two concurrent claims one holds the lane", |s| Box::pin(claims_at_once(s))),
    ("a commit that is dropped is stored whole or not at all", |s| Box::pin(dropped(s))),
];

fn request(partition: i32) -> ClaimRequest {
    ClaimRequest {
        format: "json".into(),
        name: LaneName { pipeline: "samples".into(), source: "suite".into(), partition },
        first_position: 10.into(),
        owner: "suite".into(),
        group: None,
        take_over: false,
        given_up: None,
    }
}

async fn claim(subject: &dyn Subject, partition: i32) -> Progress {
    subject.sink().claim(&request(partition)).await.expect("a claim")
}

/// Commits a batch that must be stored whole, and returns the lanes' progress.
async fn store(subject: &dyn Subject, batch: &Batch) -> Vec<Progress> {
    let done = subject.sink().commit(batch, Durability::Visible).await.expect("a commit");
    assert_eq!(done.fenced, [], "no lane is fenced");
    assert_eq!(done.stored.len(), batch.spans().len(), "every lane is stored");
    for progress in &done.stored {
        assert!(progress.counts.balanced(), "{:?}", progress.counts);
    }
    done.stored
}

fn stream() -> Draft {
    Draft::new(Authority::Stream, &SAMPLES)
}

fn batch(job: JobRef) -> Draft {
    Draft::new(Authority::Batch(job), &SAMPLES)
}

async fn claims(subject: &dyn Subject) {
    let first = claim(subject, 0).await;
    assert_eq!(first.position, 10, "a new lane starts where the request says");
    assert_eq!(first.counts, Counts::default());
    let stored =
        store(subject, &stream().lane(&first, 20).record(10, &Sample::new("a", 1)).build()).await;
    let second = claim(subject, 0).await;
    assert_ne!(second.claim, first.claim, "each claim is a new one");
    assert_eq!(
        Progress { claim: None, ..second.clone() },
        Progress { claim: None, ..stored[0].clone() }
    );
    assert_eq!(claim(subject, 1).await.position, 10, "another partition is another lane");
    let told = subject.sink().stored(&[second.lane]).await.expect("progress");
    assert_eq!(told, [second]);
}

/// In any order of members, and whatever number of partitions later members know.
async fn gains(subject: &dyn Subject) {
    for (partition, partitions, position) in [(1, 2, 10), (0, 2, 10), (2, 4, 4), (3, 4, 4)] {
        let gained = Some(Gained { beginning: 4, partitions });
        let first_position = FirstPosition { position: 10, gained };
        let request = ClaimRequest { first_position, ..request(partition) };
        let claimed = subject.sink().claim(&request).await.expect("a claim");
        assert_eq!(claimed.position, position, "partition {partition}");
    }
}

async fn gives_up(subject: &dyn Subject) {
    let first = claim(subject, 0).await;
    let before = stream().lane(&first, 20).record(10, &Sample::new("a", 1)).rejected(11, b"old");
    let before = store(subject, &before.build()).await.remove(0);
    let again = ClaimRequest { given_up: Some(first.lane), first_position: 3.into(), ..request(0) };
    let second = subject.sink().claim(&again).await.expect("a claim");
    assert_ne!(second.lane, first.lane, "its rows' evidence names the lane that was given up");
    assert_eq!((second.position, second.last), (3, None));
    assert_eq!((&second.name, second.counts), (&first.name, Counts::default()));
    let told = subject.sink().stored(&[first.lane]).await.expect("progress").remove(0);
    assert_eq!(told.name, first.name.set_aside(first.lane));
    assert!(told.name.was_of("suite") && second.name.was_of("suite"));
    assert_eq!((told.claim, told.counts, told.sums), (None, before.counts, before.sums));
    // Its last owner cannot continue it.
    let late = stream().lane(&before, 30).record(20, &Sample::new("late", 1)).build();
    let done = subject.sink().commit(&late, Durability::Visible).await.expect("a commit");
    assert_eq!(done.fenced, [first.lane]);
    // A second process that gives it up, or the same one after a lost answer, finds it
    // done.
    let third = subject.sink().claim(&again).await.expect("a claim");
    assert_eq!((third.lane, third.position), (second.lane, 3));
    assert_ne!(third.claim, second.claim);
    // The new lane reads the same positions again, for their present messages.
    let again = stream().lane(&third, 20).record(10, &Sample::new("a", 1)).rejected(11, b"new");
    let again = store(subject, &again.build()).await.remove(0);
    assert_eq!((again.counts[Outcome::Duplicate], again.counts[Outcome::Rejected]), (1, 1));
    assert_eq!(subject.contents().await.dead_letters.len(), 2, "each place has its own");
}

async fn commits(subject: &dyn Subject) {
    let lane = claim(subject, 0).await;
    let full = Sample {
        note: Some("x".into()),
        flag: Some(true),
        rank: Some(-7),
        ..Sample::new("b", -150)
    };
    let draft = stream().lane(&lane, 30).record(12, &full).record(17, &Sample::new("a", 0));
    let stored = store(subject, &draft.build()).await;
    assert_eq!(stored[0].position, 30);
    assert_eq!(stored[0].counts, Counts::of([(Outcome::Inserted, 2)]));
    let contents = subject.contents().await;
    assert_eq!(contents.rows.keys().map(Vec::as_slice).collect::<Vec<_>>(), [b"a", b"b"]);
    let row = &contents.rows[&b"b"[..]];
    assert_eq!((row.lane, row.position, row.authority), (lane.lane, 12, Authority::Stream));
    assert_eq!(contents.lanes[&lane.lane], stored[0], "a commit returns what is stored");
    let written = contents
        .rows
        .values()
        .fold(0_i64, |sum, row| sum.wrapping_add(row.hash().written(row.written_xid)));
    assert_eq!(stored[0].sums.written, written);
}

async fn fences(subject: &dyn Subject) {
    let old = claim(subject, 0).await;
    let new = claim(subject, 0).await;
    let late = stream().lane(&old, 20).record(11, &Sample::new("a", 1)).build();
    let done = subject.sink().commit(&late, Durability::Visible).await.expect("an answer");
    assert_eq!((done.fenced, done.stored), (vec![old.lane], vec![]));
    let ahead = Progress { position: 15, ..new.clone() };
    let gap = stream().lane(&ahead, 20).record(16, &Sample::new("a", 1)).build();
    let done = subject.sink().commit(&gap, Durability::Visible).await.expect("an answer");
    assert_eq!((done.fenced, done.stored), (vec![old.lane], vec![]));
    let contents = subject.contents().await;
    assert!(contents.rows.is_empty(), "nothing was stored");
    assert_eq!(contents.lanes[&new.lane], new, "nothing moved");
}

async fn fences_one(subject: &dyn Subject) {
    let (lost, held) = (claim(subject, 0).await, claim(subject, 1).await);
    claim(subject, 0).await;
    let draft = stream()
        .lane(&lost, 20)
        .record(11, &Sample::new("lost", 1))
        .rejected(12, b"lost too")
        .lane(&held, 30)
        .record(21, &Sample::new("held", 1));
    let done = subject.sink().commit(&draft.build(), Durability::Durable).await.expect("a commit");
    assert_eq!(done.fenced, [lost.lane]);
    assert_eq!(done.stored.len(), 1);
    assert_eq!((done.stored[0].lane, done.stored[0].position), (held.lane, 30));
    let contents = subject.contents().await;
    assert_eq!(contents.rows.keys().map(Vec::as_slice).collect::<Vec<_>>(), [b"held"]);
    assert!(contents.dead_letters.is_empty());
}

async fn repeats(subject: &dyn Subject) {
    let lane = claim(subject, 0).await;
    let (one, other) = (Sample::new("a", 1), Sample::new("a", 2));
    let first = store(subject, &stream().lane(&lane, 20).record(10, &one).build()).await;
    let again = stream().lane(&first[0], 40).record(20, &one).record(30, &other);
    let stored = store(subject, &again.record(35, &Sample::new("b", 1)).build()).await;
    let counts =
        Counts::of([(Outcome::Inserted, 2), (Outcome::Duplicate, 1), (Outcome::Rejected, 1)]);
    assert_eq!(stored[0].counts, counts);
    let contents = subject.contents().await;
    assert_eq!(contents.rows[&b"a"[..]].position, 10, "the first one stays");
    let letter = &contents.dead_letters[&(lane.lane, 30)];
    assert_eq!((letter.reject.reason, letter.payload.as_slice()), (Reason::IdConflict, &b"a"[..]));
}

async fn repeats_inside(subject: &dyn Subject) {
    let (zero, one) = (claim(subject, 0).await, claim(subject, 1).await);
    // The lane of the lower partition comes first, whatever the order of arrival.
    let draft = stream()
        .lane(&one, 20)
        .record(11, &Sample::new("a", 2))
        .record(12, &Sample::new("a", 1))
        .lane(&zero, 20)
        .record(19, &Sample::new("a", 1));
    let stored = store(subject, &draft.build()).await;
    assert_eq!(stored[0].counts, Counts::of([(Outcome::Inserted, 1)]));
    let counts = Counts::of([(Outcome::Rejected, 1), (Outcome::Duplicate, 1)]);
    assert_eq!(stored[1].counts, counts);
    let contents = subject.contents().await;
    assert_eq!(contents.rows[&b"a"[..]].lane, zero.lane);
}

async fn authorities(subject: &dyn Subject) {
    let (live, file) = (claim(subject, 0).await, claim(subject, 1).await);
    let (older, newer) = (subject.job(1_000_000).await, subject.job(2_000_000).await);
    let (same, wrong, right) =
        (Sample::new("same", 1), Sample::new("diff", 1), Sample::new("diff", 2));
    let draft = stream().lane(&live, 20).record(10, &same).record(11, &wrong);
    let live = store(subject, &draft.build()).await.remove(0);
    let before = subject.contents().await;

    let draft = batch(newer).lane(&file, 20).record(10, &same).record(11, &right);
    let file = store(subject, &draft.build()).await.remove(0);
    let counts = Counts::of([(Outcome::Confirmed, 1), (Outcome::Corrected, 1)]);
    assert_eq!(file.counts, counts);
    let contents = subject.contents().await;
    let confirmed = &contents.rows[&b"same"[..]];
    assert_eq!((confirmed.authority, confirmed.lane), (Authority::Batch(newer), live.lane));
    let corrected = &contents.rows[&b"diff"[..]];
    assert_eq!(
        (corrected.authority, corrected.lane, corrected.position),
        (Authority::Batch(newer), file.lane, 11)
    );
    let was = &before.rows[&b"diff"[..]];
    assert_eq!(corrected.written_xid, was.written_xid, "a row keeps the id of its insert");
    assert_eq!(contents.corrections.len(), 1);
    let correction = &contents.corrections[0];
    assert_eq!(correction.key, b"diff");
    assert_eq!((&correction.before, &correction.after), (was, corrected));

    let draft = batch(older).lane(&file, 40).record(30, &right).record(31, &wrong);
    let file = store(subject, &draft.build()).await.remove(0);
    assert_eq!(
        file.counts[Outcome::Superseded],
        2,
        "an earlier job changes nothing, right or wrong"
    );
    let draft = stream().lane(&live, 40).record(30, &right).record(31, &wrong);
    let live = store(subject, &draft.build()).await.remove(0);
    assert_eq!(live.counts[Outcome::Superseded], 2, "nor does the stream");
    assert_eq!(subject.contents().await.rows, contents.rows);
    let owned = contents.rows.values().fold(0_i64, |sum, row| {
        assert_eq!(row.checksum, row.recomputed(), "a checksum covers the row and its job");
        sum.wrapping_add(row.checksum.0)
    });
    assert_eq!(live.sums.owned.wrapping_add(file.sums.owned), owned, "the checksums add up");
}

async fn dead_letters(subject: &dyn Subject) {
    let lane = claim(subject, 0).await;
    let payload = b"\0 not \xff json";
    let draft = stream().lane(&lane, 20).rejected(13, payload).record(14, &Sample::new("a", 1));
    let stored = store(subject, &draft.build()).await;
    assert_eq!(stored[0].counts, Counts::of([(Outcome::Inserted, 1), (Outcome::Rejected, 1)]));
    let contents = subject.contents().await;
    assert_eq!(contents.dead_letters[&(lane.lane, 13)].payload, payload);
}

async fn skips(subject: &dyn Subject) {
    let lane = claim(subject, 0).await;
    let draft = stream().lane(&lane, 20).skipped(13).record(14, &Sample::new("a", 1)).skipped(19);
    let stored = store(subject, &draft.build()).await;
    assert_eq!(stored[0].counts, Counts::of([(Outcome::Inserted, 1), (Outcome::Skipped, 2)]));
    let contents = subject.contents().await;
    assert_eq!((contents.rows.len(), contents.dead_letters.len()), (1, 0));
    assert_eq!(contents.lanes[&lane.lane], stored[0]);
}

async fn advances(subject: &dyn Subject) {
    let lane = claim(subject, 0).await;
    let stored = store(subject, &stream().lane(&lane, 99).build()).await;
    assert_eq!((stored[0].position, stored[0].counts), (99, Counts::default()));
    let same = store(subject, &stream().lane(&stored[0], 99).build()).await;
    assert_eq!(same, stored);
}

async fn halves(subject: &dyn Subject) {
    let (zero, one) = (claim(subject, 0).await, claim(subject, 1).await);
    let mut draft = stream().lane(&zero, 40);
    for position in 20..27 {
        draft = draft.record(position, &Sample::new(&format!("z{position}"), position));
    }
    draft = draft.lane(&one, 50).record(30, &Sample::new("one", 1)).rejected(41, b"bad");
    let mut whole = vec![draft.build()];
    while let Some(piece) = whole.pop() {
        match piece.halves() {
            Some((first, second)) => whole.extend([second, first]),
            None => drop(store(subject, &piece).await),
        }
    }
    let contents = subject.contents().await;
    assert_eq!((contents.rows.len(), contents.dead_letters.len()), (8, 1));
    let (zero, one) = (&contents.lanes[&zero.lane], &contents.lanes[&one.lane]);
    assert_eq!((zero.position, zero.counts[Outcome::Inserted]), (40, 7));
    assert_eq!((one.position, one.counts.read), (50, 2));
}

async fn reopens(subject: &dyn Subject) {
    let before = claim(subject, 0).await;
    let draft = stream().lane(&before, 20).record(10, &Sample::new("a", 1)).build();
    let done = subject.sink().commit(&draft, Durability::Durable).await.expect("a commit");
    let again = subject.reopen().await;
    assert_eq!(again.stored(&[before.lane]).await.expect("progress"), done.stored);
    let after = again.claim(&request(0)).await.expect("a claim");
    assert_eq!((after.position, after.counts), (20, done.stored[0].counts));
    let late = stream().lane(&done.stored[0], 30).record(20, &Sample::new("late", 1)).build();
    let late = subject.sink().commit(&late, Durability::Visible).await.expect("an answer");
    assert_eq!(late.fenced, [before.lane], "the sink before has lost its lane");
    let next = stream().lane(&after, 30).record(20, &Sample::new("a", 1)).build();
    let next = again.commit(&next, Durability::Visible).await.expect("a commit");
    assert_eq!(next.stored[0].counts[Outcome::Duplicate], 1);
    let contents = subject.contents().await;
    assert_eq!(contents.rows.keys().map(Vec::as_slice).collect::<Vec<_>>(), [b"a"]);
}

/// Two lanes with the same keys, in opposite orders.
async fn concurrent(subject: &dyn Subject) {
    const COMMITS: i64 = 20;
    const KEYS: i64 = 30;
    let write = async |partition: i32| {
        let mut lane = claim(subject, partition).await;
        for _ in 0..COMMITS {
            let mut draft = stream().lane(&lane, lane.position + KEYS);
            for offset in 0..KEYS {
                let key = if partition == 0 { offset } else { KEYS - 1 - offset };
                let sample = Sample::new(&format!("k{key:02}"), 1);
                draft = draft.record(lane.position + offset, &sample);
            }
            let batch = draft.build();
            lane = loop {
                match subject.sink().commit(&batch, Durability::Visible).await {
                    Ok(mut done) => break done.stored.remove(0),
                    // The other one kept inserting the same keys.
                    Err(error) => assert_eq!(error.kind(), Kind::Transient, "{}", error.chain()),
                }
            };
        }
        lane.counts
    };
    let (one, other) = tokio::join!(write(0), write(1));
    let rows = subject.contents().await.rows;
    assert_eq!(rows.len() as i64, KEYS);
    assert_eq!(one[Outcome::Inserted] + other[Outcome::Inserted], KEYS, "each key once");
    let repeats = one[Outcome::Duplicate] + other[Outcome::Duplicate];
    assert_eq!(repeats, 2 * COMMITS * KEYS - KEYS);
}

async fn claims_at_once(subject: &dyn Subject) {
    let (one, other) = tokio::join!(claim(subject, 0), claim(subject, 0));
    assert_ne!(one.claim, other.claim);
    let mut stored = 0;
    for lane in [&one, &other] {
        let batch = stream().lane(lane, 20).record(10, &Sample::new("a", 1)).build();
        let done = subject.sink().commit(&batch, Durability::Visible).await.expect("an answer");
        stored += done.stored.len();
    }
    assert_eq!(stored, 1, "one claim holds");
}

/// Commits are dropped at any moment. A claim makes sure that none lands afterwards.
async fn dropped(subject: &dyn Subject) {
    let mut position = claim(subject, 0).await.position;
    let first = position;
    for micros in (0..20).map(|number: u64| number * number * 50) {
        let lane = claim(subject, 0).await;
        assert!([position, position + 2].contains(&lane.position), "half of a batch is stored");
        position = lane.position;
        let id = |position: i64| Sample::new(&format!("p{position:03}"), 1);
        let draft = stream().lane(&lane, position + 2).record(position, &id(position));
        let batch = draft.rejected(position + 1, b"bad").build();
        let commit = subject.sink().commit(&batch, Durability::Visible);
        // The result is not used: the next claim shows what was stored.
        let _ = tokio::time::timeout(Duration::from_micros(micros), commit).await;
    }
    let lane = claim(subject, 0).await;
    let contents = subject.contents().await;
    let commits = (lane.position - first) / 2;
    assert_eq!(contents.rows.len() as i64, commits);
    assert_eq!(contents.dead_letters.len() as i64, commits);
    assert_eq!((lane.counts.read, lane.counts[Outcome::Inserted]), (2 * commits, commits));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemorySink;

    struct Memory {
        sink: Arc<MemorySink>,
        jobs: std::sync::atomic::AtomicI64,
    }

    #[async_trait]
    impl Subject for Memory {
        fn sink(&self) -> &dyn Sink {
            &*self.sink
        }

        async fn reopen(&self) -> Arc<dyn Sink> {
            Arc::clone(&self.sink) as Arc<dyn Sink>
        }

        async fn job(&self, as_of_micros: i64) -> JobRef {
            let number = self.jobs.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            JobRef { as_of_micros, number }
        }

        async fn contents(&self) -> Contents {
            self.sink.contents()
        }
    }

    #[tokio::test]
    async fn the_sink_in_memory_conforms() {
        for (_, case) in CASES {
            let subject = Memory { sink: Arc::default(), jobs: 0.into() };
            case(&subject).await;
        }
    }
}
