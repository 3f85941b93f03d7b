// How many messages are unread.
//
// The rule of the contract: messages of others, visible, above max(read_seq, cleared_up_to), not deleted,
// not recalled. Where a device holds all messages above that number it counts them: exact, and the same
// on a device that was never behind and on one that had a reset. Where it does not (a fresh device that
// loaded no history), the server's number is split into the messages held and a rest, and the rest is
// carried: a message that turns up moves from the rest to those held, a recall of one not held takes one
// away, and there are never more than numbers that are neither held nor hidden. What else a delete or clear of
// messages not held takes away it cannot follow; the next `read` or `conversations` puts it right.

import type { Conversation, HeldMessage } from "./model.js";

/** Nothing up to it is unread. */
const readFloor = (held: Conversation): number => Math.max(held.readSeq, held.clearedUpTo);

/** Unread messages; `me` is whose device it is. */
export function unreadOf(held: Conversation, me: string | undefined): number {
  return unreadHeld(held, Infinity, me) + (countsExactly(held) ? 0 : Math.min(held.unheld.count, unknown(held)));
}

/** Numbers above the read position that the rest may be about: neither held nor hidden. */
function unknown(held: Conversation): number {
  const floor = readFloor(held);
  const { asOf } = held.unheld;
  let count = Math.max(0, asOf - floor);
  for (const seq of held.messages.keys()) if (seq > floor && seq <= asOf) count -= 1;
  for (const [from, to] of held.deleted) count -= Math.max(0, Math.min(to, asOf) + 1 - Math.max(from, floor + 1));
  return Math.max(0, count);
}

/** Whether every message above the read position is held. */
export function countsExactly(held: Conversation): boolean {
  return held.stale.gap === undefined && held.completeFrom !== undefined && held.completeFrom <= readFloor(held) + 1;
}

function unreadHeld(held: Conversation, upTo: number, me: string | undefined): number {
  const floor = readFloor(held);
  let count = 0;
  for (const [seq, message] of held.messages) if (seq > floor && seq <= upTo && isUnread(message, me)) count += 1;
  return count;
}

/** The server's number, true of messages up to `asOf`. */
export function toldUnread(held: Conversation, unread: number, asOf: number, me: string | undefined): void {
  held.unheld = { count: Math.max(0, unread - unreadHeld(held, asOf, me)), asOf };
}

/** A message that was not held is held now. */
export function countedAtLast(held: Conversation, seq: number, me: string | undefined): void {
  const message = held.messages.get(seq);
  if (message && isUnread(message, me) && seq > readFloor(held) && seq <= held.unheld.asOf) {
    held.unheld.count = Math.max(0, held.unheld.count - 1);
  }
}

/** A message that is not held was recalled, by another than this user. */
export function recalledUnheld(held: Conversation, target: number, convSeq: number): void {
  const counted = target > readFloor(held) && target <= held.unheld.asOf;
  if (counted && convSeq > held.unheld.asOf) held.unheld.count = Math.max(0, held.unheld.count - 1);
}

function isUnread(message: HeldMessage, me: string | undefined): boolean {
  return !message.recalled && message.senderId !== me;
}
