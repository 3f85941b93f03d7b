//! The hub: which sessions a user has on this node, and the way to them.
//!
//! Knows no store and no rules. Nobody ever waits here: a session whose queue is full is marked
//! lagging and reads its log instead. What is pushed must be durable before (the caller's duty).

use std::sync::Arc;

use crate::protocol::{CloseCode, DeviceId, UserId};

/// One entry of a user's sync timeline on its way to that user's live sessions.
#[derive(Debug, Clone)]
pub struct Live {
    /// Its number in the user's sync timeline.
    pub seq: u64,
    /// What follows `{"seq":N,` on the wire, encoded once for all members; `None` when this reader is
    /// not shown the entry (its number still counts).
    pub text: Option<Arc<str>>,
    /// Changes what earlier entries show (recall, edit, delete, clear, read): a frame with this and
    /// other entries must be read from the log, where everything superseded is left out.
    pub changes_earlier: bool,
}

/// All sessions of this node by user.
#[derive(Debug, Default)]
pub struct Hub {}

impl Hub {
    /// Whether any session of this user is here; lets callers skip encoding.
    pub fn has(&self, _user: &UserId) -> bool {
        false
    }

    /// Hands durable entries, in order, to every session of the user. Never waits.
    pub fn push(&self, _user: &UserId, _entries: &[Live]) {}

    /// Whether this device has a session here.
    pub fn is_connected(&self, _user: &UserId, _device: &DeviceId) -> bool {
        false
    }

    /// Asks the session of this device to close with a code, if it is here.
    pub fn close(&self, _user: &UserId, _device: &DeviceId, _code: CloseCode) {}

    /// The largest seq this device's session here has acknowledged.
    pub fn acked(&self, _user: &UserId, _device: &DeviceId) -> Option<u64> {
        None
    }
}
