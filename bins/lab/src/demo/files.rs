//! The second act: a file loaded twice, and one that corrects the stream.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use lambda_core::postgres::Connection;

use crate::Failure;
use crate::demo::stage::{Narrator, Stage};

/// The sample, shared with the deployment's manifests.
const SAMPLE: &str = "../../k8s/base/batch/sample/financial_transactions.csv";

/// A checksum of everything that a load could change.
const FOOTPRINT: &str = "\
    select concat((select md5(string_agg(t::text, '' order by transaction_id)) from transactions t), \
                  (select md5(string_agg(p::text, '' order by lane)) from lambda.ingest_progress p), \
                  (select md5(string_agg(j::text, '' order by id)) from lambda.batch_jobs j), \
                  (select count(*) from lambda.corrections), (select count(*) from lambda.dead_letters))";

/// Two streamed rows as lines of a CSV file: the first unchanged, the second with another
/// amount.
const CORRECTING_LINES: &str = "\
    select concat_ws(',', transaction_id, account_id, transaction_type, \
               amount + case when row_number() over (order by transaction_id) = 2 then 100 else 0 end, \
               to_char(event_time at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), \
               '\"' || coalesce(merchant_category, '') || '\"', '\"' || coalesce(location, '') || '\"', \
               coalesce(card_present::text, ''), coalesce(risk_score::text, '')) \
    from (select * from transactions where ingestion_type = 'STREAM' \
          order by transaction_id limit 2) t order by transaction_id";

/// Loads the sample, loads it again, and corrects a streamed row.
pub(super) async fn act(
    stage: &Stage,
    sql: &Connection,
    narrator: &mut Narrator<'_>,
) -> Result<(), Failure> {
    let load = stage.loader("lambda-csv-batch");
    // Paths in the demo's own folder mean nothing to a reader.
    let shown = |output: String| output.replace(&format!("{}/", stage.folder().display()), "");
    let sample = stage.folder().join("financial_transactions.csv");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(SAMPLE), &sample)?;
    narrator.output("lambda-csv-batch", &shown(stage.run(&load.clone().arg(&sample)).await?))?;

    let again = stage.folder().join("the-same-under-another-name.csv");
    std::fs::copy(&sample, &again)?;
    let before: String = sql.query_one(FOOTPRINT, &[]).await?.try_get(0)?;
    narrator.output("again", &shown(stage.run(&load.clone().arg(again)).await?))?;
    let after: String = sql.query_one(FOOTPRINT, &[]).await?.try_get(0)?;
    if before != after {
        return Err("loading the same file again changed something".into());
    }

    let correcting = correcting_file(stage, sql).await?;
    narrator.output("a correcting file", &shown(stage.run(&load.arg(correcting)).await?))?;
    let correction = "\
        select key ->> 0, before->>'ingestion_type', before->>'amount', after->>'ingestion_type', \
               after->>'amount', job_id from lambda.corrections order by id desc limit 1";
    let row = sql.query_one(correction, &[]).await?;
    let column = |index| row.try_get::<_, &str>(index);
    narrator.more(format_args!(
        "{}: {} {} was corrected to {} {} by job {}",
        column(0)?,
        column(1)?,
        column(2)?,
        column(3)?,
        column(4)?,
        column(5)?
    ))?;
    Ok(())
}

async fn correcting_file(stage: &Stage, sql: &Connection) -> Result<PathBuf, Failure> {
    let mut text = format!("{}\n", lambda_core::transaction::CSV_HEADER);
    for row in sql.query(CORRECTING_LINES, &[]).await? {
        writeln!(text, "{}", row.try_get::<_, &str>(0)?)?;
    }
    let path = stage.folder().join("corrections.csv");
    std::fs::write(&path, text)?;
    Ok(path)
}
