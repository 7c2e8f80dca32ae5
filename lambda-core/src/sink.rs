//! Where batches become durable.

use std::time::Duration;

use async_trait::async_trait;

use crate::batch::Batch;
use crate::error::Error;
use crate::progress::{LaneId, LaneName, Progress};
use crate::source::FirstPosition;

/// How durable a commit is when [`Sink::commit`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Visible to everybody; a crash of the database may lose it, together with
    /// the progress that says it was read, so that it is read again.
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
    /// Who asks: written beside the claim, for people.
    pub owner: String,
    /// The consumer group, or nothing for a file: another group active on the
    /// lane in the last minute is refused unless `take_over` (R16).
    pub group: Option<String>,
    /// Claim even over another active group.
    pub take_over: bool,
    /// The lane that held this name is given up, if it still has this number: its
    /// source is not what it was (R18). It keeps its number, counts and sums, which
    /// explain its rows, under the name [`LaneName::set_aside`], held by nobody; a
    /// new lane takes its place.
    pub given_up: Option<LaneId>,
}

/// What a commit did, span by span.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// Progress as now stored of the lanes that moved.
    pub stored: Vec<Progress>,
    /// Lanes that somebody else holds, or that stand elsewhere than the span
    /// says: nothing of theirs was stored.
    pub fenced: Vec<LaneId>,
}

/// Makes batches durable, and tells what is stored.
///
/// Object safe; all methods may be called concurrently. Dropping a returned
/// future before it is done leaves the outcome unknown, as a lost connection
/// would: ask [`Sink::stored`].
#[async_trait]
pub trait Sink: Send + Sync {
    /// Takes the lane from whoever held it, under a new random claim, and tells
    /// its progress. Creates the lane if it is new. When this returns, no commit
    /// under the former claim can land any more, and the claim is durable.
    ///
    /// # Errors
    /// `Transient`: the lane is as before, or already ours under a claim that
    /// nobody knows: claim again. `Fatal`: refused, with a remedy.
    async fn claim(&self, request: &ClaimRequest) -> Result<Progress, Error>;

    /// Stores a batch in one transaction: its rows, corrections, dead letters,
    /// counts, sums and positions. A lane whose claim or position is not the
    /// span's is left out, the rest goes on.
    ///
    /// # Errors
    /// `Transient` or `Fatal`: nothing was stored. `Data`
    /// ([`Error::Refused`]): nothing was stored, and the same batch will be
    /// refused again; commit its halves. The sink resolves a lost answer to its
    /// own commit before it returns.
    async fn commit(&self, batch: &Batch, durability: Durability) -> Result<Committed, Error>;

    /// As [`Sink::commit`], but gives the batch up when it is not stored after
    /// `patience` while the server answers. A sink that cannot do so takes as long as
    /// it takes.
    ///
    /// # Errors
    /// Those of [`Sink::commit`]. [`Error::Slow`], which says what holds the commit up:
    /// nothing was stored, and nothing of the batch is under way any more.
    async fn commit_within(
        &self,
        batch: &Batch,
        durability: Durability,
        patience: Duration,
    ) -> Result<Committed, Error> {
        let _ = patience;
        self.commit(batch, durability).await
    }

    /// The stored progress of lanes, in the order asked; lanes that do not exist
    /// are left out. Of no lanes at all: whether the server answers, also while all
    /// connections are busy.
    ///
    /// # Errors
    /// `Transient` or `Fatal`.
    async fn stored(&self, lanes: &[LaneId]) -> Result<Vec<Progress>, Error>;
}
