//! Conversations: who is in them, who may do and see what, what a request comes to.
//!
//! Rules only: this room reads the store and fills drafts; it commits nothing, numbers nothing and
//! knows no sockets. Every rule is decided by the conversation's own log (its entries and the rows
//! committed with them), never by what a user's row says.

pub mod decide;
pub mod entry;
pub mod inbox;
pub mod member;
pub mod own;
pub mod pointer;
pub mod ranges;
pub mod read;
pub mod rows;
pub mod state;
pub mod user_row;
pub mod view;

use crate::protocol::ErrorCode;

/// Why a request was refused; becomes an error frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Code of the contract, section 7.
    pub code: ErrorCode,
    /// The offending field, where the contract names one.
    pub field: Option<&'static str>,
    /// When to try again, where that is known.
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal without a field.
    pub fn new(code: ErrorCode) -> Self {
        Self { code, field: None, retry_after_ms: code.retry_after_ms() }
    }

    /// `invalid_field`.
    pub fn field(field: &'static str) -> Self {
        Self { code: ErrorCode::InvalidField, field: Some(field), retry_after_ms: None }
    }
}
