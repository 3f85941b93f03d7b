//! What goes wrong, as the client is told: error frames and close codes.
//!
//! One code per different reaction of a client. Messages are for people reading logs; programs look
//! at the code only. Nothing here reveals whether a thing exists that its reader may not see.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::MsgId;

/// `code` of an error frame.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not JSON, not an object, too deep, lone surrogate, number beyond 64 bits.
    BadJson,
    /// `type` missing or unknown.
    UnknownType,
    /// A field missing, mistyped, over-long or out of range.
    InvalidField,
    /// A request before `hello`.
    HelloRequired,
    /// A second `hello`.
    AlreadyConnected,
    /// No valid token; one wording for every reason.
    InvalidToken,
    /// The token's time is over.
    TokenExpired,
    /// The device was revoked or logged out.
    Revoked,
    /// An acknowledgement above what was sent.
    AckAhead,
    /// More devices or connections than allowed.
    TooManyConnections,
    /// Too fast; `retry_after_ms` says when again.
    RateLimited,
    /// No such thing for this user.
    NotFound,
    /// Seen, but no right.
    Forbidden,
    /// Recall or edit after its time limit.
    TooLate,
    /// The message was recalled.
    Gone,
    /// A body over the limit.
    TooLarge,
    /// `client_msg_id` used before with other content.
    IdempotencyConflict,
    /// The store is slow or its answer unknown; try the same again.
    Unavailable,
    /// The server is overloaded; `retry_after_ms` says when again.
    Overloaded,
    /// A code of a later version of the protocol. Never sent.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

impl ErrorCode {
    /// Every code a server sends, in the order of the contract.
    pub const ALL: [Self; 19] = [
        Self::BadJson,
        Self::UnknownType,
        Self::InvalidField,
        Self::HelloRequired,
        Self::AlreadyConnected,
        Self::InvalidToken,
        Self::TokenExpired,
        Self::Revoked,
        Self::AckAhead,
        Self::TooManyConnections,
        Self::RateLimited,
        Self::NotFound,
        Self::Forbidden,
        Self::TooLate,
        Self::Gone,
        Self::TooLarge,
        Self::IdempotencyConflict,
        Self::Unavailable,
        Self::Overloaded,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::UnknownType => "unknown_type",
            Self::InvalidField => "invalid_field",
            Self::HelloRequired => "hello_required",
            Self::AlreadyConnected => "already_connected",
            Self::InvalidToken => "invalid_token",
            Self::TokenExpired => "token_expired",
            Self::Revoked => "revoked",
            Self::AckAhead => "ack_ahead",
            Self::TooManyConnections => "too_many_connections",
            Self::RateLimited => "rate_limited",
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::TooLate => "too_late",
            Self::Gone => "gone",
            Self::TooLarge => "too_large",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::Unknown => "unknown",
        }
    }

    /// A sentence for people, the same wherever the code is used without a better one.
    #[must_use]
    pub const fn default_message(self) -> &'static str {
        match self {
            Self::BadJson => "The frame is not acceptable JSON.",
            Self::UnknownType => "The frame has no type this server knows.",
            Self::InvalidField => "A field is missing, mistyped or out of range.",
            Self::HelloRequired => "The first frame must be hello.",
            Self::AlreadyConnected => "This connection has said hello already.",
            Self::InvalidToken => "The token is not valid.",
            Self::TokenExpired => "The token has expired.",
            Self::Revoked => "This device has been revoked.",
            Self::AckAhead => "The acknowledgement is above what was sent.",
            Self::TooManyConnections => "Too many devices or connections.",
            Self::RateLimited => "Too many requests.",
            Self::NotFound => "Not found.",
            Self::Forbidden => "Not allowed.",
            Self::TooLate => "The time limit for this has passed.",
            Self::Gone => "The message was recalled.",
            Self::TooLarge => "The body is over the limit.",
            Self::IdempotencyConflict => "This id was used before for other content.",
            Self::Unavailable => "Temporarily unavailable; try the same request again.",
            Self::Overloaded => "The server is overloaded; try again later.",
            Self::Unknown => "Unknown error.",
        }
    }

    /// Whether the same request, sent again unchanged and later, may succeed.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable | Self::Overloaded)
    }

    /// Milliseconds after which to try again, where nothing tells a better time.
    #[must_use]
    pub const fn retry_after_ms(self) -> Option<u64> {
        match self {
            Self::Overloaded => Some(1000),
            _ => None,
        }
    }

    /// The close that always follows this error. `None`: the connection goes on, or the session
    /// decides by its counts (`bad_json` the third time, `rate_limited` far beyond).
    #[must_use]
    pub const fn close(self) -> Option<CloseCode> {
        match self {
            Self::HelloRequired => Some(CloseCode::HelloRequired),
            Self::InvalidToken => Some(CloseCode::InvalidToken),
            Self::TokenExpired => Some(CloseCode::TokenExpired),
            Self::Revoked => Some(CloseCode::Revoked),
            Self::AckAhead => Some(CloseCode::ProtocolViolation),
            Self::TooManyConnections => Some(CloseCode::TooManyConnections),
            _ => None,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the server closes a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u16)]
pub enum CloseCode {
    /// The server goes away: reconnect after a random 0-5 s.
    GoingAway = 1001,
    /// A binary frame.
    Unsupported = 1003,
    /// Text that is not UTF-8.
    InvalidUtf8 = 1007,
    /// A frame over the limit.
    TooBig = 1009,
    /// The server restarts: reconnect after a random 0-5 s.
    Restart = 1012,
    /// Overloaded: reconnect later.
    TryAgainLater = 1013,
    /// The token expired: reconnect with another.
    TokenExpired = 4401,
    /// Two heartbeats missed.
    HeartbeatMissed = 4408,
    /// Far beyond the rate.
    RateExceeded = 4429,
    /// The client breaks the protocol: three times bad JSON, or an ack ahead.
    ProtocolViolation = 4500,
    /// A request before `hello`.
    HelloRequired = 4501,
    /// No `hello` in time.
    HelloTimeout = 4502,
    /// No valid token.
    InvalidToken = 4503,
    /// Device revoked or logged out.
    Revoked = 4504,
    /// Too many devices or connections.
    TooManyConnections = 4506,
    /// The same device connected again.
    Replaced = 4509,
}

impl CloseCode {
    /// Every code of the contract.
    pub const ALL: [Self; 16] = [
        Self::GoingAway,
        Self::Unsupported,
        Self::InvalidUtf8,
        Self::TooBig,
        Self::Restart,
        Self::TryAgainLater,
        Self::TokenExpired,
        Self::HeartbeatMissed,
        Self::RateExceeded,
        Self::ProtocolViolation,
        Self::HelloRequired,
        Self::HelloTimeout,
        Self::InvalidToken,
        Self::Revoked,
        Self::TooManyConnections,
        Self::Replaced,
    ];

    /// The number in the close frame.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The named code, if it is one of the contract.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// Whether a client reconnects by itself after this code.
    #[must_use]
    pub const fn reconnects(self) -> bool {
        close_reconnects(self.code())
    }
}

/// Whether a client reconnects by itself after any close code: not after 4500-4599, nor after those for a
/// frame that would be refused again; after all others.
#[must_use]
pub const fn close_reconnects(code: u16) -> bool {
    !matches!(code, 1003 | 1007 | 1009 | 4500..=4599)
}

/// `{"type":"error",...}`. Absent values are written as null, as in the contract.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorFrame {
    /// The request's id, null when there was none to read.
    pub id: Option<MsgId>,
    /// What went wrong.
    pub code: ErrorCode,
    /// For people.
    pub message: Cow<'static, str>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Milliseconds to wait before that.
    pub retry_after_ms: Option<u64>,
    /// The top-level field at fault.
    pub field: Option<Cow<'static, str>>,
}

impl ErrorFrame {
    /// With the code's own message and time to wait, and nothing else set.
    #[must_use]
    pub fn new(id: Option<MsgId>, code: ErrorCode) -> Self {
        Self {
            id,
            code,
            message: Cow::Borrowed(code.default_message()),
            retryable: code.retryable(),
            retry_after_ms: code.retry_after_ms(),
            field: None,
        }
    }

    /// Names the field at fault.
    #[must_use]
    pub fn with_field(mut self, field: &'static str) -> Self {
        self.field = Some(Cow::Borrowed(field));
        self
    }

    /// Another message for people.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.message = message.into();
        self
    }

    /// When to try again: milliseconds.
    #[must_use]
    pub fn with_retry_after(mut self, milliseconds: u64) -> Self {
        self.retry_after_ms = Some(milliseconds);
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_as_they_are_named() {
        for code in ErrorCode::ALL {
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), code);
        }
        assert_eq!(serde_json::from_str::<ErrorCode>("\"new\"").unwrap(), ErrorCode::Unknown);
    }

    #[test]
    fn close_codes_say_whether_to_come_back() {
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_code(code.code()), Some(code));
            match code.code() {
                4400..=4499 | 1001 | 1012 | 1013 => assert!(code.reconnects(), "{code:?}"),
                _ => assert!(!code.reconnects(), "{code:?}"),
            }
        }
        assert_eq!(CloseCode::from_code(1000), None);
        assert!(close_reconnects(1006));
    }
}
