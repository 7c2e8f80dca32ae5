//! A member of the group: the real state and the real batcher, in a shell that does what the
//! flow and the Kafka source do, one step at a time and in any order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use lambda_core::batch::Batch;
use lambda_core::delivery::state::{Action, Generation, Input, State};
use lambda_core::error::{Error, Server};
use lambda_core::outcome::Authority;
use lambda_core::progress::Progress;
use lambda_core::sink::Durability;
use lambda_core::source::{Event, Grant};

use crate::database::{Answer, Checked, Database, Settled, TxId, Writer};
use crate::source::{News, Source, Wish};

/// A claim that the flow waits for.
struct Claiming {
    generation: Generation,
    grant: Grant,
    /// Its answer has arrived, but the flow has not processed it yet.
    answered: bool,
}

/// State of the commit in flight.
enum Commit {
    /// The transaction waits for its lanes.
    Asked(Arc<Batch>, Durability),
    /// It is open, or its answer is in transit.
    Sent(TxId, Arc<Batch>),
    /// Its answer will never come.
    Lost(TxId, Arc<Batch>),
}

/// Failure of a commit that keeps its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    Contended,
    Temporary,
    Slow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    /// Its source ends with what is in the topic.
    Ending,
    Stopping,
    Finished,
}

pub(crate) struct Member {
    writer: Writer,
    state: State,
    source: Source,
    /// Lanes that were released and not claimed again yet.
    unclaimed: BTreeSet<i32>,
    claiming: BTreeMap<i32, Claiming>,
    answers: VecDeque<(Generation, Progress)>,
    commit: Option<Commit>,
    waits: bool,
    asking: Option<Error>,
    /// This member's knowledge of the lanes it reads.
    started: BTreeMap<i32, Progress>,
    /// A commit was cut off, and stored progress was not compared since.
    suspects: bool,
    life: Life,
}

impl Member {
    pub(crate) fn new(database: &mut Database) -> Self {
        Self {
            writer: database.new_writer(),
            state: State::new(Authority::Stream),
            source: Source::new(),
            unclaimed: BTreeSet::new(),
            claiming: BTreeMap::new(),
            answers: VecDeque::new(),
            commit: None,
            waits: false,
            asking: None,
            started: BTreeMap::new(),
            suspects: false,
            life: Life::Running,
        }
    }

    pub(crate) fn hear_of(&mut self, news: News) {
        self.source.inbox.push_back(news);
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.life == Life::Finished
    }

    /// Whether it is idle until the next event.
    pub(crate) fn is_idle(&self) -> bool {
        self.life == Life::Finished
            || (self.commit.is_none()
                && !self.waits
                && self.asking.is_none()
                && self.claiming.is_empty()
                && self.source.is_idle()
                && !self.state.awaits_news())
    }

    /// Its pending work, as text.
    pub(crate) fn doing(&self) -> String {
        let commit = match &self.commit {
            None => "no commit",
            Some(Commit::Asked(..)) => "a commit asked for",
            Some(Commit::Sent(..)) => "a commit sent",
            Some(Commit::Lost(..)) => "a commit lost",
        };
        format!(
            "a member with {commit} and {} claims{}{}{}",
            self.claiming.len(),
            if self.waits { ", waiting" } else { "" },
            if self.asking.is_some() { ", asking" } else { "" },
            if self.life == Life::Finished { ", finished" } else { "" },
        )
    }

    /// The process is gone. Its transaction stays until the server notices.
    pub(crate) fn crash(&mut self, database: &mut Database) {
        if self.life == Life::Stopping {
            database.note("a stop that took too long is given up");
        }
        if let Some(Commit::Sent(id, _)) = &self.commit {
            database.abandon(*id);
        }
        *self = Self::new(database);
    }

    /// The next step without a fault, one at a time.
    pub(crate) fn advance(&mut self, database: &mut Database, count: usize) -> Checked {
        match &self.commit {
            Some(Commit::Asked(..)) => {
                self.begin(database, true);
                return Ok(());
            }
            Some(Commit::Sent(id, _)) if database.is_open(*id) => return self.land(database),
            Some(Commit::Sent(..)) => return self.hear(database, false),
            Some(Commit::Lost(..)) => return self.settle(database),
            None => {}
        }
        if self.waits || self.asking.is_some() {
            return self.retry(database, true);
        }
        // The group's decision may arrive before the answer to a claim.
        let news = !self.source.inbox.is_empty();
        if !self.answers.is_empty() && !news {
            return self.answer(database);
        }
        let unanswered = self.claiming.iter().find(|(_, claiming)| !claiming.answered);
        if let Some(partition) = unanswered.map(|(partition, _)| *partition).filter(|_| !news) {
            return self.claim(database, partition, false);
        }
        self.poll(database, count);
        self.take(database)
    }

    /// Polls as the source's thread does: group events, requests, messages.
    pub(crate) fn poll(&mut self, database: &Database, count: usize) {
        self.source.poll(database, count);
    }

    /// The flow processes the source's events.
    pub(crate) fn take(&mut self, database: &mut Database) -> Checked {
        if !self.state.wants_events() {
            return Ok(());
        }
        let input = match self.source.event() {
            Some(Event::Granted(grants)) => Input::Granted(grants),
            Some(Event::Revoked(partitions)) => return self.revoked(database, partitions),
            Some(Event::Batch(_)) if self.suspects => {
                return Err("a member reads on after a failure without a look".to_owned());
            }
            Some(Event::Batch(batch)) => Input::Batch(batch),
            Some(Event::End) => Input::End,
            None if self.state.awaits_news() => Input::NoNews,
            None if self.life == Life::Ending && self.source.is_exhausted(database) => Input::End,
            None => return Ok(()),
        };
        self.step(database, input)?;
        // It has reported its events, if there were any.
        match self.unclaimed.first() {
            Some(partition) if self.life == Life::Running => {
                Err(format!("partition {partition} was released and is not claimed again"))
            }
            _ => Ok(()),
        }
    }

    fn revoked(&mut self, database: &mut Database, partitions: Vec<i32>) -> Checked {
        for partition in &partitions {
            self.started.remove(partition);
            self.unclaimed.remove(partition);
        }
        self.step(database, Input::Revoked(partitions.clone()))?;
        let goes_on = |partition: &i32| {
            self.claiming.get(partition).is_some_and(|claiming| !claiming.answered)
        };
        match partitions.into_iter().find(goes_on) {
            Some(partition) => {
                Err(format!("partition {partition} is still being claimed, although revoked"))
            }
            None => Ok(()),
        }
    }

    /// Completes a claim in progress; its answer may be lost, and the claim is then
    /// repeated.
    pub(crate) fn claim(&mut self, database: &mut Database, partition: i32, lost: bool) -> Checked {
        let Some(claiming) = self.claiming.get_mut(&partition).filter(|claim| !claim.answered)
        else {
            return Ok(());
        };
        let progress = database.claim(self.writer, &claiming.grant)?;
        if lost {
            database.note("the answer to a claim is lost");
        } else {
            claiming.answered = true;
            self.answers.push_back((claiming.generation, progress));
        }
        Ok(())
    }

    /// The flow processes the answer to a claim.
    pub(crate) fn answer(&mut self, database: &mut Database) -> Checked {
        let Some((generation, progress)) = self.answers.pop_front() else { return Ok(()) };
        let partition = progress.name.partition;
        let wanted = self.claiming.get(&partition).is_some_and(|of| of.generation == generation);
        if wanted {
            self.claiming.remove(&partition);
        } else {
            database.note("a claim is answered after it was given up");
        }
        let actions = self.state.step(Input::Claimed(generation, progress));
        if !wanted && actions.iter().any(|action| matches!(action, Action::Start(_))) {
            return Err(format!("partition {partition} is read by a claim of another grant"));
        }
        self.act(database, actions)
    }

    pub(crate) fn begin(&mut self, database: &mut Database, end: bool) {
        if let Some(Commit::Asked(batch, durability)) = &self.commit
            && let Some(id) = database.begin(self.writer, batch, *durability, end)
        {
            self.commit = Some(Commit::Sent(id, Arc::clone(batch)));
        }
    }

    /// Lets its own transaction land.
    pub(crate) fn land(&mut self, database: &mut Database) -> Checked {
        match &self.commit {
            Some(Commit::Sent(id, _)) => database.land(*id),
            _ => Ok(()),
        }
    }

    /// The flow gets the answer to its commit, or never will.
    pub(crate) fn hear(&mut self, database: &mut Database, lost: bool) -> Checked {
        let Some(Commit::Sent(id, batch)) = &self.commit else { return Ok(()) };
        let (id, batch) = (*id, Arc::clone(batch));
        if lost {
            database.note("the answer to a commit is lost");
            database.abandon(id);
            self.commit = Some(Commit::Lost(id, batch));
            return Ok(());
        }
        let Some(answer) = database.answer(id) else { return Ok(()) };
        self.commit = None;
        let compares = batch.spans().iter().all(|span| span.from == span.to);
        if compares && matches!(answer, Answer::Committed(_)) {
            self.suspects = false;
        }
        let input = match answer {
            Answer::Committed(committed) => Input::Committed(committed),
            Answer::Refused => Input::CommitFailed(refused()),
            Answer::Gone => Input::CommitFailed(unreachable_server()),
        };
        self.step(database, input)
    }

    /// Fails the commit, this many times in a row if it is retried.
    pub(crate) fn fail(
        &mut self,
        database: &mut Database,
        trouble: Trouble,
        times: usize,
    ) -> Checked {
        for _ in 0..times {
            if mem::take(&mut self.waits) {
                self.step(database, Input::Retry)?;
            }
            self.begin(database, true);
            self.fail_once(database, trouble)?;
        }
        Ok(())
    }

    /// Fails the open transaction with an error of the server.
    fn fail_once(&mut self, database: &mut Database, trouble: Trouble) -> Checked {
        let Some(Commit::Sent(id, _)) = &self.commit else { return Ok(()) };
        if !database.end(*id) {
            return Ok(());
        }
        database.answer(*id);
        database.note(format!("{trouble:?}").to_lowercase());
        self.commit = None;
        let error = match trouble {
            Trouble::Contended => Error::Contended { tries: 5 },
            Trouble::Temporary => temporary(),
            Trouble::Slow => Error::Slow { waited: Duration::ZERO, holdup: "a lock".into() },
        };
        self.step(database, Input::CommitFailed(error))
    }

    /// Settles a commit whose answer was lost.
    pub(crate) fn settle(&mut self, database: &mut Database) -> Checked {
        let Some(Commit::Lost(id, batch)) = &self.commit else { return Ok(()) };
        let input = match database.settle(*id, batch)? {
            Settled::Waits => return Ok(()),
            Settled::Committed(committed) => Input::Committed(committed),
            Settled::Failed => Input::CommitFailed(unreachable_server()),
        };
        self.commit = None;
        self.step(database, input)
    }

    /// Ends the delay, or answers the query sent during it.
    pub(crate) fn retry(&mut self, database: &mut Database, answers: bool) -> Checked {
        if let Some(error) = self.asking.take() {
            database.note("asked whether the server answers");
            if answers {
                return self.step(database, Input::Answers(error));
            }
            self.waits = true;
        }
        if !mem::take(&mut self.waits) {
            return Ok(());
        }
        database.note(if self.life == Life::Stopping { "retried in a stop" } else { "retried" });
        self.step(database, Input::Retry)
    }

    pub(crate) fn check(&mut self, database: &mut Database) -> Checked {
        self.step(database, Input::Check)
    }

    /// From now on the source ends at the current end of the topic.
    pub(crate) fn end(&mut self) {
        self.life = Life::Ending;
    }

    pub(crate) fn stop(&mut self, database: &mut Database) -> Checked {
        if matches!(self.life, Life::Stopping | Life::Finished) {
            return Ok(());
        }
        self.life = Life::Stopping;
        for (_, claiming) in self.claiming.extract_if(.., |_, claiming| !claiming.answered) {
            database.give_up(claiming.grant);
        }
        self.step(database, Input::Stop)
    }

    fn step(&mut self, database: &mut Database, input: Input) -> Checked {
        if self.life == Life::Finished {
            return Ok(());
        }
        if let Input::Committed(committed) = &input {
            for progress in &committed.stored {
                if let Some(started) = self.started.get_mut(&progress.name.partition)
                    && started.claim == progress.claim
                {
                    *started = progress.clone();
                }
            }
        }
        self.suspects |= matches!(&input, Input::CommitFailed(Error::Unreachable { .. }));
        let actions = self.state.step(input);
        self.act(database, actions)?;
        self.suspects &= !self.started.is_empty();
        Ok(())
    }

    fn act(&mut self, database: &mut Database, actions: Vec<Action>) -> Checked {
        for action in actions {
            match action {
                Action::Claim(generation, grant) => {
                    self.begin_claim(database, generation, grant)?;
                }
                Action::CancelClaim(partition) => {
                    database.note("a claim is cancelled");
                    self.give_up(database, partition);
                }
                Action::Start(progress) => {
                    let partition = progress.name.partition;
                    self.started.insert(partition, progress.clone());
                    self.source.wishes.insert(partition, Wish::Start(Box::new(progress)));
                }
                Action::Stop(partition) => self.let_go(database, partition)?,
                Action::Commit(batch, durability, _) => {
                    (self.waits, self.asking) = (false, None);
                    self.commit = Some(Commit::Asked(batch, durability));
                }
                Action::Wait(_) => self.waits = true,
                Action::Ask(error) => self.asking = Some(error),
                Action::ResetWaits | Action::Report(_) => {}
                Action::Finish(result) => self.finish(database, result)?,
            }
        }
        Ok(())
    }

    fn begin_claim(
        &mut self,
        database: &mut Database,
        generation: Generation,
        grant: Grant,
    ) -> Checked {
        let partition = grant.name.partition;
        if !self.source.holds.get(&partition).is_some_and(|hold| hold.told) {
            return Err(format!("partition {partition} is claimed, although it was revoked"));
        }
        self.give_up(database, partition);
        self.unclaimed.remove(&partition);
        self.claiming.insert(partition, Claiming { generation, grant, answered: false });
        Ok(())
    }

    fn give_up(&mut self, database: &mut Database, partition: i32) {
        let former = self.claiming.remove(&partition).filter(|claiming| !claiming.answered);
        if let Some(claiming) = former {
            database.give_up(claiming.grant);
        }
    }

    /// Releasing a lane costs a claim, so there must be a reason: another process holds it, or
    /// its position is not the expected one.
    fn let_go(&mut self, database: &mut Database, partition: i32) -> Checked {
        database.note("a lane is released");
        self.unclaimed.insert(partition);
        self.source.batcher.drop_partition(partition);
        self.source.wishes.insert(partition, Wish::Stop);
        let Some(thought) = self.started.remove(&partition) else { return Ok(()) };
        let stored = database.progress(thought.lane);
        if stored
            .is_some_and(|lane| (lane.claim, lane.position) == (thought.claim, thought.position))
        {
            return Err(format!("partition {partition} is released, although it is held"));
        }
        Ok(())
    }

    fn finish(&mut self, database: &mut Database, result: Result<(), Error>) -> Checked {
        let stopped = mem::replace(&mut self.life, Life::Finished) == Life::Stopping;
        result.map_err(|error| format!("a member ends by itself: {error}"))?;
        database.note(if stopped { "drained" } else { "ended" });
        self.drained(database, stopped)
    }

    /// Checks that no crash can lose anything of the lanes that it took and kept, and that
    /// these are read to their ends unless it was stopped.
    fn drained(&self, database: &Database, stopped: bool) -> Checked {
        let lanes = self.source.holds.keys().filter_map(|held| database.of_partition(*held));
        for lane in lanes.filter(|lane| database.is_held_by(self.writer, lane.lane)) {
            if self.started.contains_key(&lane.name.partition) && !database.is_durable(lane.lane) {
                return Err(format!("{} is drained, and could still be lost", lane.lane));
            }
            if !stopped && lane.position != database.log(lane.name.partition).end {
                return Err(format!("a member ends before the end of {}", lane.lane));
            }
        }
        Ok(())
    }
}

fn refused() -> Error {
    let (code, object) = ("23514".into(), "samples_check".into());
    Error::Refused { code, object, source: "no".into() }
}

fn unreachable_server() -> Error {
    Error::Unreachable { server: Server::Postgres, source: "gone".into() }
}

fn temporary() -> Error {
    let (what, remedy) = ("store a batch", "wait");
    Error::Temporary { server: Server::Postgres, what, remedy, source: "busy".into() }
}
