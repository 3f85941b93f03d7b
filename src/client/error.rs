//! Why something did not work, one variant for each different reaction of the application.

use std::fmt;

use crate::protocol::ErrorFrame;

/// Why a request was not answered as hoped.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// There is no connection, or it went before the answer. Whether the request took effect is not
    /// known; every request may be repeated when there is a connection again.
    #[error("disconnected")]
    Disconnected,
    /// The server said no.
    #[error("refused: {}", .0.code)]
    Refused(ErrorFrame),
    /// The server answered something else than asked.
    #[error("unexpected answer")]
    Unexpected,
    /// The client has stopped.
    #[error("client stopped")]
    Stopped,
}

/// Why a message will not be sent. Until then it is in the outbox.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SendError {
    /// The server said no, and will say so again.
    #[error("refused: {}", .0.code)]
    Refused(ErrorFrame),
    /// It was tried longer ago than the server remembers keys: trying again could make a second one.
    #[error("outcome unknown for too long")]
    OutcomeUnknown,
    /// Larger than the server allows.
    #[error("too large")]
    TooLarge,
    /// Too many messages are waiting.
    #[error("outbox full")]
    OutboxFull,
    /// Another message with this `client_msg_id` is waiting.
    #[error("client_msg_id in use")]
    IdInUse,
    /// The client has stopped. The message stays in the outbox if it was put there.
    #[error("client stopped")]
    Stopped,
}

/// Why a client does not connect again by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StopReason {
    /// The application closed it, or dropped every handle.
    Closed,
    /// The server closed with a code that says not to come back.
    Refused {
        /// Close code, 4500-4599 and some below.
        code: u16,
        /// For people.
        reason: String,
    },
    /// The upgrade was refused with this HTTP status.
    Http(u16),
    /// The token has expired and there is no provider to ask for another.
    TokenExpired,
    /// The cache belongs to another user than the token.
    OtherUser,
    /// The cache could not be read or written.
    Cache(String),
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by the application"),
            Self::Refused { code, reason } => write!(f, "closed by the server with {code} {reason}"),
            Self::Http(status) => write!(f, "the server answered HTTP {status}"),
            Self::TokenExpired => f.write_str("the token has expired"),
            Self::OtherUser => f.write_str("the cache belongs to another user"),
            Self::Cache(error) => write!(f, "the cache failed: {error}"),
        }
    }
}

/// What a cache or a token provider may fail with.
pub type BoxError = Box<dyn std::error::Error + std::marker::Send + Sync>;

/// A `url` that is no WebSocket address.
#[derive(Debug, thiserror::Error)]
#[error("not a ws:// address: {0}")]
pub struct InvalidUrl(pub(super) String);
