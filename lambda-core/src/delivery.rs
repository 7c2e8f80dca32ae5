//! The protocol between a source and a sink.
//!
//! ```text
//!   Source --granted, batch, revoked, end--> flow --claim, commit--> Sink
//!          <------------start, stop--------   |   <--progress------
//!   batcher  pure: messages into batches      state      pure: what to do next
//!                                           bisect     pure: a refused batch, taken apart
//!                                           settle     pure: what may land, and what did
//!                                           retry      pure: when to try again
//! ```

pub mod batcher;
pub mod bisect;
pub mod flow;
pub mod retry;
pub mod settle;
pub mod state;

pub use self::flow::{Flow, FlowConfig};
