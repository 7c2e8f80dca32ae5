//! State shared by the poll thread and the flow's task: the batcher, the assignment, and
//! their requests to each other. All of it is bounded: by the batcher's limits, or by the
//! number of partitions (rule R25, docs/protocol.md).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::batch::Batch;
use crate::delivery::batcher::Batcher;
use crate::error::Error;
use crate::health::Need;
use crate::kafka::rebalance::{Assignment, News};
use crate::metrics::Lag;
use crate::progress::Progress;

/// A request of the flow to the poll thread, at most one for each partition: the latest
/// wins.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// Read it from this position.
    Start(Box<Progress>),
    /// Stop reading it.
    Stop,
}

/// Reason to check the source before more is read from it, the gravest last (rule R18,
/// docs/protocol.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Recheck {
    /// A batch of messages could not be read, in a partition that was not named.
    Unreadable,
    /// The topic may be another one of the same name.
    Topic,
    /// The brokers may be another cluster's.
    Cluster,
}

/// Output of the poll thread for the flow.
#[derive(Debug)]
pub(super) enum Yield {
    News(News),
    Batch(Batch),
    Failed(Error),
    /// The thread has ended.
    Ended,
}

/// A lane that the flow has claimed, for lag and monitoring.
#[derive(Debug)]
pub(super) struct HeldLane {
    /// Position up to which it is stored.
    pub(super) position: i64,
    pub(super) lag: Lag,
}

/// State behind the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) assignment: Assignment,
    pub(super) batcher: Batcher,
    pub(super) commands: BTreeMap<i32, Command>,
    /// Lanes to read from their stored positions.
    pub(super) starting: BTreeMap<i32, Progress>,
    /// Reason why nothing is read at present.
    pub(super) recheck: Option<Recheck>,
    /// The partitions with unread messages, as librdkafka reported last.
    pub(super) behind: Option<BTreeSet<i32>>,
    /// Partitions with unread messages that have delivered none for long.
    pub(super) unread: Vec<i32>,
    /// Stored positions that are not committed to Kafka yet.
    pub(super) stored: BTreeMap<i32, i64>,
    /// The lanes held, by partition.
    pub(super) lanes: BTreeMap<i32, HeldLane>,
    /// `<cluster id>/<topic>`, once known.
    pub(super) source: Option<String>,
    failure: Option<Error>,
    closing: bool,
    ended: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Missing while the brokers cannot be read from.
    pub(super) kafka: Need,
    /// Signals output for the flow.
    news: Notify,
    /// Signals input for the poll thread: room, a command, or the end.
    wake: Condvar,
}

impl State {
    /// Forgets everything about a partition that is no longer read, or is read again.
    pub(super) fn forget(&mut self, partition: i32) {
        self.batcher.drop_partition(partition);
        self.commands.remove(&partition);
        self.starting.remove(&partition);
        self.stored.remove(&partition);
        self.lanes.remove(&partition);
    }

    /// Whether some of what was read is not stored yet.
    pub(super) fn has_unstored(&self) -> bool {
        let unstored = |(partition, lane): (&i32, &HeldLane)| {
            self.batcher.position(*partition).is_some_and(|next| lane.position < next)
        };
        !self.batcher.is_empty() || self.lanes.iter().any(unstored)
    }

    /// Handles the loss of the consumer that held all partitions.
    pub(super) fn lost(&mut self) {
        self.assignment.lost();
        self.lanes.clear();
    }
}

impl Shared {
    pub(super) fn new(batcher: Batcher, kafka: Need) -> Self {
        Self {
            kafka,
            state: Mutex::new(State {
                assignment: Assignment::default(),
                batcher,
                commands: BTreeMap::new(),
                starting: BTreeMap::new(),
                recheck: None,
                behind: None,
                unread: Vec::new(),
                stored: BTreeMap::new(),
                lanes: BTreeMap::new(),
                source: None,
                failure: None,
                closing: false,
                ended: false,
            }),
            news: Notify::new(),
            wake: Condvar::new(),
        }
    }

    /// Locks the state. A panic under the lock would be a bug of ours, and the state is
    /// still whole: every change to it is one assignment or one call.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signals output to the flow.
    pub(super) fn notify(&self) {
        self.news.notify_one();
    }

    /// Waits for [`Shared::notify`], or returns if it was called since the last wait.
    pub(super) async fn notified(&self) {
        self.news.notified().await;
    }

    /// The next output for the flow, most urgent first.
    pub(super) fn next(&self) -> Option<Yield> {
        let mut state = self.lock();
        if let Some(error) = state.failure.take() {
            return Some(Yield::Failed(error));
        }
        if let Some(news) = state.assignment.news() {
            return Some(Yield::News(news));
        }
        if let Some(batch) = state.batcher.take() {
            self.wake.notify_all();
            return Some(Yield::Batch(batch));
        }
        state.ended.then_some(Yield::Ended)
    }

    /// Asks the poll thread to do something about a partition.
    pub(super) fn command(&self, partition: i32, command: Command) {
        let mut state = self.lock();
        match &command {
            Command::Stop => {
                state.batcher.drop_partition(partition);
                state.lanes.remove(&partition);
            }
            Command::Start(progress) if state.assignment.holds(partition) => {
                let lane = HeldLane { position: progress.position, lag: Lag::of(&progress.name) };
                state.lanes.insert(partition, lane);
            }
            Command::Start(_) => {}
        }
        state.commands.insert(partition, command);
        self.wake.notify_all();
    }

    /// Stops all reading until the poll thread has made the check. Returns whether
    /// there was none before.
    pub(super) fn recheck(&self, recheck: Recheck) -> bool {
        let mut state = self.lock();
        let first = state.recheck.is_none();
        state.recheck = state.recheck.max(Some(recheck));
        first
    }

    /// Passes an error to the flow; keeps the first one.
    pub(super) fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.notify();
    }

    /// Asks the poll thread to end.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_all();
    }

    pub(super) fn closing(&self) -> bool {
        self.lock().closing
    }

    /// Notes that the poll thread has ended.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.notify();
    }

    /// Lets the poll thread check whether the batcher has room again.
    pub(super) fn made_room(&self) {
        self.wake.notify_all();
    }

    /// Waits, for at most `patience`, while the batcher is full and there are no commands.
    /// Returns whether it is still full.
    pub(super) fn wait_for_room(&self, patience: Duration) -> bool {
        let full = |state: &mut State| {
            state.batcher.is_full() && state.commands.is_empty() && !state.closing
        };
        let waited = self.wake.wait_timeout_while(self.lock(), patience, full);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.batcher.is_full()
    }

    /// Waits for the request to end, for at most `patience`. Returns whether it came.
    pub(super) fn wait_for_close(&self, patience: Duration) -> bool {
        let waited = self.wake.wait_timeout_while(self.lock(), patience, |state| !state.closing);
        waited.unwrap_or_else(PoisonError::into_inner).0.closing
    }
}
