//! Membership: stays, roles, and who may see what.
//!
//! **The one predicate** of the design (rule 1) lives here: what the log addresses to a user is decided
//! by his stays alone, whoever asks and whenever.

use serde::{Deserialize, Serialize};

use super::entry::Kind;
use crate::planted::{Bug, planted};
use crate::protocol::{HistoryMode, Role};

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
    fn covers(self, seq: u64) -> bool {
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
}

impl Member {
    /// A member from `seq` on.
    pub fn joining(seq: u64, role: Role, at: u64) -> Self {
        Self { stays: vec![Stay(seq, OPEN)], role, joined_at: at, left: None }
    }

    /// Begins another stay.
    pub fn rejoin(&mut self, seq: u64, at: u64) {
        self.stays.push(Stay(seq, OPEN));
        self.role = Role::Member;
        self.joined_at = at;
        self.left = None;
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

    /// The predicate: is entry `seq` of this kind, changing `target`, addressed to him? His own stays
    /// cover it; or it changes a message he may see, came while he was away, and he has come back
    /// since (it is handed over at the rejoin, before `joined`).
    pub fn addressed(&self, seq: u64, kind: Kind, target: u64, mode: HistoryMode) -> bool {
        if self.covers(seq) || planted(Bug::StaysIgnored) {
            return true;
        }
        if planted(Bug::RejoinForgetsChanges) {
            return false;
        }
        kind.changes_target()
            && self.sees(target, mode)
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

    fn left(count: u64) -> AsLeft {
        AsLeft { members_count: count, title: None }
    }

    #[test]
    fn stays_decide_what_is_addressed() {
        let mut member = Member::joining(5, Role::Member, 0);
        member.leave(9, left(1));
        assert!(member.addressed(5, Kind::Message, 0, HistoryMode::SinceJoin));
        assert!(member.addressed(9, Kind::Left, 0, HistoryMode::SinceJoin));
        assert!(!member.addressed(4, Kind::Message, 0, HistoryMode::SinceJoin));
        // A recall while he is gone is not his, until he comes back.
        assert!(!member.addressed(12, Kind::Recall, 7, HistoryMode::SinceJoin));
        member.rejoin(20, 0);
        assert!(member.addressed(12, Kind::Recall, 7, HistoryMode::SinceJoin));
        assert!(!member.addressed(12, Kind::Recall, 11, HistoryMode::SinceJoin));
        assert!(!member.addressed(12, Kind::Message, 0, HistoryMode::SinceJoin));
        assert_eq!(member.visible(30, HistoryMode::SinceJoin), [(5, 9), (20, 30)]);
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
