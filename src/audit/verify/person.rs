//! One member of a conversation: what his row must say, counted from the log by definition, not by
//! the fold that wrote it.

use crate::conversation::entry::{Header, Kind};
use crate::conversation::member::Member;
use crate::conversation::ranges::Ranges;
use crate::conversation::user_row::UserRow;
use crate::protocol::{HistoryMode, UserId};

/// A member being counted.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) user: UserId,
    member: Member,
    mode: HistoryMode,
    large_at: Option<u64>,
    /// What his timeline says.
    row: Option<UserRow>,
    hidden: Ranges,
    /// Deliveries up to here are complete.
    complete_to: u64,
    /// Last entry addressed to him; last one that must be delivered.
    addressed: u64,
    due: u64,
    unread: u64,
    last_at: u64,
}

impl Person {
    pub(super) fn new(
        user: UserId,
        member: Member,
        (mode, large_at): (HistoryMode, Option<u64>),
        row: Option<UserRow>,
        hidden: Ranges,
        complete_to: u64,
    ) -> Self {
        Self { user, member, mode, large_at, row, hidden, complete_to, addressed: 0, due: 0, unread: 0, last_at: 0 }
    }

    /// Takes in an entry; `recalled_at` is the conv_seq of a message's recall.
    pub(super) fn take(&mut self, seq: u64, at: u64, header: &Header, recalled_at: Option<u64>) {
        if !self.member.addressed(&self.user, seq, header, self.mode) {
            return;
        }
        self.addressed = seq;
        if seq <= self.complete_to {
            self.due = seq;
        }
        let Some(row) = self.row.as_ref().filter(|row| seq <= row.delivered) else { return };
        match header.kind {
            // It only mentions him, and is counted when somebody asks.
            Kind::Message if header.large.is_some() => {}
            Kind::Message => {
                self.last_at = at;
                // A recall above the crossing is told nobody: what it takes back counts until it is read.
                let known = self.large_at.map_or(row.delivered, |at| at.min(row.delivered));
                let recalled = recalled_at.is_some_and(|recall| recall <= known);
                let counts = header.by.as_ref() != Some(&self.user)
                    && seq > row.read_seq.max(row.cleared_up_to)
                    && !self.hidden.contains(seq)
                    && !recalled;
                self.unread += u64::from(counts);
            }
            Kind::Joined if header.subject.as_ref() == Some(&self.user) => self.last_at = self.last_at.max(at),
            Kind::Left if header.subject.as_ref() == Some(&self.user) => {
                let stay = self.member.stays.iter().find(|stay| stay.covers(seq));
                let tail = header.large.as_ref().map(|large| large.tail).unwrap_or_default();
                if tail.last_seq > 0 && stay.is_some_and(|stay| stay.0 <= tail.last_seq) {
                    self.last_at = self.last_at.max(tail.last_at);
                }
            }
            Kind::Created => self.last_at = self.last_at.max(at),
            _ => {}
        }
    }

    /// What his row says otherwise.
    pub(super) fn end(&self, head: u64) -> Vec<String> {
        let user = &self.user;
        let Some(row) = &self.row else {
            let missing = self.due > 0;
            return if missing { vec![format!("{user} has no row, up to {} is his", self.due)] } else { Vec::new() };
        };
        let mut wrong = Vec::new();
        let mut expect = |differs: bool, what: String| {
            if differs {
                wrong.push(format!("row of {user}: {what}"));
            }
        };
        let start = self.member.stays.first().map_or(0, |stay| stay.0.saturating_sub(1));
        let (delivered, most) = (row.delivered, self.addressed.max(start));
        expect(delivered > most, format!("delivered_seq is {delivered}, the last entry addressed to him is {most}"));
        expect(
            delivered < self.due,
            format!("delivered_seq is {delivered}, entries up to {} are addressed to him", self.due),
        );
        let cap = self.member.cap(head);
        expect(row.read_seq > cap, format!("read_seq is {}, the log ends at {cap}", row.read_seq));
        expect(row.cleared_up_to > cap, format!("cleared_up_to is {}, the log ends at {cap}", row.cleared_up_to));
        expect(row.unread != self.unread, format!("unread is {}, counted from the log {}", row.unread, self.unread));
        expect(row.last_at != self.last_at, format!("last_at is {}, by the log {}", row.last_at, self.last_at));
        wrong
    }
}
