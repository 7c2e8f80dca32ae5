//! A source of fixed lists.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::error::Error;
use crate::outcome::Authority;
use crate::progress::{LaneName, Progress};
use crate::source::{Event, Grant, Source};
use crate::testing::draft::{Draft, SAMPLES, Sample};

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
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
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
