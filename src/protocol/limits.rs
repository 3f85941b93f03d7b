//! The numbers of the contract.
//!
//! Constants are fixed parts of the protocol; the values of [`Limits`] are defaults a server may be
//! configured away from, and are told to each client in `welcome`.

use serde::{Deserialize, Serialize};

/// Largest integer on the wire (2^53 - 1): what every JSON reader holds exactly.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;
/// Deepest nesting of objects and arrays in a client's frame; the frame itself is level 1.
pub const MAX_NESTING: usize = 32;

/// `user_id`, `device_id`: bytes.
pub const MAX_USER_ID: usize = 64;
/// `conv_id`: bytes.
pub const MAX_CONV_ID: usize = 160;
/// `client_msg_id`, `op_id`, `id`, `topic`: bytes.
pub const MAX_MSG_ID: usize = 64;

/// Default frame limit from a client: bytes.
pub const MAX_FRAME: usize = 65_536;
/// Default body limit: bytes of its compact form.
pub const MAX_BODY: usize = 32_768;
/// Default limit of a frame to a client: bytes.
pub const MAX_SERVER_FRAME: usize = 1_048_576;
/// Default window of unacknowledged sync entries, counted in `seq`.
pub const WINDOW_ENTRIES: u64 = 500;
/// Default time an idempotence key is remembered: seconds (7 days).
pub const DEDUPE_SECONDS: u64 = 604_800;
/// Default number of entries kept in a sync timeline.
pub const SYNC_ENTRIES: u64 = 1_000;
/// Default age to which sync entries are kept: seconds (7 days).
pub const SYNC_SECONDS: u64 = 604_800;
/// Default number of members above which a conversation is large.
pub const LARGE_CONVERSATION_MEMBERS: usize = 500;

/// `mentions` of one message: users.
pub const MAX_MENTIONS: usize = 50;
/// `ranges` of one `delete`.
pub const MAX_RANGES: usize = 200;
/// Ranges a user may have deleted of one conversation: `changes` tells them whole.
pub const MAX_DELETED: usize = 10_000;
/// `users`, `members` of one request.
pub const MAX_USERS: usize = 1_000;
/// `title`: characters, at least 1.
pub const MAX_TITLE_CHARS: usize = 256;
/// `attributes`: bytes of the compact form.
pub const MAX_ATTRIBUTES: usize = 4_096;
/// Reaction `key`: bytes, at least 1.
pub const MAX_KEY: usize = 64;
/// Different reaction keys of one message.
pub const MAX_REACTION_KEYS: usize = 64;
/// Edits of one message.
pub const MAX_EDITS: usize = 100;
/// `client.name`, `client.version`: characters.
pub const MAX_CLIENT_INFO_CHARS: usize = 64;
/// Users named with one reaction key in `history`; `count` goes on above it.
pub const MAX_REACTION_USERS: usize = 20;
/// Body bytes above which the `last` of `conversations` comes without it.
pub const MAX_LAST_BODY: usize = 1_024;

/// `token`: bytes. By section 9 of the contract.
pub const MAX_TOKEN: usize = 8_192;
/// `epoch` of a cursor: bytes, at least 1. By section 9 of the contract.
pub const MAX_EPOCH: usize = 64;
/// `page`: bytes, at least 1. By section 9 of the contract.
pub const MAX_PAGE: usize = 256;
/// `conversations` of `hello`: entries. By section 9 of the contract.
pub const MAX_HELLO_CONVERSATIONS: usize = 2_000;

/// `history` without `limit`.
pub const DEFAULT_HISTORY_LIMIT: u32 = 30;
/// Largest `limit` of `history`.
pub const MAX_HISTORY_LIMIT: u32 = 200;
/// From here on `after_at` of `history` is no time but a place, `HISTORY_PLACES` + conv_seq: what `next` is
/// where more messages than an answer holds have one time.
pub const HISTORY_PLACES: u64 = 1 << 52;
/// `conversations`, `members` without `limit`. By section 9 of the contract.
pub const DEFAULT_PAGE_LIMIT: u32 = 100;
/// Largest `limit` of `conversations`, `members`. By section 9 of the contract.
pub const MAX_PAGE_LIMIT: u32 = 1_000;

/// `limits` of `welcome`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Limits {
    /// Largest frame from a client: bytes.
    pub max_frame_bytes: u64,
    /// Largest body: bytes of its compact form.
    pub max_body_bytes: u64,
    /// Largest frame to a client: bytes.
    pub max_server_frame_bytes: u64,
    /// Sync entries sent ahead of the acknowledgement, counted in `seq`.
    pub window_entries: u64,
    /// Seconds an idempotence key is remembered at least.
    pub dedupe_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame_bytes: MAX_FRAME as u64,
            max_body_bytes: MAX_BODY as u64,
            max_server_frame_bytes: MAX_SERVER_FRAME as u64,
            window_entries: WINDOW_ENTRIES,
            dedupe_seconds: DEDUPE_SECONDS,
        }
    }
}
