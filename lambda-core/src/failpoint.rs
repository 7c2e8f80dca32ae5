//! The checks that the delivery protocol stands on, by name.
//!
//! With the feature `failpoints` a test switches one off on its own thread, in the
//! code that ships, and sees what breaks. Without it nothing can: the question whether
//! one is off is then a constant.

/// A check that the protocol stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "failpoints"),
    expect(unreachable_pub, reason = "public with the feature only")
)]
pub enum Protection {
    /// A commit moves a lane only under the claim by which the lane is held.
    ClaimAtCommit,
    /// A commit moves a lane only from where it stands.
    PositionAtCommit,
    /// A lane that is fenced leaves its batch.
    FencedLanesLeave,
    /// Whoever takes a lane holds it by a claim that nobody had before (R12).
    NewClaimOnTakeover,
    /// The answer to a claim counts for the grant that asked for it.
    Generation,
    /// A fenced lane is claimed anew only after the source has told its news.
    NewsBeforeClaim,
    /// What is stored is compared with memory (R9).
    Check,
    /// And that at once after a failure.
    CheckAfterFailure,
    /// A drain ends with a durable commit (R5).
    DurableDrain,
    /// A lost answer is settled for the claim under which it was asked (R6).
    ClaimAtSettle,
    /// A lost answer is settled by the position that is stored (R6).
    PositionAtSettle,
    /// Messages below what was gathered are dropped (R8).
    DropBelow,
    /// Repeats of an id are taken in order (R1).
    RepeatsInOrder,
    /// A half ends where the next half's first record starts (R11).
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
