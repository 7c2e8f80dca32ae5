//! The last act: the producer's ledger, compared with plain SQL.

use lambda_core::postgres::Connection;

use crate::Failure;
use crate::demo::Damage;
use crate::demo::letters::Mended;
use crate::demo::stage::Narrator;
use crate::ledger::{Kinds, Ledger};

/// One comparison.
#[derive(Debug, Clone)]
pub struct Check {
    /// The promise.
    pub promise: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// The finding.
    pub found: String,
}

/// Result of all comparisons.
#[derive(Debug, Clone)]
pub struct Verdict {
    checks: Vec<Check>,
}

impl Verdict {
    /// Compares the database with what was delivered to the topic and then corrected.
    pub(super) async fn of(
        ledger: &Ledger,
        mended: &Mended,
        sql: &Connection,
    ) -> Result<Self, Failure> {
        let mut differences = ledger.compare(sql).await?;
        let batch = "select transaction_id from transactions where job_id = \
                         (select min(job_id) from lambda.batch_jobs)";
        let sample: Vec<String> = sql
            .query(batch, &[])
            .await?
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()?;
        let added =
            |id: &String| id == mended.good || mended.rows.iter().any(|(mended, _)| mended == id);
        differences.foreign_ids.retain(|id| !sample.contains(id) && !added(id));
        let ids = i64::try_from(ledger.ids().len())?;
        let rows = Check {
            promise: "every valid transaction is one row, and there is no other",
            holds: differences.missing_ids.is_empty() && differences.foreign_ids.is_empty(),
            found: format!(
                "{ids} delivered, {} missing, {} foreign",
                differences.missing_ids.len(),
                differences.foreign_ids.len()
            ),
        };
        let letters = Check {
            promise: "every invalid message is a dead letter with its bytes",
            holds: differences.missing_letters.is_empty() && differences.foreign_letters.is_empty(),
            found: format!(
                "{} delivered, {} missing, {} foreign",
                ledger.kinds().invalid,
                differences.missing_letters.len(),
                differences.foreign_letters.len()
            ),
        };
        let checks = vec![
            rows,
            letters,
            counts(ledger.kinds(), mended, sql).await?,
            files(sql).await?,
            replays(mended, sql).await?,
        ];
        Ok(Self { checks })
    }

    /// Whether all of them hold.
    pub fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }

    /// The comparisons.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
}

async fn counts(kinds: Kinds, mended: &Mended, sql: &Connection) -> Result<Check, Failure> {
    let stored = "\
        select sum(read)::bigint, sum(inserted)::bigint, sum(duplicate)::bigint, \
               sum(rejected)::bigint, \
               bool_and(read = inserted + confirmed + corrected + superseded + duplicate + rejected) \
        from lambda.ingest_progress where end_position is null";
    let row = sql.query_one(stored, &[]).await?;
    let (read, inserted): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let (duplicate, rejected): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
    let balanced: bool = row.try_get(4)?;
    // Corrected records count as rows now, but were delivered as invalid.
    let (valid, invalid) = (inserted - mended.streamed, rejected + mended.streamed);
    let found = Kinds { valid, duplicate, invalid };
    Ok(Check {
        promise: "the counts of all partitions add up to what was delivered",
        holds: balanced && found == kinds && read == kinds.all(),
        found: format!(
            "{read} read = {inserted} inserted + {duplicate} duplicate + {rejected} rejected"
        ),
    })
}

async fn files(sql: &Connection) -> Result<Check, Failure> {
    let jobs = "\
        select count(*) filter (where status = 'completed'), sum(read)::bigint, \
               sum(inserted)::bigint, sum(confirmed)::bigint, sum(corrected)::bigint, \
               (select count(*) from lambda.corrections) from lambda.batch_jobs";
    let row = sql.query_one(jobs, &[]).await?;
    let number = |index| row.try_get::<_, i64>(index);
    let (completed, read, inserted) = (number(0)?, number(1)?, number(2)?);
    let (confirmed, corrected, corrections) = (number(3)?, number(4)?, number(5)?);
    Ok(Check {
        promise: "the files are loaded once, the streamed row is superseded",
        holds: (completed, read, inserted) == (3, 34, 32)
            && (confirmed, corrected, corrections) == (1, 1, 1),
        found: format!(
            "{completed} jobs, {read} read = {inserted} inserted + {confirmed} confirmed + {corrected} corrected"
        ),
    })
}

/// The corrected records are rows at the places of their dead letters, and no other dead
/// letter counts as replayed.
async fn replays(mended: &Mended, sql: &Connection) -> Result<Check, Failure> {
    let rows = "\
        select t.transaction_id, t.amount::text from transactions t \
        join lambda.dead_letters d using (lane, position) where d.status = 'replayed' order by 1";
    let rows = sql.query(rows, &[]).await?;
    let row = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
    let found = rows.iter().map(row).collect::<Result<Vec<(String, String)>, Failure>>()?;
    let mut expected = mended.rows.clone();
    expected.sort();
    let replayed = "select count(*) from lambda.dead_letters where status = 'replayed'";
    let replayed: i64 = sql.query_one(replayed, &[]).await?.try_get(0)?;
    Ok(Check {
        promise: "every corrected record is a row with its correction",
        holds: found == expected && replayed == i64::try_from(expected.len())?,
        found: format!("{} corrected, {replayed} replayed", expected.len()),
    })
}

/// Breaks an invariant on purpose.
pub(super) async fn damage(
    damage: Damage,
    sql: &Connection,
    narrator: &mut Narrator<'_>,
) -> Result<(), Failure> {
    let (what, statement) = match damage {
        Damage::LostRow => (
            "one row is deleted",
            "delete from transactions where transaction_id = \
                 (select max(transaction_id) from transactions where ingestion_type = 'STREAM')",
        ),
        Damage::PlantedRow => (
            "one row is planted",
            "insert into transactions select (t).* from (select jsonb_populate_record(t, \
                 '{\"transaction_id\": \"planted\"}') from transactions t \
                 where ingestion_type = 'STREAM' limit 1) planted(t)",
        ),
        Damage::LostDeadLetter => (
            "one dead letter is deleted",
            "delete from lambda.dead_letters where id = (select min(id) from lambda.dead_letters)",
        ),
        Damage::WrongCount => (
            "one record too many is counted",
            "update lambda.ingest_progress set read = read + 1, inserted = inserted + 1 where lane = \
                 (select min(lane) from lambda.ingest_progress where end_position is null)",
        ),
    };
    let changed = sql.execute(statement, &[]).await?;
    if changed != 1 {
        return Err(format!("the damage changed {changed} rows instead of 1").into());
    }
    narrator.tell("damage", format_args!("{what}, on purpose"))?;
    Ok(())
}
