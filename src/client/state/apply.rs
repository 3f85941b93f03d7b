//! Entries into the state: the sync timeline, and the logs of large conversations.
//!
//! [`apply_frame`] alone moves the cursor, and only over a frame that continues it; the caller checks
//! that. Nothing here fails: an entry of a later version changes nothing, its `seq` counts.

use super::changes::{Edit, NewReaction};
use super::{ConversationState, Loading, MAX_NOTIFICATIONS, Notification, Older, Preload, State};
use crate::protocol::{
    Body, ConvId, ConversationChange, ConversationSettings, Entry, Event, HeadsItem, MemberChange, MsgId, Role,
    SyncFrame, UserId,
};

/// Applies a frame whose `from_seq` is the cursor, and moves the cursor to its end.
pub fn apply_frame(state: &mut State, frame: &SyncFrame) {
    for entry in &frame.entries {
        apply(state, entry);
    }
    if let Some(cursor) = &mut state.cursor {
        cursor.seq = cursor.seq.max(frame.to_seq);
    }
}

/// Applies one entry of the sync timeline. The cursor stays.
pub fn apply(state: &mut State, entry: &Entry) {
    let event = &entry.event;
    let follows = event.conv_id().is_some_and(|conv_id| follows(state, conv_id, event));
    apply_event(state, event, Some(entry.seq));
    let (preload, loading) = (state.preload, state.loading);
    if let (true, Some(conv_id), Some(conv_seq)) = (follows, event.conv_id(), event.conv_seq()) {
        let is_own = matches!(event, Event::Member { change, user_id, .. }
            if *change != MemberChange::Joined && state.user_id.as_ref() == Some(user_id));
        let held = state.conversations.entry(conv_id.clone()).or_default();
        // This user's own role or leave comes here also where the conversation turns out to be large.
        let jumps = is_own && held.complete_from.is_some() && conv_seq > held.held_to.saturating_add(1);
        held.follow(conv_seq, event.target().is_some() || jumps, loading);
        if conv_seq > 1 {
            held.preload(preload, entry.seq);
        }
        held.known.preloaded = true;
    }
}

/// Whether the sync timeline is the way by which this conversation is followed: a large one's rest comes
/// by its own log.
fn follows(state: &State, conv_id: &ConvId, event: &Event) -> bool {
    let joins_me = match event {
        Event::Member { change: MemberChange::Joined, user_id, .. } => state.is_me(user_id),
        _ => false,
    };
    let held = state.conversations.get(conv_id);
    held.is_none_or(|held| !held.large || (joins_me && held.position().is_none()))
}

/// Applies news of a large conversation. `false`: they do not continue what is held, and what is
/// missing has been marked for loading. `fresh`: the connection began without a cursor.
pub fn apply_heads(state: &mut State, item: &HeadsItem, fresh: bool) -> bool {
    // What was loaded, or is being loaded, tells messages and their changes, but no new title.
    let titles = |event: &&Event| matches!(event, Event::Conversation { .. });
    for event in item.entries.iter().flatten().filter(titles) {
        apply_event(state, event, None);
    }
    let preload = state.preload;
    let conversation = state.conversations.entry(item.conv_id.clone()).or_default();
    let is_everybody = item.conv_id.is_everybody();
    if !std::mem::replace(&mut conversation.large, true) && !is_everybody {
        conversation.preload(preload, 0);
    }
    conversation.members = None;
    if conversation.loads_log() {
        conversation.stale.heads_seen = conversation.stale.heads_seen.max(item.head_seq);
        if item.entries.is_none() && !is_everybody {
            conversation.stale.row.get_or_insert(0);
        }
        return false;
    }
    let held = match conversation.position() {
        Some(held) => held,
        None if is_everybody && !fresh && item.from_seq != Some(0) => {
            // This device was there before it heard of `b:all` at all: what came meanwhile is for it too.
            conversation.mark_log(false, item.head_seq);
            return false;
        }
        None => conversation.begin_log(item),
    };
    if item.head_seq <= held {
        return true;
    }
    match (&item.entries, item.from_seq) {
        (Some(entries), Some(from)) if from <= held => {
            let new = |event: &&Event| event.conv_seq() > Some(held) && !titles(event);
            for event in entries.iter().filter(new) {
                apply_event(state, event, None);
            }
            if let Some(conversation) = state.conversations.get_mut(&item.conv_id) {
                if conversation.known.row >= from {
                    conversation.known.row = conversation.known.row.max(item.head_seq);
                }
                conversation.held_to = item.head_seq;
                conversation.complete_from.get_or_insert(held.saturating_add(1));
                conversation.reconciled_seq = Some(item.head_seq);
            }
            true
        }
        _ => {
            conversation.mark_log(!is_everybody, item.head_seq);
            false
        }
    }
}

fn apply_event(state: &mut State, event: &Event, seq: Option<u64>) {
    let me = state.user_id.clone();
    let me = me.as_ref();
    if let Event::Notification { conv_seq, topic, body, .. } = event {
        return notify(state, *conv_seq, topic, body);
    }
    let Some(conv_id) = event.conv_id().filter(|_| !matches!(event, Event::Mention { .. })) else { return };
    let preload = state.preload;
    let held = state.conversations.entry(conv_id.clone()).or_default();
    match event {
        Event::Message(message) => held.insert(message, message.conv_seq, None, me),
        Event::Recall { conv_seq, target, by, .. } => held.recall(*target, *conv_seq, by, me),
        Event::Edit { conv_seq, target, body, edited_at, .. } => {
            let (conv_seq, body, edited_at) = (*conv_seq, body.clone(), *edited_at);
            held.edit(*target, Edit { conv_seq, body, edited_at });
        }
        Event::Reaction { conv_seq, target, user_id, key, add, .. } => {
            let (target, conv_seq, add) = (*target, *conv_seq, *add);
            held.react(&NewReaction { target, conv_seq, user: user_id, key, add });
        }
        Event::Member { conv_seq, change, user_id, role, .. } => {
            held.member_changed(user_id, *change, *role);
            if me == Some(user_id) {
                held.membership_changed(*conv_seq, *change, preload, seq);
            }
        }
        Event::Conversation { conv_seq, change, .. } => held.conversation_changed(*conv_seq, change),
        Event::Delete { ranges, .. } => held.delete(ranges),
        Event::Clear { up_to, .. } => held.clear(*up_to),
        Event::Read { read_seq, unread, .. } => held.read(*read_seq, *unread, me),
        Event::Receipt { read_seq, .. } => held.peer_read_seq = held.peer_read_seq.max(*read_seq),
        Event::Settings { muted, pinned, hidden, .. } => {
            held.settings = ConversationSettings { muted: *muted, pinned: *pinned, hidden: *hidden };
            held.known.settings = seq.unwrap_or(held.known.settings);
        }
        Event::Mention { .. } | Event::Notification { .. } | Event::Unknown { .. } => {}
    }
}

/// Keeps a notification; one of `b:all` only once.
pub(super) fn notify(state: &mut State, conv_seq: Option<u64>, topic: &MsgId, body: &Body) {
    let again = |held: &Notification| conv_seq.is_some() && held.conv_seq == conv_seq;
    if state.notifications.iter().any(again) {
        return;
    }
    let notification = Notification { conv_seq, topic: topic.clone(), body: body.clone() };
    state.notifications.push(notification);
    let over = state.notifications.len().saturating_sub(MAX_NOTIFICATIONS);
    state.notifications.drain(..over);
}

impl ConversationState {
    /// The sync timeline has come to this `conv_seq`. `alone`: it says nothing about the messages before, as a
    /// change, since at a return those made in between come first, of messages seen before.
    fn follow(&mut self, conv_seq: u64, alone: bool, loading: Loading) {
        if self.complete_from.is_none() {
            // A row may have told a head: nothing up to there is held for that.
            (self.complete_from, self.held_to, self.reconciled_seq) = (Some(conv_seq), 0, None);
        }
        self.known.row = self.known.row.max(conv_seq);
        if !alone {
            self.held_to = self.held_to.max(conv_seq);
        }
        if self.reconciled_seq.is_none() {
            self.reconciled_seq = Some(conv_seq);
        } else if loading != Loading::Reset && self.stale.changes.is_none() {
            self.reconciled_seq = self.reconciled_seq.max(Some(conv_seq));
        }
    }

    /// Marks what is loaded of a conversation that is new to this device. `seq`: the cursor now.
    pub(super) fn preload(&mut self, preload: Preload, seq: u64) {
        if self.known.preloaded || preload == Preload::None {
            return;
        }
        self.known.preloaded = true;
        self.stale.row.get_or_insert(seq);
        let Preload::History(pages) = preload else { return };
        self.stale.members = !self.large;
        if self.complete_from.is_some_and(|from| from <= 1) {
            // The application was faster, and has all the messages. They don't tell deleted ranges, nor all
            // the names behind reactions.
            self.stale.generation += 1;
            self.stale.changes = Some(0);
        } else {
            self.stale.older = (pages > 0).then_some(Older { pages, before: None });
        }
    }

    /// Whether missing pieces of a log are being loaded.
    pub(super) fn loads_log(&self) -> bool {
        self.stale.gap.is_some() || self.stale.older.is_some() || self.stale.changes.is_some()
    }

    /// The first word of a large conversation of which nothing is held nor loaded: it is followed from here on.
    fn begin_log(&mut self, item: &HeadsItem) -> u64 {
        let from = item.entries.as_ref().and(item.from_seq).unwrap_or(item.head_seq);
        self.held_to = self.held_to.max(from);
        self.complete_from.get_or_insert(from.saturating_add(1));
        self.reconciled_seq = Some(from);
        from
    }

    /// Marks the log for loading from where it is held.
    pub(super) fn mark_log(&mut self, has_changes: bool, head_seq: u64) {
        let held = self.position().unwrap_or(self.held_to);
        self.stale.generation += 1;
        self.stale.gap.get_or_insert(held);
        if has_changes {
            self.stale.changes.get_or_insert(held);
            // Neither messages nor changes tell a new title.
            self.stale.row.get_or_insert(0);
        }
        self.stale.heads_seen = self.stale.heads_seen.max(head_seq);
    }

    fn member_changed(&mut self, user: &UserId, change: MemberChange, role: Option<Role>) {
        let now = match change {
            MemberChange::Joined => Some(role.unwrap_or(Role::Member)),
            MemberChange::Role => role,
            MemberChange::Left | MemberChange::Removed => None,
        };
        if change == MemberChange::Role && role.is_none() {
            return;
        }
        if self.stale.members {
            self.stale.member_changes.push((user.clone(), now));
        }
        if let Some(members) = &mut self.members {
            set_member(members, user, now);
        }
    }

    /// This user's own coming or going.
    fn membership_changed(&mut self, conv_seq: u64, change: MemberChange, preload: Preload, seq: Option<u64>) {
        match change {
            MemberChange::Role => {}
            MemberChange::Left | MemberChange::Removed => self.leave(conv_seq),
            MemberChange::Joined => {
                self.join(conv_seq, preload, seq);
                self.stale.members = matches!(preload, Preload::History(_)) && !self.large;
            }
        }
    }

    /// What the time between two stays hid can be seen now with `history: full`. Where it begins may
    /// have been told by an entry, by a row, or by nothing but the end of what is held; and a row may
    /// have told the outcome before.
    fn join(&mut self, conv_seq: u64, preload: Preload, seq: Option<u64>) {
        let left = [self.left_seq, self.rejoin_from, Some(self.held_to)].into_iter().flatten().min();
        self.rejoin_from = None;
        self.stale.generation += 1;
        self.read_seq = self.read_seq.max(conv_seq);
        if conv_seq > self.known.membership {
            self.known.membership = conv_seq;
            self.left_seq = None;
            if preload != Preload::None || self.complete_from.is_some() {
                self.stale.row = Some(seq.unwrap_or_default());
            }
        }
        if let Some(left) = left.filter(|_| self.complete_from.is_some()) {
            self.stale.gap = Some(self.stale.gap.map_or(left, |marked| marked.min(left)));
            self.stale.changes = Some(self.stale.changes.map_or(left, |marked| marked.min(left)));
        }
    }

    fn leave(&mut self, conv_seq: u64) {
        self.rejoin_from.get_or_insert(conv_seq);
        self.members = None;
        self.stale.members = false;
        self.stale.member_changes.clear();
        if self.large && self.complete_from.is_some() && self.position().is_some_and(|held| held < conv_seq) {
            // Its own log is not told any more: what it had until the end is asked for.
            self.mark_log(true, conv_seq);
        }
        if conv_seq > self.known.membership {
            self.known.membership = conv_seq;
            self.left_seq = Some(conv_seq);
            self.attributes = None;
        }
    }

    fn conversation_changed(&mut self, conv_seq: u64, change: &ConversationChange) {
        match change {
            ConversationChange::Large => {
                if !self.large && self.complete_from.is_some() && self.held_to > conv_seq {
                    // The application has loaded a page before: what lies between will not be told here.
                    self.held_to = conv_seq;
                    self.mark_log(true, 0);
                }
                self.large = true;
                self.members = None;
                self.stale.members = false;
            }
            ConversationChange::Dissolved => self.leave(conv_seq),
            ConversationChange::Created { members, title, attributes } => {
                self.renamed(conv_seq, title.as_ref());
                self.attributed(conv_seq, attributes.as_ref());
                if conv_seq <= self.known.membership {
                    return;
                }
                self.known.membership = conv_seq;
                self.read_seq = self.read_seq.max(conv_seq);
                if self.large {
                    // Told before by its own log.
                    return;
                }
                // Who of them is the owner is not told here.
                let members = members.iter().map(|user| (user.clone(), Role::Member)).collect();
                self.members.get_or_insert(members);
                self.stale.members = true;
            }
            ConversationChange::Renamed { title } => self.renamed(conv_seq, Some(title)),
            ConversationChange::Attributes { attributes } => self.attributed(conv_seq, Some(attributes)),
        }
    }

    fn renamed(&mut self, conv_seq: u64, title: Option<&String>) {
        if conv_seq > self.known.title {
            self.known.title = conv_seq;
            self.title = title.cloned();
        }
    }

    fn attributed(&mut self, conv_seq: u64, attributes: Option<&Body>) {
        if conv_seq > self.known.attributes {
            self.known.attributes = conv_seq;
            self.attributes = attributes.cloned();
        }
    }

    fn read(&mut self, read_seq: u64, unread: u64, me: Option<&UserId>) {
        if read_seq >= self.read_seq {
            self.read_seq = read_seq;
            self.told_unread(unread, self.held_to, me);
        }
    }
}

/// Sets or takes out one member.
pub(super) fn set_member(members: &mut std::collections::BTreeMap<UserId, Role>, user: &UserId, role: Option<Role>) {
    match role {
        Some(role) => members.insert(user.clone(), role),
        None => members.remove(user),
    };
}
