//! Sends generated traffic or the records of a file to a topic, at a given rate. Checks every
//! delivery report, and writes it to a ledger if there is one.

mod input;
mod ledger;

use std::fmt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use lambda_core::health::Health;
use lambda_core::kafka::Kafka;
use lambda_core::kafka::producer::{Delivered, Producer};
use lambda_core::metrics;
use lambda_core::record::checksum;
use lambda_core::transaction::synthetic::Expectation;
use lambda_core::{Error, Stop};
use serde::Serialize;

use self::input::{Input, Outgoing};
use self::ledger::{Entry, Ledger};

/// Time between two progress lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Longest wait for the delivery of the last messages, within the 30 seconds that Kubernetes
/// gives a process to end.
const FLUSH_PATIENCE: Duration = Duration::from_secs(25);

/// Messages between two polls of delivery reports.
const BURST: u64 = 1_000;

/// Longest sleep, so that a stop is noticed in time.
const STEP: Duration = Duration::from_millis(50);

/// Source of the messages.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum From {
    /// Generated traffic.
    Traffic {
        /// The same seed gives the same messages. Without one they are new and carry the
        /// current time.
        seed: Option<u64>,
        /// Share of messages that repeat an earlier one, from 0 to 1.
        duplicate_ratio: f64,
        /// Share of invalid messages, from 0 to 1.
        invalid_ratio: f64,
    },
    /// A file: `.csv` with a header, or JSON lines. Invalid rows are sent too: the consumer
    /// rejects them.
    File(PathBuf),
}

/// Configuration of a producer.
#[derive(Debug, Clone)]
pub struct ProduceConfig {
    /// The topic; the group is not used.
    pub kafka: Kafka,
    /// Source of the messages.
    pub from: From,
    /// Messages per second; 0 for as many as the brokers take.
    pub rate: u64,
    /// Number of messages; `None` for the whole file, or for endless traffic.
    pub count: Option<u64>,
    /// File that gets a line for each delivered message.
    pub ledger: Option<PathBuf>,
    /// Health to which the producer reports.
    pub health: Health,
}

/// Counts of delivered messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Produced {
    /// Messages that are in the topic.
    pub delivered: u64,
    /// Valid and new messages among them.
    pub valid: u64,
    /// Repeated messages among them.
    pub duplicate: u64,
    /// Invalid messages among them.
    pub invalid: u64,
    /// Duration, in seconds.
    pub seconds: f64,
}

impl fmt::Display for Produced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delivered, valid, duplicate, invalid, seconds } = self;
        #[expect(clippy::cast_precision_loss, reason = "a rate, for people")]
        let rate = *delivered as f64 / seconds.max(f64::EPSILON);
        write!(
            f,
            "{delivered} delivered ({valid} valid, {duplicate} duplicate, {invalid} invalid) \
             in {seconds:.1} s: {rate:.0}/s"
        )
    }
}

/// Data that travels with a message and comes back with its delivery report.
#[derive(Debug)]
struct Tag {
    id: String,
    kind: Expectation,
    payload_xxh3: u64,
}

/// Sends the messages, and waits for a topic or brokers that are missing. Blocks the thread.
/// Once `stop` is requested, nothing more is sent; messages
/// already sent are still delivered and written to the ledger.
///
/// ```no_run
/// use lambda_core::health::Health;
/// use lambda_core::{Kafka, Stop};
/// use lambda_stream::produce::{From, ProduceConfig, produce};
///
/// # fn run() -> Result<(), lambda_core::Error> {
/// let config = ProduceConfig {
///     kafka: Kafka::new("kafka:9092", "transactions"),
///     from: From::Traffic { seed: Some(7), duplicate_ratio: 0.01, invalid_ratio: 0.001 },
///     rate: 1_000,
///     count: Some(60_000),
///     ledger: Some("ledger.csv".into()),
///     health: Health::default(),
/// };
/// let produced = produce(&config, &Stop::new())?;
/// println!("{produced}");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Fatal`; [`Error::Input`] for a file that cannot be read; `Transient` if messages could not
/// be delivered; [`Error::Interrupted`] if it stopped before the end of the file or the count.
/// The ledger holds what was delivered until then.
pub fn produce(config: &ProduceConfig, stop: &Stop) -> Result<Produced, Error> {
    metrics::sends(&Expectation::ALL.map(Expectation::as_str));
    let producer = Producer::new(&config.kafka, &config.health)?;
    let mut run = Run {
        config,
        producer: &producer,
        ledger: config.ledger.as_deref().map(Ledger::create).transpose()?,
        begun: Instant::now(),
        last_line: Instant::now(),
        produced: Produced::default(),
    };
    let mut input = Input::open(&config.from)?;
    let sent = if producer.wait_for_topic(|| stop.is_stopped())? {
        run.begun = Instant::now();
        run.send_all(&mut input, stop)
    } else {
        Ok(Sent::Stopped)
    };
    let flushed = run.flush();
    let sent = sent?;
    flushed?;
    run.produced.seconds = run.begun.elapsed().as_secs_f64();
    let bounded = config.count.is_some() || matches!(config.from, From::File(_));
    if sent == Sent::Stopped && bounded {
        let what = format!("stopped before the end: {}", run.produced);
        return Err(Error::Interrupted { what });
    }
    Ok(run.produced)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    All,
    Stopped,
}

struct Run<'a> {
    config: &'a ProduceConfig,
    producer: &'a Producer<Tag>,
    ledger: Option<Ledger>,
    begun: Instant,
    last_line: Instant,
    produced: Produced,
}

impl Run<'_> {
    fn send_all(&mut self, input: &mut Input, stop: &Stop) -> Result<Sent, Error> {
        for number in 0..self.config.count.unwrap_or(u64::MAX) {
            if number % BURST == 0 {
                self.collect()?;
            }
            if !self.keep_pace(number, stop)? || (number % BURST == 0 && stop.is_stopped()) {
                return Ok(Sent::Stopped);
            }
            let Some(outgoing) = input.next()? else { break };
            self.send(outgoing)?;
        }
        Ok(Sent::All)
    }

    /// Waits until message `number` is due. False if the producer is to stop instead.
    fn keep_pace(&mut self, number: u64, stop: &Stop) -> Result<bool, Error> {
        if self.config.rate == 0 {
            return Ok(true);
        }
        #[expect(clippy::cast_precision_loss, reason = "exact for centuries of messages")]
        let due = Duration::from_secs_f64(number as f64 / self.config.rate as f64);
        loop {
            let early = due.saturating_sub(self.begun.elapsed());
            if early.is_zero() {
                return Ok(true);
            }
            if stop.is_stopped() {
                return Ok(false);
            }
            self.collect()?;
            // Does not poll to wait: librdkafka counts whole milliseconds, and its binding polls
            // without a pause for the rest of the last one.
            thread::sleep(due.saturating_sub(self.begun.elapsed()).min(STEP));
        }
    }

    fn send(&self, outgoing: Outgoing) -> Result<(), Error> {
        let Outgoing { key, payload, id, kind } = outgoing;
        let tag = Tag { id, kind, payload_xxh3: checksum::of_bytes(&payload) };
        self.producer.send(&key, Some(&payload), tag)
    }

    /// Processes all delivery reports that have arrived.
    fn collect(&mut self) -> Result<(), Error> {
        while self.note_delivered()? {}
        if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let Produced { delivered, .. } = self.produced;
            tracing::info!(delivered, in_flight = self.producer.in_flight(), "producing");
        }
        Ok(())
    }

    /// Polls delivery reports once. Returns whether there may be more.
    fn note_delivered(&mut self) -> Result<bool, Error> {
        let delivered = self.producer.delivered(Duration::ZERO)?;
        self.note(&delivered)?;
        Ok(!delivered.is_empty())
    }

    fn note(&mut self, delivered: &[Delivered<Tag>]) -> Result<(), Error> {
        for kind in Expectation::ALL {
            let of_kind = delivered.iter().filter(|delivered| delivered.tag.kind == kind);
            metrics::delivered(kind.as_str(), of_kind.count() as u64);
        }
        for Delivered { tag, partition, offset } in delivered {
            self.produced.delivered += 1;
            *match tag.kind {
                Expectation::Valid => &mut self.produced.valid,
                Expectation::Duplicate => &mut self.produced.duplicate,
                Expectation::Invalid => &mut self.produced.invalid,
            } += 1;
            if let Some(ledger) = &mut self.ledger {
                let (partition, offset) = (*partition, *offset);
                ledger.write(&Entry::new(
                    &tag.id,
                    partition,
                    offset,
                    tag.kind,
                    tag.payload_xxh3,
                ))?;
            }
        }
        Ok(())
    }

    /// Waits for the last delivery reports. Always flushes the ledger.
    fn flush(&mut self) -> Result<(), Error> {
        let flushed = self.producer.flush(FLUSH_PATIENCE);
        let mut noted = Ok(());
        loop {
            match self.note_delivered() {
                Ok(true) => {}
                Ok(false) => break,
                // The other messages are known to be in the topic.
                Err(error) => noted = noted.and(Err(error)),
            }
        }
        let written = self.ledger.as_mut().map_or(Ok(()), Ledger::flush);
        flushed.and(noted).and(written)
    }
}
