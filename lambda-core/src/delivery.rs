//! The protocol between a source and a sink.
//!
//! ```text
//!   Source --granted, batch, revoked, end--> flow --claim, commit--> Sink
//!          <------------start, stop--------   |   <--progress------
//!                                           state      pure: what to do next
//!                                           bisect     pure: a refused batch, taken apart
//!                                           retry      pure: when to try again
//! ```

pub mod bisect;
pub mod flow;
pub mod retry;
pub mod state;

pub use self::flow::{Flow, FlowConfig};
