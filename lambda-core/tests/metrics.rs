//! Exported metrics, as a scrape sees them. One test, since a process has one recorder.
#![expect(clippy::unwrap_used, reason = "tests")]

use lambda_core::health::Health;
use lambda_core::health::http::Server;
use lambda_core::job::Status;
use lambda_core::metrics::{self, CurrentJob, Lag, Outcomes};
use lambda_core::outcome::Outcome;
use lambda_core::progress::{Counts, LaneId, LaneName, Progress, Sums};
use lambda_lab::probe::Probe;

fn lane(number: i32, inserted: i64, rejected: i64) -> Progress {
    let name = LaneName { pipeline: "p".into(), source: "c/t".into(), partition: number };
    let counts = Counts::of([(Outcome::Inserted, inserted), (Outcome::Rejected, rejected)]);
    Progress {
        lane: LaneId(number),
        name,
        position: 0,
        end_position: None,
        high: 0,
        claim: None,
        counts,
        sums: Sums::default(),
        last: None,
    }
}

#[tokio::test]
async fn a_scrape_shows_what_this_process_did_and_what_it_holds() {
    let health = Health::default();
    let server = Server::bind("127.0.0.1:0", health.clone()).await.unwrap();
    let taken = server.address().unwrap().to_string();
    let refused = Server::bind(&taken, health.clone()).await.unwrap_err();
    assert_eq!(refused.exit_code(), 78, "{}", refused.chain());
    let probe = Probe::at(taken);
    tokio::spawn(server.run());

    // Exported from the first scrape on, so that the first record is an increase.
    metrics::stores("p");
    let scrape = probe.scrape().await.unwrap();
    assert_eq!(scrape.sum("lambda_records_total", &[("outcome", "corrected")]), Some(0.0));
    assert_eq!(scrape.sum("lambda_batch_records_count", &[]), Some(0.0));

    // A lane's earlier counts belong to other processes, as do lanes not claimed here.
    let outcomes = Outcomes::default();
    outcomes.begin(&lane(1, 100, 10));
    outcomes.stored(&[lane(1, 103, 11), lane(2, 50, 50)]);
    // A dead letter was replayed in between: one less is rejected, one more inserted.
    outcomes.stored(&[lane(1, 105, 10)]);
    // Claimed again after other processes had it.
    outcomes.begin(&lane(1, 205, 10));
    outcomes.stored(&[lane(1, 206, 10)]);
    let scrape = probe.scrape().await.unwrap();
    let records = |outcome| scrape.sum("lambda_records_total", &[("outcome", outcome)]);
    assert_eq!((records("inserted"), records("rejected")), (Some(6.0), Some(1.0)));
    assert_eq!(scrape.sum("lambda_batch_records_count", &[("pipeline", "p")]), Some(3.0));
    assert_eq!(scrape.sum("lambda_batch_records_sum", &[]), Some(7.0));

    // A lane is exported while this process holds it and its lag is known, a job while it is
    // the current one.
    let name = lane(1, 0, 0).name;
    let (lag, job) = (Lag::of(&name), CurrentJob::new("BAT00001"));
    let scrape = probe.scrape().await.unwrap();
    assert_eq!(scrape.sum("lambda_lag_records", &[]), None);
    lag.set(7);
    job.show(Status::Running, 9, 4);
    let scrape = probe.scrape().await.unwrap();
    assert_eq!(scrape.sum("lambda_lag_records", &[("partition", "1")]), Some(7.0));
    let status = |status| scrape.sum("lambda_job_status", &[("status", status)]);
    assert_eq!((status("running"), status("completed")), (Some(1.0), Some(0.0)));
    let again = Lag::of(&name);
    again.set(8);
    let working = job.clone();
    drop((lag, job));
    working.stored(5);
    drop((again, working));
    let scrape = probe.scrape().await.unwrap();
    for name in ["lambda_lag_records", "lambda_job_status", "lambda_job_stored_records"] {
        assert_eq!(scrape.sum(name, &[]), None, "{name}");
    }

    // Probes: nothing is needed yet, then something is missing, then it is available.
    assert_eq!(probe.get("/livez").await.unwrap().status, 200);
    let starting = probe.get("/readyz").await.unwrap();
    assert_eq!((starting.status, &starting.text[..8]), (503, "starting"));
    let need = health.need("PostgreSQL");
    need.missing("gone");
    let gone = probe.get("/readyz").await.unwrap();
    assert_eq!((gone.status, &gone.text[..]), (503, "PostgreSQL, for 0 s: gone\n"));
    need.met();
    let ready = probe.get("/readyz").await.unwrap();
    assert_eq!((ready.status, &ready.text[..]), (200, "ok\n"));
    assert_eq!(probe.get("/elsewhere").await.unwrap().status, 404);
}
