//! The frames of the client protocol, version 1: what the wire contract says, as types.
//!
//! No I/O, no clock, no store: text in, values out, and back. The server reads with
//! [`ClientFrame::parse`] and writes [`ServerFrame::to_json`] or, on the hot path,
//! [`write_sync_frame`] and [`write_heads_frame`]; a client library does the reverse.
//!
//! | file | holds |
//! |---|---|
//! | `ids` | user, device, conversation, message ids |
//! | `body` | message bodies, kept as text |
//! | `limits` | the contract's numbers |
//! | `error` | error codes, close codes, the error frame |
//! | `request` | client frames |
//! | `parse`, `parse_request` | text to client frames, with `scan` (bounds of JSON) and `fields` (strict readers) |
//! | `entry`, `entry_read` | entries of timelines |
//! | `answer` | answers to requests |
//! | `frame` | server frames |
//! | `api` | the server API's texts (feature `server`) |
//! | `schema` | JSON Schema of all of it (feature `schema`) |

mod answer;
#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "schema")]
pub mod asyncapi;
mod body;
mod entry;
mod entry_read;
mod error;
mod fields;
mod frame;
mod ids;
pub mod limits;
mod parse;
mod parse_request;
mod request;
mod scan;
#[cfg(feature = "schema")]
pub mod schema;

pub use answer::{
    Answer, AnswerBody, ConversationKind, ConversationSettings, ConversationSummary, DeviceInfo, EditChange,
    LastMessage, MemberInfo, ReactionChange, RecallChange, UserPresence,
};
pub use body::{Body, InvalidBody};
pub use entry::{ConversationChange, Entry, Event, HistoryEntry, MemberChange, Message, ReactionCount};
pub use error::{CloseCode, ErrorCode, ErrorFrame, close_reconnects};
pub use frame::{
    EncodedHeads, HeadsItem, Reset, ResetReason, ServerFrame, SyncFrame, SyncMode, Welcome, encoded_len,
    write_heads_frame, write_sync_frame,
};
pub use ids::{ConvId, DeviceId, InvalidId, MsgId, UserId};
pub use limits::Limits;
pub use parse::{ParseLimits, Reject};
pub use request::{
    ClientFrame, ClientInfo, Cursor, Envelope, Hello, HistoryFrom, HistoryMode, Range, Request, Role, Send, SendTo,
};

/// The WebSocket subprotocol both sides must agree on.
pub const SUBPROTOCOL: &str = "everline.v1.json";
/// The path of the WebSocket.
pub const WS_PATH: &str = "/v1/ws";
