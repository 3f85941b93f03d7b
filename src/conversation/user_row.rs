//! The one row of user and conversation, kept exact by folding every entry delivered.
//!
//! It is at once the recent-contacts list, the read state and the fan-out's idempotence: an entry with
//! conv_seq <= `delivered` is already in this user's sync timeline. `unread` is a fold over immutable
//! entries in conv_seq order (rule 8), never a look at what is true by now.

use bytes::Bytes;

use super::entry::{Appended, Kind, Large};
use super::member::Member;
use super::ranges::Ranges;
use crate::planted::{Bug, planted};
use crate::protocol::{ConversationSettings, UserId};
use crate::timeline::codec::{Reader, put_number};

/// State of one conversation for one user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserRow {
    /// Largest conv_seq put into this user's sync timeline.
    pub delivered: u64,
    /// Read up to here.
    pub read_seq: u64,
    /// Messages of others, visible, above max(read_seq, cleared_up_to), neither deleted nor recalled. Of a
    /// large conversation only those from before it was large; the rest is counted when asked for.
    pub unread: u64,
    /// Everything up to here is gone for this user.
    pub cleared_up_to: u64,
    /// Time of the newest message delivered; before the first, of the joining. Milliseconds.
    pub last_at: u64,
    /// The peer's read_seq this user has been told (direct conversations).
    pub receipt_seq: u64,
    /// muted, pinned, hidden.
    pub settings: SettingsBits,
    /// Of a large conversation: the user's own messages up to max(read_seq, cleared_up_to).
    pub seen_own: u64,
    /// Whether there is a row of deleted ranges.
    pub has_hidden: bool,
}

/// muted, pinned, hidden.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SettingsBits {
    /// No sound.
    pub muted: bool,
    /// Kept on top.
    pub pinned: bool,
    /// Not listed.
    pub hidden: bool,
}

impl From<SettingsBits> for ConversationSettings {
    fn from(bits: SettingsBits) -> Self {
        Self { muted: bits.muted, pinned: bits.pinned, hidden: bits.hidden }
    }
}

impl UserRow {
    /// The row of somebody to whom nothing was delivered before `first`.
    pub fn starting_at(first: u64) -> Self {
        Self { delivered: first.saturating_sub(1), ..Self::default() }
    }

    /// Messages up to here don't count as unread.
    pub fn seen_up_to(&self) -> u64 {
        self.read_seq.max(self.cleared_up_to)
    }

    /// Takes in the next entry addressed to `user`. `hidden` is what he deleted.
    pub fn fold(&mut self, user: &UserId, member: &Member, hidden: &Ranges, entry: &Appended) {
        let header = &entry.header;
        if let Some(large) = &header.large {
            return self.fold_large(user, member, large, entry);
        }
        match header.kind {
            Kind::Message => {
                self.last_at = entry.at;
                let counts =
                    header.by.as_ref() != Some(user) && entry.seq > self.seen_up_to() && !hidden.contains(entry.seq);
                self.unread += u64::from(counts);
            }
            Kind::Recall => {
                let counted = header.target_sender.as_ref() != Some(user)
                    && (header.target > self.seen_up_to() || planted(Bug::RecallAlwaysSubtracts))
                    && member.covers(header.target)
                    && !hidden.contains(header.target);
                self.unread = self.unread.saturating_sub(u64::from(counted));
            }
            Kind::Joined if header.subject.as_ref() == Some(user) => self.joined(entry),
            Kind::Created => self.joined(entry),
            _ => {}
        }
        self.delivered = entry.seq;
    }

    /// Of a large conversation nothing is counted here but what must stay when he is gone.
    fn fold_large(&mut self, user: &UserId, member: &Member, large: &Large, entry: &Appended) {
        let header = &entry.header;
        match header.kind {
            _ if header.subject.as_ref() != Some(user) => {}
            Kind::Joined => self.joined(entry),
            Kind::Left => {
                let stay = member.stays.iter().find(|stay| stay.covers(entry.seq));
                if stay.is_some_and(|stay| large.tail.last_seq >= stay.0) {
                    self.last_at = self.last_at.max(large.tail.last_at);
                }
            }
            _ => {}
        }
        self.delivered = entry.seq;
    }

    /// Who joins starts with everything before read (rule 8).
    fn joined(&mut self, entry: &Appended) {
        if planted(Bug::JoinerReadNothing) {
            return;
        }
        if entry.seq > self.seen_up_to() {
            // Else he has read on before this came to him, and his own messages up to there are counted already.
            self.seen_own = 0;
        }
        self.read_seq = self.read_seq.max(entry.seq);
        self.unread = 0;
        self.last_at = self.last_at.max(entry.at);
    }

    /// As stored.
    pub fn store(&self) -> Bytes {
        let mut out = Vec::with_capacity(40);
        let SettingsBits { muted, pinned, hidden } = self.settings;
        out.push(u8::from(muted) | u8::from(pinned) << 1 | u8::from(hidden) << 2 | u8::from(self.has_hidden) << 3);
        let Self { delivered, read_seq, unread, cleared_up_to, last_at, receipt_seq, seen_own, .. } = *self;
        for n in [delivered, read_seq, unread, cleared_up_to, last_at, receipt_seq, seen_own] {
            put_number(&mut out, n);
        }
        Bytes::from(out)
    }

    /// From what was stored; `None` when damaged.
    pub fn load(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let flags = reader.byte()?;
        let mut number = || reader.number();
        Some(Self {
            delivered: number()?,
            read_seq: number()?,
            unread: number()?,
            cleared_up_to: number()?,
            last_at: number()?,
            receipt_seq: number()?,
            seen_own: number()?,
            settings: SettingsBits { muted: flags & 1 != 0, pinned: flags & 2 != 0, hidden: flags & 4 != 0 },
            has_hidden: flags & 8 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::entry::Header;
    use crate::protocol::{ConvId, Role};

    #[test]
    fn a_joining_that_comes_late_takes_nothing_from_what_was_read_since() {
        let (user, conv) = (UserId::parse("alice").expect("a user"), ConvId::parse("g:1").expect("a conversation"));
        let mut header = Header { subject: Some(user.clone()), ..Header::plain(Kind::Joined, None) };
        header.large = Some(Box::default());
        let joined = |seq| Appended::new(&conv, seq, 0, header.clone(), "".into());
        let member = Member::joining(2, Role::Member, 0);
        let read = UserRow { delivered: 1, read_seq: 10, seen_own: 5, ..UserRow::default() };
        let mut row = read.clone();
        row.fold(&user, &member, &Ranges::default(), &joined(2));
        assert_eq!(row, UserRow { delivered: 2, ..read.clone() });
        // In order: his messages of an earlier stay count no more.
        row.fold(&user, &member, &Ranges::default(), &joined(12));
        assert_eq!(row, UserRow { delivered: 12, read_seq: 12, seen_own: 0, ..read });
    }
}
