// Messages on their way out: each keeps its client_msg_id until `sent`.
//
// A pure queue, saved by the store with the state. Per conversation one message is under way at a time, so
// that a retry never lets a later message overtake; conversations don't wait for each other.

import type { Body } from "./frames.js";
import { directId } from "./state/model.js";

/** Messages that may wait. */
export const MAX_OUTBOX = 10_000;

/** A message to be sent. */
export interface OutboxItem {
  /** A conversation, or the direct one with a user. */
  to: { conv_id: string } | { to: string };
  /** The key that makes it once. */
  clientMsgId: string;
  body: Body;
  replyTo: number | undefined;
  mentions: string[];
  /** Milliseconds, this device's clock: when it was put into the outbox. */
  queuedAt: number;
  /** And when it was first tried. */
  triedAt: number | undefined;
}

/** The conversation it will be in. */
export function convIdOfItem(item: OutboxItem, me: string): string {
  return "to" in item.to ? directId(me, item.to.to) : item.to.conv_id;
}

/** Which messages of the outbox may go now. Of one connection; not saved. */
export class Sender {
  /** Conversations whose next message has to wait: for an answer (Infinity), or until a moment. */
  private readonly holds = new Map<string, number>();
  /** Retries in a row. */
  private readonly attempts = new Map<string, number>();

  /** The first message of each conversation that is not held, at most `limit` of them; they are held. */
  ready(outbox: OutboxItem[], me: string, now: number, limit: number): OutboxItem[] {
    this.lift(now);
    const ready: OutboxItem[] = [];
    const seen = new Set<string>();
    for (const item of outbox) {
      if (ready.length >= limit) break;
      const convId = convIdOfItem(item, me);
      if (seen.has(convId)) continue;
      seen.add(convId);
      if (this.holds.has(convId)) continue;
      this.holds.set(convId, Infinity);
      ready.push(item);
    }
    return ready;
  }

  /** Takes away the holds that are over, so that `nextAt` is never in the past: whoever sleeps until then would
   *  not sleep at all. */
  private lift(now: number): void {
    for (const [convId, at] of this.holds) if (at <= now) this.holds.delete(convId);
  }

  /** When the next held message may go. */
  nextAt(): number {
    return Math.min(...this.holds.values());
  }

  /** The message under way is decided: the next may go. */
  release(convId: string): void {
    this.holds.delete(convId);
    this.attempts.delete(convId);
  }

  /** The message under way is tried again, not before `at`; how often that was so. */
  hold(convId: string, at: (attempt: number) => number): void {
    const attempt = this.attempts.get(convId) ?? 0;
    this.attempts.set(convId, attempt + 1);
    this.holds.set(convId, at(attempt));
  }
}
