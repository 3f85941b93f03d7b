// One connection: hello, then frames in and requests out until it ends. No socket and no timer of its own.
//
// Whoever drives it hands in frames and the time, and afterwards saves (Core.takeWrite), writes `out` and
// tells. The order in every case: apply, save, then acknowledge and tell.

import { jittered } from "./backoff.js";
import type { Random } from "./backoff.js";
import { parseFrame } from "./check.js";
import type { Core } from "./core.js";
import type {
  Answer, ClientFrame, ClientInfo, ErrorFrame, HeadsFrame, Request, ResetFrame, SyncFrame, WelcomeFrame,
} from "./frames.js";
import { Loader } from "./loader.js";
import type { Job } from "./loader.js";
import { convIdOfItem, Sender } from "./outbox.js";
import type { OutboxItem } from "./outbox.js";
import { EverlineError } from "./requests.js";
import type { AnyRequest, Sent } from "./requests.js";
import { applyChanges, applyConversations, applyHistory } from "./state/answers.js";
import { applyFrame, applyHeads, convIdOf } from "./state/apply.js";
import { largePositions, seqOf } from "./state/model.js";
import { applyReset, closeIfDone, firstStart } from "./state/reset.js";

/** Frames that wait for the writer before the outbox has to. */
const OUT = 64;
/** A frame applied is acknowledged within this when no other follows: milliseconds. */
const IDLE = 50;
/** For `welcome`, and for the answer to any request: milliseconds. */
const ANSWER_WITHIN = 30_000;
/** Codes of errors after which the same request may succeed. */
const RETRYABLE = ["unavailable", "rate_limited", "overloaded"];
/** Codes of errors that are followed by the close: they say nothing about the request. */
const FATAL = ["hello_required", "invalid_token", "token_expired", "revoked", "ack_ahead", "too_many_connections"];

/** Who says hello. */
export interface Identity {
  token: string;
  deviceId: string;
  client: ClientInfo;
}

/** Who waits for the answer to a request of the application. */
export interface Reply {
  resolve(answer: Answer): void;
  reject(error: EverlineError): void;
}

/** What an answer is for. */
type Waiting =
  | { kind: "user"; request: AnyRequest; reply: Reply; askedAt: number }
  | { kind: "outbox"; convId: string; clientMsgId: string }
  | { kind: "load"; job: Job }
  | { kind: "sync" };

/** The connection is of no use any more; `stop`: none will be. */
export class SessionEnd extends Error {
  constructor(reason: string, readonly stop: boolean) {
    super(reason);
  }
}

export class Session {
  /** Frames to be written, after the next save. */
  out: ClientFrame[] = [];
  /** The server's head and floor as far as told, for whoever draws them. */
  headSeq = 0;
  floorSeq = 0;
  /** The last seq told to the server. */
  acked = 0;
  private loader = new Loader();
  private readonly sender = new Sender();
  private readonly pending = new Map<string, { askedAt: number; waiting: Waiting }>();
  private lastId = 0;
  /** Set by `welcome`. */
  private me: string | undefined;
  private window = 4;
  private heartbeat = ANSWER_WITHIN;
  private ackAt = Infinity;
  /** It began without a cursor of this epoch. */
  private fresh = false;
  /** The last frame applied reached the head. */
  private atHead = false;
  /** A `sync` request is under way. */
  private asksSync = false;
  private askSyncAt = Infinity;
  private loadAt = 0;
  private loadAttempt = 0;

  constructor(private readonly core: Core, identity: Identity, private heard: number, private readonly random: Random) {
    const { state } = core;
    const conversations = largePositions(state);
    this.out.push({
      type: "hello", id: this.newId(), token: identity.token, device_id: identity.deviceId, client: identity.client,
      ...(state.cursor && { cursor: state.cursor }),
      ...(Object.keys(conversations).length > 0 && { conversations }),
    });
  }

  // ---- what the driver calls ------------------------------------------------------------------------

  /** A text frame came. Throws a `SessionEnd` when it makes no sense. */
  receive(text: string, now: number): void {
    let frame;
    try {
      frame = parseFrame(text);
    } catch (error) {
      throw new SessionEnd(`bad frame: ${String(error)}`, false);
    }
    this.heard = now;
    if (frame) this.frame(frame, now);
  }

  /** Asks what is due: outbox, loader, timers. Throws a `SessionEnd` when the server has gone silent. */
  tick(now: number): void {
    const oldest = [...this.pending.values()][0]?.askedAt ?? Infinity;
    if (now >= this.silence() || now >= oldest + ANSWER_WITHIN) throw new SessionEnd("silence", false);
    if (now >= this.ackAt) this.ack();
    if (now >= this.askSyncAt) {
      this.askSyncAt = Infinity;
      this.askSync(now);
    }
    if (this.me === undefined) return;
    for (const item of this.sender.ready(this.core.outbox, this.me, now, OUT - this.out.length)) this.sendItem(item, now);
    while (now >= this.loadAt && this.out.length < OUT) {
      const next = this.loader.next(this.core.state);
      if (!next) break;
      this.ask(next[0], { kind: "load", job: next[1] }, now);
    }
  }

  /** When `tick` has to be called again at the latest. */
  deadline(now: number): number {
    const oldest = [...this.pending.values()][0]?.askedAt ?? Infinity;
    const load = this.loadAt > now ? this.loadAt : Infinity;
    return Math.min(this.silence(), oldest + ANSWER_WITHIN, this.ackAt, this.askSyncAt, this.sender.nextAt(), load);
  }

  /** A request of the application. */
  request(request: AnyRequest, reply: Reply, now: number): void {
    if (this.me === undefined) return reply.reject(new EverlineError("disconnected"));
    this.ask(request, { kind: "user", request, reply, askedAt: seqOf(this.core.state) }, now);
  }

  /** Something without an answer. */
  say(frame: ClientFrame): void {
    if (this.me !== undefined && this.out.length < OUT) this.out.push(frame);
  }

  /** The connection is gone: requests of the application fail. */
  end(): void {
    for (const { waiting } of this.pending.values()) {
      if (waiting.kind === "user") waiting.reply.reject(new EverlineError("disconnected"));
    }
    this.pending.clear();
  }

  // ---- frames ---------------------------------------------------------------------------------------

  private frame(frame: NonNullable<ReturnType<typeof parseFrame>>, now: number): void {
    switch (frame.type) {
      case "welcome": return this.welcome(frame);
      case "sync": return this.sync(frame, now);
      case "reset": return this.reset(frame);
      case "heads": return this.heads(frame);
      case "ping": {
        const seq = seqOf(this.core.state);
        this.headSeq = Math.max(this.headSeq, frame.head_seq);
        this.acked = Math.max(this.acked, seq);
        this.ackAt = Infinity;
        this.out.push({ type: "pong", seq });
        // Nothing was sent for a heartbeat, and still something is missing: a frame was lost.
        this.atHead = frame.head_seq <= seq;
        if (!this.atHead) this.askSync(now);
        return this.publish();
      }
      case "typing": return this.core.tell({ type: "typing", convId: frame.conv_id, userId: frame.user_id });
      case "error": return this.error(frame, now);
      case "presence":
        if (!("id" in frame) || frame.id === undefined) return this.core.tell({ type: "presence", users: frame.users });
        return this.answer(frame as Answer);
      default: return this.answer(frame);
    }
  }

  private welcome(frame: WelcomeFrame): void {
    const { state } = this.core;
    if (state.userId !== undefined && state.userId !== frame.user_id) throw new SessionEnd("the token is another user's", true);
    this.core.limits = frame.limits;
    state.userId = frame.user_id;
    if (frame.sync === "fresh") firstStart(state, { epoch: frame.epoch, seq: frame.head_seq });
    this.core.touch();
    this.me = frame.user_id;
    this.fresh = frame.sync === "fresh";
    this.window = frame.limits.window_entries;
    this.heartbeat = Math.max(100, frame.heartbeat_ms);
    this.acked = seqOf(state);
    [this.headSeq, this.floorSeq] = [frame.head_seq, frame.floor_seq];
    if (frame.sync !== "reset") this.loader.lookAt(state, state.conversations.keys());
    this.publish();
  }

  private sync(frame: SyncFrame, now: number): void {
    if (frame.id && this.pending.delete(frame.id)) this.asksSync = false;
    const { state } = this.core;
    const seq = seqOf(state);
    if (frame.from_seq !== seq || frame.to_seq < frame.from_seq) {
      if (frame.to_seq > seq) {
        this.atHead = false;
        this.askSync(now);
      }
      return this.publish();
    }
    applyFrame(state, frame);
    this.headSeq = Math.max(this.headSeq, frame.to_seq);
    this.ownMessages(frame);
    this.settle(frame.entries.flatMap((entry) => convIdOf(entry) ?? []));
    this.atHead = frame.live;
    this.ackSoon(now);
    if (frame.entries.length > 0) this.core.tell({ type: "applied", entries: frame.entries, live: frame.live });
    this.publish();
  }

  /** Own messages that were waiting: their entry proves them as well as `sent` does. */
  private ownMessages(frame: SyncFrame): void {
    for (const entry of frame.entries) {
      if (entry.op !== "message" || entry.sender_id !== this.me) continue;
      const item = this.core.itemOf(entry.client_msg_id);
      if (!item || convIdOfItem(item, this.me) !== entry.conv_id) continue;
      this.sender.release(entry.conv_id);
      this.core.accept(entry.client_msg_id, {
        convId: entry.conv_id, convSeq: entry.conv_seq, sentAt: entry.sent_at, duplicate: false,
      });
    }
  }

  /** After any change of the state: closes a finished reset, looks at new marks. */
  private settle(touched: Iterable<string>): void {
    const { state } = this.core;
    const was = state.loading;
    const closed = closeIfDone(state);
    this.core.touch(touched);
    this.loader.lookAt(state, touched);
    if (closed && was === "reset") this.core.tell({ type: "reconciled" });
  }

  private reset(frame: ResetFrame): void {
    const { state } = this.core;
    if (frame.id) this.pending.delete(frame.id);
    [this.asksSync, this.askSyncAt] = [false, Infinity];
    [this.headSeq, this.floorSeq] = [frame.head_seq, frame.floor_seq];
    if (applyReset(state, frame)) {
      this.core.drop();
      this.fresh = true;
      // Answers under way are about what was dropped.
      for (const [id, { waiting }] of this.pending) if (waiting.kind === "load") this.pending.delete(id);
      this.loader = new Loader();
    }
    closeIfDone(state);
    this.core.touch(state.conversations.keys());
    this.acked = frame.head_seq;
    this.ackAt = Infinity;
    this.atHead = false;
    this.loader.restart(state);
    this.core.tell({ type: "reset", reason: frame.reason });
    this.publish();
  }

  private heads(frame: HeadsFrame): void {
    for (const item of frame.conversations) {
      const continues = applyHeads(this.core.state, item, this.fresh);
      if (continues && item.entries) this.core.tell({ type: "log", convId: item.conv_id, events: item.entries });
    }
    this.settle(frame.conversations.map((item) => item.conv_id));
    this.publish();
  }

  private answer(answer: Answer): void {
    const asked = this.pending.get(answer.id);
    if (!asked) return;
    this.pending.delete(answer.id);
    const { waiting } = asked;
    switch (waiting.kind) {
      case "user":
        this.take(waiting.request, answer, waiting.askedAt);
        this.core.after(() => waiting.reply.resolve(answer));
        return;
      case "outbox": {
        if (this.core.itemOf(waiting.clientMsgId)) this.sender.release(waiting.convId);
        if (answer.type !== "sent") throw new SessionEnd("bad answer", false);
        const sent: Sent = {
          convId: answer.conv_id, convSeq: answer.conv_seq, sentAt: answer.sent_at, duplicate: answer.duplicate,
        };
        return this.core.accept(waiting.clientMsgId, sent);
      }
      case "load":
        this.loadAttempt = 0;
        return this.loaded(this.loader.answered(this.core.state, waiting.job, answer));
      case "sync":
        this.asksSync = false;
    }
  }

  /** Answers to the application's own requests are good for the state too. */
  private take(request: AnyRequest, answer: Answer, askedAt: number): void {
    const { state } = this.core;
    if (request.type === "history" && answer.type === "history") {
      const { before, after, after_at } = request;
      const from = { before: before ?? undefined, after: after ?? undefined, after_at: after_at ?? undefined };
      applyHistory(state, request.conv_id, from, answer, false);
      this.settle([request.conv_id]);
    } else if (request.type === "changes" && answer.type === "changes") {
      applyChanges(state, request.conv_id, request.since, answer, false);
      this.settle([request.conv_id]);
    } else if (request.type === "conversations" && answer.type === "conversations") {
      applyConversations(state, answer.conversations, askedAt);
      this.settle(answer.conversations.map((row) => row.conv_id));
    }
  }

  private loaded(touched: Set<string>): void {
    this.settle(touched);
    this.core.tell({ type: "updated", convIds: [...touched] });
    this.publish();
  }

  private error(error: ErrorFrame, now: number): void {
    const asked = error.id === null || error.id === undefined ? undefined : this.pending.get(error.id);
    if (!asked || !error.id) return;
    this.pending.delete(error.id);
    const { waiting } = asked;
    const later = error.retryable || RETRYABLE.includes(error.code) || FATAL.includes(error.code);
    const wait = (attempt: number): number => now + (error.retry_after_ms ?? jittered(attempt, this.random));
    switch (waiting.kind) {
      case "user":
        return this.core.after(() => waiting.reply.reject(new EverlineError("refused", error)));
      case "outbox":
        // Its entry was here first: the next message may be under way, and must neither wait nor go twice.
        if (!this.core.itemOf(waiting.clientMsgId)) return;
        if (later) return this.sender.hold(waiting.convId, wait);
        this.sender.release(waiting.convId);
        return this.core.giveUp(waiting.clientMsgId, new EverlineError("refused", error));
      case "load":
        if (!later) return this.loaded(this.loader.refused(this.core.state, waiting.job));
        this.loader.postponed(waiting.job);
        this.loadAttempt += 1;
        this.loadAt = wait(this.loadAttempt);
        return;
      case "sync":
        this.asksSync = false;
        this.askSyncAt = wait(0);
    }
  }

  // ---- requests -------------------------------------------------------------------------------------

  private sendItem(item: OutboxItem, now: number): void {
    const convId = convIdOfItem(item, this.me ?? "");
    const { clientMsgId, body, replyTo, mentions } = item;
    const wall = Date.now();
    if (item.triedAt !== undefined && wall - item.triedAt > this.core.limits.dedupe_seconds * 1000) {
      this.sender.release(convId);
      return this.core.giveUp(clientMsgId, new EverlineError("outcome_unknown"));
    }
    this.core.markTried(item, wall);
    const request = {
      type: "send", ...item.to, client_msg_id: clientMsgId, body,
      ...(replyTo !== undefined && { reply_to: replyTo }), ...(mentions.length > 0 && { mentions }),
    } as AnyRequest;
    this.ask(request, { kind: "outbox", convId, clientMsgId }, now);
  }

  private ask(request: AnyRequest, waiting: Waiting, now: number): void {
    const id = this.newId();
    this.out.push({ ...request, id } as Request);
    this.pending.set(id, { askedAt: now, waiting });
  }

  /** Asks for the timeline from the cursor; once, until it is answered. */
  private askSync(now: number): void {
    if (this.asksSync) return;
    this.asksSync = true;
    this.ask({ type: "sync", after_seq: seqOf(this.core.state) }, { kind: "sync" }, now);
  }

  /** Acknowledges the cursor, which is saved before the frame is written. */
  private ack(): void {
    this.ackAt = Infinity;
    const seq = seqOf(this.core.state);
    if (seq <= this.acked) return;
    this.acked = seq;
    this.out.push({ type: "ack", seq });
  }

  /** At once from a quarter of the window on, else when it gets quiet. */
  private ackSoon(now: number): void {
    const open = seqOf(this.core.state) - this.acked;
    if (open >= Math.max(1, Math.floor(this.window / 4))) this.ack();
    else if (open > 0) this.ackAt = Math.min(this.ackAt, now + IDLE);
  }

  private publish(): void {
    const current = this.atHead && !this.asksSync && this.askSyncAt === Infinity;
    const complete = this.core.state.loading === "no" && !this.loader.isBehind(this.core.state);
    this.core.publish(current && complete ? "live" : "syncing");
  }

  private silence(): number {
    return this.heard + (this.me === undefined ? ANSWER_WITHIN : this.heartbeat * 2 + 5000);
  }

  private newId(): string {
    this.lastId += 1;
    return String(this.lastId);
  }
}
