//! The contract of sources, which yield batches.

use async_trait::async_trait;

use crate::batch::Batch;
use crate::error::Error;
use crate::progress::{LaneId, LaneName, Progress};

/// Start of a lane that was never read before.
///
/// ```
/// use lambda_core::source::FirstPosition;
///
/// let first = FirstPosition::from(10);
/// assert_eq!((first.position, first.gained), (10, None));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstPosition {
    /// Its position.
    pub position: i64,
    /// Facts about the partition, if the source may gain more of them.
    pub gained: Option<Gained>,
}

/// Facts that decide whether a partition was added to its source after that was first read.
/// Such a partition holds only messages from after that, so it starts at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gained {
    /// The partition's beginning.
    pub beginning: i64,
    /// Number of partitions that the source has now.
    pub partitions: i32,
}

impl From<i64> for FirstPosition {
    fn from(position: i64) -> Self {
        Self { position, gained: None }
    }
}

/// A lane that a source may read, once it is claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The lane.
    pub name: LaneName,
    /// Its start if it was never read before.
    pub first_position: FirstPosition,
    /// The lane that held this name and is given up (see
    /// [`crate::sink::ClaimRequest::given_up`]).
    pub given_up: Option<LaneId>,
}

/// An event of a source.
#[derive(Debug)]
pub enum Event {
    /// These partitions were given to this process: claim them, then
    /// [`Source::start`] them.
    Granted(Vec<Grant>),
    /// Records, and the spans of started lanes that they cover.
    Batch(Batch),
    /// These partitions no longer belong to this process. Batches of theirs that are in
    /// progress may still be committed: claims decide. Reported before any later batch,
    /// grant or silence, so a partition that is not reported as revoked is still granted.
    Revoked(Vec<i32>),
    /// There will be no more events.
    End,
}

/// Yields records of lanes.
///
/// Driven by one task ([`crate::delivery::flow`]); object safe.
///
/// A source of one record, for a test:
///
/// ```
/// use std::collections::VecDeque;
///
/// use async_trait::async_trait;
/// use lambda_core::Error;
/// use lambda_core::outcome::Authority;
/// use lambda_core::progress::{LaneName, Progress};
/// use lambda_core::source::{Event, Grant, Source};
/// use lambda_core::testing::draft::{Draft, SAMPLES, Sample};
///
/// struct One {
///     events: VecDeque<Event>,
/// }
///
/// impl One {
///     fn new() -> Self {
///         let (pipeline, source) = ("samples".into(), "one".into());
///         let name = LaneName { pipeline, source, partition: 0 };
///         let grant = Grant { name, first_position: 0.into(), given_up: None };
///         Self { events: [Event::Granted(vec![grant])].into() }
///     }
/// }
///
/// #[async_trait]
/// impl Source for One {
///     async fn next(&mut self) -> Result<Event, Error> {
///         match self.events.pop_front() {
///             Some(event) => Ok(event),
///             // The flow drops this call to start a lane.
///             None => std::future::pending().await,
///         }
///     }
///
///     async fn start(&mut self, progress: &Progress) -> Result<(), Error> {
///         if progress.position == 0 {
///             let batch = Draft::new(Authority::Stream, &SAMPLES).lane(progress, 1);
///             self.events.push_back(Event::Batch(batch.record(0, &Sample::new("a", 1)).build()));
///         }
///         self.events.push_back(Event::End);
///         Ok(())
///     }
///
///     async fn stop(&mut self, _partition: i32) -> Result<(), Error> {
///         self.events.clear();
///         Ok(())
///     }
///
///     fn stored(&mut self, _progress: &[Progress]) {}
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// let mut one = One::new();
/// assert!(matches!(one.next().await?, Event::Granted(_)));
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Source: Send {
    /// Waits for the next event. Cancel safe: a dropped call loses no event. A source holds
    /// at most one batch back between calls, and lets it grow up to its limits (rule R24,
    /// docs/protocol.md).
    ///
    /// # Errors
    /// `Transient`: asking again may help. `Fatal`: the source is unusable.
    /// `Data`: the input as a whole is refused.
    async fn next(&mut self) -> Result<Event, Error>;

    /// Reads a granted lane from `progress.position`, under `progress.claim`. Does nothing
    /// if the grant has been revoked. A lane that is being read starts again.
    ///
    /// # Errors
    /// As for [`Source::next`].
    async fn start(&mut self, progress: &Progress) -> Result<(), Error>;

    /// Stops reading a partition and drops its buffers: it was fenced.
    ///
    /// # Errors
    /// As for [`Source::next`].
    async fn stop(&mut self, partition: i32) -> Result<(), Error>;

    /// Reports how far lanes are stored, for monitoring by the source only (rule R17,
    /// docs/protocol.md).
    fn stored(&mut self, progress: &[Progress]);
}
