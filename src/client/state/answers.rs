//! Answers into the state: `history`, `changes`, `conversations`, `members`.
//!
//! An answer is true of its `head_seq` (`up_to`), not of the moment it arrives: what is known to be
//! newer stays. Whatever was asked by the application goes in the same way; only an answer that was
//! asked for a mark (`Stale`) and after it was made (`finishes`) may take the mark away, else a
//! reset in between would be forgotten.

use std::collections::BTreeMap;

use super::apply::{notify, set_member};
use super::changes::{Edit, NewReaction};
use super::{ConversationState, Loading, Older, Preload, State};
use crate::protocol::{
    ConvId, ConversationSummary, EditChange, Event, HistoryEntry, HistoryFrom, MemberInfo, Range, ReactionChange,
    RecallChange,
};

/// The fields of a `history` answer.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryAnswer {
    /// Ascending.
    pub entries: Vec<HistoryEntry>,
    /// For the same parameter of the next request.
    pub next: Option<u64>,
    /// Nothing more in this direction.
    pub complete: bool,
    /// What the answer is true of.
    pub head_seq: u64,
}

/// The fields of a `changes` answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangesAnswer {
    /// Messages taken back.
    pub recalled: Vec<RecallChange>,
    /// The last edit of each.
    pub edited: Vec<EditChange>,
    /// The last of each user and key.
    pub reacted: Vec<ReactionChange>,
    /// What the answer is true of.
    pub up_to: u64,
    /// There are further pages.
    pub more: bool,
    /// All ranges deleted by this user.
    pub deleted: Vec<Range>,
    /// All up to it is gone for this user.
    pub cleared_up_to: u64,
}

/// Takes in a page of messages asked for by `from`. `finishes`: it was asked for the marks that are
/// still there, so it moves or removes the one it answers.
pub fn apply_history(state: &mut State, conv_id: &ConvId, from: HistoryFrom, answer: &HistoryAnswer, finishes: bool) {
    let me = state.user_id.clone();
    for entry in &answer.entries {
        match &entry.event {
            Event::Message(message) => {
                let held = state.conversations.entry(conv_id.clone()).or_default();
                held.insert(message, answer.head_seq, Some(&entry.reactions), me.as_ref());
            }
            Event::Notification { conv_seq, topic, body, .. } => notify(state, *conv_seq, topic, body),
            _ => {}
        }
    }
    let held = state.conversations.entry(conv_id.clone()).or_default();
    if !conv_id.is_everybody() {
        // There a page that the application asked for says nothing of what lies before it.
        held.extend(from, answer);
    }
    if finishes {
        held.advance(from, answer);
        held.finish_log(!conv_id.is_everybody());
    }
}

/// Takes in a page of changes; `since` is where the first page of the run began. With `finishes`, the
/// last page ends the run.
pub fn apply_changes(state: &mut State, conv_id: &ConvId, since: u64, answer: &ChangesAnswer, finishes: bool) {
    let me = state.user_id.clone();
    let held = state.conversations.entry(conv_id.clone()).or_default();
    held.delete(&answer.deleted);
    held.clear(answer.cleared_up_to);
    for RecallChange { target, conv_seq, by } in &answer.recalled {
        held.recall(*target, *conv_seq, by, me.as_ref());
    }
    for EditChange { target, conv_seq, body, edited_at, .. } in &answer.edited {
        let (conv_seq, body, edited_at) = (*conv_seq, body.clone(), *edited_at);
        held.edit(*target, Edit { conv_seq, body, edited_at });
    }
    for ReactionChange { target, conv_seq, user_id, key, add } in &answer.reacted {
        let (target, conv_seq, add) = (*target, *conv_seq, *add);
        held.react(&NewReaction { target, conv_seq, user: user_id, key, add });
    }
    if !finishes || answer.more {
        return;
    }
    held.name_reactions_after(since, answer.up_to);
    if held.reconciled_seq.is_none_or(|known| since <= known) {
        held.reconciled_seq = held.reconciled_seq.max(Some(answer.up_to));
    }
    held.stale.changes = None;
    held.finish_log(true);
}

/// Takes in rows of the list. `asked_at`: the cursor's seq when they were asked for.
pub fn apply_conversations(state: &mut State, rows: &[ConversationSummary], asked_at: u64) {
    let me = state.user_id.clone();
    let (preload, loading, seq) = (state.preload, state.loading, state.seq());
    for row in rows {
        let known = state.conversations.contains_key(&row.conv_id);
        let held = state.conversations.entry(row.conv_id.clone()).or_default();
        let (wanted, was_large) = (held.stale.row, held.large);
        held.take_row(row, asked_at);
        if !known && held.reconciled_seq.is_none() {
            held.reconciled_seq = Some(row.head_seq);
            held.held_to = row.head_seq;
        }
        if loading == Loading::Reset && held.stale.generation == 0 {
            // It came while this device was below the floor, and with it deletes no entry will tell.
            held.stale.generation = 1;
            held.stale.changes = held.stale.changes.or(held.reconciled_seq).or(Some(row.head_seq));
        }
        // Of a large one the sync timeline will not tell the rest.
        if loading != Loading::No || wanted.is_some() || (row.large && !was_large) {
            held.preload(preload, seq);
        }
        // Of a large conversation an answer from before its news tells nothing of them.
        let told = held.stale.heads_seen.max(held.position().unwrap_or_default());
        let is_old = held.large && row.head_seq < told;
        held.stale.row = wanted.filter(|marked| *marked > asked_at || is_old);
        if held.left_seq.is_some() {
            held.stale.members = false;
        } else if matches!(preload, Preload::History(_)) && !held.large && !row.conv_id.is_direct() {
            // A new stay that the reset hid.
            held.stale.members |= held.members.is_none();
        }
        if (row.read_seq, row.head_seq) >= (held.read_seq, held.unheld.as_of) {
            held.read_seq = row.read_seq;
            held.told_unread(row.unread, row.head_seq, me.as_ref());
        }
        if row.large && !was_large {
            // What was loaded before this was known may end before the stay does.
            held.finish_log(true);
        }
    }
}

/// Takes in the members of a conversation, all pages together.
pub fn apply_members(state: &mut State, conv_id: &ConvId, members: &[MemberInfo], finishes: bool) {
    let me = state.user_id.clone();
    let held = state.conversations.entry(conv_id.clone()).or_default();
    if conv_id.is_direct() {
        let peer = members.iter().find(|member| Some(&member.user_id) != me.as_ref());
        let read_seq = peer.map_or(0, |peer| peer.read_seq);
        held.peer_read_seq = held.peer_read_seq.max(read_seq);
    } else if held.left_seq.is_none() && !held.large {
        let named = members.iter().map(|member| (member.user_id.clone(), member.role));
        let mut all: BTreeMap<_, _> = named.collect();
        for (user, role) in &held.stale.member_changes {
            set_member(&mut all, user, *role);
        }
        held.members = Some(all);
    }
    if finishes {
        held.stale.members = false;
        held.stale.member_changes.clear();
    }
}

impl ConversationState {
    fn take_row(&mut self, row: &ConversationSummary, asked_at: u64) {
        self.known.row = self.known.row.max(row.head_seq);
        if row.head_seq >= self.known.title {
            self.known.title = row.head_seq;
            self.title.clone_from(&row.title);
        }
        if row.head_seq >= self.known.attributes {
            self.known.attributes = row.head_seq;
            self.attributes.clone_from(&row.attributes);
        }
        if row.head_seq >= self.known.membership {
            self.known.membership = row.head_seq;
            self.left_seq = row.left_seq;
        }
        if let Some(left) = self.left_seq {
            self.rejoin_from.get_or_insert(left);
            self.members = None;
            self.attributes = None;
        }
        if row.large && !self.large {
            self.large = true;
            self.members = None;
            self.stale.members = false;
        }
        if self.known.settings <= asked_at {
            // From now on an answer asked for before this one is older.
            self.known.settings = asked_at;
            self.settings = row.settings;
        }
    }

    /// Bounds of what is held without a hole. `low`: the page covers everything from it on.
    fn extend(&mut self, from: HistoryFrom, answer: &HistoryAnswer) {
        let low = if answer.complete { Some(1) } else { answer.next };
        let (Some(low), HistoryFrom::Newest | HistoryFrom::Before(_)) = (low, from) else { return };
        let high = match from {
            HistoryFrom::Before(before) => before.saturating_sub(1),
            _ => answer.head_seq,
        };
        let newest = matches!(from, HistoryFrom::Newest);
        match self.complete_from {
            None if newest => {
                self.complete_from = Some(low);
                self.held_to = self.held_to.max(high);
                self.reconciled_seq.get_or_insert(answer.head_seq);
            }
            Some(first) if low <= self.held_to.saturating_add(1) && high.saturating_add(1) >= first => {
                self.complete_from = Some(first.min(low));
                self.held_to = self.held_to.max(if newest { high } else { 0 });
            }
            _ => {}
        }
    }

    /// Moves the mark this page was asked for.
    fn advance(&mut self, from: HistoryFrom, answer: &HistoryAnswer) {
        match (from, self.stale.gap, self.stale.older) {
            (HistoryFrom::After(after), Some(gap), _) if after == gap => {
                // A page that leads nowhere ends it too: better than asking for ever.
                let next = answer.next.filter(|next| !answer.complete && *next > gap);
                self.stale.gap = next;
                if next.is_none() {
                    self.held_to = self.held_to.max(answer.head_seq);
                }
            }
            (HistoryFrom::Newest, _, Some(Older { pages, before: None })) => {
                self.advance_older(pages, u64::MAX, answer);
            }
            (HistoryFrom::Before(asked), _, Some(Older { pages, before: Some(before) })) if asked == before => {
                self.advance_older(pages, before, answer);
            }
            _ => {}
        }
    }

    fn advance_older(&mut self, pages: u32, before: u64, answer: &HistoryAnswer) {
        let left = if pages == u32::MAX { pages } else { pages.saturating_sub(1) };
        let next = answer.next.filter(|next| !answer.complete && *next < before && left > 0);
        self.stale.older = next.map(|next| Older { pages: left, before: Some(next) });
        if next.is_none() {
            // Deleted ranges, and the names behind reaction counts.
            let since = self.complete_from.map_or(0, |from| from.saturating_sub(1));
            self.stale.changes = Some(self.stale.changes.map_or(since, |marked| marked.min(since)));
        }
    }

    /// Large: when news came meanwhile that the load does not contain, or the end of the stay, it is marked again.
    fn finish_log(&mut self, has_changes: bool) {
        if self.loads_log() || !self.large {
            return;
        }
        if !has_changes {
            self.reconciled_seq = self.reconciled_seq.max(Some(self.held_to));
        }
        if has_changes && self.position().is_some_and(|held| self.known.row < held) {
            // Neither messages nor changes tell a new title.
            self.stale.row.get_or_insert(0);
        }
        // Once he has left, its own log is not told any more.
        let end = self.left_seq.filter(|_| self.complete_from.is_some());
        let seen = std::mem::take(&mut self.stale.heads_seen).max(end.unwrap_or_default());
        if self.position().is_some_and(|held| held < seen) {
            self.mark_log(has_changes, 0);
        }
    }
}
