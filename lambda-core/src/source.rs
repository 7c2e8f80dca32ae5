//! Where batches come from.

use async_trait::async_trait;

use crate::batch::Batch;
use crate::error::Error;
use crate::progress::{LaneId, LaneName, Progress};

/// Where a lane starts that was never read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstPosition {
    /// Its position.
    pub position: i64,
    /// What is known of the partition, if the source may gain more of them.
    pub gained: Option<Gained>,
}

/// What decides whether a partition was added to its source after that was first read. Such a
/// partition holds only messages that came since, so it starts at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gained {
    /// The partition's beginning.
    pub beginning: i64,
    /// How many partitions the source has now.
    pub partitions: i32,
}

impl From<i64> for FirstPosition {
    fn from(position: i64) -> Self {
        Self { position, gained: None }
    }
}

/// A lane that a source may read from now on, once it is claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The lane.
    pub name: LaneName,
    /// Where it starts if it was never read before.
    pub first_position: FirstPosition,
    /// The lane that held this name and is given up (see
    /// [`crate::sink::ClaimRequest::given_up`]).
    pub given_up: Option<LaneId>,
}

/// What a source tells.
#[derive(Debug)]
pub enum Event {
    /// These partitions were given to this process: claim them, then
    /// [`Source::start`] them.
    Granted(Vec<Grant>),
    /// Records, and the spans of started lanes that they cover.
    Batch(Batch),
    /// These partitions are no longer this process's. Batches of theirs that are
    /// on their way may still be committed: claims decide. Told before any later
    /// batch, grant or silence, so that what is not told revoked is still granted.
    Revoked(Vec<i32>),
    /// There is nothing more, ever.
    End,
}

/// Yields records of lanes.
///
/// Driven by one task ([`crate::delivery::flow`]); object safe.
#[async_trait]
pub trait Source: Send {
    /// The next event. Waits until there is one. Cancel safe: a dropped call
    /// loses no event. A source holds at most one batch back while nobody asks,
    /// and lets it grow up to its limits (R24).
    ///
    /// # Errors
    /// `Transient`: asking again may help. `Fatal`: the source is unusable.
    /// `Data`: the input as a whole is refused.
    async fn next(&mut self) -> Result<Event, Error>;

    /// Reads a granted lane from `progress.position` on, under `progress.claim`.
    /// Does nothing if the grant was revoked meanwhile. A lane that is being read
    /// starts anew.
    ///
    /// # Errors
    /// As for [`Source::next`].
    async fn start(&mut self, progress: &Progress) -> Result<(), Error>;

    /// Stops reading a partition and drops what is buffered of it: it was fenced.
    ///
    /// # Errors
    /// As for [`Source::next`].
    async fn stop(&mut self, partition: i32) -> Result<(), Error>;

    /// Tells that lanes are stored so far, for the source's own books
    /// (monitoring only, R17).
    fn stored(&mut self, progress: &[Progress]);
}
