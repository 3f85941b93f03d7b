// Answers into the state: `history`, `changes`, `conversations`, `members`.
//
// An answer is true of its head_seq (up_to), not of the moment it arrives: what is known to be newer
// stays. Whatever was asked by the application goes in the same way; only an answer that was asked for a
// mark (Stale) and after it was made (`finishes`) may take the mark away, else a reset in between would be
// forgotten.

import type { ChangesAnswer, ConversationSummary, HistoryAnswer, MemberInfo } from "../frames.js";
import { markLog, notify, preloadOf, setMember } from "./apply.js";
import { clear, edit, insert, nameReactionsAfter, react, recall, remove } from "./changes.js";
import { conversationOf, EVERYBODY, isDirect, loadsLog, lower, positionOf, seqOf } from "./model.js";
import type { Conversation, State } from "./model.js";
import { toldUnread } from "./unread.js";

/** Where a page of `history` begins; nothing: the newest. */
export interface HistoryFrom {
  before?: number | undefined;
  after?: number | undefined;
  after_at?: number | undefined;
}

/** Takes in a page of messages asked for by `from`. */
export function applyHistory(
  state: State, convId: string, from: HistoryFrom, answer: HistoryAnswer, finishes: boolean,
): void {
  const held = conversationOf(state, convId);
  for (const entry of answer.entries) {
    if (entry.op === "message") insert(held, entry, answer.head_seq, entry.reactions ?? [], state.userId);
    else if (entry.op === "notification") notify(state, entry.conv_seq ?? undefined, entry.topic, entry.body);
  }
  // In `b:all` a page that the application asked for says nothing of what lies before it.
  if (convId !== EVERYBODY) extend(held, from, answer);
  if (finishes) {
    advance(held, from, answer);
    finishLog(held, convId !== EVERYBODY);
  }
}

/** Takes in a page of changes; `since` is where the first page of the run began. With `finishes`, the last
 *  page ends the run. */
export function applyChanges(
  state: State, convId: string, since: number, answer: ChangesAnswer, finishes: boolean,
): void {
  const held = conversationOf(state, convId);
  remove(held, answer.deleted);
  clear(held, answer.cleared_up_to);
  for (const { target, conv_seq, by } of answer.recalled) recall(held, target, conv_seq, by, state.userId);
  for (const { target, conv_seq: convSeq, body, edited_at: editedAt } of answer.edited) {
    edit(held, target, { convSeq, body, editedAt });
  }
  for (const { target, conv_seq: convSeq, user_id: userId, key, add } of answer.reacted) {
    react(held, { target, convSeq, userId, key, add });
  }
  if (!finishes || answer.more) return;
  nameReactionsAfter(held, since, answer.up_to);
  if (held.reconciledSeq === undefined || since <= held.reconciledSeq) {
    held.reconciledSeq = Math.max(held.reconciledSeq ?? 0, answer.up_to);
  }
  held.stale.changes = undefined;
  finishLog(held, true);
}

/** Takes in rows of the list. `askedAt`: the cursor's seq when they were asked for. */
export function applyConversations(state: State, rows: ConversationSummary[], askedAt: number): void {
  for (const row of rows) {
    const known = state.conversations.has(row.conv_id);
    const held = conversationOf(state, row.conv_id);
    const { large: wasLarge, stale: { row: wanted } } = held;
    takeRow(held, row, askedAt);
    if (!known && held.reconciledSeq === undefined) {
      held.reconciledSeq = row.head_seq;
      held.heldTo = row.head_seq;
    }
    if (state.loading === "reset" && held.stale.generation === 0) {
      // It came while this device was below the floor, and with it deletes no entry will tell.
      held.stale.generation = 1;
      held.stale.changes ??= held.reconciledSeq ?? row.head_seq;
    }
    // Of a large one the sync timeline will not tell the rest.
    if (state.loading !== "no" || wanted !== undefined || (row.large && !wasLarge)) {
      preloadOf(held, state.preload, seqOf(state));
    }
    // Of a large conversation an answer from before its news tells nothing of them.
    const isOld = held.large && row.head_seq < Math.max(held.stale.headsSeen, positionOf(held) ?? 0);
    held.stale.row = wanted !== undefined && (wanted > askedAt || isOld) ? wanted : undefined;
    if (held.leftSeq !== undefined) {
      held.stale.members = false;
      held.stale.memberChanges = [];
    } else if (typeof state.preload === "number" && !held.large && !isDirect(row.conv_id)) {
      // A new stay that the reset hid.
      held.stale.members ||= held.members === undefined;
    }
    const isNewer = row.read_seq > held.readSeq || row.head_seq >= held.unheld.asOf;
    if (row.read_seq >= held.readSeq && isNewer) {
      held.readSeq = row.read_seq;
      toldUnread(held, row.unread, row.head_seq, state.userId);
    }
    // What was loaded before this was known may end before the stay does.
    if (row.large && !wasLarge) finishLog(held, true);
  }
}

/** Takes in the members of a conversation, all pages together. */
export function applyMembers(state: State, convId: string, members: MemberInfo[]): void {
  const held = conversationOf(state, convId);
  if (isDirect(convId)) {
    const peer = members.find((member) => member.user_id !== state.userId);
    held.peerReadSeq = Math.max(held.peerReadSeq, peer?.read_seq ?? 0);
  } else if (held.leftSeq === undefined && !held.large) {
    held.members = new Map(members.map((member) => [member.user_id, member.role]));
    for (const [user, role] of held.stale.memberChanges) setMember(held.members, user, role);
  }
  held.stale.members = false;
  held.stale.memberChanges = [];
}

function takeRow(held: Conversation, row: ConversationSummary, askedAt: number): void {
  held.known.row = Math.max(held.known.row, row.head_seq);
  if (row.head_seq >= held.known.title) {
    held.known.title = row.head_seq;
    held.title = row.title ?? undefined;
  }
  if (row.head_seq >= held.known.attributes) {
    held.known.attributes = row.head_seq;
    held.attributes = row.attributes ?? undefined;
  }
  if (row.head_seq >= held.known.membership) {
    held.known.membership = row.head_seq;
    held.leftSeq = row.left_seq ?? undefined;
  }
  if (held.leftSeq !== undefined) {
    held.rejoinFrom ??= held.leftSeq;
    held.members = undefined;
    held.attributes = undefined;
  }
  if (row.large && !held.large) {
    held.large = true;
    held.members = undefined;
    held.stale.members = false;
  }
  if (held.known.settings <= askedAt) {
    // From now on an answer asked for before this one is older.
    held.known.settings = askedAt;
    held.settings = { ...row.settings };
  }
}

/** Bounds of what is held without a hole. `low`: the page covers everything from it on. */
function extend(held: Conversation, from: HistoryFrom, answer: HistoryAnswer): void {
  const low = answer.complete ? 1 : answer.next ?? undefined;
  if (low === undefined || from.after !== undefined || from.after_at !== undefined) return;
  const newest = from.before === undefined;
  const high = from.before === undefined ? answer.head_seq : from.before - 1;
  if (held.completeFrom === undefined) {
    if (!newest) return;
    held.completeFrom = low;
    held.heldTo = Math.max(held.heldTo, high);
    held.reconciledSeq ??= answer.head_seq;
  } else if (low <= held.heldTo + 1 && high + 1 >= held.completeFrom) {
    held.completeFrom = Math.min(held.completeFrom, low);
    if (newest) held.heldTo = Math.max(held.heldTo, high);
  }
}

/** Moves the mark this page was asked for. */
function advance(held: Conversation, from: HistoryFrom, answer: HistoryAnswer): void {
  const { stale } = held;
  if (from.after !== undefined && from.after === stale.gap) {
    // A page that leads nowhere ends it too: better than asking for ever.
    const next = answer.complete ? undefined : answer.next ?? undefined;
    stale.gap = next !== undefined && next > from.after ? next : undefined;
    if (stale.gap === undefined) held.heldTo = Math.max(held.heldTo, answer.head_seq);
  } else if (from.after === undefined && from.after_at === undefined && stale.older && from.before === stale.older.before) {
    const { pages, before } = stale.older;
    const next = answer.complete ? undefined : answer.next ?? undefined;
    const goesOn = next !== undefined && next < (before ?? Infinity) && pages > 1;
    stale.older = goesOn ? { pages: pages - 1, before: next } : undefined;
    // Deleted ranges, and the names behind reaction counts.
    if (!goesOn) stale.changes = lower(stale.changes, Math.max(0, (held.completeFrom ?? 1) - 1));
  }
}

/** Large: when news came meanwhile that the load does not contain, or the end of the stay, it is marked again. */
function finishLog(held: Conversation, hasChanges: boolean): void {
  if (loadsLog(held.stale) || !held.large) return;
  if (!hasChanges) held.reconciledSeq = Math.max(held.reconciledSeq ?? 0, held.heldTo);
  // Once he has left, its own log is not told any more.
  const end = held.completeFrom !== undefined ? held.leftSeq ?? 0 : 0;
  const seen = Math.max(held.stale.headsSeen, end);
  held.stale.headsSeen = 0;
  const position = positionOf(held);
  // Neither messages nor changes tell a new title.
  if (hasChanges && position !== undefined && held.known.row < position) held.stale.row ??= 0;
  if (position !== undefined && position < seen) markLog(held, hasChanges, 0);
}
