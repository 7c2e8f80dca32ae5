//! The next step of a flow: a pure function of its state and an event.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::{Batch, Span};
use crate::delivery::bisect::{Parts, Refusals, take_apart};
use crate::error::{Error, Kind};
use crate::failpoint::{Protection, off};
use crate::outcome::Authority;
use crate::progress::{LaneId, Progress};
use crate::sink::{Committed, Durability};
use crate::source::Grant;

/// Number of equal failures of one batch, on a server that answers, after which it is
/// halved: part of it may be the cause.
const EQUAL_FAILURES_MAX: u32 = 3;

/// Time that a commit which can be halved may take while the server answers.
const COMMIT_PATIENCE: Duration = Duration::from_mins(1);

/// Limit on doubling that time: it then exceeds a day.
const DOUBLINGS_MAX: u32 = 11;

/// Distinguishes grants of the same partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u64);

/// An event.
#[derive(Debug)]
pub enum Input {
    /// The source may read these lanes once they are claimed.
    Granted(Vec<Grant>),
    /// A claim succeeded.
    Claimed(Generation, Progress),
    /// The source yielded records.
    Batch(Batch),
    /// The source lost these partitions.
    Revoked(Vec<i32>),
    /// The source has no news at present ([`State::awaits_news`]).
    NoNews,
    /// The commit in flight succeeded.
    Committed(Committed),
    /// The commit in flight failed; nothing of it was stored.
    CommitFailed(Error),
    /// The delay before the next attempt is over.
    Retry,
    /// The server answers other questions, while a commit keeps failing in this way.
    Answers(Error),
    /// Time to compare memory with what is stored.
    Check,
    /// The source has no more records.
    End,
    /// A stop was requested.
    Stop,
}

/// A step for the flow to run.
#[derive(Debug)]
pub enum Action {
    /// Claim the lane, for as long as it takes; then give [`Input::Claimed`].
    Claim(Generation, Grant),
    /// Cancel the claim under way.
    CancelClaim(i32),
    /// Let the source read from this position.
    Start(Progress),
    /// Let the source stop reading, and drop what it buffers of the partition.
    Stop(i32),
    /// Commit; then give [`Input::Committed`] or [`Input::CommitFailed`]. With a time: fail
    /// with [`Error::Slow`] if the server answers and has not finished by then.
    Commit(Arc<Batch>, Durability, Option<Duration>),
    /// Wait, longer each time; then give [`Input::Retry`].
    Wait(Error),
    /// Send the server another query: give [`Input::Answers`] if it answers; if not, do as
    /// for [`Action::Wait`].
    Ask(Error),
    /// A commit or claim worked: the next delay is short again.
    ResetWaits,
    /// Report stored positions to the source.
    Report(Vec<Progress>),
    /// End with this result.
    Finish(Result<(), Error>),
}

/// A lane that the source was granted.
#[derive(Debug)]
struct Lane {
    generation: Generation,
    grant: Grant,
    stage: Stage,
}

/// Stage of a lane.
#[derive(Debug)]
enum Stage {
    /// It was fenced. It is claimed again, unless the source reports that it is gone.
    LetGo(LaneId),
    /// A claim is under way.
    Claiming,
    /// It is being read; this much of it is stored.
    Started(Box<Progress>),
}

impl Lane {
    fn number(&self) -> Option<LaneId> {
        match &self.stage {
            Stage::LetGo(number) => Some(*number),
            Stage::Claiming => None,
            Stage::Started(progress) => Some(progress.lane),
        }
    }

    fn started(&self) -> Option<&Progress> {
        match &self.stage {
            Stage::Started(progress) => Some(progress),
            Stage::LetGo(_) | Stage::Claiming => None,
        }
    }
}

/// The state of a flow.
#[derive(Debug)]
pub struct State {
    authority: Authority,
    lanes: BTreeMap<i32, Lane>,
    next_generation: u64,
    /// The rest of the current batch, in order; the first piece is being committed.
    pieces: VecDeque<Arc<Batch>>,
    failures: Failures,
    pace: Pace,
    refusals: Refusals,
    /// The commit failed and waits for its next attempt.
    waiting: bool,
    phase: Phase,
    /// The drain's last commit is in flight.
    draining: bool,
    /// A check became due during a batch.
    check_due: bool,
}

/// Whether more records may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// The source has ended: the current batch is stored, for as long as it takes.
    Ending,
    /// The process is stopping: what cannot be stored soon is left to the next one.
    Stopping,
}

/// Consecutive failures of the piece being committed.
#[derive(Debug, Default)]
struct Failures {
    last: String,
    equal: u32,
    any: bool,
}

/// Time that commits may take before they are halved.
#[derive(Debug)]
struct Pace {
    patience: Duration,
    /// Number of doublings. A commit that is slow whatever its size, as on a slow
    /// disk, is halved a few times and then gets the time it needs.
    doublings: u32,
    /// Whether a piece of the current batch was too slow.
    slow: bool,
}

impl Pace {
    /// Time for `piece`. One that cannot be halved has no limit.
    fn of(&self, piece: &Batch) -> Option<Duration> {
        let halvable = piece.entries().len() > 1;
        halvable.then(|| self.patience.saturating_mul(1 << self.doublings))
    }

    fn too_slow(&mut self) {
        self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
        self.slow = true;
    }

    /// Notes that all of a batch is stored.
    fn batch_done(&mut self) {
        if !mem::take(&mut self.slow) {
            self.doublings = self.doublings.saturating_sub(1);
        }
    }
}

impl State {
    /// Creates a flow without lanes, for records of `authority`.
    pub fn new(authority: Authority) -> Self {
        Self {
            authority,
            lanes: BTreeMap::new(),
            next_generation: 0,
            pieces: VecDeque::new(),
            failures: Failures::default(),
            pace: Pace { patience: COMMIT_PATIENCE, doublings: 0, slow: false },
            refusals: Refusals::default(),
            waiting: false,
            phase: Phase::Running,
            draining: false,
            check_due: false,
        }
    }

    /// Sets another time after which a commit is halved for the first time.
    #[must_use]
    pub fn halving_after(mut self, patience: Duration) -> Self {
        self.pace.patience = patience;
        self
    }

    /// Whether a batch may be taken from the source: none is in progress.
    pub fn wants_events(&self) -> bool {
        self.pieces.is_empty() && self.phase == Phase::Running
    }

    /// Whether it matters that the source has no news: a fenced lane is then still granted.
    pub fn awaits_news(&self) -> bool {
        let let_go = |lane: &Lane| matches!(lane.stage, Stage::LetGo(_));
        self.wants_events() && self.lanes.values().any(let_go)
    }

    /// Applies one input; returns the actions to run, in order.
    pub fn step(&mut self, input: Input) -> Vec<Action> {
        match input {
            Input::Granted(grants) => {
                let mut actions = self.granted(grants);
                actions.extend(self.claim_anew());
                actions
            }
            Input::Claimed(generation, progress) => self.claimed(generation, progress),
            Input::Batch(batch) => {
                let mut actions = self.claim_anew();
                self.pieces.push_back(Arc::new(batch));
                actions.extend(self.commit_next());
                actions
            }
            Input::Revoked(partitions) => {
                let mut actions = self.revoked(&partitions);
                actions.extend(self.claim_anew());
                actions
            }
            Input::NoNews => self.claim_anew(),
            Input::Committed(committed) => self.committed(committed),
            Input::CommitFailed(error) => self.commit_failed(error),
            Input::Retry if self.waiting => self.commit_next(),
            Input::Answers(error) if self.waiting => self.halve_or_wait(error),
            Input::Check if self.wants_events() => self.check(),
            Input::Check => {
                self.check_due = true;
                Vec::new()
            }
            Input::Retry | Input::Answers(_) => Vec::new(),
            Input::End => {
                self.phase = Phase::Ending;
                self.commit_next()
            }
            Input::Stop => self.stop(),
        }
    }

    fn stop(&mut self) -> Vec<Action> {
        self.phase = Phase::Stopping;
        // A batch that waits for its next attempt is tried once more at once.
        if self.pieces.is_empty() || self.waiting { self.commit_next() } else { Vec::new() }
    }

    fn granted(&mut self, grants: Vec<Grant>) -> Vec<Action> {
        grants.into_iter().map(|grant| self.claim(grant)).collect()
    }

    fn claim(&mut self, grant: Grant) -> Action {
        let generation = Generation(self.next_generation);
        self.next_generation += 1;
        let lane = Lane { generation, grant: grant.clone(), stage: Stage::Claiming };
        self.lanes.insert(grant.name.partition, lane);
        Action::Claim(generation, grant)
    }

    fn claimed(&mut self, generation: Generation, progress: Progress) -> Vec<Action> {
        match self.lanes.get_mut(&progress.name.partition) {
            Some(lane) if lane.generation == generation || off(Protection::Generation) => {
                lane.stage = Stage::Started(Box::new(progress.clone()));
                vec![Action::Start(progress)]
            }
            // Revoked in the meantime, and perhaps granted again.
            _ => Vec::new(),
        }
    }

    fn revoked(&mut self, partitions: &[i32]) -> Vec<Action> {
        let lost = partitions.iter().filter_map(|partition| self.lanes.remove(partition));
        lost.filter(|lane| matches!(lane.stage, Stage::Claiming))
            .map(|lane| Action::CancelClaim(lane.grant.name.partition))
            .collect()
    }

    fn commit_next(&mut self) -> Vec<Action> {
        self.waiting = false;
        match self.pieces.front() {
            Some(piece) => {
                let patience = self.pace.of(piece);
                vec![Action::Commit(Arc::clone(piece), self.durability(), patience)]
            }
            None if self.phase != Phase::Running => self.drain(),
            None => Vec::new(),
        }
    }

    fn durability(&self) -> Durability {
        let durable = self.draining && !off(Protection::DurableDrain);
        if durable { Durability::Durable } else { Durability::Visible }
    }

    fn committed(&mut self, committed: Committed) -> Vec<Action> {
        let mut actions = vec![Action::ResetWaits];
        let failed = mem::take(&mut self.failures).any;
        let recovered = failed && !off(Protection::CheckAfterFailure);
        if let Some(piece) = self.pieces.pop_front() {
            self.refusals.note(piece.rows_count() as u64, false);
        }
        if self.pieces.is_empty() {
            self.pace.batch_done();
        }
        for progress in &committed.stored {
            if let Some(lane) = self.lanes.get_mut(&progress.name.partition)
                && lane.started().is_some_and(|started| started.claim == progress.claim)
            {
                lane.stage = Stage::Started(Box::new(progress.clone()));
            }
        }
        for fenced in &committed.fenced {
            let mut lanes = self.lanes.iter();
            let held = lanes.find(|(_, lane)| lane.number() == Some(*fenced));
            match held.map(|(partition, lane)| (*partition, &lane.stage)) {
                Some(_) if self.phase == Phase::Stopping => {}
                // The rest of the current batch, of a lane that was let go before.
                Some((_, Stage::LetGo(_))) => {}
                Some((partition, _)) => {
                    // A source that has ended reads lost records again.
                    (self.phase, self.draining) = (Phase::Running, false);
                    actions.extend(self.let_go(partition, *fenced));
                }
                // A lane of a batch in flight when it was revoked: nothing to let go.
                None if self.authority == Authority::Stream => {}
                // Another run took over the job.
                None => {
                    let what = fenced.to_string();
                    actions.push(Action::Finish(Err(Error::Fenced { what })));
                    return actions;
                }
            }
        }
        actions.push(Action::Report(committed.stored));
        if self.draining {
            actions.push(Action::Finish(Ok(())));
        } else if (recovered || self.check_due) && self.pieces.is_empty() {
            actions.extend(self.check());
        } else {
            self.failures.any = recovered;
            actions.extend(self.commit_next());
        }
        actions
    }

    /// Lets go of a lane that another process holds, or whose stored position is not the
    /// expected one. Drops its buffers, and claims it again if it is still granted
    /// (rule R9, docs/protocol.md). The rest of it in the current batch is fenced too, before the
    /// new claim starts.
    fn let_go(&mut self, partition: i32, number: LaneId) -> Vec<Action> {
        let Some(lane) = self.lanes.get_mut(&partition) else { return Vec::new() };
        lane.stage = Stage::LetGo(number);
        let mut actions = vec![Action::Stop(partition)];
        if off(Protection::NewsBeforeClaim) {
            actions.extend(self.claim_anew());
        }
        actions
    }

    /// Claims the lanes that were let go, after the source was asked: it reports
    /// revocations first, and a process that now holds a revoked lane must not lose it
    /// again.
    fn claim_anew(&mut self) -> Vec<Action> {
        let let_go = self.lanes.values().filter(|lane| matches!(lane.stage, Stage::LetGo(_)));
        let grants = let_go.map(|lane| lane.grant.clone()).collect();
        self.granted(grants)
    }

    fn commit_failed(&mut self, error: Error) -> Vec<Action> {
        self.failures.any = true;
        match error {
            Error::Refused { code, object, .. } => self.refused(&code, &object),
            Error::Contended { .. } => self.halve_or_wait(error),
            Error::Slow { .. } => {
                self.pace.too_slow();
                self.halve_or_wait(error)
            }
            // Partitions are locked in an order that is not the keys', so smaller batches meet
            // each other too.
            Error::Deadlock { .. } => self.wait(error),
            error if error.kind() == Kind::Transient => self.commit_stalled(error),
            error => vec![Action::Finish(Err(error))],
        }
    }

    /// Handles a failed commit, in a stop too: the connection may have broken while it was
    /// idle. The flow decides how long that may take.
    fn commit_stalled(&mut self, error: Error) -> Vec<Action> {
        let text = error.to_string();
        self.failures.equal = if self.failures.last == text { self.failures.equal + 1 } else { 1 };
        self.failures.last = text;
        if self.failures.equal < EQUAL_FAILURES_MAX {
            return self.wait(error);
        }
        self.failures.equal = 0;
        self.waiting = true;
        vec![Action::Ask(error)]
    }

    fn wait(&mut self, error: Error) -> Vec<Action> {
        self.waiting = true;
        vec![Action::Wait(error)]
    }

    fn refused(&mut self, code: &str, object: &str) -> Vec<Action> {
        let Some(piece) = self.pieces.pop_front() else { return Vec::new() };
        match take_apart(Arc::unwrap_or_clone(piece), code, object) {
            Parts::Halves(halves) => self.put_halves(*halves),
            Parts::Rejected(piece) => {
                self.refusals.note(1, true);
                if let Err(error) = self.refusals.check(code, object) {
                    return vec![Action::Finish(Err(error))];
                }
                self.pieces.push_front(Arc::from(piece));
            }
            Parts::Nothing => {
                return vec![Action::Finish(Err(Error::misconfigured(
                    format!("the database refused progress or a dead letter: {code} {object}"),
                    "look for rules added to ingest_progress and dead_letters, and for a lane whose \
                     position was set back over its dead letters",
                )))];
            }
        }
        self.commit_next()
    }

    fn halve_or_wait(&mut self, error: Error) -> Vec<Action> {
        let Some(piece) = self.pieces.pop_front() else { return Vec::new() };
        if let Some(halves) = piece.halves() {
            self.put_halves(halves);
            self.commit_next()
        } else {
            self.pieces.push_front(piece);
            self.wait(error)
        }
    }

    fn put_halves(&mut self, (first, second): (Batch, Batch)) {
        self.failures.equal = 0;
        self.pieces.push_front(Arc::new(second));
        self.pieces.push_front(Arc::new(first));
    }

    /// Compares stored positions with memory by an empty commit: lanes that differ come
    /// back as fenced (rule R9, docs/protocol.md). A crash of the database may have lost
    /// commits that were only visible. The commit also shows other groups that this one is
    /// alive (rule R16).
    fn check(&mut self) -> Vec<Action> {
        self.check_due = false;
        if !off(Protection::Check) {
            self.pieces.extend(self.nothing());
        }
        self.commit_next()
    }

    /// Makes everything before it durable by a last commit. It writes a progress row, since
    /// a commit that wrote nothing would not wait for the disk (rule R5, docs/protocol.md).
    fn drain(&mut self) -> Vec<Action> {
        let Some(last) = self.nothing() else { return vec![Action::Finish(Ok(()))] };
        self.draining = true;
        self.pieces.push_back(last);
        self.commit_next()
    }

    /// A batch that leaves all started lanes where they are.
    fn nothing(&self) -> Option<Arc<Batch>> {
        let stay = |progress: &Progress| {
            Some(Span {
                lane: progress.lane,
                partition: progress.name.partition,
                claim: progress.claim?,
                from: progress.position,
                to: progress.position,
                last: None,
            })
        };
        let lanes = self.lanes.values().filter_map(Lane::started);
        let spans: Vec<Span> = lanes.filter_map(stay).collect();
        let empty = Arc::default;
        (!spans.is_empty())
            .then(|| Arc::new(Batch::new(self.authority, spans, Vec::new(), empty(), empty())))
    }
}
