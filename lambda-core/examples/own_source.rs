//! A source of your own: folders of numbered files, each of which is one message.
//!
//! ```text
//!   outbox/0/1.json  2.json  3.json      partition 0
//!   outbox/1/1.json  2.json              partition 1
//! ```
//!
//! A file's number is its position. The writer renames complete files into place, in the order
//! of their numbers: a source must never see a position below one that it has yielded.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lambda_core::delivery::batcher::{Batcher, Limits, Pushed, Received, Start};
use lambda_core::delivery::{Flow, FlowConfig};
use lambda_core::error::Error;
use lambda_core::health::Health;
use lambda_core::memory::MemorySink;
use lambda_core::metrics::Outcomes;
use lambda_core::outcome::Authority;
use lambda_core::progress::{LaneName, Progress};
use lambda_core::sink::Sink;
use lambda_core::source::{Event, Grant, Source};
use lambda_core::{Pipeline, Record, Stop};

/// Time between two looks into folders without a new file.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Reads the folders of one outbox.
#[derive(Debug)]
pub struct Outbox {
    folder: PathBuf,
    pipeline: Pipeline,
    batcher: Batcher,
    /// Partitions that are read, and the least number of their next file.
    next: BTreeMap<i32, i64>,
    /// Number of partitions, once they are granted.
    granted: Option<usize>,
    ends: bool,
}

impl Outbox {
    /// The outbox in `folder`. With `ends`, it ends after the last file that there is.
    pub fn new(folder: impl Into<PathBuf>, pipeline: &Pipeline, ends: bool) -> Self {
        let batcher = Batcher::new(pipeline.clone(), Limits { rows: 1_000, ..Limits::default() });
        let (folder, pipeline, next) = (folder.into(), pipeline.clone(), BTreeMap::new());
        Self { folder, pipeline, batcher, next, granted: None, ends }
    }

    /// Grants all partitions: one process reads the whole outbox.
    fn grants(&self) -> Result<Vec<Grant>, Error> {
        let name = |partition| LaneName {
            pipeline: self.pipeline.name().into(),
            source: self.folder.to_string_lossy().into(),
            partition,
        };
        let grant =
            |partition| Grant { name: name(partition), first_position: 0.into(), given_up: None };
        let partitions = self.numbered("")?.into_keys().map(i32::try_from);
        Ok(partitions.filter_map(Result::ok).map(grant).collect())
    }

    /// The entries of a folder by their number. Others are none of ours, or not complete.
    fn numbered(&self, folder: &str) -> Result<BTreeMap<i64, PathBuf>, Error> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(self.folder.join(folder)).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.strip_suffix(".json").unwrap_or(name).parse().ok();
            found.extend(number.map(|number| (number, path)));
        }
        Ok(found)
    }

    /// Decodes new files into the next batch. Returns whether all of them are in it.
    fn gather(&mut self) -> Result<bool, Error> {
        for partition in self.next.keys().copied().collect::<Vec<_>>() {
            let from = self.next[&partition];
            for (position, path) in self.numbered(&partition.to_string())?.split_off(&from) {
                if self.batcher.is_full() {
                    return Ok(false);
                }
                let payload = std::fs::read(&path).map_err(unreadable)?;
                let (key, payload) = (None, Some(&payload[..]));
                let message =
                    Received { partition, position, timestamp_ms: 0, key, payload, headers: &[] };
                match self.batcher.push(&message) {
                    Pushed::Changed(_) => return Err(refused("is not the file that was stored")),
                    Pushed::MostlyRejected => return Err(refused("is rejected, like most files")),
                    _ => self.next.insert(partition, position + 1),
                };
            }
        }
        Ok(true)
    }
}

#[async_trait]
impl Source for Outbox {
    /// Between two calls all that was read is in the batcher, so a call may be dropped.
    async fn next(&mut self) -> Result<Event, Error> {
        if self.granted.is_none() {
            let grants = self.grants()?;
            self.granted = Some(grants.len());
            return Ok(Event::Granted(grants));
        }
        loop {
            let is_all = self.gather()?;
            if let Some(batch) = self.batcher.take() {
                return Ok(Event::Batch(batch));
            }
            if self.ends && is_all && self.granted == Some(self.next.len()) {
                return Ok(Event::End);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn start(&mut self, progress: &Progress) -> Result<(), Error> {
        let (partition, from) = (progress.name.partition, progress.position);
        let Some(claim) = progress.claim else { return Ok(()) };
        let files = self.numbered(&partition.to_string())?;
        // If the last file that was stored is still there, it is read again and must be the same.
        let last = progress.last.filter(|last| files.contains_key(&last.position));
        self.next.insert(partition, last.map_or(from, |last| last.position));
        let (id, expected, counts) = (progress.lane, last.is_some(), progress.counts);
        let start = Start { id, claim, from, last: progress.last, expected, counts };
        self.batcher.start(partition, start);
        Ok(())
    }

    async fn stop(&mut self, partition: i32) -> Result<(), Error> {
        self.next.remove(&partition);
        self.batcher.drop_partition(partition);
        Ok(())
    }

    fn stored(&mut self, _: &[Progress]) {}
}

/// The flow asks again, later each time.
fn unreadable(error: std::io::Error) -> Error {
    Error::Unavailable { what: "could not read the outbox".into(), source: error.into() }
}

fn refused(what: &str) -> Error {
    Error::misconfigured(format!("a file of the outbox {what}"), "look at the outbox")
}

/// A sensor's measurement.
#[derive(Record)]
#[record(table = "ops.readings", key(id))]
pub struct Reading {
    id: String,
    millidegrees: i64,
}

/// Stores all files of an outbox.
pub async fn run(folder: &str, sink: Arc<dyn Sink>) -> Result<(), Error> {
    let readings = Pipeline::of::<Reading>("readings").build()?;
    let config = FlowConfig {
        authority: Authority::Stream,
        pipeline: readings.name().into(),
        format: readings.decoder().format().into(),
        owner: "own_source".into(),
        group: None,
        take_over: false,
        patience: None,
        health: Health::default(),
        outcomes: Outcomes::default(),
    };
    let flow = Flow::new(config, Outbox::new(folder, &readings, true), sink);
    flow.run(Stop::new()).await.1
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::io::Write;
    let folder = std::env::args().nth(1).ok_or("name the folder of an outbox")?;
    let sink = Arc::new(MemorySink::new());
    run(&folder, sink.clone()).await?;
    writeln!(std::io::stdout(), "{} readings", sink.contents().rows.len())?;
    Ok(())
}
