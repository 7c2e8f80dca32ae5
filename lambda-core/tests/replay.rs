//! Replays of dead letters, on a real server: outcomes, counts and evidence equal a
//! recomputation, also with concurrent writers.

#[path = "postgres/evidence.rs"]
mod evidence;
#[path = "postgres/replays.rs"]
mod replays;
#[path = "postgres/subject.rs"]
mod subject;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream as futures};
use lambda_core::dead_letter::{Reason, Status};
use lambda_core::job::{Chunk, End};
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::postgres::dead_letters::{Filter, Replay, Skip, Verdict};
use lambda_core::postgres::jobs::NewJob;
use lambda_core::postgres::jobs::attempt::{self, Started};
use lambda_core::postgres::{DeadLetters, Jobs, Postgres, connect};
use lambda_core::progress::{Counts, LaneId, LaneName, Progress};
use lambda_core::sink::{ClaimRequest, Durability, Sink};
use lambda_core::testing::draft::{Draft, SAMPLES, Sample};
use lambda_core::testing::sink::Subject;
use lambda_core::{Error, Stop};
use lambda_lab::Failure;
use lambda_lab::harness::{self, Context};
use lambda_lab::proxy::{At, Fault, Freeze, Proxy};

use crate::subject::PostgresSubject;

/// The header of files of samples.
const HEADER: &str = "id,amount,note,flag,rank";

/// Deadline of everything that the tests wait for.
const LIVENESS: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    harness::main(|suite| {
        suite.postgres("a corrected record is replayed, one that was not corrected stays", mended);
        suite.postgres("records the database refuses stay, the others are replayed", refused);
        suite.postgres("a dry run reports the outcomes and changes nothing", dry_run);
        suite.postgres("two replays at once take each dead letter once", two_at_once);
        suite.postgres("a completed job's counts stay the sums of its lanes", completed_job);
        suite.postgres("a job that ends during a replay counts what was replayed", ending_job);
        suite.postgres("a purged dead letter needs another payload", purged);
        suite.postgres("a lane that was given up is counted too", given_up);
        suite.postgres("letters of one source are replayed in the order of reading", in_order);
        suite.postgres("a stopped replay ends with the transaction in progress", stopped);
        suite.postgres("a replay whose COMMIT is not answered reports what it stored", unanswered);
        suite.postgres("a stopped replay settles a COMMIT without answer", settled);
        suite.deadline(240);
        suite.postgres("a slow replay continues with fewer letters at a time", slow);
        suite.postgres("a replay frozen anywhere frees its lanes by itself", frozen);
        suite.postgres(
            "commits, replays and discards in any order leave what a recomputation gives",
            async |context| replays::any_order(&context.icu_database().await?).await,
        );
        suite.postgres("replays beside running consumers lose and repeat nothing", beside);
    })
}

/// A sink for samples, and the dead letters beside it.
struct Bench {
    subject: Arc<PostgresSubject>,
    letters: DeadLetters,
    config: Postgres,
}

impl Bench {
    async fn new(context: &Context) -> Result<Self, Failure> {
        Ok(Self::on(context.database().await?.config()).await)
    }

    async fn on(config: &Postgres) -> Self {
        let subject = Arc::new(PostgresSubject::<Sample>::new(config, 4).await);
        let letters = DeadLetters::new(config.clone());
        Self { subject, letters, config: config.clone() }
    }

    async fn claim(&self, partition: i32) -> Result<Progress, Failure> {
        Ok(self.subject.sink.claim(&request("clu/top", partition)).await?)
    }

    /// Stores a whole batch and returns its lanes' progress.
    async fn store(&self, draft: Draft) -> Result<Vec<Progress>, Failure> {
        Ok(self.subject.sink.commit(&draft.build(), Durability::Visible).await?.stored)
    }

    /// Replays all open dead letters.
    async fn replay(&self, replay: &Replay) -> Result<BTreeMap<i64, Verdict>, Failure> {
        let filter = Filter { statuses: vec![Status::Open], ..Filter::default() };
        self.replay_those(&filter, replay).await
    }

    async fn replay_those(
        &self,
        filter: &Filter,
        replay: &Replay,
    ) -> Result<BTreeMap<i64, Verdict>, Failure> {
        let mut told = BTreeMap::new();
        let tell =
            |id, verdict| assert_eq!(told.insert(id, verdict), None, "each is reported once");
        self.letters.replay(&SAMPLES, filter, replay, tell, &Stop::new()).await?;
        Ok(told)
    }

    async fn number(&self, sql: &str) -> Result<i64, Failure> {
        Ok(self.subject.client.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// Compares evidence and counts of the lanes with everything that is stored.
    async fn is_explained(&self, all: Counts) -> Result<(), Failure> {
        evidence::check(&self.subject.contents().await, &all, &self.replayed().await?);
        Ok(())
    }

    async fn replayed(&self) -> Result<BTreeMap<LaneId, i64>, Failure> {
        let sql = "select lane, count(*) from dead_letters where status = 'replayed' group by 1";
        let rows = self.subject.client.query(sql, &[]).await?;
        rows.iter().map(|row| Ok((LaneId(row.try_get(0)?), row.try_get(1)?))).collect()
    }

    /// Everything that a replay could change.
    async fn footprint(&self) -> Result<String, Failure> {
        let sql = "select concat( \
            (select md5(string_agg(t::text, ',' order by id)) from samples t), \
            (select md5(string_agg(t::text, ',' order by lane)) from ingest_progress t), \
            (select md5(string_agg(t::text, ',' order by id)) from dead_letters t), \
            (select md5(string_agg(t::text, ',' order by id)) from corrections t), \
            (select md5(string_agg(t::text, ',' order by id)) from batch_jobs t))";
        Ok(self.subject.client.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// A planned file of two records, which are its two chunks.
    fn job() -> NewJob {
        let chunk = |start, end| Chunk { start, end, first_line: 2, records: 1, digest: [0; 32] };
        NewJob {
            pipeline: "samples".into(),
            source: "content".into(),
            file_name: "a.csv".into(),
            format: "csv".into(),
            header: HEADER.into(),
            dialect: "{}".into(),
            bytes: 40,
            as_of_micros: Some(1_000),
            chunks: vec![chunk(20, 30), chunk(30, 40)],
        }
    }

    /// Waits until this many backends wait for a lock.
    async fn until_blocked(&self, backends: i64) -> Result<(), Failure> {
        let sql = "select count(*) from pg_stat_activity where datname = current_database() \
                   and application_name like 'lambda-%' and wait_event_type = 'Lock'";
        let waited = tokio::time::timeout(LIVENESS, async {
            while self.number(sql).await? < backends {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok::<_, Failure>(())
        });
        waited.await.map_err(|_| format!("{backends} never waited for a lock"))?
    }
}

fn request(source: &str, partition: i32) -> ClaimRequest {
    ClaimRequest {
        format: "json".into(),
        name: LaneName { pipeline: "samples".into(), source: source.into(), partition },
        first_position: 0.into(),
        owner: "test".into(),
        group: None,
        take_over: false,
        given_up: None,
    }
}

fn stream() -> Draft {
    Draft::new(Authority::Stream, &SAMPLES)
}

/// A sample as a message.
fn json(id: &str, amount: i64) -> Vec<u8> {
    format!("{{\"id\": \"{id}\", \"amount\": {amount}}}").into_bytes()
}

fn one(id: i64) -> Filter {
    Filter { ids: Some(vec![id]), ..Filter::default() }
}

fn edited(payload: &[u8]) -> Replay {
    Replay { edited: Some(payload.to_vec()), dry_run: false }
}

async fn mended(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(&context).await?;
    let lane = bench.claim(0).await?;
    let draft = stream().lane(&lane, 9).record(1, &Sample::new("a", 1));
    let before = bench.store(draft.rejected(3, b"broken").rejected(5, &json("b", 2))).await?;
    let verdicts = bench.replay(&Replay::default()).await?;
    let bad = |verdict: &Verdict| matches!(verdict, Verdict::StillBad(reject) if reject.reason == Reason::InvalidJson);
    assert!(bad(&verdicts[&1]), "{verdicts:?}");
    assert_eq!(verdicts[&2], Verdict::Replayed(Outcome::Inserted));

    // Its new id already has other content, then none.
    let conflict = bench.replay_those(&one(1), &edited(&json("a", 7))).await?;
    assert!(
        matches!(&conflict[&1], Verdict::StillBad(reject) if reject.reason == Reason::IdConflict)
    );
    let kept = "select count(*) from dead_letters where id = 1 and status = 'open' \
                and attempts = 2 and reason = 'id_conflict' and payload = 'broken' \
                and edited_payload is not null and resolved_at is null";
    assert_eq!(bench.number(kept).await?, 1);
    let stored = bench.replay_those(&one(1), &edited(&json("c", 7))).await?;
    assert_eq!(stored[&1], Verdict::Replayed(Outcome::Inserted));
    let marked = "select count(*) from dead_letters where id = 1 and status = 'replayed' \
                  and attempts = 3 and payload = 'broken' and resolved_at is not null \
                  and convert_from(edited_payload, 'utf8')::jsonb ->> 'id' = 'c'";
    assert_eq!(bench.number(marked).await?, 1);
    // A second replay does nothing and ignores its payload.
    let footprint = bench.footprint().await?;
    let again = bench.replay_those(&one(1), &edited(&json("d", 7))).await?;
    assert_eq!(again[&1], Verdict::Skipped(Skip::Resolved(Status::Replayed)));
    assert_eq!(bench.footprint().await?, footprint);

    // The rows have the letters' places; the lane keeps its position and claim.
    let contents = bench.subject.contents().await;
    let row = &contents.rows[&b"c"[..]];
    assert_eq!((row.lane, row.position, row.authority), (lane.lane, 3, Authority::Stream));
    let now = &contents.lanes[&lane.lane];
    assert_eq!((now.position, now.claim), (before[0].position, before[0].claim));
    let all = Counts::of([(Outcome::Inserted, 3)]);
    assert_eq!(now.counts, all);
    bench.is_explained(all).await?;
    // The holder of the lane continues.
    let next = stream().lane(&before[0], 12).record(10, &Sample::new("z", 1));
    assert_eq!(bench.store(next).await?[0].counts[Outcome::Inserted], 4);
    Ok(())
}

async fn refused(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(&context).await?;
    let lane = bench.claim(0).await?;
    let mut draft = stream().lane(&lane, 100);
    for position in 0..40 {
        draft = draft.rejected(position, &json(&format!("{position:02}"), position));
    }
    bench.store(draft).await?;
    let rule = "alter table samples add constraint small check (amount not in (0.07, 0.21, 0.22))";
    bench.subject.client.batch_execute(rule).await?;
    // One rule is checked when a row is inserted, the other one at the commit.
    let deferred = "\
        create function late() returns trigger language plpgsql as $$ begin \
            if new.amount = 0.30 then raise check_violation using constraint = 'late'; end if; \
            return null; end $$; \
        create constraint trigger late after insert on samples initially deferred \
            for each row execute function late()";
    bench.subject.client.batch_execute(deferred).await?;
    let verdicts = bench.replay(&Replay::default()).await?;
    let bad: Vec<i64> = verdicts
        .iter()
        .filter(|(_, verdict)| **verdict != Verdict::Replayed(Outcome::Inserted))
        .map(|(id, verdict)| match verdict {
            Verdict::StillBad(reject) if reject.reason == Reason::Refused => *id - 1,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(bad, [7, 21, 22, 30]);
    let told = "select count(*) from dead_letters where status = 'open' and attempts = 1 \
                and reason = 'refused' and detail like '%23514 at %'";
    assert_eq!(bench.number(told).await?, 4);
    bench.is_explained(Counts::of([(Outcome::Inserted, 36), (Outcome::Rejected, 4)])).await
}

async fn dry_run(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(&context).await?;
    let lane = bench.claim(0).await?;
    let draft = stream().lane(&lane, 9).record(0, &Sample::new("a", 1)).rejected(1, &json("a", 1));
    bench.store(draft.rejected(2, &json("b", 1)).rejected(3, &json("a", 2))).await?;
    let before = bench.footprint().await?;
    let dry = Replay { dry_run: true, ..Replay::default() };
    let verdicts = bench.replay(&dry).await?;
    assert_eq!(verdicts[&1], Verdict::Replayed(Outcome::Duplicate));
    assert_eq!(verdicts[&2], Verdict::Replayed(Outcome::Inserted));
    assert!(matches!(&verdicts[&3], Verdict::StillBad(_)));
    assert_eq!(bench.letters.discard(&[1, 2], true).await?, [1, 2]);
    assert_eq!(bench.letters.purge(&[1, 2], true).await?, [1, 2]);
    assert_eq!(bench.footprint().await?, before);
    assert_eq!(bench.replay(&Replay::default()).await?, verdicts, "as the dry run said");
    Ok(())
}

async fn two_at_once(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(&context).await?;
    let (zero, one) = (bench.claim(0).await?, bench.claim(1).await?);
    let mut draft = stream().lane(&zero, 2_000);
    for position in 0..1_500 {
        draft = draft.rejected(position, &json(&format!("zero {position}"), position));
    }
    draft = draft.lane(&one, 2_000);
    for position in 0..1_500 {
        draft = draft.rejected(position, &json(&format!("one {position}"), position));
    }
    bench.store(draft).await?;
    let replay = Replay::default();
    let both = tokio::try_join!(bench.replay(&replay), bench.replay(&replay))?;
    let stored = |verdicts: &BTreeMap<i64, Verdict>| {
        verdicts.values().filter(|verdict| matches!(verdict, Verdict::Replayed(_))).count()
    };
    assert_eq!(stored(&both.0) + stored(&both.1), 3_000);
    assert_eq!(bench.number("select sum(attempts)::bigint from dead_letters").await?, 3_000);
    bench.is_explained(Counts::of([(Outcome::Inserted, 3_000)])).await
}

/// The lanes of a started job, in order.
async fn start(jobs: &Jobs) -> Result<Box<attempt::Attempt>, Failure> {
    let job = jobs.find_or_create(&Bench::job()).await?;
    match attempt::start(jobs, &job, 20, "test").await? {
        Started::Attempt(attempt) => Ok(attempt),
        other => Err(format!("not started: {other:?}").into()),
    }
}

/// Stores the first chunk as a row and the second as a valid dead letter.
async fn load(bench: &Bench, attempt: &attempt::Attempt) -> Result<(), Failure> {
    let draft = Draft::new(Authority::Batch(attempt.job().authority()), &SAMPLES);
    let (first, second) = (&attempt.lanes()[0].progress, &attempt.lanes()[1].progress);
    let draft = draft.lane(first, 30).record(20, &Sample::new("a", 1));
    bench.store(draft.lane(second, 40).rejected(30, b"b,2,,,\n")).await?;
    Ok(())
}

const JOB_DIFFERS: &str = "\
    select count(*) from batch_jobs j cross join lateral ( \
        select sum(read) as read, sum(inserted) as inserted, sum(rejected) as rejected \
        from ingest_progress p where p.pipeline = j.pipeline and p.source = j.source) s \
    where (j.read, j.inserted, j.rejected) is distinct from (s.read, s.inserted, s.rejected)";

async fn completed_job(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(&context).await?;
    let jobs = Jobs::new(bench.config.clone());
    let attempt = start(&jobs).await?;
    load(&bench, &attempt).await?;
    let job = attempt.end(&End::Completed).await?;
    assert_eq!((job.counts[Outcome::Inserted], job.counts[Outcome::Rejected]), (1, 1));
    let verdicts = bench.replay(&Replay::default()).await?;
    assert_eq!(verdicts[&1], Verdict::Replayed(Outcome::Inserted));
    assert_eq!(bench.number(JOB_DIFFERS).await?, 0);
    let job = jobs.get(job.number).await?.ok_or("the job does not exist")?;
    assert_eq!(job.counts, Counts::of([(Outcome::Inserted, 2)]));
    let row = &bench.subject.contents().await.rows[&b"b"[..]];
    assert_eq!((row.authority, row.position), (Authority::Batch(job.authority()), 30));
    bench.is_explained(job.counts).await
}

/// The replay has locked the job and waits for its dead letter. The job's end waits for the
/// replay, and sums what it has left.
async fn ending_job(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(&context).await?;
    let jobs = Jobs::new(bench.config.clone());
    let attempt = start(&jobs).await?;
    load(&bench, &attempt).await?;
    let mut holder = connect(&bench.config, "test").await?;
    let held = holder.transaction().await?;
    held.execute("select from dead_letters for update", &[]).await?;
    let replay = Replay::default();
    let replaying = bench.replay(&replay);
    let ending = async {
        bench.until_blocked(1).await?;
        let ending = attempt.end(&End::Completed);
        let releasing = async {
            bench.until_blocked(2).await?;
            Ok::<_, Failure>(held.rollback().await?)
        };
        let (ended, released) = tokio::join!(ending, releasing);
        released?;
        Ok(ended?)
    };
    let (verdicts, job) = tokio::try_join!(replaying, ending)?;
    assert_eq!(verdicts[&1], Verdict::Replayed(Outcome::Inserted));
    assert_eq!(job.counts, Counts::of([(Outcome::Inserted, 2)]));
    assert_eq!(bench.number(JOB_DIFFERS).await?, 0);
    Ok(())
}

async fn purged(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(&context).await?;
    let lane = bench.claim(0).await?;
    let draft = stream().lane(&lane, 9).rejected(1, &json("a", 1)).rejected(2, b"");
    bench.store(draft).await?;
    assert_eq!(bench.letters.purge(&[1], false).await?, [1]);
    assert_eq!(bench.letters.purge(&[1], false).await?, Vec::<i64>::new(), "once");
    let held = bench.letters.content(1).await?.ok_or("the letter does not exist")?;
    assert_eq!(held.current(), None);
    let verdicts = bench.replay(&Replay::default()).await?;
    assert_eq!(verdicts[&1], Verdict::Skipped(Skip::Purged));
    // A message without a value was not purged: it is replayed, and is still invalid.
    assert!(
        matches!(&verdicts[&2], Verdict::StillBad(reject) if reject.reason == Reason::EmptyPayload)
    );
    let verdicts = bench.replay_those(&one(1), &edited(&json("a", 1))).await?;
    assert_eq!(verdicts[&1], Verdict::Replayed(Outcome::Inserted));
    assert_eq!(bench.letters.purge(&[1], false).await?, [1], "what was given is a payload too");
    let filled = "select count(*) from dead_letters \
                  where coalesce(key, payload, edited_payload) is not null";
    assert_eq!(bench.number(filled).await?, 0);
    Ok(())
}

/// Its partition has a new lane by then.
async fn given_up(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(&context).await?;
    let old = bench.claim(0).await?;
    bench.store(stream().lane(&old, 9).rejected(1, &json("old", 1))).await?;
    let again = ClaimRequest { given_up: Some(old.lane), ..request("clu/top", 0) };
    let new = bench.subject.sink.claim(&again).await?;
    bench.store(stream().lane(&new, 9).rejected(1, &json("new", 1))).await?;
    let filter = Filter { topic: Some("top".into()), ..Filter::default() };
    let verdicts = bench.replay_those(&filter, &Replay::default()).await?;
    let inserted = Verdict::Replayed(Outcome::Inserted);
    assert_eq!(verdicts, BTreeMap::from([(1, inserted.clone()), (2, inserted)]));
    let contents = bench.subject.contents().await;
    assert_eq!(contents.rows[&b"old"[..]].lane, old.lane);
    assert_eq!(contents.rows[&b"new"[..]].lane, new.lane);
    bench.is_explained(Counts::of([(Outcome::Inserted, 2)])).await
}

/// Fills two lanes, with colliding ids, while replays of all open letters run.
async fn beside(context: Context) -> Result<(), Failure> {
    const COMMITS: i64 = 150;
    const RECORDS: i64 = 20;
    let bench = Arc::new(Bench::new(&context).await?);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = (0..2)
        .map(|partition| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                let mut lane = bench.claim(partition).await?;
                for _ in 0..COMMITS {
                    let mut draft = stream().lane(&lane, lane.position + RECORDS);
                    for position in lane.position..lane.position + RECORDS {
                        // Half of the ids are in both lanes.
                        let id =
                            format!("{}-{position}", if position % 2 == 0 { 9 } else { partition });
                        draft = match position % 3 {
                            0 => draft.rejected(position, &json(&id, 1)),
                            _ => draft.record(position, &Sample::new(&id, 1)),
                        };
                    }
                    lane = bench.store(draft).await?.remove(0);
                }
                Ok::<_, Failure>(())
            })
        })
        .collect();
    let operators: Vec<_> = (0..2)
        .map(|_| {
            let (bench, stopped) = (Arc::clone(&bench), stopped.clone());
            tokio::spawn(async move {
                let mut replayed = 0;
                // One more replay after the last commit, so that none is left.
                loop {
                    let last = *stopped.borrow();
                    let told = bench.replay(&Replay::default()).await?;
                    for verdict in told.values() {
                        match verdict {
                            Verdict::Replayed(Outcome::Inserted | Outcome::Duplicate) => {
                                replayed += 1;
                            }
                            Verdict::Skipped(Skip::Resolved(Status::Replayed)) => {}
                            other => return Err(format!("unexpected: {other:?}").into()),
                        }
                    }
                    if last {
                        return Ok::<i64, Failure>(replayed);
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await??;
    }
    stop.send_replace(true);
    let mut replayed = 0;
    for operator in operators {
        replayed += operator.await??;
    }
    let read = 2 * COMMITS * RECORDS;
    assert_eq!(bench.number("select count(*) from dead_letters").await?, replayed);
    assert_eq!(
        bench.number("select count(*) from dead_letters where status <> 'replayed'").await?,
        0
    );
    let inserted = read / 4 * 3;
    assert_eq!(bench.number("select count(*) from samples").await?, inserted);
    let all = Counts::of([(Outcome::Inserted, inserted), (Outcome::Duplicate, read - inserted)]);
    bench.is_explained(all).await
}

/// Two ids with other content each time: next to each other, in another transaction, and in
/// another lane.
async fn in_order(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(&context).await?;
    let (zero, one) = (bench.claim(0).await?, bench.claim(1).await?);
    let later = stream().lane(&one, 9).rejected(0, &json("b", 2));
    bench.store(later).await?;
    let draft = stream().lane(&zero, 300).rejected(1, &json("a", 1)).rejected(2, &json("a", 2));
    let draft = (4..300).fold(draft.rejected(3, &json("b", 1)), |draft, position| {
        draft.rejected(position, &json(&format!("{position:06}"), position))
    });
    bench.store(draft.rejected(300, &json("a", 3))).await?;
    let verdicts = bench.replay(&Replay::default()).await?;
    for first in [2, 4] {
        assert_eq!(verdicts[&first], Verdict::Replayed(Outcome::Inserted), "{first}");
    }
    for later in [1, 3, 301] {
        let Verdict::StillBad(reject) = &verdicts[&later] else {
            panic!("{later}: {:?}", verdicts[&later])
        };
        assert_eq!(reject.reason, Reason::IdConflict, "{later}");
    }
    let transactions = "select count(distinct written_xid) from samples";
    assert_eq!(bench.number(transactions).await?, 2);
    bench.is_explained(Counts::of([(Outcome::Inserted, 298), (Outcome::Rejected, 3)])).await
}

/// This many valid dead letters of one lane.
async fn fill(bench: &Bench, letters: i64) -> Result<(), Failure> {
    let lane = bench.claim(0).await?;
    let draft = (0..letters).fold(stream().lane(&lane, letters), |draft, position| {
        draft.rejected(position, &json(&format!("{position:06}"), position))
    });
    bench.store(draft).await?;
    Ok(())
}

fn inserted(records: i64) -> Counts {
    Counts::of([(Outcome::Inserted, records)])
}

async fn stopped(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(&context).await?;
    fill(&bench, 500).await?;
    let stop = Stop::new();
    let mut told = 0;
    let tell = |_, verdict| {
        assert_eq!(verdict, Verdict::Replayed(Outcome::Inserted));
        stop.stop();
        told += 1;
    };
    let filter = Filter::default();
    let done = bench.letters.replay(&SAMPLES, &filter, &Replay::default(), tell, &stop).await;
    assert!(matches!(done, Err(Error::Interrupted { .. })), "{done:?}");
    let replayed = "select count(*) from dead_letters where status = 'replayed'";
    assert_eq!((bench.number(replayed).await?, told), (200, 200));
    assert_eq!(bench.replay(&Replay::default()).await?.len(), 300);
    bench.is_explained(inserted(500)).await
}

/// A proxy in front of the database, and the dead letters seen through it.
async fn behind_a_proxy(context: &Context) -> Result<(Bench, Proxy, DeadLetters), Failure> {
    let database = context.database().await?;
    let login = database.login();
    let proxy = Proxy::start(format!("{}:{}", login.host, login.port)).await?;
    let through = {
        let mut through = login.clone();
        (through.host, through.port) = ("127.0.0.1".into(), proxy.port());
        through
    };
    let bench = Bench::on(database.config()).await;
    Ok((bench, proxy, DeadLetters::new(through.config())))
}

async fn unanswered(context: Context) -> Result<(), Failure> {
    let (bench, proxy, letters) = behind_a_proxy(&context).await?;
    let lane = bench.claim(0).await?;
    let draft = stream().lane(&lane, 9).rejected(1, &json("a", 1)).rejected(2, b"broken");
    bench.store(draft).await?;
    for (fault, attempts) in [(Fault::LoseAnswer, 1), (Fault::Cut, 2)] {
        proxy.break_next(At::Commit, fault);
        let mut told = BTreeMap::new();
        let tell =
            |id, verdict| assert_eq!(told.insert(id, verdict), None, "each is reported once");
        let filter = Filter { statuses: vec![Status::Open], ..Filter::default() };
        letters.replay(&SAMPLES, &filter, &Replay::default(), tell, &Stop::new()).await?;
        assert_eq!(proxy.faults(), attempts);
        if attempts == 1 {
            assert_eq!(told[&1], Verdict::Replayed(Outcome::Inserted));
        }
        assert!(matches!(&told[&2], Verdict::StillBad(_)), "{told:?}");
        // Replayed once each time, if the answer was lost or the COMMIT.
        let sql = "select attempts::bigint from dead_letters where id = 2";
        assert_eq!(bench.number(sql).await?, i64::from(attempts));
    }
    let all = Counts::of([(Outcome::Inserted, 1), (Outcome::Rejected, 1)]);
    bench.is_explained(all).await
}

async fn settled(context: Context) -> Result<(), Failure> {
    let (bench, proxy, letters) = behind_a_proxy(&context).await?;
    fill(&bench, 300).await?;
    proxy.break_next(At::Commit, Fault::LoseAnswer);
    let mut told = 0;
    let tell = |_, verdict| {
        assert_eq!(verdict, Verdict::Replayed(Outcome::Inserted));
        told += 1;
    };
    let (filter, replay) = (Filter::default(), Replay::default());
    let stop = Stop::new();
    let stopping = async {
        proxy.has_broken(1).await;
        stop.stop();
    };
    let replaying = letters.replay(&SAMPLES, &filter, &replay, tell, &stop);
    let (done, ()) = tokio::join!(replaying, stopping);
    assert!(matches!(done, Err(Error::Interrupted { .. })), "{done:?}");
    let replayed = "select count(*) from dead_letters where status = 'replayed'";
    assert_eq!((bench.number(replayed).await?, told), (200, 200));
    Ok(())
}

async fn slow(context: Context) -> Result<(), Failure> {
    let bench = Bench::new(&context).await?;
    fill(&bench, 200).await?;
    // Together they take 18 s, and a transaction may take 15 s.
    let rule = "\
        create function slow() returns trigger language plpgsql as $$ begin \
            perform pg_sleep(0.09); return new; end $$; \
        create trigger slow before insert on samples for each row execute function slow()";
    bench.subject.client.batch_execute(rule).await?;
    let verdicts = bench.replay(&Replay::default()).await?;
    assert!(verdicts.values().all(|verdict| *verdict == Verdict::Replayed(Outcome::Inserted)));
    let transactions = "select count(distinct written_xid) from samples";
    assert_eq!(bench.number(transactions).await?, 2);
    bench.is_explained(inserted(200)).await
}

/// The client of a replay falls silent at each stage of its transaction, each time in a
/// separate database. A loader, which may not end the backend of another role, then waits for
/// its lane and gets it.
async fn frozen(context: Context) -> Result<(), Failure> {
    // After 9 messages nothing is locked yet, after 12 the lane is, after 17 the letters
    // are too; the probe is in progress after 21, the rows after 25, the counts after 28,
    // the marks after 35. The payloads are answered with the first 9,000 bytes.
    let behind = [9, 12, 15, 17, 19, 20, 21, 22, 25, 28, 32, 34, 35].map(Freeze::Behind);
    let during = [16, 19, 25, 31, 35].map(Freeze::During);
    let answered = [100, 9_000, 14_000, 20_000].map(Freeze::Answered);
    let moments = behind.into_iter().chain(during).chain(answered);
    let context = &context;
    let failed: Vec<Option<String>> = futures::iter(moments)
        .map(async |freeze| {
            let freed = frees(context, freeze).await;
            freed.err().map(|error| format!("{freeze:?}: {error}"))
        })
        .buffer_unordered(11)
        .collect()
        .await;
    let failed: Vec<String> = failed.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// States of the backends of a replay.
const DOES: &str = "\
    select coalesce(string_agg(concat_ws(' ', state, 'in', wait_event, 'for', \
        now() - state_change, 'of', now() - xact_start, query), '; '), 'gone') \
    from pg_stat_activity \
    where datname = current_database() and application_name = 'lambda-replay'";

async fn frees(context: &Context, freeze: Freeze) -> Result<(), Failure> {
    let (bench, proxy, letters) = behind_a_proxy(context).await?;
    fill(&bench, 200).await?;
    proxy.freeze_next(freeze);
    let (filter, replay) = (Filter::default(), Replay::default());
    let stop = Stop::new();
    let replaying = letters.replay(&SAMPLES, &filter, &replay, |_, _| {}, &stop);
    let waiting = async {
        let froze = tokio::time::timeout(LIVENESS, proxy.has_broken(1)).await;
        froze.map_err(|_| "it never came to that")?;
        // No other attempt of the replay blocks it.
        proxy.silence();
        let waiter = connect(&bench.config, "test").await?;
        let sql = "begin; set lock_timeout = '30s'; \
                   select from ingest_progress for update; \
                   select from dead_letters for update; rollback";
        match waiter.batch_execute(sql).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let does = bench.subject.client.query_one(DOES, &[]).await?;
                let does: &str = does.try_get(0)?;
                Err(Failure::from(format!("{error}, held by a backend that is {does}")))
            }
        }
    };
    tokio::select! {
        done = replaying => return Err(format!("it did not freeze: {done:?}").into()),
        waited = waiting => waited?,
    }
    bench.replay(&Replay::default()).await?;
    bench.is_explained(inserted(200)).await
}
