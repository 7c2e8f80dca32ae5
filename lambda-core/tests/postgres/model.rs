//! A model of the outcome table: concurrent transactions of stream and jobs with colliding
//! ids, contents and authorities. In any interleaving, each record's outcome must follow
//! from taking the transactions one after another.

use std::collections::BTreeMap;
use std::sync::Arc;

use lambda_core::batch::{Batch, Body};
use lambda_core::error::Error;
use lambda_core::job::JobRef;
use lambda_core::memory::Contents;
use lambda_core::outcome::{Authority, Existing, Outcome, decide};
use lambda_core::postgres::Postgres;
use lambda_core::progress::{Counts, LaneName, Progress};
use lambda_core::sink::{ClaimRequest, Durability, Sink};
use lambda_core::testing::draft::{Draft, Sample};
use lambda_core::testing::sink::Subject;

use crate::evidence;
use crate::subject::{PostgresSubject, Stored};

const WRITERS: i32 = 8;
const ROUNDS: usize = 20;
const COMMITS_A_ROUND: usize = 5;
/// Each record of a batch has its own lane, so that the lane's counts show its
/// outcome.
const RECORDS: i32 = 8;

/// A record that the model draws.
pub(crate) trait Drawn: Stored + Send {
    /// Draws one of some dozen keys of this round, and one of a few contents.
    fn draw(random: &mut fastrand::Rng, round: usize) -> Self;
}

impl Drawn for Sample {
    fn draw(random: &mut fastrand::Rng, round: usize) -> Self {
        let id = format!("{}{round}-{}", text(random), random.u8(0..3));
        Self::new(&id, amount(random))
    }
}

/// A text that ICU's English order and byte order sort differently.
pub(crate) fn text(random: &mut fastrand::Rng) -> &'static str {
    const TEXTS: [&str; 12] = ["a", "B", "c", "Ä", "a-b", "a_b", "A B", "ab", "AB", "é", "z", "Z"];
    random.choice(TEXTS).unwrap_or("x")
}

/// An amount in hundredths, most often the same.
pub(crate) fn amount(random: &mut fastrand::Rng) -> i64 {
    i64::from(random.u8(0..5).saturating_sub(2))
}

/// One committed record: its writer, content and outcome.
#[derive(Clone)]
struct Said {
    key: Vec<u8>,
    content: Vec<u8>,
    authority: Authority,
    outcome: Outcome,
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:02x?} of {:?}", self.outcome, self.content, self.authority)
    }
}

/// A transaction's records in the order in which it took them.
type Transaction = Vec<Said>;

/// Runs the model on a migrated database whose collation is ICU's.
#[expect(clippy::print_stdout, reason = "a failure is repeated by its seed")]
pub(crate) async fn outcomes_follow_from_a_serial_order<S: Drawn>(config: Postgres) {
    let subject = Arc::new(PostgresSubject::<S>::new(&config, WRITERS as u32).await);
    let mut jobs = Vec::new();
    for as_of in [1_000, 2_000, 2_000, 3_000] {
        jobs.push(subject.job(as_of).await);
    }
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut all = Counts::default();
    for round in 0..ROUNDS {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (subject, jobs, random) = (Arc::clone(&subject), jobs.clone(), random.fork());
                tokio::spawn(write(subject, jobs, random, writer, round))
            })
            .collect();
        let mut transactions = Vec::new();
        for writer in writers {
            transactions.extend(writer.await.expect("a writer"));
        }
        let contents = subject.contents().await;
        explain(&transactions, &contents);
        for said in transactions.iter().flatten() {
            all.add(said.outcome);
        }
    }
    evidence::check(&subject.contents().await, &all, &BTreeMap::new());
    for (_, count) in all.outcomes().into_iter().filter(|(name, _)| *name != "skipped") {
        assert!(count * 20 >= all.read, "each outcome is at least 5%: {all:?}");
    }
}

async fn write<S: Drawn>(
    subject: Arc<PostgresSubject<S>>,
    jobs: Vec<JobRef>,
    mut random: fastrand::Rng,
    writer: i32,
    round: usize,
) -> Vec<Transaction> {
    let mut lanes = Vec::new();
    for record in 0..RECORDS {
        lanes.push(claim::<S>(&subject.sink, writer * RECORDS + record).await);
    }
    let mut transactions = Vec::new();
    for commit_number in 0..COMMITS_A_ROUND {
        // Later commits tend to have higher authorities, or all would be superseded.
        let authority = match (commit_number + random.usize(0..4)).checked_sub(3) {
            Some(job) => Authority::Batch(jobs[job.min(jobs.len() - 1)]),
            None => Authority::Stream,
        };
        let mut draft = Draft::new(authority, S::pipeline());
        for lane in &lanes {
            let record = S::draw(&mut random, round);
            draft = draft.lane(lane, lane.position + 1).record(lane.position, &record);
        }
        let batch = draft.build();
        let stored = commit(&subject.sink, &batch).await;
        transactions.push(said(&batch, &lanes, &stored));
        lanes = stored;
    }
    transactions
}

async fn claim<S: Drawn>(sink: &dyn Sink, partition: i32) -> Progress {
    let request = ClaimRequest {
        format: "json".into(),
        name: LaneName { pipeline: S::pipeline().name().into(), source: "model".into(), partition },
        first_position: 0.into(),
        owner: "model".into(),
        group: None,
        take_over: false,
        given_up: None,
    };
    sink.claim(&request).await.expect("a claim")
}

async fn commit(sink: &dyn Sink, batch: &Batch) -> Vec<Progress> {
    loop {
        match sink.commit(batch, Durability::Visible).await {
            Ok(done) => {
                assert_eq!(done.fenced, []);
                return done.stored;
            }
            // Nothing was stored: a flow would try its halves.
            Err(Error::Contended { .. }) => {}
            // Mostly a deadlock.
            Err(error) => panic!("{}", error.chain()),
        }
    }
}

fn said(batch: &Batch, before: &[Progress], after: &[Progress]) -> Transaction {
    let lanes = before.iter().zip(after);
    let outcomes = lanes.map(|(before, after)| outcome(before.counts, after.counts));
    let entries = batch.entries().iter().zip(outcomes);
    entries
        .filter_map(|(entry, outcome)| match &entry.body {
            Body::Row { content, key } => Some(Said {
                key: batch.row(*key).to_vec(),
                content: batch.row(*content).to_vec(),
                authority: batch.authority,
                outcome,
            }),
            Body::Rejected(_) | Body::Skipped => None,
        })
        .collect()
}

fn outcome(before: Counts, after: Counts) -> Outcome {
    let all = [
        Outcome::Inserted,
        Outcome::Confirmed,
        Outcome::Corrected,
        Outcome::Superseded,
        Outcome::Duplicate,
        Outcome::Rejected,
    ];
    let one = |outcome: &Outcome| {
        let mut expected = before;
        expected.add(*outcome);
        expected == after
    };
    all.into_iter().find(one).expect("one more record with one outcome")
}

type Row = Option<(Authority, Vec<u8>)>;

/// For each id there is an order of the transactions that gives every outcome and the
/// current row.
fn explain(transactions: &[Transaction], contents: &Contents) {
    let mut by_key: BTreeMap<&[u8], Vec<Vec<&Said>>> = BTreeMap::new();
    for transaction in transactions {
        let mut mine: BTreeMap<&[u8], Vec<&Said>> = BTreeMap::new();
        for said in transaction {
            mine.entry(&said.key).or_default().push(said);
        }
        for (key, said) in mine {
            by_key.entry(key).or_default().push(said);
        }
    }
    assert!(!by_key.is_empty());
    for (key, left) in by_key {
        let row = contents.rows.get(key).expect("each id has a row");
        let stored = Some((row.authority, row.content.clone()));
        let explained = serial_order_exists(&None, left.clone(), &stored);
        assert!(explained, "{key:02x?}: {left:#?} {stored:?}");
    }
}

fn serial_order_exists(row: &Row, mut left: Vec<Vec<&Said>>, stored: &Row) -> bool {
    // A transaction that changes nothing may be taken as soon as it fits.
    left.retain(|said| replay(row.clone(), said).as_ref() != Some(row));
    if left.is_empty() {
        return row == stored;
    }
    (0..left.len()).any(|next| {
        let Some(after) = replay(row.clone(), &left[next]) else { return false };
        let mut rest = left.clone();
        rest.remove(next);
        serial_order_exists(&after, rest, stored)
    })
}

/// The row after a transaction's records, if their outcomes fit.
fn replay(mut row: Row, said: &[&Said]) -> Option<Row> {
    for said in said {
        let existing = row.as_ref().map(|(authority, content)| Existing {
            authority: *authority,
            same_content: *content == said.content,
        });
        if decide(said.authority, existing) != said.outcome {
            return None;
        }
        if matches!(said.outcome, Outcome::Inserted | Outcome::Confirmed | Outcome::Corrected) {
            row = Some((said.authority, said.content.clone()));
        }
    }
    Some(row)
}
