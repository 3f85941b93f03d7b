//! How many messages are unread.
//!
//! The rule of the contract: messages of others, visible, above `max(read_seq, cleared_up_to)`, not
//! deleted, not recalled. Where a device holds all messages above that number it counts them: exact,
//! and the same on a device that was never behind and on one that had a reset, because both hold the
//! same messages. Where it does not (a fresh device that loaded no history), the server's number is
//! split into the messages held and a rest, and the rest is carried: a message that turns up moves
//! from the rest to those held, a recall of one not held takes one away, and there are never more than
//! numbers that are neither held nor hidden. What else a `delete` or `clear` of messages not held takes
//! away it cannot follow; the next `read` or `conversations` puts it right.
//! In large conversations the same rule is used; the server's number may be higher by recalled ones.

use serde::{Deserialize, Serialize};

use super::{ConversationState, HeldMessage};
use crate::protocol::UserId;

/// Unread messages that are not held.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Unheld {
    /// How many.
    pub count: u64,
    /// Messages above this `conv_seq` are not among them.
    pub as_of: u64,
}

impl ConversationState {
    /// Nothing up to it is unread.
    #[must_use]
    pub fn read_floor(&self) -> u64 {
        self.read_seq.max(self.cleared_up_to)
    }

    /// Unread messages; `me` is whose device it is.
    #[must_use]
    pub fn unread(&self, me: Option<&UserId>) -> u64 {
        let rest = if self.counts_exactly() { 0 } else { self.unheld.count.min(self.unknown()) };
        self.unread_held(u64::MAX, me) + rest
    }

    /// Numbers above the read position that the rest may be about: neither held nor hidden.
    fn unknown(&self) -> u64 {
        let (floor, as_of) = (self.read_floor(), self.unheld.as_of);
        if as_of <= floor {
            return 0;
        }
        let held = self.messages.range(floor + 1..=as_of).count() as u64;
        (as_of - floor).saturating_sub(held + self.deleted.count_in(floor + 1, as_of))
    }

    /// Whether every message above the read position is held.
    #[must_use]
    pub fn counts_exactly(&self) -> bool {
        let above = self.read_floor().saturating_add(1);
        self.stale.gap.is_none() && self.complete_from.is_some_and(|from| from <= above)
    }

    fn unread_held(&self, up_to: u64, me: Option<&UserId>) -> u64 {
        let floor = self.read_floor();
        if up_to <= floor {
            return 0;
        }
        let above = self.messages.range(floor + 1..=up_to);
        above.filter(|(_, message)| is_unread(message, me)).count() as u64
    }

    /// The server's number, true of messages up to `as_of`.
    pub(super) fn told_unread(&mut self, unread: u64, as_of: u64, me: Option<&UserId>) {
        let count = unread.saturating_sub(self.unread_held(as_of, me));
        self.unheld = Unheld { count, as_of };
    }

    /// A message that was not held is held now.
    pub(super) fn counted_at_last(&mut self, seq: u64, me: Option<&UserId>) {
        let unread = self.messages.get(&seq).is_some_and(|message| is_unread(message, me));
        if unread && seq > self.read_floor() && seq <= self.unheld.as_of {
            self.unheld.count = self.unheld.count.saturating_sub(1);
        }
    }

    /// A message that is not held was recalled, by another than this user.
    pub(super) fn recalled_unheld(&mut self, target: u64, conv_seq: u64) {
        let counted = target > self.read_floor() && target <= self.unheld.as_of;
        if counted && conv_seq > self.unheld.as_of {
            self.unheld.count = self.unheld.count.saturating_sub(1);
        }
    }
}

fn is_unread(message: &HeldMessage, me: Option<&UserId>) -> bool {
    !message.recalled && me != Some(&message.sender_id)
}
