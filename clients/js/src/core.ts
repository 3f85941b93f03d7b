// What outlives a connection: state, outbox, what is to be saved, and what is to be told after that.
//
// No sockets, no timers, no store: whoever drives it saves what `takeWrite` gives before he writes a frame
// or tells an event. So nothing is acknowledged or shown as done that a crash could take back.

import type { Body, Entry, Event as LogEvent, Limits, ResetReason, UserPresence } from "./frames.js";
import { convIdOfItem, MAX_OUTBOX } from "./outbox.js";
import type { OutboxItem } from "./outbox.js";
import { EverlineError } from "./requests.js";
import type { Sent } from "./requests.js";
import { isHidden } from "./state/model.js";
import type { State } from "./state/model.js";
import { writeOf } from "./store.js";
import type { Write } from "./store.js";

/** How the connection stands. Only in `live` is the state known to be current. */
export type Status = "disconnected" | "connecting" | "syncing" | "live";

/** One thing to know, told after it was saved. */
export type ClientEvent =
  /** The connection stands otherwise; with `stopped` it does not come back by itself. */
  | { type: "status"; status: Status; stopped?: string }
  /** Entries of the sync timeline were applied; `live`: they may ring. */
  | { type: "applied"; entries: Entry[]; live: boolean }
  /** Entries of a large conversation's own log were applied. */
  | { type: "log"; convId: string; events: LogEvent[] }
  /** Something was loaded: read these anew. */
  | { type: "updated"; convIds: string[] }
  /** The server could not continue from the cursor. */
  | { type: "reset"; reason: ResetReason }
  /** The reset is over: the state is that of a device that was never behind. */
  | { type: "reconciled" }
  /** A message of the outbox was accepted, or given up and taken out. */
  | { type: "queued"; item: OutboxItem }
  | { type: "sent"; clientMsgId: string; sent: Sent }
  | { type: "failed"; item: OutboxItem; error: EverlineError }
  /** May be dropped. */
  | { type: "typing"; convId: string; userId: string }
  | { type: "presence"; users: UserPresence[] };

/** A message given to a client: to a conversation, or to a user. */
export interface Outgoing {
  to: { conv_id: string } | { to: string };
  body: Body;
  /** conv_seq of the message answered. */
  replyTo?: number;
  /** Up to 50 users. */
  mentions?: string[];
  /** The key that makes it once; the client makes one when absent. */
  clientMsgId?: string;
}

interface Waiter {
  resolve(sent: Sent): void;
  reject(error: EverlineError): void;
}

export class Core {
  status: Status = "disconnected";
  /** Connections in a row that did not get live. */
  attempt = 0;
  limits: Pick<Limits, "max_body_bytes" | "dedupe_seconds"> = { max_body_bytes: 32_768, dedupe_seconds: 604_800 };
  /** To be told after the next save. */
  private told: (() => void)[] = [];
  private readonly waiters = new Map<string, Waiter>();
  /** Accepted messages whose own entry has not come yet. */
  private readonly accepted = new Map<string, { item: OutboxItem; sent: Sent }>();
  private readonly touched = new Set<string>();
  private dirty = false;
  private outboxDirty = false;
  private dropped = false;

  constructor(public state: State, public outbox: OutboxItem[], private readonly listen: (event: ClientEvent) => void) {}

  // ---- saving and telling ---------------------------------------------------------------------------

  /** The state changed: these conversations, and whatever is in no conversation. */
  touch(convIds: Iterable<string> = []): void {
    this.dirty = true;
    for (const convId of convIds) this.touched.add(convId);
  }

  /** Everything was dropped. */
  drop(): void {
    this.dirty = this.dropped = true;
  }

  /** What is to be saved, if anything. */
  takeWrite(): Write | undefined {
    if (!this.dirty && !this.outboxDirty) return undefined;
    const write = writeOf(this.state, this.touched, this.dropped, this.outboxDirty ? this.outbox : undefined);
    this.touched.clear();
    this.dirty = this.outboxDirty = this.dropped = false;
    return write;
  }

  tell(event: ClientEvent): void {
    this.after(() => this.listen(event));
  }

  /** Runs it after the next save. */
  after(run: () => void): void {
    this.told.push(run);
  }

  /** After a save: tells. */
  flush(): void {
    for (const run of this.told.splice(0)) run();
  }

  publish(status: Status, stopped?: string): void {
    if (status === this.status && stopped === undefined) return;
    if (status === "live") this.attempt = 0;
    this.status = status;
    this.tell({ type: "status", status, ...(stopped !== undefined && { stopped }) });
  }

  // ---- outbox ---------------------------------------------------------------------------------------

  /** Puts a message into the outbox; `saved` is called when it is there for good. */
  queue(message: Outgoing, now: number, saved: (clientMsgId: string) => void, waiter: Waiter): void {
    const clientMsgId = message.clientMsgId ?? crypto.randomUUID();
    const refuse = (failure: "too_large" | "outbox_full" | "id_in_use"): void => {
      const error = new EverlineError(failure);
      this.after(() => waiter.reject(error));
    };
    if (new TextEncoder().encode(JSON.stringify(message.body)).length > this.limits.max_body_bytes) return refuse("too_large");
    if (this.outbox.length >= MAX_OUTBOX) return refuse("outbox_full");
    if (this.outbox.some((item) => item.clientMsgId === clientMsgId)) return refuse("id_in_use");
    const { to, body, replyTo, mentions = [] } = message;
    const item = { to, clientMsgId, body, replyTo, mentions, queuedAt: now, triedAt: undefined };
    this.outbox.push(item);
    this.outboxDirty = true;
    this.waiters.set(clientMsgId, waiter);
    this.after(() => saved(clientMsgId));
    this.tell({ type: "queued", item });
  }

  itemOf(clientMsgId: string): OutboxItem | undefined {
    return this.outbox.find((item) => item.clientMsgId === clientMsgId);
  }

  markTried(item: OutboxItem, now: number): void {
    if (item.triedAt !== undefined) return;
    item.triedAt = now;
    this.outboxDirty = true;
  }

  /** Takes a message out of the outbox and tells that it was accepted. */
  accept(clientMsgId: string, sent: Sent): void {
    const item = this.takeOut(clientMsgId);
    if (!item) return;
    this.accepted.set(clientMsgId, { item, sent });
    const waiter = this.takeWaiter(clientMsgId);
    this.after(() => waiter?.resolve(sent));
    this.tell({ type: "sent", clientMsgId, sent });
  }

  /** Takes a message out of the outbox: it will not be accepted. */
  giveUp(clientMsgId: string, error: EverlineError): void {
    const item = this.takeOut(clientMsgId);
    if (!item) return;
    const waiter = this.takeWaiter(clientMsgId);
    this.after(() => waiter?.reject(error));
    this.tell({ type: "failed", item, error });
  }

  /** Messages of a conversation that are not in its timeline here yet, in order; `sent`: accepted. */
  pendingOf(convId: string): { item: OutboxItem; sent: Sent | undefined }[] {
    const me = this.state.userId;
    const held = this.state.conversations.get(convId);
    const pending: { item: OutboxItem; sent: Sent | undefined }[] = [];
    for (const [clientMsgId, one] of this.accepted) {
      if (one.sent.convId !== convId) continue;
      if (held && (held.messages.has(one.sent.convSeq) || isHidden(held, one.sent.convSeq))) this.accepted.delete(clientMsgId);
      else pending.push(one);
    }
    for (const item of this.outbox) {
      const here = "conv_id" in item.to ? item.to.conv_id : me !== undefined && convIdOfItem(item, me);
      if (here === convId) pending.push({ item, sent: undefined });
    }
    return pending;
  }

  /** The store failed: nobody waits any longer. */
  abandon(): void {
    for (const waiter of this.waiters.values()) waiter.reject(new EverlineError("stopped"));
    this.waiters.clear();
  }

  private takeOut(clientMsgId: string): OutboxItem | undefined {
    const at = this.outbox.findIndex((item) => item.clientMsgId === clientMsgId);
    if (at < 0) return undefined;
    this.outboxDirty = true;
    return this.outbox.splice(at, 1)[0];
  }

  private takeWaiter(clientMsgId: string): Waiter | undefined {
    const waiter = this.waiters.get(clientMsgId);
    this.waiters.delete(clientMsgId);
    return waiter;
  }
}
