//! The contract of sinks, which make batches durable.

use std::time::Duration;

use async_trait::async_trait;

use crate::batch::Batch;
use crate::error::Error;
use crate::progress::{LaneId, LaneName, Progress};
use crate::source::FirstPosition;

/// Durability of a commit when [`Sink::commit`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Visible to all sessions. A crash of the database may lose it, together with its
    /// progress, so that it is read again.
    Visible,
    /// On disk, and on the synchronous standby if there is one.
    Durable,
}

/// A request for a lane.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// The lane.
    pub name: LaneName,
    /// Its position if it was never read before.
    pub first_position: FirstPosition,
    /// Format of its records, stored with it: it finds their decoder for a replay.
    pub format: String,
    /// Name of the claiming process, written beside the claim for people.
    pub owner: String,
    /// The consumer group; none for a file. The claim is refused if another group was
    /// active on the lane in the last minute, unless `take_over` (rule R16,
    /// docs/protocol.md).
    pub group: Option<String>,
    /// Claim even over another active group.
    pub take_over: bool,
    /// The lane that held this name is given up, if it still has this number: its source
    /// has changed (rule R18, docs/protocol.md). It keeps its number, counts and sums,
    /// which explain its rows, under the name [`LaneName::set_aside`], with no holder; a
    /// new lane takes its place.
    pub given_up: Option<LaneId>,
}

/// Result of a commit, span by span.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// New stored progress of the lanes that moved.
    pub stored: Vec<Progress>,
    /// Lanes with another claim or position than their span: nothing of theirs was stored.
    pub fenced: Vec<LaneId>,
}

/// Makes batches durable, and reports what is stored.
///
/// Object safe; all methods may be called concurrently. Dropping a returned
/// future before it is done leaves the outcome unknown, as a lost connection
/// would: ask [`Sink::stored`].
///
/// A sink around another one counts what it stores:
///
/// ```
/// use std::sync::atomic::{AtomicI64, Ordering};
/// use std::time::Duration;
///
/// use async_trait::async_trait;
/// use lambda_core::Error;
/// use lambda_core::batch::Batch;
/// use lambda_core::progress::{LaneId, Progress};
/// use lambda_core::sink::{ClaimRequest, Committed, Durability, Sink};
///
/// struct Counting<S> {
///     sink: S,
///     commits: AtomicI64,
/// }
///
/// #[async_trait]
/// impl<S: Sink> Sink for Counting<S> {
///     async fn claim(&self, request: &ClaimRequest) -> Result<Progress, Error> {
///         self.sink.claim(request).await
///     }
///
///     async fn commit(&self, batch: &Batch, durability: Durability) -> Result<Committed, Error> {
///         let committed = self.sink.commit(batch, durability).await?;
///         self.commits.fetch_add(1, Ordering::Relaxed);
///         Ok(committed)
///     }
///
///     // Without this, the inner sink could not give up a slow commit.
///     async fn commit_within(
///         &self,
///         batch: &Batch,
///         durability: Durability,
///         patience: Duration,
///     ) -> Result<Committed, Error> {
///         let committed = self.sink.commit_within(batch, durability, patience).await?;
///         self.commits.fetch_add(1, Ordering::Relaxed);
///         Ok(committed)
///     }
///
///     async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error> {
///         self.sink.stored(lanes).await
///     }
/// }
/// # use lambda_core::memory::MemorySink;
/// #
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// # let sink = Counting { sink: MemorySink::new(), commits: AtomicI64::new(0) };
/// # assert_eq!(sink.stored(&[LaneId(1)]).await?, []);
/// # assert_eq!(sink.commits.into_inner(), 0);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Sink: Send + Sync {
    /// Takes the lane from its former owner, under a new random claim, and returns its
    /// progress. Creates the lane if it is new. When this returns, no commit under the
    /// former claim can take effect any more, and the claim is durable.
    ///
    /// # Errors
    /// `Transient`: the lane is unchanged, or already ours under an unknown claim: claim
    /// again. `Fatal`: refused, with a remedy.
    async fn claim(&self, request: &ClaimRequest) -> Result<Progress, Error>;

    /// Stores a batch in one transaction: its rows, corrections, dead letters, counts, sums
    /// and positions. Leaves out a lane whose claim or position is not the span's, and
    /// stores the others.
    ///
    /// # Errors
    /// `Transient` or `Fatal`: nothing was stored. `Data` ([`Error::Refused`]): nothing was
    /// stored, and the same batch will be refused again; commit its halves. The sink
    /// settles a lost answer to its own commit before it returns.
    async fn commit(&self, batch: &Batch, durability: Durability) -> Result<Committed, Error>;

    /// Commits as [`Sink::commit`] does, but gives the batch up when it is not stored after
    /// `patience` while the server answers. A sink that cannot do so takes as long as
    /// necessary.
    ///
    /// # Errors
    /// Those of [`Sink::commit`]. [`Error::Slow`], with what holds the commit up: nothing
    /// was stored, and nothing of the batch is in progress any more.
    async fn commit_within(
        &self,
        batch: &Batch,
        durability: Durability,
        patience: Duration,
    ) -> Result<Committed, Error> {
        let _ = patience;
        self.commit(batch, durability).await
    }

    /// Returns the stored progress of lanes, in the given order; lanes that do not exist
    /// are left out. Without lanes, tests whether the server answers, also while all
    /// connections are busy.
    ///
    /// # Errors
    /// `Transient` or `Fatal`.
    async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error>;
}
