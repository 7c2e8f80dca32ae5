//! The checks on which the delivery protocol rests, by name.
//!
//! With the feature `failpoints` a test switches one off on its own thread, in the code
//! that ships, and sees what breaks. Without the feature none can be switched off: the
//! query is then a constant.

/// A check on which the protocol rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "failpoints"),
    expect(unreachable_pub, reason = "public with the feature only")
)]
pub enum Protection {
    /// A commit moves a lane only under the lane's current claim.
    ClaimAtCommit,
    /// A commit moves a lane only from its stored position.
    PositionAtCommit,
    /// A lane that is fenced leaves its batch.
    FencedLanesLeave,
    /// A process takes a lane under a new random claim (rule R12, docs/protocol.md).
    NewClaimOnTakeover,
    /// The answer to a claim counts only for the grant that asked for it.
    Generation,
    /// A fenced lane is claimed again only after the source has reported its news.
    NewsBeforeClaim,
    /// Memory is compared with what is stored (rule R9, docs/protocol.md).
    Check,
    /// The comparison follows at once after a failure.
    CheckAfterFailure,
    /// A drain ends with a durable commit (rule R5, docs/protocol.md).
    DurableDrain,
    /// A lost answer is settled for the claim of its commit (rule R6, docs/protocol.md).
    ClaimAtSettle,
    /// A lost answer is settled by the stored position (rule R6).
    PositionAtSettle,
    /// Messages below the gathered position are dropped (rule R8, docs/protocol.md).
    DropBelow,
    /// Repeats of an id are taken in order (rule R1, docs/protocol.md).
    RepeatsInOrder,
    /// A half ends where the next half's first record starts (rule R11, docs/protocol.md).
    HalvesMeet,
}

/// Whether a protection is switched off on this thread.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) const fn off(_: Protection) -> bool {
    false
}

#[cfg(feature = "failpoints")]
pub(crate) use self::switch::off;
#[cfg(feature = "failpoints")]
pub use self::switch::without;

#[cfg(feature = "failpoints")]
mod switch {
    use std::cell::Cell;

    use super::Protection;

    thread_local! {
        static OFF: Cell<Option<Protection>> = const { Cell::new(None) };
    }

    /// Whether a protection is switched off on this thread.
    pub(crate) fn off(protection: Protection) -> bool {
        OFF.get() == Some(protection)
    }

    /// Runs `test` with a protection switched off on this thread.
    pub fn without<T>(protection: Protection, test: impl FnOnce() -> T) -> T {
        /// Switches it on again, also when the test panics.
        struct On;

        impl Drop for On {
            fn drop(&mut self) {
                OFF.set(None);
            }
        }

        let _on = On;
        OFF.set(Some(protection));
        test()
    }

    impl Protection {
        /// All of them.
        pub const ALL: [Self; 14] = [
            Self::ClaimAtCommit,
            Self::PositionAtCommit,
            Self::FencedLanesLeave,
            Self::NewClaimOnTakeover,
            Self::Generation,
            Self::NewsBeforeClaim,
            Self::Check,
            Self::CheckAfterFailure,
            Self::DurableDrain,
            Self::ClaimAtSettle,
            Self::PositionAtSettle,
            Self::DropBelow,
            Self::RepeatsInOrder,
            Self::HalvesMeet,
        ];
    }
}
