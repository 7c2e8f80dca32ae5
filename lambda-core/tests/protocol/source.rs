//! The Kafka source without Kafka: polls the group's events and the flow's requests, around
//! the real batcher.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;

use lambda_core::delivery::batcher::{Batcher, Limits, Received, Start};
use lambda_core::progress::Progress;
use lambda_core::source::{Event, Grant};
use lambda_core::testing::draft::SAMPLES;

use crate::database::{Database, name};

/// A partition that the group has assigned to this member.
#[derive(Default)]
pub(crate) struct Hold {
    /// Whether the flow knows about it.
    pub(crate) told: bool,
    /// The offset to be fetched next, once it is read.
    next: Option<i64>,
}

pub(crate) enum Wish {
    Start(Box<Progress>),
    Stop,
}

/// An event of the group; received when the member polls.
#[derive(Debug, Clone, Copy)]
pub(crate) enum News {
    Granted(i32),
    Revoked(i32),
}

/// The source; see the module.
pub(crate) struct Source {
    pub(crate) inbox: VecDeque<News>,
    pub(crate) holds: BTreeMap<i32, Hold>,
    /// Revoked partitions that the flow does not know about yet.
    revoked: BTreeSet<i32>,
    pub(crate) wishes: BTreeMap<i32, Wish>,
    pub(crate) batcher: Batcher,
}

impl Source {
    pub(crate) fn new() -> Self {
        Self {
            inbox: VecDeque::new(),
            holds: BTreeMap::new(),
            revoked: BTreeSet::new(),
            wishes: BTreeMap::new(),
            batcher: Batcher::new(SAMPLES.clone(), Limits::default()),
        }
    }

    pub(crate) fn poll(&mut self, database: &Database, count: usize) {
        while let Some(news) = self.inbox.pop_front() {
            match news {
                News::Granted(partition) => {
                    self.holds.entry(partition).or_default();
                }
                News::Revoked(partition) => {
                    self.batcher.drop_partition(partition);
                    self.wishes.remove(&partition);
                    if self.holds.remove(&partition).is_some_and(|hold| hold.told) {
                        self.revoked.insert(partition);
                    }
                }
            }
        }
        for (partition, wish) in mem::take(&mut self.wishes) {
            let Some(hold) = self.holds.get_mut(&partition).filter(|hold| hold.told) else {
                continue;
            };
            match wish {
                Wish::Stop => hold.next = None,
                Wish::Start(progress) => {
                    let Some(claim) = progress.claim else { continue };
                    let Progress { lane: id, position, last, counts, .. } = *progress;
                    let start = Start { id, claim, from: position, last, expected: true, counts };
                    self.batcher.start(partition, start);
                    // A broker may return a few earlier messages.
                    let from = last.map_or(position, |last| last.position);
                    hold.next = Some((from - database.before).max(0));
                }
            }
        }
        for (partition, hold) in &mut self.holds {
            if let Some(next) = &mut hold.next {
                fetch(&mut self.batcher, database, *partition, next, count);
            }
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.inbox.is_empty()
            && self.revoked.is_empty()
            && self.holds.values().all(|hold| hold.told)
            && self.wishes.is_empty()
            && self.batcher.is_empty()
    }

    /// Whether all of its partitions are read to their ends.
    pub(crate) fn is_exhausted(&self, database: &Database) -> bool {
        let mut holds = self.holds.iter();
        self.is_idle()
            && holds.all(|(partition, hold)| hold.next == Some(database.log(*partition).end))
    }

    pub(crate) fn event(&mut self) -> Option<Event> {
        if !self.revoked.is_empty() {
            return Some(Event::Revoked(mem::take(&mut self.revoked).into_iter().collect()));
        }
        let mut grants = Vec::new();
        for (partition, hold) in self.holds.iter_mut().filter(|(_, hold)| !hold.told) {
            hold.told = true;
            grants.push(Grant { name: name(*partition), first_position: 0.into(), given_up: None });
        }
        if !grants.is_empty() {
            return Some(Event::Granted(grants));
        }
        self.batcher.take().map(Event::Batch)
    }
}

fn fetch(batcher: &mut Batcher, database: &Database, partition: i32, next: &mut i64, count: usize) {
    let log = database.log(partition);
    for entry in log.records.iter().filter(|entry| entry.position >= *next).take(count) {
        let (key, timestamp_ms, payload) = (None, 0, Some(&entry.payload[..]));
        let position = entry.position;
        batcher.push(&Received { partition, position, timestamp_ms, key, payload, headers: &[] });
    }
    let rest = log.records.iter().filter(|entry| entry.position >= *next).nth(count);
    *next = rest.map_or(log.end, |entry| entry.position);
    if rest.is_none() {
        batcher.advance(partition, log.end);
    }
}
