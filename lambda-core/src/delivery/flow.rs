//! Joins a source and a sink: the thin shell that does what
//! [`State`] decides. One commit is in flight at a time; while it is, the source
//! gathers and decodes the next batch, so that batches grow with the load (R24).

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::delivery::retry::Backoff;
use crate::delivery::state::{Action, Generation, Input, State};
use crate::error::{Error, Kind, Server};
use crate::health::{Health, Need, Pulse};
use crate::metrics::{self, Outcomes, Retry};
use crate::outcome::Authority;
use crate::progress::Progress;
use crate::record::Table;
use crate::sink::{ClaimRequest, Committed, Sink};
use crate::source::{Event, Grant, Source};

/// How often an idle flow compares what is stored with what it thinks (R9), and one
/// that waits for a commit shows that it lives.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// How many claims go on at once.
const CLAIMS_AT_ONCE: usize = 4;

/// How long a flow that is to stop waits for the commit in flight and the last one,
/// and then for the server to say that it answers: together well within the 30 s that
/// Kubernetes gives a process.
const STOP_PATIENCE: Duration = Duration::from_secs(12);
const STOP_ANSWER: Duration = Duration::from_secs(3);

/// Who a flow is, and how long it waits.
#[derive(Debug, Clone)]
pub struct FlowConfig {
    /// Whose word the records are.
    pub authority: Authority,
    /// Where they go.
    pub table: &'static Table,
    /// Written beside claims, for people.
    pub owner: String,
    /// The consumer group (R16).
    pub group: Option<String>,
    /// Claim even over another active group, but take no lane back from one that
    /// has taken it over from this flow: two groups that both may would fight for
    /// ever.
    pub take_over: bool,
    /// How long to go on trying while the server does not answer; `None`: without end.
    pub patience: Option<Duration>,
    /// Is told that the flow moves, and whether the sink takes what it is given.
    pub health: Health,
    /// Counts what becomes of records. A source that grants no lanes, since it holds
    /// them already, has told it where they stand.
    pub outcomes: Outcomes,
}

type Commit = Pin<Box<dyn Future<Output = Result<Committed, Error>> + Send>>;
type Claim = (Generation, Result<Progress, Error>);
/// Why it is asked whether the server answers, and whether it does.
type Asked = Pin<Box<dyn Future<Output = (Why, bool)> + Send>>;
/// How a flow ends whose time to stop is over.
type Giving = Pin<Box<dyn Future<Output = Error> + Send>>;

/// Why a flow asks whether the server answers.
enum Why {
    /// A commit keeps failing like this: its halves may not.
    Halving(Error),
    /// Patience with commits that fail like this is over.
    Patience(Error),
    /// Patience with the commit in flight is over.
    InFlight,
}

/// A source, a sink, and what is going on between them.
pub struct Flow<S> {
    config: FlowConfig,
    source: S,
    sink: Arc<dyn Sink>,
    state: State,
    commit: Option<Commit>,
    /// When it is asked whether the server of the commit in flight answers.
    give_up_at: Option<Instant>,
    claims: JoinSet<Claim>,
    claiming: HashMap<i32, (Generation, AbortHandle)>,
    /// Partitions whose lanes were held before.
    held: HashSet<i32>,
    /// Claims go on a few at a time, each on connections of its own.
    claim_permits: Arc<Semaphore>,
    backoff: Backoff,
    /// When to try the commit again.
    retry_at: Option<Instant>,
    /// When to ask a source again that has stalled.
    source_at: Option<Instant>,
    /// A question that shows whether the server answers.
    asking: Option<Asked>,
    /// Why the last commit failed, until one succeeds.
    failed: Option<Error>,
    /// The stop takes too long: what the server has to say to that.
    giving_up: Option<Giving>,
    /// Since when nothing has succeeded, and the server has not answered.
    stalled_since: Option<Instant>,
    pulse: Pulse,
    /// The sink: missing while it takes nothing.
    sink_need: Need,
    result: Option<Result<(), Error>>,
}

impl<S: std::fmt::Debug> std::fmt::Debug for Flow<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow")
            .field("config", &self.config)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl<S: Source> Flow<S> {
    /// Joins `source` and `sink`.
    pub fn new(config: FlowConfig, source: S, sink: Arc<dyn Sink>) -> Self {
        let (pulse, sink_need) = (config.health.pulse("the flow"), config.health.need("the sink"));
        sink_need.met();
        Self {
            state: State::new(config.authority, config.table),
            config,
            source,
            sink,
            commit: None,
            give_up_at: None,
            claims: JoinSet::new(),
            claiming: HashMap::new(),
            held: HashSet::new(),
            claim_permits: Arc::new(Semaphore::new(CLAIMS_AT_ONCE)),
            backoff: Backoff::default(),
            retry_at: None,
            source_at: None,
            asking: None,
            failed: None,
            giving_up: None,
            stalled_since: None,
            pulse,
            sink_need,
            result: None,
        }
    }

    /// Halves a commit that takes longer than `patience`, for the first time, instead
    /// of a minute.
    #[must_use]
    pub fn halving_after(mut self, patience: Duration) -> Self {
        self.state = self.state.halving_after(patience);
        self
    }

    /// Runs until the source ends or `stop` becomes true; then finishes the
    /// commit in flight and makes everything durable. Gives the source back, for
    /// what it has counted.
    ///
    /// # Errors
    /// `Fatal`; `Fenced` when a job was taken over; `Transient` only when patience
    /// is over; [`Error::Interrupted`] when a commit took longer than a stop may, on a
    /// server that answers. Everything committed before stays.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> (S, Result<(), Error>) {
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.reset();
        // When a flow that is to stop gives up, whatever it is at.
        let mut stop_by = None;
        loop {
            self.pulse.beat();
            if let Some(result) = self.result.take() {
                return (self.source, result);
            }
            tokio::select! {
                biased;
                () = stopped(&mut stop), if stop_by.is_none() => {
                    stop_by = Some(Instant::now() + STOP_PATIENCE);
                    self.claims.abort_all();
                    self.backoff.reset();
                    self.take(Input::Stop).await;
                }
                done = wait_for(&mut self.commit) => {
                    (self.commit, self.give_up_at, self.asking) = (None, None, None);
                    self.committed(done).await;
                }
                () = sleep_until(self.give_up_at) => {
                    self.give_up_at = None;
                    self.ask(Why::InFlight);
                }
                () = sleep_until(stop_by), if self.giving_up.is_none() => self.give_up(),
                error = wait_for(&mut self.giving_up) => self.result = Some(Err(error)),
                Some(claimed) = self.claims.join_next() => self.claimed(claimed).await,
                () = sleep_until(self.retry_at) => {
                    self.retry_at = None;
                    self.take(Input::Retry).await;
                }
                (why, answers) = wait_for(&mut self.asking) => {
                    self.asking = None;
                    self.asked(why, answers).await;
                }
                _ = check.tick() => self.take(Input::Check).await,
                () = sleep_until(self.source_at) => self.source_at = None,
                event = self.source.next(), if self.listens() && self.state.wants_events() => {
                    self.event(event).await;
                }
                // Polled after the source, and only if that had nothing.
                () = std::future::ready(()), if self.listens() && self.state.awaits_news() => {
                    self.take(Input::NoNews).await;
                }
            }
        }
    }

    /// Whether the source may be asked: it has not just stalled.
    fn listens(&self) -> bool {
        self.source_at.is_none()
    }

    async fn event(&mut self, event: Result<Event, Error>) {
        match event {
            Ok(Event::Granted(grants)) => self.take(Input::Granted(grants)).await,
            Ok(Event::Batch(batch)) => self.take(Input::Batch(batch)).await,
            Ok(Event::Revoked(partitions)) => self.take(Input::Revoked(partitions)).await,
            Ok(Event::End) => self.take(Input::End).await,
            Err(error) if error.kind() == Kind::Transient && !is_interrupted(&error) => {
                let delay = self.backoff.next_delay();
                tracing::warn!(error = error.chain(), retry_in = ?delay, "the source stalls");
                metrics::retried(Retry::Source);
                self.source_at = Some(Instant::now() + delay);
            }
            Err(error) => self.result = Some(Err(error)),
        }
    }

    async fn claimed(&mut self, claimed: Result<Claim, tokio::task::JoinError>) {
        match claimed {
            Ok((generation, Ok(progress))) => {
                let partition = progress.name.partition;
                if self.claiming.get(&partition).is_some_and(|(of, _)| *of == generation) {
                    self.claiming.remove(&partition);
                }
                tracing::info!(
                    lane = %progress.name, number = progress.lane.0, position = progress.position,
                    "claimed"
                );
                metrics::claimed(&progress.name.pipeline, 1);
                self.config.outcomes.begin(&progress);
                self.held.insert(partition);
                self.take(Input::Claimed(generation, progress)).await;
            }
            Ok((_, Err(error))) => self.result = Some(Err(error)),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Cancelled: the grant was revoked.
            Err(_) => {}
        }
    }

    async fn committed(&mut self, done: Result<Committed, Error>) {
        match done {
            Ok(committed) => {
                self.config.outcomes.stored(&committed.stored);
                metrics::fenced(self.config.table.name, committed.fenced.len());
                self.take(Input::Committed(committed)).await;
            }
            Err(error) => {
                if let Error::Slow { .. } = error {
                    let chain = error.chain();
                    tracing::warn!(error = chain, "a commit takes too long: trying its halves");
                    metrics::retried(Retry::Commit);
                    self.sink_need.missing(chain);
                }
                self.take(Input::CommitFailed(error)).await;
            }
        }
    }

    /// Lets the state take an input, and does what it says.
    async fn take(&mut self, input: Input) {
        for action in self.state.step(input) {
            if let Err(error) = self.act(action).await {
                self.result = Some(Err(error));
            }
        }
    }

    async fn act(&mut self, action: Action) -> Result<(), Error> {
        match action {
            Action::Claim(generation, grant) => self.claim(generation, grant),
            Action::CancelClaim(partition) => {
                if let Some((_, claim)) = self.claiming.remove(&partition) {
                    claim.abort();
                }
            }
            Action::Start(progress) => self.source.start(&progress).await?,
            Action::Stop(partition) => {
                tracing::warn!(
                    partition,
                    "fenced: the lane is held by somebody else, or was rewound"
                );
                self.source.stop(partition).await?;
            }
            Action::Commit(batch, durability, patience) => {
                let sink = Arc::clone(&self.sink);
                (self.retry_at, self.asking) = (None, None);
                self.give_up_at = self.config.patience.map(|patience| Instant::now() + patience);
                self.commit = Some(Box::pin(async move {
                    match patience {
                        Some(patience) => sink.commit_within(&batch, durability, patience).await,
                        None => sink.commit(&batch, durability).await,
                    }
                }));
            }
            Action::Wait(error) => self.wait(error),
            Action::Ask(error) => self.ask(Why::Halving(error)),
            Action::ResetWaits => {
                self.backoff.reset();
                (self.stalled_since, self.failed) = (None, None);
                self.sink_need.met();
            }
            Action::Tell(progress) => self.source.stored(&progress),
            Action::Finish(result) => self.result = Some(result),
        }
        Ok(())
    }

    fn ask(&mut self, why: Why) {
        let sink = Arc::clone(&self.sink);
        self.asking = Some(Box::pin(async move { (why, sink.stored(&[]).await.is_ok()) }));
    }

    async fn asked(&mut self, why: Why, answers: bool) {
        if answers {
            self.stalled_since = None;
        }
        match (why, answers) {
            (Why::Halving(error), true) => {
                tracing::warn!(
                    error = error.chain(),
                    "a commit keeps failing while the database answers: trying its halves"
                );
                self.take(Input::Answers(error)).await;
            }
            (Why::InFlight, true) => {
                self.give_up_at = self.config.patience.map(|patience| Instant::now() + patience);
            }
            (Why::InFlight, false) => self.result = Some(Err(unanswered())),
            (Why::Halving(error) | Why::Patience(error), false) if self.out_of_patience() => {
                self.result = Some(Err(error));
            }
            (Why::Halving(error) | Why::Patience(error), _) => self.retry_later(error),
        }
    }

    /// Tries the commit again later. When patience is over, only if the server answers.
    fn wait(&mut self, error: Error) {
        if self.out_of_patience() {
            self.ask(Why::Patience(error));
        } else {
            self.retry_later(error);
        }
    }

    fn out_of_patience(&mut self) -> bool {
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        self.config.patience.is_some_and(|patience| since.elapsed() >= patience)
    }

    fn retry_later(&mut self, error: Error) {
        let delay = self.backoff.next_delay();
        let chain = error.chain();
        tracing::warn!(error = chain, retry_in = ?delay, "a commit failed and is tried again");
        metrics::retried(Retry::Commit);
        self.sink_need.missing(chain);
        self.failed = Some(error);
        self.retry_at = Some(Instant::now() + delay);
    }

    /// Ends a stop that takes too long. What is not stored is the next run's. Only a
    /// server that does not answer makes that a failure.
    fn give_up(&mut self) {
        let (sink, failed) = (Arc::clone(&self.sink), self.failed.take());
        self.giving_up = Some(Box::pin(async move {
            match tokio::time::timeout(STOP_ANSWER, sink.stored(&[])).await {
                Ok(Ok(_)) => unfinished(failed),
                Ok(Err(error)) => error,
                Err(_) => failed.unwrap_or_else(unanswered),
            }
        }));
    }

    /// Starts a claim that goes on until it succeeds, is refused, or is cancelled.
    fn claim(&mut self, generation: Generation, grant: Grant) {
        let request = ClaimRequest {
            first_position: grant.first_position,
            owner: self.config.owner.clone(),
            group: self.config.group.clone(),
            take_over: self.config.take_over && !self.held.contains(&grant.name.partition),
            given_up: grant.given_up,
            name: grant.name,
        };
        let partition = request.name.partition;
        let (sink, permits) = (Arc::clone(&self.sink), Arc::clone(&self.claim_permits));
        let claim = async move {
            let mut backoff = Backoff::default();
            loop {
                let claimed = match permits.acquire().await {
                    Ok(_permit) => sink.claim(&request).await,
                    // The semaphore is never closed.
                    Err(_) => std::future::pending().await,
                };
                match claimed {
                    Err(error) if error.kind() == Kind::Transient => {
                        let delay = backoff.next_delay();
                        tracing::warn!(
                            lane = %request.name, error = error.chain(), retry_in = ?delay,
                            "a claim failed and is tried again"
                        );
                        metrics::retried(Retry::Claim);
                        tokio::time::sleep(delay).await;
                    }
                    result => return (generation, result),
                }
            }
        };
        let claiming = (generation, self.claims.spawn(claim));
        if let Some((_, former)) = self.claiming.insert(partition, claiming) {
            former.abort();
        }
    }
}

/// A stop came while a commit took long, or kept failing.
fn unfinished(failed: Option<Error>) -> Error {
    let why = failed.map(|error| format!(" (it failed before: {})", error.chain()));
    Error::Interrupted {
        what: format!(
            "stopped before the commit under way was done{}; the next run starts at what is stored",
            why.unwrap_or_default()
        ),
    }
}

/// What became of the commit in flight is not known. Nothing depends on it: the
/// next owner of the lanes goes on from what is stored.
fn unanswered() -> Error {
    Error::Unreachable {
        server: Server::Postgres,
        source: "the commit in flight was not answered; the next run goes on from what is stored"
            .into(),
    }
}

/// [`Error::Interrupted`] is an end, not a stall.
fn is_interrupted(error: &Error) -> bool {
    matches!(error, Error::Interrupted { .. })
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone can stop nothing any more.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn wait_for<T>(running: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
