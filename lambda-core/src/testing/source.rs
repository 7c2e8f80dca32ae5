//! The promises of every [`Source`] that grants its lanes, as cases; and a source of fixed lists.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::time::timeout;

use crate::batch::Batch;
use crate::error::Error;
use crate::outcome::Authority;
use crate::progress::{ClaimId, Counts, LaneId, LaneName, Progress, Sums};
use crate::source::{Event, Grant, Source};
use crate::testing::draft::{Draft, SAMPLES, Sample};

/// A source under test: the same records whenever it is opened. [`CASES`] has an example.
#[async_trait]
pub trait Origin: Send + Sync {
    /// Opens the source, in a process of its own as far as the source is concerned.
    async fn open(&self) -> Box<dyn Source>;

    /// The positions of all records, by partition, in order. Each partition has some.
    fn positions(&self) -> BTreeMap<i32, Vec<i64>>;
}

/// The future of a case.
pub type Running<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A case: the promise, and the function that tests a source for it.
pub type Case = (&'static str, for<'a> fn(&'a dyn Origin) -> Running<'a>);

/// All cases. Give each a minute.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use async_trait::async_trait;
/// use lambda_core::source::Source;
/// use lambda_core::testing::draft::Sample;
/// use lambda_core::testing::source::{CASES, Lists, Origin};
///
/// struct TwoRecords;
///
/// #[async_trait]
/// impl Origin for TwoRecords {
///     async fn open(&self) -> Box<dyn Source> {
///         let list = vec![Sample::new("a", 1), Sample::new("b", 2)];
///         Box::new(Lists::new(vec![list], fastrand::Rng::with_seed(7)))
///     }
///
///     fn positions(&self) -> BTreeMap<i32, Vec<i64>> {
///         [(0, vec![0, 1])].into()
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// for (promise, case) in CASES {
///     println!("{promise}");
///     case(&TwoRecords).await;
/// }
/// # }
/// ```
pub const CASES: &[Case] = &[
    ("every record comes once, in order, in spans that join", |o| Box::pin(comes_once(o))),
    ("a lane continues at the position that it is started from", |o| Box::pin(continues(o))),
    ("a lane that was stopped yields nothing until it is started again", |o| Box::pin(stops(o))),
    ("a call to next that is dropped loses no event", |o| Box::pin(is_cancel_safe(o))),
];

/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(30);

/// A source that is driven by hand, and what it has yielded of each partition.
struct Driver {
    source: Box<dyn Source>,
    started: BTreeMap<i32, Progress>,
    seen: BTreeMap<i32, Vec<i64>>,
    /// Time after which a call to `next` is dropped and made again.
    dropped_after: Duration,
}

impl Driver {
    /// Opens a source and starts every lane that it grants, at the position that `from` gives.
    async fn open(origin: &dyn Origin, from: impl Fn(i32, i64) -> i64) -> Self {
        let (source, started) = (origin.open().await, BTreeMap::new());
        let mut driver = Self { source, started, seen: BTreeMap::new(), dropped_after: PATIENCE };
        while driver.started.len() < origin.positions().len() {
            match driver.next().await {
                Event::Granted(grants) => {
                    for grant in grants {
                        let partition = grant.name.partition;
                        let position = from(partition, grant.first_position.position);
                        driver.start(grant.name, position).await;
                    }
                }
                Event::Batch(batch) => driver.take(&batch),
                other => panic!("before all lanes were granted: {other:?}"),
            }
        }
        driver
    }

    async fn start(&mut self, name: LaneName, position: i64) {
        let partition = name.partition;
        let progress = Progress {
            lane: LaneId(partition + 1),
            name,
            position,
            end_position: None,
            high: 0,
            claim: Some(ClaimId::random()),
            counts: Counts::default(),
            sums: Sums::default(),
            last: None,
        };
        self.source.start(&progress).await.expect("a start");
        self.started.insert(partition, progress);
    }

    async fn next(&mut self) -> Event {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "no event; so far {:?}", self.seen);
            if let Ok(event) = timeout(self.dropped_after, self.source.next()).await {
                return event.expect("an event");
            }
        }
    }

    /// Takes a batch: its spans join what was read, and its records are in them.
    fn take(&mut self, batch: &Batch) {
        for (number, span) in batch.spans().iter().enumerate() {
            let lane = self.started.get_mut(&span.partition).expect("a lane that was started");
            assert_eq!(Some(span.claim), lane.claim, "a claim that was replaced");
            assert_eq!((span.lane, span.from), (lane.lane, lane.position));
            let of_span = batch.entries().iter().filter(|entry| entry.span as usize == number);
            let positions: Vec<i64> = of_span.map(|entry| entry.position).collect();
            let inside = |position: &i64| (span.from..span.to).contains(position);
            assert!(positions.is_sorted() && positions.iter().all(inside), "{span:?}");
            lane.position = span.to;
            self.seen.entry(span.partition).or_default().extend(positions);
        }
        let moved: Vec<Progress> = self.started.values().cloned().collect();
        self.source.stored(&moved);
    }

    /// Reads until the lanes have yielded these positions, and nothing else.
    async fn read(&mut self, expected: &BTreeMap<i32, Vec<i64>>) {
        while self.seen != *expected {
            match self.next().await {
                Event::Batch(batch) => self.take(&batch),
                Event::End => break,
                Event::Granted(_) => {}
                Event::Revoked(partitions) => panic!("revoked: {partitions:?}"),
            }
            for (partition, seen) in &self.seen {
                let known = expected.get(partition).map_or(0, Vec::len);
                assert!(seen.len() <= known, "partition {partition} yields too much: {seen:?}");
            }
        }
        assert_eq!(self.seen, *expected);
    }
}

async fn comes_once(origin: &dyn Origin) {
    let mut driver = Driver::open(origin, |_, first| first).await;
    driver.read(&origin.positions()).await;
}

async fn continues(origin: &dyn Origin) {
    let middle: BTreeMap<i32, i64> = origin
        .positions()
        .into_iter()
        .map(|(partition, positions)| (partition, positions[positions.len() / 2]))
        .collect();
    let mut driver = Driver::open(origin, |partition, _| middle[&partition]).await;
    let rest = origin.positions().into_iter().map(|(partition, mut positions)| {
        positions.retain(|position| *position >= middle[&partition]);
        (partition, positions)
    });
    driver.read(&rest.collect()).await;
}

async fn stops(origin: &dyn Origin) {
    let mut driver = Driver::open(origin, |_, first| first).await;
    let all = origin.positions();
    let (partition, first) = all.first_key_value().expect("a partition");
    driver.source.stop(*partition).await.expect("a stop");
    let was = driver.started.remove(partition).expect("it was started");
    driver.seen.remove(partition);
    // What was read before the stop does not come, and it starts again under another claim.
    driver.start(was.name, first[0]).await;
    driver.read(&all).await;
}

async fn is_cancel_safe(origin: &dyn Origin) {
    let mut driver = Driver::open(origin, |_, first| first).await;
    driver.dropped_after = Duration::from_micros(200);
    driver.read(&origin.positions()).await;
}

/// Streams lists of samples, one for each partition; a record's position is its
/// index. Grants all partitions at once, and ends when all are read and stored.
#[derive(Debug)]
pub struct Lists {
    partitions: Vec<Vec<Sample>>,
    granted: bool,
    started: BTreeMap<i32, Progress>,
    stored: BTreeMap<i32, i64>,
    random: fastrand::Rng,
}

impl Lists {
    /// A source of these lists; `random` decides how much each batch takes.
    pub fn new(lists: Vec<Vec<Sample>>, random: fastrand::Rng) -> Self {
        let (started, stored) = (BTreeMap::new(), BTreeMap::new());
        Self { partitions: lists, granted: false, started, stored, random }
    }

    /// The source's name in lanes.
    pub const SOURCE: &str = "lists";

    fn grants(&self) -> Vec<Grant> {
        let partitions = 0..self.partitions.len() as i32;
        let name = |partition| LaneName {
            pipeline: SAMPLES.name().into(),
            source: Self::SOURCE.into(),
            partition,
        };
        partitions
            .map(|partition| Grant {
                name: name(partition),
                first_position: 0.into(),
                given_up: None,
            })
            .collect()
    }

    fn is_stored(&self) -> bool {
        let mut lists = self.partitions.iter().enumerate();
        lists.all(|(partition, list)| {
            self.stored.get(&(partition as i32)).copied().unwrap_or_default() >= list.len() as i64
        })
    }

    fn draft(&mut self) -> Option<Draft> {
        let mut draft = Draft::new(Authority::Stream, &SAMPLES);
        let mut any = false;
        for (partition, progress) in &mut self.started {
            let list = &self.partitions[*partition as usize];
            let from = progress.position as usize;
            let to = (from + self.random.usize(0..6)).min(list.len());
            if from == to {
                continue;
            }
            any = true;
            draft = draft.lane(progress, to as i64);
            for (index, sample) in list.iter().enumerate().take(to).skip(from) {
                draft = draft.record(index as i64, sample);
            }
            progress.position = to as i64;
        }
        any.then_some(draft)
    }
}

#[async_trait]
impl Source for Lists {
    async fn next(&mut self) -> Result<Event, Error> {
        if !self.granted {
            self.granted = true;
            return Ok(Event::Granted(self.grants()));
        }
        loop {
            if self.is_stored() {
                return Ok(Event::End);
            }
            if let Some(draft) = self.draft() {
                return Ok(Event::Batch(draft.build()));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn start(&mut self, progress: &Progress) -> Result<(), Error> {
        let partition = progress.name.partition;
        self.stored.insert(partition, progress.position);
        self.started.insert(partition, progress.clone());
        Ok(())
    }

    async fn stop(&mut self, partition: i32) -> Result<(), Error> {
        // Stored records of it may be lost: the next start shows that.
        self.stored.remove(&partition);
        self.started.remove(&partition);
        Ok(())
    }

    fn stored(&mut self, progress: &[Progress]) {
        for progress in progress {
            self.stored.insert(progress.name.partition, progress.position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Listed;

    #[async_trait]
    impl Origin for Listed {
        async fn open(&self) -> Box<dyn Source> {
            let list = |partition: i64| {
                let sample = |index| Sample::new(&format!("{partition}-{index:02}"), 1);
                (0..=10 * partition).map(sample).collect()
            };
            Box::new(Lists::new((0..3).map(list).collect(), fastrand::Rng::with_seed(7)))
        }

        fn positions(&self) -> BTreeMap<i32, Vec<i64>> {
            (0..3).map(|partition| (partition, (0..=10 * i64::from(partition)).collect())).collect()
        }
    }

    #[tokio::test]
    async fn the_source_of_lists_conforms() {
        for (_, case) in CASES {
            case(&Listed).await;
        }
    }
}
