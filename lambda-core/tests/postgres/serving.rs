//! Compares the merged view with the rows.

use std::sync::LazyLock;

use lambda_core::Pipeline;
use lambda_core::job::JobRef;
use lambda_core::outcome::{Authority, Outcome};
use lambda_core::postgres::{Connection, PostgresSink, connect};
use lambda_core::progress::{LaneName, Progress};
use lambda_core::sink::{ClaimRequest, Durability, Sink};
use lambda_core::testing::draft::Draft;
use lambda_core::transaction::synthetic::Synthetic;
use lambda_core::transaction::{self, Transaction};
use lambda_lab::Failure;
use lambda_lab::harness::Context;

static TRANSACTIONS: LazyLock<Pipeline> = LazyLock::new(transaction::pipeline);

/// Refreshes the view as the real-time layer does every minute: adds the rows that it lacks.
const REFRESH: &str = "\
    begin isolation level repeatable read; \
    insert into account_activity_realtime \
    select account_id, day, sum(transactions), sum(amount), sum(purchases), sum(withdrawals), \
           sum(transfers), sum(refunds), sum(deposits), sum(purchase_amount), \
           sum(withdrawal_amount), sum(transfer_amount), sum(refund_amount), sum(deposit_amount), \
           sum(card_present), sum(risk_score), sum(high_risk) \
    from serving s, account_activity_changes(s.upto, s.inflight) group by 1, 2; \
    update serving set upto = pg_snapshot_xmax(s)::text::bigint + o.value, \
           inflight = array(select x::text::bigint + o.value from pg_snapshot_xip(s) x) \
    from pg_current_snapshot() s, xid_offset o; \
    commit";

/// Number of measures that differ between the view and the rows.
const DIFFERENCES: &str = "\
    with direct as ( \
        select account_id, (event_time at time zone 'UTC')::date as day, count(*) as transactions, \
               sum(amount) as amount, \
               coalesce(sum(amount) filter (where transaction_type = 'refund'), 0) as refund_amount, \
               count(*) filter (where card_present) as card_present, \
               count(*) filter (where risk_score >= 0.7) as high_risk \
        from transactions group by 1, 2) \
    select count(*) from direct d \
    full join account_activity v using (account_id, day) \
    where (d.transactions, d.amount, d.refund_amount, d.card_present, d.high_risk) \
          is distinct from (v.transactions, v.amount, v.refund_amount, v.card_present, v.high_risk)";

/// Rows before and after a refresh, and corrections of both that change amount, account and
/// day.
pub(crate) async fn view_is_the_sum_of_the_rows(context: Context) -> Result<(), Failure> {
    let database = context.database().await?;
    let sink =
        PostgresSink::connect(database.config().clone(), &TRANSACTIONS, "test", 1, None).await?;
    let sql = connect(database.config(), "test").await?;
    let job = job(&sql).await?;
    let mut live = claim(&sink, 0).await?;
    let mut file = claim(&sink, 1).await?;
    let transactions: Vec<Transaction> = Synthetic::new(3).take(2_000).collect();
    let (seen, unseen) = transactions.split_at(1_000);

    live = store(&sink, Authority::Stream, live, seen).await?;
    assert_eq!(differences(&sql).await?, 0, "rows that no refresh has seen");
    sql.batch_execute(REFRESH).await?;
    let unrefreshed =
        "select count(*) from serving s, account_activity_changes(s.upto, s.inflight)";
    assert_eq!(sql.query_one(unrefreshed, &[]).await?.try_get::<_, i64>(0)?, 0);
    assert_eq!(differences(&sql).await?, 0, "rows that a refresh has seen");
    store(&sink, Authority::Stream, live, unseen).await?;
    assert_eq!(differences(&sql).await?, 0, "rows of both kinds");

    let mut corrected: Vec<Transaction> = transactions.iter().step_by(7).cloned().collect();
    let others = transactions.iter().step_by(3);
    for (transaction, other) in corrected.iter_mut().zip(others) {
        transaction.amount = other.amount;
        transaction.account_id.clone_from(&other.account_id);
        transaction.timestamp = other.timestamp;
        transaction.card_present = other.card_present;
    }
    file = store(&sink, Authority::Batch(job), file, &corrected).await?;
    assert!(file.counts[Outcome::Corrected] > 200, "{:?}", file.counts);
    assert_eq!(differences(&sql).await?, 0, "corrections of rows of both kinds");
    Ok(())
}

async fn differences(sql: &Connection) -> Result<i64, Failure> {
    Ok(sql.query_one(DIFFERENCES, &[]).await?.try_get(0)?)
}

async fn job(sql: &Connection) -> Result<JobRef, Failure> {
    let insert = "insert into batch_jobs (pipeline, source, file_name, header, bytes, records, chunks) \
                  values ('transactions', 'test', 'f', 'h', 0, 0, 0) \
                  returning id, (extract(epoch from as_of) * 1000000)::bigint";
    let row = sql.query_one(insert, &[]).await?;
    Ok(JobRef { number: row.try_get(0)?, as_of_micros: row.try_get(1)? })
}

async fn claim(sink: &PostgresSink, partition: i32) -> Result<Progress, Failure> {
    let name = LaneName { pipeline: "transactions".into(), source: "test".into(), partition };
    let (owner, group, take_over) = ("test".into(), None, false);
    Ok(sink
        .claim(&ClaimRequest {
            name,
            first_position: 0.into(),
            format: "json".into(),
            owner,
            group,
            take_over,
            given_up: None,
        })
        .await?)
}

async fn store(
    sink: &PostgresSink,
    authority: Authority,
    lane: Progress,
    transactions: &[Transaction],
) -> Result<Progress, Failure> {
    let mut draft =
        Draft::new(authority, &TRANSACTIONS).lane(&lane, lane.position + transactions.len() as i64);
    for (index, transaction) in transactions.iter().enumerate() {
        draft = draft.record(lane.position + index as i64, transaction);
    }
    let mut done = sink.commit(&draft.build(), Durability::Visible).await?;
    done.stored.pop().ok_or_else(|| "the lane was fenced".into())
}
