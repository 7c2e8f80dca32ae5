//! Runs a source, a sink and the flow between them until the run stops.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lambda_core::delivery::{Flow, FlowConfig};
use lambda_core::error::Kind;
use lambda_core::kafka::topic::{self, Ends};
use lambda_core::kafka::{KafkaSource, OnSourceChange, SourceOptions, source_identity};
use lambda_core::metrics::{self, Outcomes};
use lambda_core::outcome::Authority;
use lambda_core::postgres::PostgresSink;
use lambda_core::progress::{Counts, LaneId, Progress};
use lambda_core::{Error, Pipeline, Stop};
use tokio::time::MissedTickBehavior;

use crate::config::Config;
use crate::drain;
use crate::stored::{Stored, total};
use crate::summary::Summary;

/// Time between two checks for the end.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Time between two progress lines.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Longest wait for the database once everything is stored, within the 30 seconds that
/// Kubernetes gives a process to end.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Commits run one at a time; the second connection reads progress.
const CONNECTIONS: u32 = 2;

/// Runs a consumer (see [`crate::consume`]).
pub(crate) async fn run(
    pipeline: &Pipeline,
    config: &Config,
    stop: &Stop,
) -> Result<Summary, Error> {
    let begun = Instant::now();
    config.kafka.check()?;
    metrics::stores(pipeline.name());
    let prepared = tokio::select! {
        () = stop.stopped() => None,
        run = prepare(pipeline, config) => Some(run?),
    };
    let Some(mut run) = prepared else {
        if config.exit_at_end {
            return Err(interrupted(None));
        }
        let nothing = Counts::default();
        return Ok(Summary::new(String::new(), nothing, nothing, begun.elapsed()));
    };
    let (source, ended) = run.until(config, stop).await?;
    let sought = run.ends.as_ref().map(|ends| ends.source.clone());
    let name = source.name().or(sought).unwrap_or_default();
    source.close().await;
    let lanes = match ended {
        // The next owner of the lanes reads what this commit would have stored, so a stop that
        // does not wait for the commit is clean.
        Err(Error::Interrupted { what }) => {
            tracing::warn!(source = name, what, "stopped while a commit took long");
            if config.exit_at_end {
                let lanes = run.stored.durable_lanes(END_PATIENCE).await;
                lanes.map_err(|error| {
                    if error.kind() == Kind::Transient { interrupted(None) } else { error }
                })?
            } else {
                run.stored.lanes_within(END_PATIENCE).await?
            }
        }
        ended => {
            ended?;
            tracing::info!(source = name, "drained and stopped");
            // Commits of other processes count towards the end, and they are not durable before
            // those processes end.
            run.stored.durable_lanes(END_PATIENCE).await?
        }
    };
    if let Some(left) = run.left(&lanes).filter(|left| *left > 0) {
        return Err(interrupted(Some(left)));
    }
    let (before, after) = (total(&run.before, &name), total(&lanes, &name));
    Ok(Summary::new(name, before, after, begun.elapsed()))
}

fn interrupted(left: Option<i64>) -> Error {
    let left = left.map_or_else(|| "everything".into(), |left| format!("{left} offsets"));
    Error::Interrupted {
        what: format!(
            "stopped before the end of the topic was stored, {left} left; run it again to finish"
        ),
    }
}

/// State before the first message is read.
struct Run {
    sink: Arc<PostgresSink>,
    stored: Stored,
    before: Vec<Progress>,
    ends: Option<Ends>,
    /// Lanes that will be given up: offsets they stored do not count towards the end.
    changed: Vec<LaneId>,
    /// Identifies the database.
    database: String,
    pipeline: Pipeline,
}

async fn prepare(pipeline: &Pipeline, config: &Config) -> Result<Run, Error> {
    let database = config.database.clone();
    // Reports a need until the flow and the source report their own.
    let _start = config.health.need("the start");
    let sink =
        PostgresSink::connect(database.clone(), pipeline, "stream", CONNECTIONS, None).await?;
    let mut stored = Stored::new(database, pipeline.name());
    let before = stored.lanes_waiting().await?;
    let database = sink.identity().to_owned();
    let (sink, pipeline) = (Arc::new(sink), pipeline.clone());
    let mut run = Run { sink, stored, before, ends: None, changed: Vec::new(), database, pipeline };
    if config.exit_at_end {
        let ends = topic::ends(&config.kafka).await?;
        run.changed = changed(config, &mut run.stored, &ends).await?;
        run.ends = Some(ends);
    }
    Ok(run)
}

/// Lanes whose partitions no longer match what was read of them. Such a lane may be at or
/// past the end without having read any of it. Lanes being read are checked when they are
/// claimed; these may never be.
async fn changed(config: &Config, stored: &mut Stored, ends: &Ends) -> Result<Vec<LaneId>, Error> {
    let lanes = stored.lanes_waiting().await?;
    let there = |lane: &Progress| {
        lane.name.source == ends.source && ends.ends.contains_key(&lane.name.partition)
    };
    let lanes: Vec<Progress> = lanes.into_iter().filter(there).collect();
    let found = source_identity::changed(&config.kafka, lanes.clone()).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    // A lane that has moved since was checked at an old position.
    let now = stored.lanes_waiting().await?;
    let mut changed = Vec::new();
    for (lane, error) in found {
        let position = |lanes: &[Progress]| {
            lanes.iter().find(|it| it.lane == lane).map(|it| (it.name.clone(), it.position))
        };
        if position(&lanes) != position(&now) {
            continue;
        }
        if config.on_source_change == OnSourceChange::Stop {
            return Err(error);
        }
        changed.push(lane);
    }
    Ok(changed)
}

type Ran = (KafkaSource, Result<(), Error>);

impl Run {
    /// Runs the flow until it ends by itself, `stop` completes, or everything is
    /// stored.
    async fn until(&mut self, config: &Config, stop: &Stop) -> Result<Ran, Error> {
        let options = SourceOptions {
            start: config.start,
            on_source_change: config.on_source_change,
            limits: config.limits,
            database: self.database.clone(),
        };
        let source =
            KafkaSource::open(config.kafka.clone(), &self.pipeline, options, &config.health)?;
        let flow = FlowConfig {
            authority: Authority::Stream,
            pipeline: self.pipeline.name().to_owned(),
            format: self.pipeline.decoder().format().to_owned(),
            owner: config.owner.clone(),
            group: Some(config.kafka.group_id().to_owned()),
            take_over: config.take_over,
            patience: None,
            health: config.health.clone(),
            outcomes: Outcomes::default(),
        };
        let sink: Arc<PostgresSink> = Arc::clone(&self.sink);
        let halt = Stop::new();
        let flow = Flow::new(flow, source, sink).run(halt.clone());
        let until = async {
            tokio::select! {
                () = stop.stopped() => {}
                () = self.watch() => {}
            }
            config.health.stop();
            halt.stop();
            // From here on the flow ends by itself.
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            ran = flow => Ok(ran),
            never = until => match never {},
        }
    }

    /// Writes a progress line now and then; returns once everything up to the end is
    /// stored.
    async fn watch(&mut self) {
        let every = if self.ends.is_some() { LOOK_EVERY } else { TELL_EVERY };
        let mut look = tokio::time::interval(every);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = (Instant::now(), read(&self.before));
        loop {
            look.tick().await;
            let lanes = match self.stored.lanes().await {
                Ok(lanes) => lanes,
                // The flow gets the same error and handles it.
                Err(error) => {
                    tracing::debug!(error = error.chain(), "could not read progress");
                    continue;
                }
            };
            let left = self.left(&lanes);
            if left == Some(0) {
                return;
            }
            if told.0.elapsed() >= TELL_EVERY {
                told = self.tell(told, read(&lanes), left);
            }
        }
    }

    fn tell(&self, (at, before): (Instant, i64), read: i64, left: Option<i64>) -> (Instant, i64) {
        if read != before {
            #[expect(clippy::cast_precision_loss, reason = "a rate, for people")]
            let rows_per_second = ((read - before) as f64 / at.elapsed().as_secs_f64()).round();
            tracing::info!(pipeline = self.pipeline.name(), read, rows_per_second, left, "stored");
        }
        (Instant::now(), read)
    }

    fn left(&self, lanes: &[Progress]) -> Option<i64> {
        self.ends.as_ref().map(|ends| drain::left(ends, lanes, &self.changed))
    }
}

/// Records of all topics of the pipeline, as one number.
fn read(lanes: &[Progress]) -> i64 {
    lanes.iter().map(|lane| lane.counts.read).sum()
}
