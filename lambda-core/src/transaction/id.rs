//! The ids of transactions and accounts: opaque text.

use std::fmt;

use super::Expected;

/// Longest id, in bytes.
pub const ID_BYTES_MAX: usize = 64;

/// Checks the rule of both ids.
pub(super) fn check(text: &str) -> Result<&str, Expected> {
    if text.is_empty() || text.len() > ID_BYTES_MAX || text.as_bytes().contains(&0) {
        return Err(Expected("text of 1 to 64 bytes without NUL"));
    }
    Ok(text)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The id that `text` spells: 1 to 64 bytes, no NUL.
            ///
            /// # Errors
            /// If it is empty, longer, or has a NUL character.
            pub fn parse(text: &str) -> Result<Self, Expected> {
                check(text).map(|text| Self(text.into()))
            }

            /// The id's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A transaction's id.
    TransactionId
}
id! {
    /// An account's id.
    AccountId
}
