// Messages and what changes them: recalls, edits, reactions, in whatever order they come.
//
// Each facet of a target keeps the conv_seq that last set it; a lower one changes nothing. A recall is
// final. Changes of targets that are not held wait for them, up to MAX_WAITING targets. A mistake here
// shows a body that its author took back.

import type { MessageEvent, Range, ReactionCount } from "../frames.js";
import { addRange, dropUpTo } from "./ranges.js";
import { isHidden } from "./model.js";
import type { Conversation, Edit, HeldMessage, Reaction, TargetChanges } from "./model.js";
import { countedAtLast, recalledUnheld } from "./unread.js";

/** Targets not held whose changes are kept; beyond it the oldest target's are forgotten. They matter only
 *  to an answer that was under way when the change came. */
export const MAX_WAITING = 1000;

/** A reaction on its way into the state. */
export interface NewReaction {
  target: number;
  convSeq: number;
  userId: string;
  key: string;
  add: boolean;
}

function heldFrom(message: MessageEvent, asOf: number): HeldMessage {
  return {
    senderId: message.sender_id, clientMsgId: message.client_msg_id, sentAt: message.sent_at,
    body: message.body ?? undefined, replyTo: message.reply_to ?? undefined, mentions: [...(message.mentions ?? [])],
    recalled: false, editedAt: message.edited_at ?? undefined, reactions: new Map(), asOf,
  };
}

function takeBack(message: HeldMessage): void {
  Object.assign(message, { recalled: true, body: undefined, replyTo: undefined, mentions: [], editedAt: undefined });
  message.reactions = new Map();
}

/** Above `asOf` it counts; up to `asOf` the number is right already and only a name is learnt. */
function reactOn(message: HeldMessage, user: string, key: string, act: { convSeq: number; add: boolean }): void {
  const reaction = message.reactions.get(key) ?? { users: new Set<string>(), unnamed: 0 };
  const isNew = act.convSeq > message.asOf;
  if (act.add && !reaction.users.has(user) && (isNew || reaction.unnamed > 0)) {
    reaction.users.add(user);
    if (!isNew) reaction.unnamed -= 1;
  } else if (!act.add && reaction.users.delete(user)) {
    if (!isNew) reaction.unnamed += 1;
  } else if (!act.add && isNew) {
    reaction.unnamed = Math.max(0, reaction.unnamed - 1);
  }
  if (reaction.users.size + reaction.unnamed > 0) message.reactions.set(key, reaction);
  else message.reactions.delete(key);
}

/** Puts on a message what it does not contain yet. */
function putOn(changes: TargetChanges, message: HeldMessage): void {
  if (changes.recalled !== undefined) return takeBack(message);
  const { edit } = changes;
  if (edit && edit.convSeq > message.asOf && (message.editedAt ?? 0) <= edit.editedAt) {
    message.body = edit.body;
    message.editedAt = edit.editedAt;
  }
  for (const [key, users] of changes.reactions) {
    for (const [user, act] of users) reactOn(message, user, key, act);
  }
}

function changesOf(held: Conversation, target: number): TargetChanges {
  let changes = held.changes.get(target);
  if (!changes) held.changes.set(target, (changes = { recalled: undefined, edit: undefined, reactions: new Map() }));
  return changes;
}

/** A message as told by an entry (`reactions` absent) or by an answer true of `asOf`. */
export function insert(
  held: Conversation, message: MessageEvent, asOf: number, reactions: ReactionCount[] | undefined, me: string | undefined,
): void {
  const seq = message.conv_seq;
  if (isHidden(held, seq)) return;
  const known = held.messages.get(seq);
  if (known && (known.recalled || (!message.recalled && (!reactions || asOf < known.asOf)))) return;
  const fresh = heldFrom(message, asOf);
  for (const { key, count, users } of reactions ?? []) {
    const reaction: Reaction = { users: new Set(users), unnamed: Math.max(0, count - new Set(users).size) };
    if (reaction.unnamed > 0 || reaction.users.size > 0) fresh.reactions.set(key, reaction);
  }
  const changes = held.changes.get(seq);
  if (message.recalled) takeBack(fresh);
  else if (changes) putOn(changes, fresh);
  held.messages.set(seq, fresh);
  held.touched.add(seq);
  if (!known) countedAtLast(held, seq, me);
}

/** A recall: the body goes, and never comes back. */
export function recall(held: Conversation, target: number, convSeq: number, by: string, me: string | undefined): void {
  if (isHidden(held, target)) return;
  const changes = changesOf(held, target);
  if (changes.recalled !== undefined) return;
  held.changes.set(target, { recalled: convSeq, edit: undefined, reactions: new Map() });
  const message = held.messages.get(target);
  if (message) {
    takeBack(message);
    held.touched.add(target);
  } else if (me !== by) {
    recalledUnheld(held, target, convSeq);
  }
  boundChanges(held);
}

/** Another body, unless a later one or a recall is known. */
export function edit(held: Conversation, target: number, change: Edit): void {
  if (isFinal(held, target)) return;
  const changes = changesOf(held, target);
  if (changes.edit && changes.edit.convSeq >= change.convSeq) return;
  const message = held.messages.get(target);
  if (message && change.convSeq > message.asOf) {
    message.body = change.body;
    message.editedAt = change.editedAt;
    held.touched.add(target);
  }
  changes.edit = change;
  boundChanges(held);
}

/** A reaction, unless a later act of the same user with the same key is known. */
export function react(held: Conversation, { target, convSeq, userId, key, add }: NewReaction): void {
  if (isFinal(held, target)) return;
  const changes = changesOf(held, target);
  let users = changes.reactions.get(key);
  if (!users) changes.reactions.set(key, (users = new Map()));
  if ((users.get(userId)?.convSeq ?? -1) >= convSeq) return;
  users.set(userId, { convSeq, add });
  const message = held.messages.get(target);
  if (message) {
    reactOn(message, userId, key, { convSeq, add });
    held.touched.add(target);
  }
  boundChanges(held);
}

/** After a complete `changes` from `since`: every act on a later message is known, and so is every name. */
export function nameReactionsAfter(held: Conversation, since: number, upTo: number): void {
  for (const [seq, message] of held.messages) {
    if (seq <= since || message.recalled) continue;
    message.reactions = new Map();
    // What `history` knew beyond it is taken away here and comes again by its own entry.
    message.asOf = Math.min(message.asOf, Math.max(upTo, seq));
    held.touched.add(seq);
    for (const [key, acts] of held.changes.get(seq)?.reactions ?? []) {
      const users = new Set([...acts].filter(([, act]) => act.add).map(([user]) => user));
      if (users.size > 0) message.reactions.set(key, { users, unnamed: 0 });
    }
  }
}

/** Hides ranges from now on, whatever comes later. */
export function remove(held: Conversation, ranges: Range[]): void {
  for (const range of ranges) held.deleted = addRange(held.deleted, range);
  dropHidden(held);
}

/** Hides everything up to a number from now on. */
export function clear(held: Conversation, upTo: number): void {
  held.clearedUpTo = Math.max(held.clearedUpTo, upTo);
  dropHidden(held);
}

function dropHidden(held: Conversation): void {
  held.deleted = dropUpTo(held.deleted, held.clearedUpTo);
  for (const seq of held.messages.keys()) {
    if (isHidden(held, seq)) {
      held.messages.delete(seq);
      held.touched.add(seq);
    }
  }
  for (const seq of held.changes.keys()) if (isHidden(held, seq)) held.changes.delete(seq);
}

/** Whether nothing can change this target any more. */
function isFinal(held: Conversation, target: number): boolean {
  return isHidden(held, target) || held.messages.get(target)?.recalled === true
    || held.changes.get(target)?.recalled !== undefined;
}

/** Held targets are not bounded here: the application decides how much it holds. */
function boundChanges(held: Conversation): void {
  if (held.changes.size <= held.messages.size + MAX_WAITING) return;
  const waiting = [...held.changes.keys()].filter((seq) => !held.messages.has(seq));
  held.changes.delete(Math.min(...waiting));
}
