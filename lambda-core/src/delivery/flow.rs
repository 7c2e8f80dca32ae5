//! Connects a source to a sink: the thin shell that runs what [`State`] decides. One commit
//! is in flight at a time. During it the source gathers and decodes the next batch, so
//! batches grow with the load (rule R24, docs/protocol.md).

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::delivery::retry::Backoff;
use crate::delivery::state::{Action, Generation, Input, State};
use crate::error::{Error, Kind, Server};
use crate::health::{Health, Need, Pulse};
use crate::metrics::{self, Outcomes, Retry};
use crate::outcome::Authority;
use crate::progress::Progress;
use crate::sink::{ClaimRequest, Committed, Sink};
use crate::source::{Event, Grant, Source};
use crate::stop::Stop;

/// Interval at which an idle flow compares its memory with what is stored (rule R9,
/// docs/protocol.md), and at which a flow that waits for a commit beats its pulse.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// Number of concurrent claims.
const CLAIMS_AT_ONCE: usize = 4;

/// Time for which a stopping flow waits for the commit in flight and the last one, and then
/// for any answer of the server. Both together stay well within the 30 s that Kubernetes
/// gives a process.
const STOP_PATIENCE: Duration = Duration::from_secs(12);
const STOP_ANSWER: Duration = Duration::from_secs(3);

/// Identity and patience of a flow.
#[derive(Debug, Clone)]
pub struct FlowConfig {
    /// Precedence of the records.
    pub authority: Authority,
    /// The pipeline's name.
    pub pipeline: String,
    /// The format of its records, stored with each lane.
    pub format: String,
    /// Text written beside claims, for people.
    pub owner: String,
    /// The consumer group. Only one may be active on a lane (rule R16, docs/protocol.md).
    pub group: Option<String>,
    /// Claim even over another active group. A lane that such a group has taken over from
    /// this flow is not taken back: two groups that both did so would fight without end.
    pub take_over: bool,
    /// Time to retry while the server does not answer; `None`: unlimited.
    pub patience: Option<Duration>,
    /// Receives the flow's pulse, and whether the sink accepts batches.
    pub health: Health,
    /// Counts outcomes. A source that grants no lanes, because it already holds them, has
    /// passed it their positions.
    pub outcomes: Outcomes,
}

type Commit = Pin<Box<dyn Future<Output = Result<Committed, Error>> + Send>>;
type Claim = (Generation, Result<Progress, Error>);
/// A question whether the server answers: why it is asked, and the answer.
type Asked = Pin<Box<dyn Future<Output = (Why, bool)> + Send>>;
/// The result of a flow whose time to stop is over.
type Giving = Pin<Box<dyn Future<Output = Error> + Send>>;

/// Reason to ask whether the server answers.
enum Why {
    /// A commit keeps failing in this way; its halves may succeed.
    Halving(Error),
    /// The patience with commits that fail in this way is over.
    Patience(Error),
    /// The patience with the commit in flight is over.
    InFlight,
}

/// A source, a sink, and the work in progress between them.
///
/// ```
/// use std::sync::Arc;
///
/// use lambda_core::Stop;
/// use lambda_core::delivery::{Flow, FlowConfig};
/// use lambda_core::health::Health;
/// use lambda_core::memory::MemorySink;
/// use lambda_core::metrics::Outcomes;
/// use lambda_core::outcome::Authority;
/// use lambda_core::testing::draft::Sample;
/// use lambda_core::testing::source::Lists;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), lambda_core::Error> {
/// let list = vec![Sample::new("a", 1), Sample::new("b", 2), Sample::new("a", 1)];
/// let source = Lists::new(vec![list], fastrand::Rng::with_seed(7));
/// let sink = Arc::new(MemorySink::new());
/// let config = FlowConfig {
///     authority: Authority::Stream,
///     pipeline: "samples".into(),
///     format: "json".into(),
///     owner: "an example".into(),
///     group: None,
///     take_over: false,
///     patience: None,
///     health: Health::default(),
///     outcomes: Outcomes::default(),
/// };
/// let (_source, result) = Flow::new(config, source, sink.clone()).run(Stop::new()).await;
/// result?;
/// assert_eq!(sink.contents().rows.len(), 2);
/// # Ok(())
/// # }
/// ```
pub struct Flow<S> {
    config: FlowConfig,
    source: S,
    sink: Arc<dyn Sink>,
    state: State,
    commit: Option<Commit>,
    /// Time to ask whether the server of the commit in flight answers.
    give_up_at: Option<Instant>,
    claims: JoinSet<Claim>,
    claiming: HashMap<i32, (Generation, AbortHandle)>,
    /// Partitions whose lanes were held before.
    held: HashSet<i32>,
    /// Limits concurrent claims; each uses its own connections.
    claim_permits: Arc<Semaphore>,
    backoff: Backoff,
    /// Time of the commit's next attempt.
    retry_at: Option<Instant>,
    /// Time to ask a stalled source again.
    source_at: Option<Instant>,
    /// A question that shows whether the server answers.
    asking: Option<Asked>,
    /// Error of the last commit, until one succeeds.
    failed: Option<Error>,
    /// Set when the stop takes too long: asks the server and yields the result.
    giving_up: Option<Giving>,
    /// Start of the current series of failures during which the server did not answer.
    stalled_since: Option<Instant>,
    pulse: Pulse,
    /// Need of the sink; missing while it accepts nothing.
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
    /// Connects `source` and `sink`.
    pub fn new(config: FlowConfig, source: S, sink: Arc<dyn Sink>) -> Self {
        let (pulse, sink_need) = (config.health.pulse("the flow"), config.health.need("the sink"));
        sink_need.met();
        Self {
            state: State::new(config.authority),
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

    /// Sets the time, instead of a minute, after which a commit is halved for the first
    /// time.
    #[must_use]
    pub fn halving_after(mut self, patience: Duration) -> Self {
        self.state = self.state.halving_after(patience);
        self
    }

    /// Runs until the source ends or the stop is requested, then finishes the commit in
    /// flight and makes everything durable. Returns the source for its counts.
    ///
    /// # Errors
    /// `Fatal`; `Fenced` when a job was taken over; `Transient` only when patience is over;
    /// [`Error::Interrupted`] when a commit took longer than a stop may, on a server that
    /// answers. Everything committed before stays.
    pub async fn run(mut self, stop: Stop) -> (S, Result<(), Error>) {
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.reset();
        // Deadline of a stop, whatever the flow is doing.
        let mut stop_by = None;
        loop {
            self.pulse.beat();
            if let Some(result) = self.result.take() {
                return (self.source, result);
            }
            tokio::select! {
                biased;
                () = stop.stopped(), if stop_by.is_none() => {
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
                // Polled after the source, and only if it had nothing.
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
                tracing::warn!(error = error.chain(), retry_in = ?delay, "the source failed; retrying");
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
                metrics::fenced(&self.config.pipeline, committed.fenced.len());
                self.take(Input::Committed(committed)).await;
            }
            Err(error) => {
                if let Error::Slow { .. } = error {
                    let chain = error.chain();
                    tracing::warn!(error = chain, "a commit took too long; committing its halves");
                    metrics::retried(Retry::Commit);
                    self.sink_need.missing(chain);
                }
                self.take(Input::CommitFailed(error)).await;
            }
        }
    }

    /// Passes an input to the state, and runs its actions.
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
                    "fenced: another process holds the lane, or it was rewound"
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
            Action::Report(progress) => self.source.stored(&progress),
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
                    "a commit keeps failing while the database answers; committing its halves"
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

    /// Retries the commit later. Once patience is over, only if the server answers.
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
        tracing::warn!(error = chain, retry_in = ?delay, "a commit failed; retrying");
        metrics::retried(Retry::Commit);
        self.sink_need.missing(chain);
        self.failed = Some(error);
        self.retry_at = Some(Instant::now() + delay);
    }

    /// Ends a stop that takes too long. The next run stores the rest. This is a failure
    /// only if the server does not answer.
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

    /// Starts a claim. It retries until it succeeds, is refused, or is cancelled.
    fn claim(&mut self, generation: Generation, grant: Grant) {
        let request = ClaimRequest {
            first_position: grant.first_position,
            owner: self.config.owner.clone(),
            group: self.config.group.clone(),
            take_over: self.config.take_over && !self.held.contains(&grant.name.partition),
            given_up: grant.given_up,
            format: self.config.format.clone(),
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
                            "a claim failed; retrying"
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

/// The error for a stop during a commit that took long or kept failing.
fn unfinished(failed: Option<Error>) -> Error {
    let why = failed.map(|error| format!(" (an earlier attempt failed: {})", error.chain()));
    Error::Interrupted {
        what: format!(
            "stopped before the commit in flight finished{}; the next run continues from what is stored",
            why.unwrap_or_default()
        ),
    }
}

/// The error for a commit in flight whose outcome is unknown. Nothing depends on it: the
/// next owner of the lanes continues from what is stored.
fn unanswered() -> Error {
    Error::Unreachable {
        server: Server::Postgres,
        source: "the commit in flight was not answered; the next run continues from what is stored"
            .into(),
    }
}

/// Whether the error is [`Error::Interrupted`], which ends a flow instead of stalling it.
fn is_interrupted(error: &Error) -> bool {
    matches!(error, Error::Interrupted { .. })
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
