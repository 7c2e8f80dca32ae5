//! A model of dead letters: commits of a stream and of jobs, replays with and without another
//! payload, and discards, in random order. After each step every verdict, row and count must
//! equal the result of taking the records one after another.

use std::collections::BTreeMap;

use lambda_core::Record;
use lambda_core::dead_letter::{Reason, Status};
use lambda_core::job::JobRef;
use lambda_core::outcome::{Authority, Existing, Outcome, decide};
use lambda_core::postgres::dead_letters::{Filter, Replay, Skip, Verdict};
use lambda_core::progress::{Counts, LaneId, Progress};
use lambda_core::record::{RowWriter, Scratch};
use lambda_core::sink::Sink;
use lambda_core::testing::draft::{Draft, SAMPLES, Sample};
use lambda_core::testing::sink::Subject;
use lambda_lab::Failure;
use lambda_lab::servers::Database;

use crate::{Bench, HEADER, json, request};

const STEPS: usize = 400;
/// Number of steps with the same ids; with more, every id would end up overruled by a
/// later job.
const STEPS_AN_AGE: usize = 12;
/// Number of latest dead letters that a step may use.
const LATEST: usize = 60;
/// Most records of a commit.
const RECORDS: usize = 6;
const LANES_A_SOURCE: i32 = 2;
const IDS: [&str; 6] = ["a", "B", "Ä", "a-b", "A B", "é"];

/// A sample, or bytes that are not one.
type Said = Option<(String, i64)>;

/// A dead letter of the model.
#[derive(Debug, Clone)]
struct Letter {
    id: i64,
    lane: usize,
    position: i64,
    said: Said,
    status: Status,
}

/// A lane and its expected counts.
struct Lane {
    progress: Progress,
    authority: Authority,
    counts: Counts,
}

#[derive(Default)]
struct Model {
    rows: BTreeMap<String, (Authority, i64, usize, i64)>,
    letters: Vec<Letter>,
    all: Counts,
    age: usize,
}

impl Model {
    /// Takes a record and returns its outcome.
    fn take(&mut self, lane: usize, authority: Authority, position: i64, said: &Said) -> Outcome {
        let Some((id, amount)) = said else { return Outcome::Rejected };
        let existing = self.rows.get(id).map(|(authority, amount_stored, _, _)| Existing {
            authority: *authority,
            same_content: amount_stored == amount,
        });
        let outcome = decide(authority, existing);
        match outcome {
            Outcome::Inserted | Outcome::Corrected => {
                self.rows.insert(id.clone(), (authority, *amount, lane, position));
            }
            Outcome::Confirmed => {
                self.rows.entry(id.clone()).and_modify(|row| row.0 = authority);
            }
            Outcome::Superseded | Outcome::Duplicate | Outcome::Rejected | Outcome::Skipped => {}
        }
        outcome
    }
}

/// Runs the model on a migrated database.
#[expect(clippy::print_stdout, reason = "a failure is repeated by its seed")]
pub(crate) async fn any_order(database: &Database) -> Result<(), Failure> {
    let bench = Bench::on(database.config()).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut lanes = lanes(&bench).await?;
    let mut model = Model::default();
    let mut replayed = Counts::default();
    for step in 0..STEPS {
        model.age = step / STEPS_AN_AGE;
        match random.u8(0..10) {
            0..5 => commit(&bench, &mut model, &mut lanes, &mut random).await?,
            5..7 => replay(&bench, &mut model, &mut lanes, &mut random, &mut replayed).await?,
            7..9 => mend(&bench, &mut model, &mut lanes, &mut random, &mut replayed).await?,
            _ => discard(&bench, &mut model, &mut random).await?,
        }
        is_as_modelled(&bench, &model, &lanes).await?;
    }
    let outcomes = replayed.outcomes();
    let met = |(name, count): &(&str, i64)| *count > 0 || *name == "skipped";
    assert!(outcomes.iter().all(met), "each outcome was met: {replayed:?}");
    bench.is_explained(model.all).await
}

/// Two lanes of a topic, and two of each of two files.
async fn lanes(bench: &Bench) -> Result<Vec<Lane>, Failure> {
    let mut lanes = Vec::new();
    let jobs = [None, Some(2_000), Some(1_000)];
    for (number, as_of_micros) in jobs.into_iter().enumerate() {
        let source = format!("clu/source-{number}");
        let authority = match as_of_micros {
            None => Authority::Stream,
            Some(as_of_micros) => Authority::Batch(job(bench, &source, as_of_micros).await?),
        };
        for partition in 0..LANES_A_SOURCE {
            let progress = bench.subject.sink.claim(&request(&source, partition)).await?;
            lanes.push(Lane { progress, authority, counts: Counts::default() });
        }
    }
    Ok(lanes)
}

async fn job(bench: &Bench, source: &str, as_of_micros: i64) -> Result<JobRef, Failure> {
    let sql = "insert into batch_jobs (pipeline, source, file_name, header, bytes, records, chunks, \
                                       as_of, status) \
               values ('samples', $1, 'f', $2, 0, 0, 0, \
                       timestamptz 'epoch' + $3::bigint * interval '1 microsecond', 'pending') \
               returning id";
    let row = bench.subject.client.query_one(sql, &[&source, &HEADER, &as_of_micros]).await?;
    Ok(JobRef { as_of_micros, number: row.try_get(0)? })
}

fn said(model: &Model, random: &mut fastrand::Rng) -> Said {
    let id = format!("{}{}", IDS[random.usize(..IDS.len())], model.age);
    (random.u8(0..4) > 0).then(|| (id, i64::from(random.u8(0..3))))
}

/// A record in the form of its lane's source.
fn bytes(authority: Authority, said: &Said) -> Vec<u8> {
    match (authority, said) {
        (_, None) => b"broken".to_vec(),
        (Authority::Stream, Some((id, amount))) => json(id, *amount),
        (Authority::Batch(_), Some((id, amount))) => format!("{id},{amount},,,\n").into_bytes(),
    }
}

async fn commit(
    bench: &Bench,
    model: &mut Model,
    lanes: &mut [Lane],
    random: &mut fastrand::Rng,
) -> Result<(), Failure> {
    let index = random.usize(..lanes.len());
    let lane = &mut lanes[index];
    let count = random.usize(1..=RECORDS);
    let from = lane.progress.position;
    let mut draft = Draft::new(lane.authority, &SAMPLES).lane(&lane.progress, from + count as i64);
    for position in from..from + count as i64 {
        let said = said(model, random);
        // A rejected record may be valid: a rule of the table has been dropped since.
        let rejected = said.is_none() || random.u8(0..3) == 0;
        let outcome = if rejected {
            draft = draft.rejected(position, &bytes(lane.authority, &said));
            Outcome::Rejected
        } else {
            let (id, amount) = said.clone().unwrap_or_default();
            draft = draft.record(position, &Sample::new(&id, amount));
            model.take(index, lane.authority, position, &said)
        };
        lane.counts.add(outcome);
        model.all.add(outcome);
        if outcome == Outcome::Rejected {
            // A draft stores the key as the payload, which is not a valid one.
            let said = said.filter(|_| rejected);
            model.letters.push(Letter { id: 0, lane: index, position, said, status: Status::Open });
        }
    }
    lane.progress = bench.store(draft).await?.remove(0);
    // Numbers are assigned in the order of the places.
    let sql = "select id from dead_letters where lane = $1 and position >= $2 order by position";
    let rows = bench.subject.client.query(sql, &[&lane.progress.lane.0, &from]).await?;
    let new = model.letters.iter_mut().filter(|letter| letter.id == 0);
    for (letter, row) in new.zip(&rows) {
        letter.id = row.try_get(0)?;
    }
    assert!(model.letters.iter().all(|letter| letter.id > 0));
    Ok(())
}

/// Some of the latest dead letters, whatever their status.
fn some_letters(model: &Model, random: &mut fastrand::Rng) -> Vec<usize> {
    let mut chosen: Vec<usize> =
        (0..model.letters.len()).rev().take(LATEST).filter(|_| random.u8(0..4) == 0).collect();
    // A replay's order is source, partition, position. Lanes are in that order here.
    chosen.sort_by_key(|index| (model.letters[*index].lane, model.letters[*index].position));
    chosen
}

async fn replay(
    bench: &Bench,
    model: &mut Model,
    lanes: &mut [Lane],
    random: &mut fastrand::Rng,
    replayed: &mut Counts,
) -> Result<(), Failure> {
    let chosen = some_letters(model, random);
    take_again(bench, model, lanes, &chosen, Replay::default(), replayed).await
}

/// One dead letter with another payload, which may be invalid too.
async fn mend(
    bench: &Bench,
    model: &mut Model,
    lanes: &mut [Lane],
    random: &mut fastrand::Rng,
    replayed: &mut Counts,
) -> Result<(), Failure> {
    if model.letters.is_empty() {
        return Ok(());
    }
    let count = model.letters.len();
    let index = random.usize(count.saturating_sub(LATEST)..count);
    let said = said(model, random);
    let letter = &mut model.letters[index];
    let edited = Some(bytes(lanes[letter.lane].authority, &said));
    if letter.status == Status::Open {
        letter.said = said;
    }
    take_again(bench, model, lanes, &[index], Replay { edited, dry_run: false }, replayed).await
}

async fn take_again(
    bench: &Bench,
    model: &mut Model,
    lanes: &mut [Lane],
    chosen: &[usize],
    replay: Replay,
    replayed: &mut Counts,
) -> Result<(), Failure> {
    let ids: Vec<i64> = chosen.iter().map(|index| model.letters[*index].id).collect();
    let filter = Filter { ids: Some(ids), ..Filter::default() };
    let told = bench.replay_those(&filter, &replay).await?;
    assert_eq!(told.len(), chosen.len());
    for index in chosen {
        let letter = model.letters[*index].clone();
        let verdict = &told[&letter.id];
        if letter.status != Status::Open {
            assert_eq!(*verdict, Verdict::Skipped(Skip::Resolved(letter.status)));
            continue;
        }
        let lane = &mut lanes[letter.lane];
        let outcome = model.take(letter.lane, lane.authority, letter.position, &letter.said);
        replayed.add(outcome);
        if outcome == Outcome::Rejected {
            let Verdict::StillBad(reject) = verdict else { panic!("{letter:?}: {verdict:?}") };
            assert_eq!(reject.reason == Reason::IdConflict, letter.said.is_some(), "{letter:?}");
            continue;
        }
        assert_eq!(*verdict, Verdict::Replayed(outcome), "{letter:?}");
        model.letters[*index].status = Status::Replayed;
        for counts in [&mut lane.counts, &mut model.all] {
            counts.add(outcome);
            counts.read -= 1;
            counts[Outcome::Rejected] -= 1;
        }
    }
    Ok(())
}

async fn discard(
    bench: &Bench,
    model: &mut Model,
    random: &mut fastrand::Rng,
) -> Result<(), Failure> {
    let chosen: Vec<usize> =
        some_letters(model, random).into_iter().filter(|_| random.u8(0..3) == 0).collect();
    let ids: Vec<i64> = chosen.iter().map(|index| model.letters[*index].id).collect();
    let done = bench.letters.discard(&ids, false).await?;
    for index in chosen {
        let letter = &mut model.letters[index];
        assert_eq!(done.contains(&letter.id), letter.status == Status::Open);
        if letter.status == Status::Open {
            letter.status = Status::Discarded;
        }
    }
    Ok(())
}

/// Rows, their evidence, dead letters and counts, all read by plain SQL.
async fn is_as_modelled(bench: &Bench, model: &Model, lanes: &[Lane]) -> Result<(), Failure> {
    let contents = bench.subject.contents().await;
    assert_eq!(contents.rows.len(), model.rows.len());
    for (id, (authority, amount, lane, position)) in &model.rows {
        let row = &contents.rows[id.as_bytes()];
        let lane: LaneId = lanes[*lane].progress.lane;
        let mut content = Vec::new();
        let mut scratch = Scratch::default();
        let mut writer = RowWriter::new(SAMPLES.table(), &mut content, &mut scratch);
        Sample::new(id, *amount).write(&mut writer);
        writer.finish().expect("a sample is a row");
        assert_eq!((row.authority, &row.content), (*authority, &content), "{id}");
        assert_eq!((row.lane, row.position), (lane, *position), "{id}");
        assert_eq!(row.checksum, row.recomputed(), "{id}");
    }
    for lane in lanes {
        let stored = &contents.lanes[&lane.progress.lane];
        assert_eq!(stored.counts, lane.counts);
        assert!(stored.counts.balanced());
        assert_eq!(stored.position, lane.progress.position);
        assert_eq!(stored.claim, lane.progress.claim);
    }
    let rows = bench.subject.client.query("select id, status from dead_letters", &[]).await?;
    assert_eq!(rows.len(), model.letters.len());
    let stored: BTreeMap<i64, String> = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, Failure>>()?;
    for letter in &model.letters {
        assert_eq!(stored[&letter.id], letter.status.as_str(), "{letter:?}");
    }
    Ok(())
}
