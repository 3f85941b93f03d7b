// Entries into the state: the sync timeline, and the logs of large conversations.
//
// applyFrame alone moves the cursor, and only over a frame that continues it; the caller checks that.
// Nothing here fails: an entry of a later version changes nothing, its seq counts.

import type { Body, ConversationEvent, Entry, Event, HeadsItem, MemberEvent, Role, SyncFrame } from "../frames.js";
import { clear, edit, insert, react, recall, remove } from "./changes.js";
import { conversationOf, EVERYBODY, loadsLog, lower, MAX_NOTIFICATIONS, positionOf } from "./model.js";
import type { Conversation, Loading, Preload, State } from "./model.js";
import { toldUnread } from "./unread.js";

/** Applies a frame whose from_seq is the cursor, and moves the cursor to its end. */
export function applyFrame(state: State, frame: SyncFrame): void {
  for (const entry of frame.entries) applyEntry(state, entry);
  if (state.cursor) state.cursor = { ...state.cursor, seq: Math.max(state.cursor.seq, frame.to_seq) };
}

/** Applies one entry of the sync timeline. The cursor stays. */
export function applyEntry(state: State, entry: Entry): void {
  const convId = convIdOf(entry);
  const followed = convId !== undefined && follows(state, convId, entry);
  applyEvent(state, entry, entry.seq);
  const convSeq = "conv_seq" in entry ? entry.conv_seq : undefined;
  if (!followed || typeof convSeq !== "number") return;
  const held = conversationOf(state, convId);
  const isOwn = entry.op === "member" && entry.change !== "joined" && entry.user_id === state.userId;
  // This user's own role or leave comes here also where the conversation turns out to be large.
  const jumps = isOwn && held.completeFrom !== undefined && convSeq > held.heldTo + 1;
  follow(held, convSeq, "target" in entry || jumps, state.loading);
  if (convSeq > 1) preloadOf(held, state.preload, entry.seq);
  held.known.preloaded = true;
}

/** Where an event belongs; a mention is of a conversation but not in it. */
export function convIdOf(event: Event): string | undefined {
  return "conv_id" in event ? event.conv_id ?? undefined : undefined;
}

/** Whether the sync timeline is the way by which this conversation is followed: a large one's rest comes
 *  by its own log. */
function follows(state: State, convId: string, event: Event): boolean {
  const held = state.conversations.get(convId);
  const joinsMe = event.op === "member" && event.change === "joined" && event.user_id === state.userId;
  return !held || !held.large || (joinsMe && positionOf(held) === undefined);
}

/** Applies news of a large conversation. `false`: they do not continue what is held, and what is missing
 *  has been marked for loading. `fresh`: the connection began without a cursor. */
export function applyHeads(state: State, item: HeadsItem, fresh: boolean): boolean {
  // What was loaded, or is being loaded, tells messages and their changes, but no new title.
  const [titles, others] = parted(item.entries ?? [], (event) => event.op === "conversation");
  for (const event of titles) applyEvent(state, event, undefined);
  const conversation = conversationOf(state, item.conv_id);
  if (!conversation.large && item.conv_id !== EVERYBODY) preloadOf(conversation, state.preload, 0);
  conversation.large = true;
  conversation.members = undefined;
  if (loadsLog(conversation.stale)) {
    conversation.stale.headsSeen = Math.max(conversation.stale.headsSeen, item.head_seq);
    if (!item.entries && item.conv_id !== EVERYBODY) conversation.stale.row ??= 0;
    return false;
  }
  const position = positionOf(conversation);
  if (position === undefined && item.conv_id === EVERYBODY && !fresh && item.from_seq !== 0) {
    // This device was there before it heard of `b:all` at all: what came meanwhile is for it too.
    markLog(conversation, false, item.head_seq);
    return false;
  }
  const held = position ?? beginLog(conversation, item);
  if (item.head_seq <= held) return true;
  if (!item.entries || typeof item.from_seq !== "number" || item.from_seq > held) {
    markLog(conversation, item.conv_id !== EVERYBODY, item.head_seq);
    return false;
  }
  for (const event of others) {
    if ("conv_seq" in event && typeof event.conv_seq === "number" && event.conv_seq > held) {
      applyEvent(state, event, undefined);
    }
  }
  if (conversation.known.row >= item.from_seq) {
    conversation.known.row = Math.max(conversation.known.row, item.head_seq);
  }
  conversation.heldTo = item.head_seq;
  conversation.completeFrom ??= held + 1;
  conversation.reconciledSeq = item.head_seq;
  return true;
}

function parted<T>(all: T[], first: (one: T) => boolean): [T[], T[]] {
  return [all.filter(first), all.filter((one) => !first(one))];
}

function applyEvent(state: State, event: Event, seq: number | undefined): void {
  const me = state.userId;
  if (event.op === "notification") return notify(state, event.conv_seq ?? undefined, event.topic, event.body);
  const convId = convIdOf(event);
  if (convId === undefined || event.op === "mention") return;
  const held = conversationOf(state, convId);
  switch (event.op) {
    case "message": return insert(held, event, event.conv_seq, undefined, me);
    case "recall": return recall(held, event.target, event.conv_seq, event.by, me);
    case "edit": {
      const { conv_seq: convSeq, body, edited_at: editedAt } = event;
      return edit(held, event.target, { convSeq, body, editedAt });
    }
    case "reaction": {
      const { target, conv_seq: convSeq, user_id: userId, key, add } = event;
      return react(held, { target, convSeq, userId, key, add });
    }
    case "member":
      memberChanged(held, event);
      if (event.user_id === me) membershipChanged(held, event, state.preload, seq);
      return;
    case "conversation": return conversationChanged(held, event);
    case "delete": return remove(held, event.ranges);
    case "clear": return clear(held, event.up_to);
    case "read":
      if (event.read_seq < held.readSeq) return;
      held.readSeq = event.read_seq;
      return toldUnread(held, event.unread, held.heldTo, me);
    case "receipt":
      held.peerReadSeq = Math.max(held.peerReadSeq, event.read_seq);
      return;
    case "settings":
      held.settings = { muted: event.muted, pinned: event.pinned, hidden: event.hidden };
      held.known.settings = seq ?? held.known.settings;
      return;
    default: // Of a later version: its seq counts, nothing else.
  }
}

/** Keeps a notification; one of `b:all` only once. */
export function notify(state: State, convSeq: number | undefined, topic: string, body: Body): void {
  if (convSeq !== undefined && state.notifications.some((held) => held.convSeq === convSeq)) return;
  state.notifications.push({ convSeq, topic, body });
  if (state.notifications.length > MAX_NOTIFICATIONS) state.notifications.shift();
}

/** The sync timeline has come to this conv_seq. `alone`: it says nothing about the messages before, as a change,
 *  since at a return those made in between come first, of messages seen before. */
function follow(held: Conversation, convSeq: number, alone: boolean, loading: Loading): void {
  if (held.completeFrom === undefined) {
    // A row may have told a head: nothing up to there is held for that.
    held.completeFrom = convSeq;
    held.heldTo = 0;
    held.reconciledSeq = undefined;
  }
  held.known.row = Math.max(held.known.row, convSeq);
  if (!alone) held.heldTo = Math.max(held.heldTo, convSeq);
  if (held.reconciledSeq === undefined) held.reconciledSeq = convSeq;
  else if (loading !== "reset" && held.stale.changes === undefined) {
    held.reconciledSeq = Math.max(held.reconciledSeq, convSeq);
  }
}

/** Marks what is loaded of a conversation that is new to this device. `seq`: the cursor now. */
export function preloadOf(held: Conversation, preload: Preload, seq: number): void {
  if (held.known.preloaded || preload === "none") return;
  held.known.preloaded = true;
  held.stale.row ??= seq;
  if (typeof preload !== "number") return;
  held.stale.members = !held.large;
  if ((held.completeFrom ?? Infinity) <= 1) {
    // The application was faster, and has all the messages. They don't tell deleted ranges, nor all the names
    // behind reactions.
    held.stale.generation += 1;
    held.stale.changes = 0;
  } else {
    held.stale.older = preload > 0 ? { pages: preload, before: undefined } : undefined;
  }
}

/** The first word of a large conversation of which nothing is held nor loaded: it is followed from here on. */
function beginLog(held: Conversation, item: HeadsItem): number {
  const from = item.entries ? item.from_seq ?? item.head_seq : item.head_seq;
  held.heldTo = Math.max(held.heldTo, from);
  held.completeFrom ??= from + 1;
  held.reconciledSeq = from;
  return from;
}

/** Marks the log for loading from where it is held. */
export function markLog(held: Conversation, hasChanges: boolean, headSeq: number): void {
  const position = positionOf(held) ?? held.heldTo;
  held.stale.generation += 1;
  held.stale.gap ??= position;
  if (hasChanges) {
    held.stale.changes ??= position;
    // Neither messages nor changes tell a new title.
    held.stale.row ??= 0;
  }
  held.stale.headsSeen = Math.max(held.stale.headsSeen, headSeq);
}

function memberChanged(held: Conversation, { change, user_id: userId, role }: MemberEvent): void {
  if (change === "role" && !role) return;
  const now = change === "joined" ? role ?? "member" : change === "role" ? role ?? undefined : undefined;
  if (held.stale.members) held.stale.memberChanges.push([userId, now]);
  if (held.members) setMember(held.members, userId, now);
}

/** This user's own coming or going. */
function membershipChanged(held: Conversation, event: MemberEvent, preload: Preload, seq: number | undefined): void {
  if (event.change === "left" || event.change === "removed") leave(held, event.conv_seq);
  else if (event.change === "joined") {
    join(held, event.conv_seq, preload, seq);
    held.stale.members = typeof preload === "number" && !held.large;
  }
}

/** What the time between two stays hid can be seen now with `history: full`. Where it begins may have been
 *  told by an entry, by a row, or by nothing but the end of what is held; and a row may have told the
 *  outcome before. */
function join(held: Conversation, convSeq: number, preload: Preload, seq: number | undefined): void {
  const left = Math.min(held.leftSeq ?? Infinity, held.rejoinFrom ?? Infinity, held.heldTo);
  held.rejoinFrom = undefined;
  held.stale.generation += 1;
  held.readSeq = Math.max(held.readSeq, convSeq);
  if (convSeq > held.known.membership) {
    held.known.membership = convSeq;
    held.leftSeq = undefined;
    if (preload !== "none" || held.completeFrom !== undefined) held.stale.row = seq ?? 0;
  }
  if (held.completeFrom !== undefined) {
    held.stale.gap = lower(held.stale.gap, left);
    held.stale.changes = lower(held.stale.changes, left);
  }
}

function leave(held: Conversation, convSeq: number): void {
  held.rejoinFrom ??= convSeq;
  held.members = undefined;
  held.stale.members = false;
  held.stale.memberChanges = [];
  if (held.large && held.completeFrom !== undefined && (positionOf(held) ?? Infinity) < convSeq) {
    // Its own log is not told any more: what it had until the end is asked for.
    markLog(held, true, convSeq);
  }
  if (convSeq > held.known.membership) {
    held.known.membership = convSeq;
    held.leftSeq = convSeq;
    held.attributes = undefined;
  }
}

function conversationChanged(held: Conversation, event: ConversationEvent): void {
  const { conv_seq: convSeq } = event;
  switch (event.change) {
    case "large":
      if (!held.large && held.completeFrom !== undefined && held.heldTo > convSeq) {
        // The application has loaded a page before: what lies between will not be told here.
        held.heldTo = convSeq;
        markLog(held, true, 0);
      }
      held.large = true;
      held.members = undefined;
      held.stale.members = false;
      return;
    case "dissolved": return leave(held, convSeq);
    case "renamed": return renamed(held, convSeq, event.title);
    case "attributes": return attributed(held, convSeq, event.attributes);
    case "created":
      renamed(held, convSeq, event.title ?? undefined);
      attributed(held, convSeq, event.attributes ?? undefined);
      if (convSeq <= held.known.membership) return;
      held.known.membership = convSeq;
      held.readSeq = Math.max(held.readSeq, convSeq);
      // Told before by its own log.
      if (held.large) return;
      // Who of them is the owner is not told here.
      held.members ??= new Map(event.members.map((user) => [user, "member"]));
      held.stale.members = true;
  }
}

function renamed(held: Conversation, convSeq: number, title: string | undefined): void {
  if (convSeq <= held.known.title) return;
  held.known.title = convSeq;
  held.title = title;
}

function attributed(held: Conversation, convSeq: number, attributes: Body | undefined): void {
  if (convSeq <= held.known.attributes) return;
  held.known.attributes = convSeq;
  held.attributes = attributes;
}

/** Sets or takes out one member. */
export function setMember(members: Map<string, Role>, user: string, role: Role | undefined): void {
  if (role) members.set(user, role);
  else members.delete(user);
}
