//! The third act: a bad line of a file and a bad message are found among the dead letters,
//! corrected, and replayed.

use lambda_core::postgres::Connection;

use crate::Failure;
use crate::demo::stage::{Narrator, Stage};

/// A file whose second record has a letter in its amount.
const FILE: &str = "\
    TXN-DEMO-GOOD,ACC-DEMO,deposit,100.00,2026-01-01 10:00:00,,,,\n\
    TXN-DEMO-BAD,ACC-DEMO,refund,4O.00,2026-01-01 10:00:01,,,,\n";

/// The error in the file's record, and its correction.
const FILE_MENDED: &[(&str, &str)] = &[("4O.00", "40.00")];

/// The error in some of the producer's invalid messages, and its correction.
const MESSAGE_MENDED: &[(&str, &str); 2] = &[
    (r#""amount":"twelve""#, r#""amount":"12.00""#),
    (r#""card_present":"true""#, r#""card_present":true"#),
];

/// Rows that this act adds to the table.
#[derive(Debug)]
pub(super) struct Mended {
    /// Ids and amounts of the corrected records.
    pub(super) rows: Vec<(String, String)>,
    /// Number of them that were streamed.
    pub(super) streamed: i64,
    /// The id of the record that was valid from the beginning.
    pub(super) good: &'static str,
}

/// Loads a file with a bad record, lists, corrects and replays.
pub(super) async fn act(
    stage: &Stage,
    sql: &Connection,
    narrator: &mut Narrator<'_>,
) -> Result<Mended, Failure> {
    let path = stage.folder().join("bad.csv");
    std::fs::write(&path, format!("{}\n{FILE}", lambda_core::transaction::CSV_HEADER))?;
    let loaded = stage.run(&stage.loader("lambda-csv-batch").arg(&path)).await?;
    let shown = loaded.replace(&format!("{}/", stage.folder().display()), "");
    narrator.output("a bad record", &shown)?;
    let list = stage.operator("lambda").args(["dead-letters", "list"]);
    let list = list.args(["--reason", "invalid_field", "--limit", "2"]);
    narrator.output("dead letters", &stage.run(&list).await?)?;

    let of_file = "select max(id) from lambda.dead_letters where job_id is not null";
    let file: i64 = sql.query_one(of_file, &[]).await?.try_get(0)?;
    mend(stage, file, FILE_MENDED, narrator).await?;
    let rows = vec![("TXN-DEMO-BAD".to_owned(), "40.00".to_owned())];
    let mut mended = Mended { rows, streamed: 0, good: "TXN-DEMO-GOOD" };

    // Not the first one, which may be damaged later. Few messages may have no dead letter.
    let of_topic = "select id from lambda.dead_letters where job_id is null \
                    and position($1::bytea in payload) > 0 and position($2::bytea in payload) > 0 \
                    order by id offset 1 limit 1";
    let [(amount, _), (card_present, _)] = *MESSAGE_MENDED;
    let wrong = [amount.as_bytes(), card_present.as_bytes()];
    if let Some(row) = sql.query_opt(of_topic, &[&wrong[0], &wrong[1]]).await? {
        let letter: i64 = row.try_get(0)?;
        mend(stage, letter, MESSAGE_MENDED, narrator).await?;
        let read = "select convert_from(payload, 'utf8')::jsonb ->> 'transaction_id' \
                    from lambda.dead_letters where id = $1";
        let read = sql.query_one(read, &[&letter]).await?;
        mended.rows.push((read.try_get(0)?, "12.00".to_owned()));
        mended.streamed += 1;
    }
    Ok(mended)
}

/// Does what an operator does: takes the payload, edits it, and replays it.
async fn mend(
    stage: &Stage,
    letter: i64,
    mends: &[(&str, &str)],
    narrator: &mut Narrator<'_>,
) -> Result<(), Failure> {
    let lambda = |command| stage.operator("lambda").args(["dead-letters", command]);
    let number = letter.to_string();
    let payload = stage.run(&lambda("show").args([&number, "--payload"])).await?;
    let mut edited = payload;
    for (wrong, meant) in mends {
        if !edited.contains(wrong) {
            return Err(format!("dead letter {letter} has no {wrong}").into());
        }
        edited = edited.replacen(wrong, meant, 1);
    }
    let path = stage.folder().join("edited");
    std::fs::write(&path, edited)?;
    let replay = lambda("replay").args([&number, "--payload"]).arg(&path);
    let replayed = stage.run(&replay).await?;
    let mends: Vec<String> =
        mends.iter().map(|(wrong, meant)| format!("{meant} for {wrong}")).collect();
    let mends = mends.join(", ");
    narrator.tell("replay", format_args!("{letter}, with {mends}: {}", replayed.trim_end()))?;
    Ok(())
}
