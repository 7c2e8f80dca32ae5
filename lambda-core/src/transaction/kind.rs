//! Types of transactions: a closed set.

use std::fmt;

use super::Expected;

/// Type of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransactionType {
    /// Payment for goods or services.
    Purchase,
    /// Withdrawal of cash.
    Withdrawal,
    /// Transfer of money to another account.
    Transfer,
    /// Repayment of a purchase.
    Refund,
    /// Deposit of cash.
    Deposit,
}

impl TransactionType {
    /// All types.
    pub const ALL: [Self; 5] =
        [Self::Purchase, Self::Withdrawal, Self::Transfer, Self::Refund, Self::Deposit];

    /// The type of this name, in lowercase as the contract has it.
    ///
    /// # Errors
    /// For any other text.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(Expected("purchase, withdrawal, transfer, refund or deposit"))
    }

    /// The name in messages, files and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Purchase => "purchase",
            Self::Withdrawal => "withdrawal",
            Self::Transfer => "transfer",
            Self::Refund => "refund",
            Self::Deposit => "deposit",
        }
    }
}

impl fmt::Display for TransactionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
