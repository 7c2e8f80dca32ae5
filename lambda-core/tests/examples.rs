//! The examples do what they claim.

#[expect(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/filter_and_enrich.rs"]
mod filter_and_enrich;
#[expect(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/own_decoder.rs"]
mod own_decoder;
#[expect(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/own_record.rs"]
mod own_record;
#[expect(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/own_sink.rs"]
mod own_sink;
#[expect(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/own_source.rs"]
mod own_source;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use lambda_core::Pipeline;
use lambda_core::dead_letter::Reason;
use lambda_core::decode::Message;
use lambda_core::memory::MemorySink;
use lambda_core::outcome::Outcome;
use lambda_core::progress::LaneId;
use lambda_core::record::{Column, ColumnType, Table};
use lambda_core::source::Source;
use lambda_core::testing::sink;
use lambda_core::testing::source::{CASES, Origin};
use own_decoder::Reading;

type Tested = Result<(), Box<dyn Error>>;

#[tokio::test]
async fn a_message_and_a_row_of_the_same_reading_are_one_row() -> Tested {
    let counts = own_record::run().await?;
    assert_eq!((counts.read, counts[Outcome::Inserted], counts[Outcome::Duplicate]), (2, 1, 1));
    Ok(())
}

#[test]
fn a_message_is_filtered_and_enriched() -> Tested {
    let readings = filter_and_enrich::pipeline([("d-1".into(), "roof".into())].into())?;
    let decode = |key: Option<&'static str>, payload: &str| {
        let mut message = Message::of(Some(payload.as_bytes()));
        message.key = key.map(str::as_bytes);
        filter_and_enrich::decode(&readings, &message)
    };
    let reading = decode(Some("d-1"), r#"{"id":1,"millidegrees":21500}"#)?;
    let expected = filter_and_enrich::Reading { id: 1, site: "roof".into(), millidegrees: 21_500 };
    assert_eq!(reading, Some(expected));
    assert_eq!(decode(None, r#"{"id":1,"millidegrees":21500}"#)?, None);
    let rejected = |key, payload: &str| decode(Some(key), payload).map_err(|it| it.to_string());
    let no_device = "invalid_message: the key is no device of ours";
    assert_eq!(rejected("d-2", "{}"), Err(no_device.to_owned()));
    let hot = rejected("d-1", r#"{"id":1,"millidegrees":60001}"#);
    let says = "invalid_field: millidegrees: expected a number from -90000 to 60000";
    assert_eq!(hot, Err(says.to_owned()));
    Ok(())
}

#[test]
fn a_message_in_a_format_of_its_own_is_read_back() -> Tested {
    let readings = own_decoder::pipeline()?;
    for (sensor, value, valid) in
        [("attic", -21_500, true), ("", i64::MIN, false), ("Süd", 0, true)]
    {
        let reading = Reading { sensor: sensor.into(), value, valid };
        let message = own_decoder::encode(&reading)?;
        assert_eq!(own_decoder::decode(&readings, &message)?, Some(reading));
    }
    Ok(())
}

#[test]
fn a_message_that_is_too_short_or_too_long_is_rejected_with_its_byte() -> Tested {
    let readings = own_decoder::pipeline()?;
    let message = own_decoder::encode(&Reading { sensor: "attic".into(), value: 7, valid: true })?;
    let rejected = |payload: &[u8]| match own_decoder::decode(&readings, payload) {
        Ok(reading) => Err(format!("{payload:?} is {reading:?}")),
        Err(reject) => Ok(reject),
    };
    for end in 0..message.len() {
        let reject = rejected(&message[..end])?;
        assert_eq!(reject.reason, Reason::InvalidMessage, "{reject}");
        assert!(
            reject.detail.starts_with(&format!("the message ends at byte {end}, ")),
            "{reject}"
        );
    }
    let within = [(1, "the length of sensor"), (6, "sensor"), (12, "value"), (15, "valid")];
    for (end, field) in within {
        let reject = rejected(&message[..end])?;
        assert!(reject.detail.contains(&format!("within {field}:")), "{reject}");
    }
    let reject = rejected(&[&message[..], b"ab"].concat())?;
    assert_eq!(
        reject.to_string(),
        "invalid_message: the reading ends at byte 16, but the message has 18 bytes"
    );
    let mut flag = message.clone();
    *flag.last_mut().ok_or("a message has bytes")? = 2;
    let reject = rejected(&flag)?;
    assert_eq!(reject.to_string(), "invalid_field: valid: 0 or 1 expected at byte 15, found 2");
    let mut name = message;
    name[4] = 0xff;
    let reject = rejected(&name)?;
    assert_eq!(reject.to_string(), "invalid_utf8: sensor: invalid UTF-8 at byte 4");
    Ok(())
}

#[test]
fn a_decoder_refuses_a_table_without_its_columns() {
    let full = || Table::new("ops.readings").column(Column::new("sensor", ColumnType::Text));
    let tables = [
        (full().column(Column::new("valid", ColumnType::Bool)), "no column value of type bigint"),
        (full().column(Column::new("value", ColumnType::Int4)), "no column value of type bigint"),
        (full().column(Column::new("value", ColumnType::Int8)), "no column valid of type boolean"),
    ];
    for (table, says) in tables {
        let binary = own_decoder::Binary::default();
        let built = Pipeline::builder("readings", table).messages(binary).build();
        let error = built.expect_err("a table that the decoder cannot fill");
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains(says), "{error}");
    }
    // In any order, and beside columns that may be null.
    let table = full()
        .column(Column::new("note", ColumnType::Text).nullable())
        .column(Column::new("valid", ColumnType::Bool))
        .column(Column::new("value", ColumnType::Int8));
    let built = Pipeline::builder("readings", table).messages(own_decoder::Binary::default());
    assert!(built.build().is_ok());
}

#[tokio::test]
async fn a_journal_keeps_the_promises_of_every_sink() -> Tested {
    let folder = tempfile::tempdir()?;
    let kept = own_sink::run(folder.path()).await?;
    assert_eq!(kept.len(), sink::CASES.len());
    for (number, promise) in kept.iter().enumerate() {
        let journal = fs::read_to_string(folder.path().join(format!("{number}.jsonl")))?;
        assert!(journal.lines().count() > 1, "tested on the file: {promise}");
    }
    Ok(())
}

#[tokio::test]
async fn a_journal_forgets_a_line_that_a_crash_has_cut_off() -> Tested {
    let folder = tempfile::tempdir()?;
    let (outbox, path) = (folder.path().join("outbox"), folder.path().join("journal.jsonl"));
    write(&outbox, 0, 1..=3)?;
    let outbox = outbox.to_string_lossy().into_owned();
    own_source::run(&outbox, Arc::new(own_sink::Journal::open(&path)?)).await?;
    let whole = fs::read(&path)?;
    fs::OpenOptions::new().append(true).open(&path)?.write_all(br#"{"Commit":{"job":nu"#)?;
    let journal = Arc::new(own_sink::Journal::open(&path)?);
    assert_eq!(journal.contents().await?.rows.len(), 3);
    assert_eq!(fs::read(&path)?, whole, "the part of a line is gone");
    own_source::run(&outbox, journal.clone()).await?;
    let lanes = journal.contents().await?.lanes;
    assert_eq!(lanes[&LaneId(1)].counts[Outcome::Inserted], 3, "nothing is read a second time");
    Ok(())
}

/// Writes numbered files of one partition.
fn write(
    outbox: &Path,
    partition: i32,
    numbers: impl IntoIterator<Item = i64>,
) -> std::io::Result<()> {
    let folder = outbox.join(partition.to_string());
    fs::create_dir_all(&folder)?;
    for number in numbers {
        let message = format!(r#"{{"id":"{partition}-{number}","millidegrees":{number}}}"#);
        fs::write(folder.join(format!("{number}.json")), message)?;
    }
    Ok(())
}

/// An outbox whose partitions have different numbers of files, some of which are missing.
struct Filled {
    folder: tempfile::TempDir,
    readings: Pipeline,
}

#[async_trait]
impl Origin for Filled {
    async fn open(&self) -> Box<dyn Source> {
        Box::new(own_source::Outbox::new(self.folder.path(), &self.readings, false))
    }

    fn positions(&self) -> BTreeMap<i32, Vec<i64>> {
        let numbers = |partition: i32| (1..=i64::from(partition) * 700 + 1).filter(|it| it % 5 > 0);
        (0..3).map(|partition| (partition, numbers(partition).collect())).collect()
    }
}

#[tokio::test]
async fn an_outbox_keeps_the_promises_of_every_source() -> Tested {
    let readings = Pipeline::of::<own_source::Reading>("readings").build()?;
    let filled = Filled { folder: tempfile::tempdir()?, readings };
    for (partition, numbers) in filled.positions() {
        write(filled.folder.path(), partition, numbers)?;
    }
    for (promise, case) in CASES {
        tokio::time::timeout(std::time::Duration::from_mins(1), case(&filled))
            .await
            .map_err(|_| format!("not within a minute: {promise}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn an_outbox_continues_behind_its_last_file_and_refuses_another_one_there() -> Tested {
    let folder = tempfile::tempdir()?;
    let (outbox, sink) = (folder.path(), Arc::new(MemorySink::new()));
    let path = outbox.to_string_lossy().into_owned();
    write(outbox, 0, [1, 2])?;
    write(outbox, 1, [1])?;
    fs::write(outbox.join("1/2.json"), "not json")?;
    fs::write(outbox.join("1/3.json.part"), "not complete")?;
    own_source::run(&path, sink.clone()).await?;
    let contents = sink.contents();
    assert_eq!((contents.rows.len(), contents.dead_letters.len()), (3, 1));

    write(outbox, 0, [5, 9])?;
    own_source::run(&path, sink.clone()).await?;
    assert_eq!(sink.contents().rows.len(), 5);

    fs::write(outbox.join("0/9.json"), r#"{"id":"other","millidegrees":0}"#)?;
    let refused = own_source::run(&path, sink.clone()).await.expect_err("another last file");
    assert_eq!(refused.exit_code(), 78, "{refused}");
    assert_eq!(sink.contents().rows.len(), 5);
    Ok(())
}
