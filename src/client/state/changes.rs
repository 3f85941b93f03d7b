//! Messages and what changes them: recalls, edits, reactions, in whatever order they come.
//!
//! Each facet of a target keeps the `conv_seq` that last set it; a lower one changes nothing. A recall
//! is final. Changes of targets that are not held wait for them, up to [`MAX_WAITING`] targets.
//! A mistake here shows a body that its author took back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{ConversationState, HeldMessage, Reaction};
use crate::planted::{Bug, planted};
use crate::protocol::{Body, Message, Range, ReactionCount, UserId};

/// Targets not held whose changes are kept; beyond it the oldest target's are forgotten. They matter
/// only to an answer that was under way when the change came.
pub const MAX_WAITING: usize = 1_000;

/// What is known to have happened to one message.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct TargetChanges {
    /// `conv_seq` of the recall.
    pub recalled: Option<u64>,
    /// The last edit.
    pub edit: Option<Edit>,
    /// The last of each key and user.
    pub reactions: BTreeMap<String, BTreeMap<UserId, Reacted>>,
}

/// An edit.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Edit {
    /// Its number.
    pub conv_seq: u64,
    /// The new content.
    pub body: Body,
    /// Milliseconds, server clock.
    pub edited_at: u64,
}

/// One user's last act with one key.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reacted {
    /// Its number.
    pub conv_seq: u64,
    /// Set, or taken away.
    pub add: bool,
}

/// A reaction on its way into the state.
pub(super) struct NewReaction<'a> {
    pub(super) target: u64,
    pub(super) conv_seq: u64,
    pub(super) user: &'a UserId,
    pub(super) key: &'a str,
    pub(super) add: bool,
}

impl HeldMessage {
    fn of(message: &Message, as_of: u64) -> Self {
        Self {
            sender_id: message.sender_id.clone(),
            client_msg_id: message.client_msg_id.clone(),
            sent_at: message.sent_at,
            body: message.body.clone(),
            reply_to: message.reply_to,
            mentions: message.mentions.clone(),
            recalled: false,
            edited_at: message.edited_at,
            reactions: BTreeMap::new(),
            as_of,
        }
    }

    fn recall(&mut self) {
        self.recalled = true;
        self.body = None;
        self.reply_to = None;
        self.mentions.clear();
        self.edited_at = None;
        self.reactions.clear();
    }

    fn edit(&mut self, edit: &Edit) {
        self.body = Some(edit.body.clone());
        self.edited_at = Some(edit.edited_at);
    }

    /// Above `as_of` it counts; up to `as_of` the number is right already and only a name is learnt.
    fn react(&mut self, user: &UserId, key: &str, act: Reacted) {
        let mut reaction = self.reactions.remove(key).unwrap_or_default();
        let new = act.conv_seq > self.as_of;
        if act.add && !reaction.users.contains(user) && (new || reaction.unnamed > 0) {
            reaction.users.insert(user.clone());
            reaction.unnamed -= u64::from(!new);
        } else if !act.add && reaction.users.remove(user) {
            reaction.unnamed += u64::from(!new);
        } else if !act.add && new {
            reaction.unnamed = reaction.unnamed.saturating_sub(1);
        }
        if reaction.count() > 0 {
            self.reactions.insert(key.to_owned(), reaction);
        }
    }
}

impl TargetChanges {
    /// Puts on a message what it does not contain yet.
    fn put_on(&self, message: &mut HeldMessage) {
        if self.recalled.is_some() {
            return message.recall();
        }
        if let Some(edit) = &self.edit
            && edit.conv_seq > message.as_of
            && message.edited_at.is_none_or(|at| at <= edit.edited_at)
        {
            message.edit(edit);
        }
        for (key, users) in &self.reactions {
            for (user, act) in users {
                message.react(user, key, *act);
            }
        }
    }
}

impl ConversationState {
    /// A message as told by an entry (`reactions` absent) or an answer true of `as_of`.
    pub(super) fn insert(
        &mut self,
        message: &Message,
        as_of: u64,
        reactions: Option<&[ReactionCount]>,
        me: Option<&UserId>,
    ) {
        let seq = message.conv_seq;
        if self.is_hidden(seq) {
            return;
        }
        let held = self.messages.get(&seq);
        let keeps = held
            .is_some_and(|held| held.recalled || (!message.recalled && (reactions.is_none() || as_of < held.as_of)));
        if keeps && !planted(Bug::OlderAnswerBelieved) {
            return;
        }
        let was_held = held.is_some();
        let mut fresh = HeldMessage::of(message, as_of);
        for ReactionCount { key, count, users } in reactions.unwrap_or_default() {
            let users: BTreeSet<UserId> = users.iter().cloned().collect();
            let unnamed = count.saturating_sub(users.len() as u64);
            if unnamed > 0 || !users.is_empty() {
                fresh.reactions.insert(key.clone(), Reaction { users, unnamed });
            }
        }
        if message.recalled {
            fresh.recall();
        } else if let Some(changes) = self.changes.get(&seq).filter(|_| !planted(Bug::OlderAnswerBelieved)) {
            changes.put_on(&mut fresh);
        }
        self.messages.insert(seq, fresh);
        if !was_held {
            self.counted_at_last(seq, me);
        }
    }

    /// A recall: the body goes, and never comes back.
    pub(super) fn recall(&mut self, target: u64, conv_seq: u64, by: &UserId, me: Option<&UserId>) {
        if self.is_hidden(target) {
            return;
        }
        let changes = self.changes.entry(target).or_default();
        if changes.recalled.is_some() {
            return;
        }
        *changes = TargetChanges { recalled: Some(conv_seq), ..TargetChanges::default() };
        match self.messages.get_mut(&target) {
            Some(message) => message.recall(),
            None if me != Some(by) => self.recalled_unheld(target, conv_seq),
            None => {}
        }
        self.bound_changes();
    }

    /// Another body, unless a later one or a recall is known.
    pub(super) fn edit(&mut self, target: u64, edit: Edit) {
        if self.is_final(target) {
            return;
        }
        let changes = self.changes.entry(target).or_default();
        if changes.edit.as_ref().is_some_and(|held| held.conv_seq >= edit.conv_seq) {
            return;
        }
        if let Some(message) = self.messages.get_mut(&target)
            && edit.conv_seq > message.as_of
        {
            message.edit(&edit);
        }
        changes.edit = Some(edit);
        self.bound_changes();
    }

    /// A reaction, unless a later act of the same user with the same key is known.
    pub(super) fn react(&mut self, new: &NewReaction<'_>) {
        if self.is_final(new.target) {
            return;
        }
        let act = Reacted { conv_seq: new.conv_seq, add: new.add };
        let changes = self.changes.entry(new.target).or_default();
        let users = changes.reactions.entry(new.key.to_owned()).or_default();
        if users.get(new.user).is_some_and(|held| held.conv_seq >= act.conv_seq) {
            return;
        }
        users.insert(new.user.clone(), act);
        if let Some(message) = self.messages.get_mut(&new.target) {
            message.react(new.user, new.key, act);
        }
        self.bound_changes();
    }

    /// After a complete `changes` from `since`: every act on a later message is known, and so is
    /// every name.
    pub(super) fn name_reactions_after(&mut self, since: u64, up_to: u64) {
        for (seq, message) in self.messages.range_mut(since.saturating_add(1)..) {
            if message.recalled {
                continue;
            }
            message.reactions.clear();
            // What `history` knew beyond it is taken away here and comes again by its own entry.
            message.as_of = message.as_of.min(up_to.max(*seq));
            let Some(changes) = self.changes.get(seq) else { continue };
            for (key, acts) in &changes.reactions {
                let named = acts.iter().filter(|(_, act)| act.add);
                let users: BTreeSet<UserId> = named.map(|(user, _)| user.clone()).collect();
                if !users.is_empty() {
                    message.reactions.insert(key.clone(), Reaction { users, unnamed: 0 });
                }
            }
        }
    }

    /// Hides ranges from now on, whatever comes later.
    pub(super) fn delete(&mut self, ranges: &[Range]) {
        for range in ranges {
            self.deleted.insert(*range);
        }
        self.drop_hidden();
    }

    /// Hides everything up to a number from now on.
    pub(super) fn clear(&mut self, up_to: u64) {
        self.cleared_up_to = self.cleared_up_to.max(up_to);
        self.drop_hidden();
    }

    fn drop_hidden(&mut self) {
        self.deleted.drop_up_to(self.cleared_up_to);
        let (deleted, cleared) = (&self.deleted, self.cleared_up_to);
        let seen = |seq: &u64| *seq > cleared && !deleted.contains(*seq);
        self.messages.retain(|seq, _| seen(seq));
        self.changes.retain(|seq, _| seen(seq));
    }

    /// Whether nothing can change this target any more.
    fn is_final(&self, target: u64) -> bool {
        self.is_hidden(target)
            || self.messages.get(&target).is_some_and(|message| message.recalled)
            || self.changes.get(&target).is_some_and(|changes| changes.recalled.is_some())
    }

    fn bound_changes(&mut self) {
        // Held targets are not bounded here: the application decides how much it holds.
        if self.changes.len() <= self.messages.len() + MAX_WAITING {
            return;
        }
        let waiting = self.changes.keys().find(|seq| !self.messages.contains_key(seq));
        if let Some(oldest) = waiting.copied() {
            self.changes.remove(&oldest);
        }
    }
}
