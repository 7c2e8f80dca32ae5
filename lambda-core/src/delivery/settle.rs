//! Compares stored progress with a batch, before and after its commit. The functions are
//! pure, so that every sink decides alike.

use std::borrow::Cow;

use crate::batch::{Batch, Span};
use crate::failpoint::{Protection, off};
use crate::progress::{LaneId, Progress};
use crate::sink::Committed;

/// Whether a commit may move a lane: the lane's claim and position are those of the span.
/// Any other lane is fenced.
pub fn holds(span: &Span, stored: &Progress) -> bool {
    stored.lane == span.lane
        && (off(Protection::ClaimAtCommit) || stored.claim == Some(span.claim))
        && (off(Protection::PositionAtCommit) || stored.position == span.from)
}

/// Removes the fenced lanes from a batch, and returns them; `held` decides whether a commit
/// may move a span's lane.
pub fn fence(batch: &Batch, mut held: impl FnMut(&Span) -> bool) -> (Cow<'_, Batch>, Vec<LaneId>) {
    let fenced = |span: &&Span| !held(span);
    let fenced: Vec<LaneId> = batch.spans().iter().filter(fenced).map(|span| span.lane).collect();
    if fenced.is_empty() || off(Protection::FencedLanesLeave) {
        return (Cow::Borrowed(batch), fenced);
    }
    (Cow::Owned(batch.retain(|span| !fenced.contains(&span.lane))), fenced)
}

/// Outcome of a commit whose answer was lost, from the lanes' stored progress. Call it only
/// once that commit can take effect no more (rule R6, docs/protocol.md). `None`: it did not
/// happen, and may be tried again.
pub fn settle(spans: &[Span], stored: &[Progress]) -> Option<Committed> {
    let mut committed = Committed::default();
    for span in spans {
        let ours = |lane: &&Progress| {
            lane.lane == span.lane
                && (off(Protection::ClaimAtSettle) || lane.claim == Some(span.claim))
        };
        let anywhere = off(Protection::PositionAtSettle);
        match stored.iter().find(ours) {
            // This includes a batch that moves nothing: it may be committed again.
            Some(progress) if progress.position == span.from && !anywhere => return None,
            Some(progress) if progress.position == span.to || anywhere => {
                committed.stored.push(progress.clone());
            }
            // Taken over, or rewound by a crash that lost earlier commits too.
            _ => committed.fenced.push(span.lane),
        }
    }
    Some(committed)
}
