//! The numbers the rules of timelines and conversations follow. Defaults are those of the design.

use crate::protocol::limits;

/// Retention, limits and windows. Times in milliseconds.
#[derive(Debug, Clone)]
pub struct Policy {
    /// A sync timeline keeps at most so many entries.
    pub sync_max_entries: u64,
    /// A sync timeline keeps entries at most so long.
    pub sync_max_age_ms: u64,
    /// Conversations that ever had more members are large.
    pub large_conversation_members: usize,
    /// Recall and edit are possible so long after the message.
    pub recall_limit_ms: u64,
    /// A client_msg_id is remembered at least so long.
    pub dedupe_ms: u64,
    /// Devices one user may have.
    pub max_devices: usize,
    /// Largest message body, bytes of its compact form.
    pub max_body_bytes: usize,
}

impl Default for Policy {
    fn default() -> Self {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        Self {
            sync_max_entries: limits::SYNC_ENTRIES,
            sync_max_age_ms: limits::SYNC_SECONDS * 1000,
            large_conversation_members: limits::LARGE_CONVERSATION_MEMBERS,
            recall_limit_ms: DAY_MS,
            dedupe_ms: limits::DEDUPE_SECONDS * 1000,
            max_devices: 10,
            max_body_bytes: limits::MAX_BODY,
        }
    }
}
