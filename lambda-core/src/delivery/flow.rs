//! Joins a source and a sink: the thin shell that does what
//! [`State`] decides. One commit is in flight at a time; while it is, the source
//! gathers and decodes the next batch, so that batches grow with the load (R24).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::delivery::retry::Backoff;
use crate::delivery::state::{Action, Generation, Input, State};
use crate::error::{Error, Kind};
use crate::outcome::Authority;
use crate::progress::{LaneId, Progress};
use crate::record::Table;
use crate::sink::{ClaimRequest, Committed, Sink};
use crate::source::{Event, Grant, Source};

/// How often an idle flow compares what is stored with what it thinks (R9).
const CHECK_EVERY: Duration = Duration::from_secs(30);

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
    /// Claim even over another active group.
    pub take_over: bool,
    /// How long to go on trying while nothing succeeds; `None`: for ever.
    pub patience: Option<Duration>,
}

type Commit = Pin<Box<dyn Future<Output = Result<Committed, Error>> + Send>>;
type Claim = (Generation, Result<Progress, Error>);

/// A source, a sink, and what is going on between them.
pub struct Flow<S> {
    config: FlowConfig,
    source: S,
    sink: Arc<dyn Sink>,
    state: State,
    commit: Option<Commit>,
    claims: JoinSet<Claim>,
    claiming: HashMap<i32, AbortHandle>,
    backoff: Backoff,
    /// When to try the commit again.
    retry_at: Option<Instant>,
    /// Since when nothing has succeeded.
    stalled_since: Option<Instant>,
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
        Self {
            state: State::new(config.authority, config.table),
            config,
            source,
            sink,
            commit: None,
            claims: JoinSet::new(),
            claiming: HashMap::new(),
            backoff: Backoff::default(),
            retry_at: None,
            stalled_since: None,
            result: None,
        }
    }

    /// Runs until the source ends or `stop` becomes true; then finishes the
    /// commit in flight and makes everything durable. Gives the source back, for
    /// what it has counted.
    ///
    /// # Errors
    /// `Fatal`; `Fenced` when a job was taken over; `Transient` only when patience
    /// is over. Everything committed before stays.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> (S, Result<(), Error>) {
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.reset();
        let mut stopping = false;
        loop {
            if let Some(result) = self.result.take() {
                return (self.source, result);
            }
            tokio::select! {
                biased;
                () = stopped(&mut stop), if !stopping => {
                    stopping = true;
                    self.claims.abort_all();
                    self.take(Input::Stop).await;
                }
                done = wait_for(&mut self.commit) => {
                    self.commit = None;
                    let input = done.map_or_else(Input::CommitFailed, Input::Committed);
                    self.take(input).await;
                }
                Some(claimed) = self.claims.join_next() => self.claimed(claimed).await,
                () = sleep_until(self.retry_at) => {
                    self.retry_at = None;
                    self.take(Input::Retry).await;
                }
                _ = check.tick() => self.take(Input::Check).await,
                event = self.source.next(), if self.state.wants_events() => self.event(event).await,
            }
        }
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
                tokio::time::sleep(delay).await;
            }
            Err(error) => self.result = Some(Err(error)),
        }
    }

    async fn claimed(&mut self, claimed: Result<Claim, tokio::task::JoinError>) {
        match claimed {
            Ok((generation, Ok(progress))) => {
                self.claiming.remove(&progress.name.partition);
                tracing::info!(
                    lane = %progress.name, number = progress.lane.0, position = progress.position,
                    "claimed"
                );
                self.take(Input::Claimed(generation, progress)).await;
            }
            Ok((_, Err(error))) => self.result = Some(Err(error)),
            // Cancelled: the grant was revoked.
            Err(_) => {}
        }
    }

    /// Lets the state take an input, and does what it says, with what follows.
    async fn take(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for action in self.state.step(input) {
                match self.act(action).await {
                    Ok(follows) => inputs.extend(follows),
                    Err(error) => self.result = Some(Err(error)),
                }
            }
        }
    }

    async fn act(&mut self, action: Action) -> Result<Option<Input>, Error> {
        match action {
            Action::Claim(generation, grant) => self.claim(generation, grant),
            Action::CancelClaim(partition) => {
                if let Some(claim) = self.claiming.remove(&partition) {
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
            Action::Commit(batch, durability) => {
                let sink = Arc::clone(&self.sink);
                self.commit = Some(Box::pin(async move { sink.commit(&batch, durability).await }));
            }
            Action::Wait(error) => self.wait(error)?,
            Action::ResetWaits => {
                self.backoff.reset();
                self.stalled_since = None;
            }
            Action::Tell(progress) => self.source.stored(&progress),
            Action::Check(lanes) => {
                let lanes: Vec<LaneId> = lanes.iter().map(|lane| lane.lane).collect();
                match self.sink.stored(&lanes).await {
                    Ok(stored) => return Ok(Some(Input::Stored(stored))),
                    Err(error) => {
                        tracing::warn!(error = error.chain(), "progress could not be compared");
                    }
                }
            }
            Action::Finish(result) => self.result = Some(result),
        }
        Ok(None)
    }

    fn wait(&mut self, error: Error) -> Result<(), Error> {
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        if self.config.patience.is_some_and(|patience| since.elapsed() >= patience) {
            return Err(error);
        }
        let delay = self.backoff.next_delay();
        tracing::warn!(error = error.chain(), retry_in = ?delay, "a commit failed and is tried again");
        self.retry_at = Some(Instant::now() + delay);
        Ok(())
    }

    /// Starts a claim that goes on until it succeeds, is refused, or is cancelled.
    fn claim(&mut self, generation: Generation, grant: Grant) {
        let request = ClaimRequest {
            first_position: grant.first_position,
            owner: self.config.owner.clone(),
            group: self.config.group.clone(),
            take_over: self.config.take_over,
            name: grant.name,
        };
        let partition = request.name.partition;
        let sink = Arc::clone(&self.sink);
        let claim = async move {
            let mut backoff = Backoff::default();
            loop {
                match sink.claim(&request).await {
                    Err(error) if error.kind() == Kind::Transient => {
                        let delay = backoff.next_delay();
                        tracing::warn!(
                            lane = %request.name, error = error.chain(), retry_in = ?delay,
                            "a claim failed and is tried again"
                        );
                        tokio::time::sleep(delay).await;
                    }
                    result => return (generation, result),
                }
            }
        };
        if let Some(former) = self.claiming.insert(partition, self.claims.spawn(claim)) {
            former.abort();
        }
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

async fn wait_for(commit: &mut Option<Commit>) -> Result<Committed, Error> {
    match commit {
        Some(commit) => commit.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
