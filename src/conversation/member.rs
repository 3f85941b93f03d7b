//! Membership: stays, roles, and who may see what.
//!
//! **The one predicate** of the design (rule 1) lives here: what the log addresses to a user is decided
//! by his stays alone, whoever asks and whenever.

use serde::{Deserialize, Serialize};

use super::entry::Header;
use crate::planted::{Bug, planted};
use crate::protocol::{HistoryMode, Role, UserId};

/// The end of a stay that has not ended.
pub const OPEN: u64 = u64::MAX;

/// The interval [join_seq, leave_seq] of a member, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay(pub u64, #[serde(default = "open", skip_serializing_if = "is_open")] pub u64);

fn open() -> u64 {
    OPEN
}
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_open(end: &u64) -> bool {
    *end == OPEN
}

impl Stay {
    /// Whether it holds this entry.
    pub fn covers(self, seq: u64) -> bool {
        self.0 <= seq && seq <= self.1
    }
}

/// What a leaver keeps knowing of the conversation: everything he is told is of that moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsLeft {
    /// Members after he left.
    pub members_count: u64,
    /// Title when he left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

/// A member, present or past: one row of the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Ascending; only the last may be open.
    pub stays: Vec<Stay>,
    /// Of the present stay.
    pub role: Role,
    /// Time of the present stay's join, milliseconds.
    pub joined_at: u64,
    /// Set while he is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<AsLeft>,
    /// The newest entry of the large conversation that went into his sync timeline; 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub told: u64,
    /// His messages of the present stay, since the conversation is large.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub sent: Sent,
}

/// Messages of one member of a large conversation, none of which is unread for him.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// How many.
    pub count: u64,
    /// conv_seq of the newest; 0: none.
    pub last: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}
fn is_none_yet(sent: &Sent) -> bool {
    sent.count == 0
}

impl Member {
    /// A member from `seq` on.
    pub fn joining(seq: u64, role: Role, at: u64) -> Self {
        Self { stays: vec![Stay(seq, OPEN)], role, joined_at: at, left: None, told: 0, sent: Sent::default() }
    }

    /// Begins another stay.
    pub fn rejoin(&mut self, seq: u64, at: u64) {
        self.stays.push(Stay(seq, OPEN));
        self.role = Role::Member;
        self.joined_at = at;
        self.left = None;
        self.sent = Sent::default();
    }

    /// Ends the present stay at `seq` (included).
    pub fn leave(&mut self, seq: u64, left: AsLeft) {
        if let Some(stay) = self.stays.last_mut() {
            stay.1 = seq;
        }
        self.role = Role::Member;
        self.left = Some(left);
    }

    /// Whether he is a member now.
    pub fn present(&self) -> bool {
        self.stays.last().is_some_and(|stay| stay.1 == OPEN)
    }

    /// First entry of the present (or last) stay.
    pub fn join_seq(&self) -> u64 {
        self.stays.last().map_or(0, |stay| stay.0)
    }

    /// Last entry of the last stay, if that has ended.
    pub fn leave_seq(&self) -> Option<u64> {
        self.stays.last().map(|stay| stay.1).filter(|end| *end != OPEN)
    }

    /// A head as this user is told it: never beyond his leave.
    pub fn cap(&self, head: u64) -> u64 {
        if planted(Bug::LeaverReadsOn) {
            return head;
        }
        self.leave_seq().map_or(head, |leave| leave.min(head))
    }

    /// Whether a stay covers this entry: then it is put into his sync timeline.
    pub fn covers(&self, seq: u64) -> bool {
        self.stays.iter().any(|stay| stay.covers(seq))
    }

    /// The predicate: is entry `seq` addressed to this user, does it go into his sync timeline? Of a large
    /// conversation those are that name him. Else: his own stays cover it; or it changes a message he may
    /// see, came while he was away, and he has come back since (it is handed over at the rejoin, before
    /// `joined`).
    pub fn addressed(&self, user: &UserId, seq: u64, header: &Header, mode: HistoryMode) -> bool {
        if let Some(large) = &header.large {
            return large.told(user).is_some();
        }
        if self.covers(seq) || planted(Bug::StaysIgnored) {
            return true;
        }
        if planted(Bug::RejoinForgetsChanges) {
            return false;
        }
        header.kind.changes_target()
            && self.sees(header.target, mode)
            && self.stays.iter().any(|stay| stay.0 > seq)
            && self.stays.first().is_some_and(|stay| stay.0 < seq)
    }

    /// Whether he may see this entry: the union of his stays, or with `history: full` everything up
    /// to his last leave.
    pub fn sees(&self, seq: u64, mode: HistoryMode) -> bool {
        match mode {
            HistoryMode::SinceJoin => self.covers(seq),
            HistoryMode::Full => self.stays.last().is_some_and(|stay| seq <= stay.1),
        }
    }

    /// The intervals he may see, clipped to `head`, ascending and disjoint.
    pub fn visible(&self, head: u64, mode: HistoryMode) -> Vec<(u64, u64)> {
        let head = self.cap(head);
        match mode {
            HistoryMode::Full => vec![(1, head)],
            HistoryMode::SinceJoin => {
                self.stays.iter().map(|stay| (stay.0.max(1), stay.1.min(head))).filter(|(a, b)| a <= b).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::entry::{Kind, Large, Told};

    fn left(count: u64) -> AsLeft {
        AsLeft { members_count: count, title: None }
    }

    fn header(kind: Kind, target: u64) -> Header {
        Header { target, ..Header::plain(kind, None) }
    }

    #[test]
    fn stays_decide_what_is_addressed() {
        let user = UserId::parse("alice").expect("a user");
        let mut member = Member::joining(5, Role::Member, 0);
        member.leave(9, left(1));
        let addressed = |member: &Member, seq, kind, target| {
            member.addressed(&user, seq, &header(kind, target), HistoryMode::SinceJoin)
        };
        assert!(addressed(&member, 5, Kind::Message, 0));
        assert!(addressed(&member, 9, Kind::Left, 0));
        assert!(!addressed(&member, 4, Kind::Message, 0));
        // A recall while he is gone is not his, until he comes back.
        assert!(!addressed(&member, 12, Kind::Recall, 7));
        member.rejoin(20, 0);
        assert!(addressed(&member, 12, Kind::Recall, 7));
        assert!(!addressed(&member, 12, Kind::Recall, 11));
        assert!(!addressed(&member, 12, Kind::Message, 0));
        assert_eq!(member.visible(30, HistoryMode::SinceJoin), [(5, 9), (20, 30)]);
    }

    #[test]
    fn of_a_large_conversation_only_those_named_are_addressed() {
        let [alice, bob] = ["alice", "bob"].map(|name| UserId::parse(name).expect("a user"));
        let member = Member::joining(5, Role::Member, 0);
        let told = vec![Told { user: bob.clone(), before: 0 }];
        let large = Some(Box::new(Large { told, ..Large::default() }));
        let mentions = Header { large, ..header(Kind::Message, 0) };
        assert!(member.addressed(&bob, 9, &mentions, HistoryMode::Full));
        assert!(!member.addressed(&alice, 9, &mentions, HistoryMode::Full));
    }

    #[test]
    fn numbers_are_capped_at_the_leave() {
        let mut member = Member::joining(1, Role::Owner, 0);
        assert_eq!(member.cap(50), 50);
        member.leave(40, left(0));
        assert_eq!((member.cap(50), member.leave_seq(), member.present()), (40, Some(40), false));
        assert!(!member.sees(41, HistoryMode::Full));
        assert!(member.sees(1, HistoryMode::Full));
    }
}
