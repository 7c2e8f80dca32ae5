//! Ownership of lanes: claims, and the ends of sessions that keep others from them.

pub(crate) mod backend;
pub(crate) mod blockers;
pub(crate) mod claim;
pub(crate) mod holdup;
pub(crate) mod mark;
