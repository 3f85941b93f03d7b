// A device of a user: connects, catches up, stays, comes back. What the application holds.
//
// One pump at a time moves everything: frames and commands in, save, then frames and events out. Messages
// go through the outbox and survive everything; other requests are answered on the connection they were
// sent on or fail with `disconnected`: only the application knows whether a recall is still meant after an
// hour. Repeating one is always safe, by its meaning or its op_id.

import { afterEnd } from "./backoff.js";
import type { End, Random } from "./backoff.js";
import { Core } from "./core.js";
import type { ClientEvent, Outgoing, Status } from "./core.js";
import type { Answer, Body, ClientInfo, HistoryAnswer, Range, Role } from "./frames.js";
import type { OutboxItem } from "./outbox.js";
import { EverlineError } from "./requests.js";
import type { AnswerTo, AnyRequest, Sent } from "./requests.js";
import { Session, SessionEnd } from "./session.js";
import type { Identity } from "./session.js";
import type { HistoryFrom } from "./state/answers.js";
import { newState, seqOf } from "./state/model.js";
import type { Preload, State } from "./state/model.js";
import { unreadOf } from "./state/unread.js";
import { MemoryStore, restore } from "./store.js";
import type { Store } from "./store.js";

const SUBPROTOCOL = "everline.v1.json";
/** Frames taken in between two saves. */
const BATCH = 64;

/** What a client needs of a WebSocket: the browser's, or that of the npm package `ws`. */
export interface WebSocketLike {
  readonly readyState: number;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(text: string): void;
  close(code?: number): void;
}

export interface ClientOptions {
  /** `ws://host:port/v1/ws`, or `wss://`. */
  url: string;
  /** A token, or who gives one for each connection; `renew`: the last one has expired. */
  token: string | ((renew: boolean) => string | Promise<string>);
  /** 1-64 of `A-Z a-z 0-9 . _ @ -`; no two at a time may have the same. */
  deviceId: string;
  /** Where it is kept; in memory by default. */
  store?: Store;
  /** What is loaded unasked; nothing by default. */
  preload?: Preload;
  /** Told to the server. */
  client?: ClientInfo;
  /** Node before 22 has none of its own. */
  WebSocket?: new (url: string, protocols: string[]) => WebSocketLike;
  /** For tests. */
  random?: Random;
}

export class Client {
  private core: Core;
  private readonly store: Store;
  private readonly preload: Preload;
  private readonly listeners = new Set<(event: ClientEvent) => void>();
  private readonly random: Random;
  private loaded: Promise<void> | undefined;
  private socket: WebSocketLike | undefined;
  private session: Session | undefined;
  private inbox: (() => void)[] = [];
  private pumping = false;
  private wanted = false;
  private broken = false;
  private renew = false;
  /** Which connection this is: what comes from an older one is ignored. */
  private turn = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private retry: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly options: ClientOptions) {
    this.store = options.store ?? new MemoryStore();
    this.preload = options.preload ?? "none";
    this.random = options.random ?? Math.random;
    this.core = new Core(newState(this.preload), [], (event) => this.dispatch(event));
  }

  // ---- what the application sees --------------------------------------------------------------------

  /** Goes on line and stays, until `close`. */
  connect(): void {
    if (this.wanted || this.broken) return;
    this.wanted = true;
    this.core.attempt = 0;
    void this.open();
  }

  /** Goes off line. The outbox is kept; `connect` comes back. */
  async close(): Promise<void> {
    this.wanted = false;
    this.hangUp();
    await this.post(() => this.core.publish("disconnected"));
  }

  /** Goes off line for good and lets go of the store. */
  async dispose(): Promise<void> {
    await this.close();
    this.broken = true;
    this.store.close?.();
  }

  get status(): Status {
    return this.core.status;
  }

  /** What the device knows. To be read, not changed; what an event tells of has been saved. */
  get state(): State {
    return this.core.state;
  }

  /** What waits to be sent, oldest first. */
  get outbox(): readonly OutboxItem[] {
    return this.core.outbox;
  }

  /** The last sync entry applied, and the last one told to the server. */
  get cursor(): { seq: number; acked: number; head: number; floor: number } {
    const { acked = 0, headSeq: head = 0, floorSeq: floor = 0 } = this.session ?? {};
    return { seq: seqOf(this.core.state), acked, head, floor };
  }

  /** Messages of a conversation that are not in its timeline here yet; `sent`: the server has them. */
  pending(convId: string): { item: OutboxItem; sent: Sent | undefined }[] {
    return this.core.pendingOf(convId);
  }

  /** Unread messages of a conversation; 0 when unknown. */
  unread(convId: string): number {
    const held = this.core.state.conversations.get(convId);
    return held ? unreadOf(held, this.core.state.userId) : 0;
  }

  /** Tells every event; the answer ends it. */
  on(listener: (event: ClientEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Reads what the store holds, without going on line. */
  load(): Promise<void> {
    this.loaded ??= this.readStore();
    return this.loaded;
  }

  /** Puts a message into the outbox; the answer comes when it is saved there. */
  async queue(message: Outgoing): Promise<{ clientMsgId: string; sent: Promise<Sent> }> {
    await this.load();
    return new Promise((saved, refused) => {
      let waiter!: { resolve(sent: Sent): void; reject(error: Error): void };
      const sent = new Promise<Sent>((resolve, reject) => (waiter = { resolve, reject }));
      // Nobody has to listen.
      sent.catch(refused);
      void this.post(() => this.core.queue(message, Date.now(), (clientMsgId) => saved({ clientMsgId, sent }), waiter));
    });
  }

  /** Sends a message and waits until the server has it, over any number of connections. */
  async send(to: Outgoing["to"], body: Body, more: Omit<Outgoing, "to" | "body"> = {}): Promise<Sent> {
    const { sent } = await this.queue({ to, body, ...more });
    return sent;
  }

  /** Sends any request and gives its answer as it came; history, changes and conversations are taken into
   *  the state too. */
  request(request: AnyRequest): Promise<Answer> {
    return new Promise((resolve, reject) => {
      void this.post(() => {
        if (this.session) this.session.request(request, { resolve, reject }, now());
        else reject(new EverlineError("disconnected"));
      });
    });
  }

  /** Takes a message back for everybody. Its recall's conv_seq. */
  recall = (conv_id: string, target: number): Promise<number> => this.convSeq({ type: "recall", conv_id, target });
  /** Gives one's own message another body. */
  edit = (conv_id: string, target: number, body: Body): Promise<number> => this.convSeq({ type: "edit", conv_id, target, body });
  /** Sets or takes away one's reaction. */
  react = (conv_id: string, target: number, key: string, add: boolean): Promise<number> =>
    this.convSeq({ type: "react", conv_id, target, key, add });
  /** Hides messages from oneself, on all one's devices. */
  delete = (conv_id: string, ranges: Range[]): Promise<void> => this.done({ type: "delete", conv_id, ranges });
  /** Hides everything up to a number from oneself. */
  clear = (conv_id: string, up_to: number): Promise<void> => this.done({ type: "clear", conv_id, up_to });
  /** Moves one's reading position. */
  read = (conv_id: string, read_seq: number): Promise<void> => this.done({ type: "read", conv_id, read_seq });
  /** Changes one's settings of a conversation; absent ones stay. */
  settings = (conv_id: string, settings: { muted?: boolean; pinned?: boolean; hidden?: boolean }): Promise<void> =>
    this.done({ type: "settings", conv_id, ...settings });
  /** Adds members. */
  invite = (conv_id: string, users: string[]): Promise<number> => this.convSeq({ type: "invite", conv_id, users });
  /** Takes members out. */
  remove = (conv_id: string, users: string[]): Promise<number> => this.convSeq({ type: "remove", conv_id, users });
  /** Goes. */
  leave = (conv_id: string): Promise<number> => this.convSeq({ type: "leave", conv_id });
  /** Changes title or attributes. */
  update = (conv_id: string, change: { title?: string; attributes?: Body }): Promise<number> =>
    this.convSeq({ type: "update", conv_id, ...change });
  /** Gives a member a role. */
  role = (conv_id: string, user_id: string, role: Role): Promise<number> => this.convSeq({ type: "role", conv_id, user_id, role });

  /** Makes a group; the same `opId` makes no second one. Its conversation. */
  async create(group: { members: string[]; title?: string; attributes?: Body; history?: "since_join" | "full" }, opId: string): Promise<string> {
    const { conv_id } = await this.answer({ type: "create", ...group, op_id: opId } as AnyRequest, "ok");
    if (!conv_id) throw new EverlineError("unexpected");
    return conv_id;
  }

  /** A page of messages as they stand; also taken into the state. `limit`: 1-200. */
  history(conv_id: string, from: HistoryFrom = {}, limit = 30): Promise<HistoryAnswer> {
    return this.answer({ type: "history", conv_id, ...from, limit } as AnyRequest, "history");
  }

  /** A request whose answer must be of this type. */
  async answer<T extends Answer["type"]>(request: AnyRequest, type: T): Promise<AnswerTo<T>> {
    const answer = await this.request(request);
    if (answer.type !== type) throw new EverlineError("unexpected");
    return answer as AnswerTo<T>;
  }

  /** Whether these users are on line; until the next such request (or the end of the connection) `presence`
   *  and `typing` events tell of them. Only of those this user shares a conversation with. */
  presence(users: string[]): Promise<AnswerTo<"presence">> {
    return this.answer({ type: "presence", users } as AnyRequest, "presence");
  }

  /** Tells those who watch this user that he is typing; may be lost. */
  typing(conv_id: string): void {
    void this.post(() => this.session?.say({ type: "typing", conv_id }));
  }

  private async convSeq(request: AnyRequest): Promise<number> {
    const { conv_seq } = await this.answer(request, "ok");
    if (typeof conv_seq !== "number") throw new EverlineError("unexpected");
    return conv_seq;
  }

  private async done(request: AnyRequest): Promise<void> {
    await this.answer(request, "ok");
  }

  private dispatch(event: ClientEvent): void {
    for (const listener of this.listeners) {
      try {
        listener(event);
      } catch (error) {
        // An application that fails must not keep its device from catching up.
        queueMicrotask(() => { throw error; });
      }
    }
  }

  // ---- the pump -------------------------------------------------------------------------------------

  /** Runs it between two saves; the answer comes when it is saved. */
  private post(run: () => void): Promise<void> {
    return new Promise((resolve) => {
      this.inbox.push(run, () => this.core.after(resolve));
      void this.pump();
    });
  }

  private async pump(): Promise<void> {
    if (this.pumping) return;
    this.pumping = true;
    try {
      await this.load();
      do {
        for (const run of this.inbox.splice(0, BATCH)) run();
        this.guarded(() => this.session?.tick(now()));
        await this.save();
      } while (this.inbox.length > 0);
    } catch (error) {
      this.fail(error);
    } finally {
      this.pumping = false;
    }
    this.schedule();
  }

  /** Saves what changed, then writes and tells. */
  private async save(): Promise<void> {
    const { session } = this;
    const write = this.core.takeWrite();
    if (write) await this.store.save(write);
    if (session && session === this.session) {
      for (const frame of session.out.splice(0)) if (this.socket?.readyState === 1) this.socket.send(JSON.stringify(frame));
    }
    this.core.flush();
  }

  private schedule(): void {
    clearTimeout(this.timer);
    if (!this.session) return;
    const wait = Math.min(Math.max(0, this.session.deadline(now()) - now()), 60_000);
    this.timer = setTimeout(() => void this.pump(), wait);
  }

  private guarded(run: () => void): void {
    try {
      run();
    } catch (error) {
      if (!(error instanceof SessionEnd)) throw error;
      this.ended(error.stop ? { stop: error.message } : { code: 1006, reason: error.message });
    }
  }

  /** The store failed: what it could not keep is not acknowledged, and nothing more is. */
  private fail(error: unknown): void {
    this.broken = true;
    this.wanted = false;
    this.hangUp();
    this.core.abandon();
    this.core.publish("disconnected", String(error));
    this.core.flush();
  }

  private async readStore(): Promise<void> {
    const saved = await this.store.load();
    this.core = new Core(restore(saved, this.preload), saved.outbox, (event) => this.dispatch(event));
  }

  // ---- connections ----------------------------------------------------------------------------------

  private async open(): Promise<void> {
    const turn = (this.turn += 1);
    await this.post(() => this.core.publish("connecting"));
    let token: string;
    try {
      const { token: given } = this.options;
      token = typeof given === "string" ? given : await given(this.renew);
    } catch {
      return this.post(() => turn === this.turn && this.ended({ code: 1006, reason: "no token" }));
    }
    if (turn !== this.turn || !this.wanted) return;
    this.renew = false;
    this.dial(turn, token);
  }

  private dial(turn: number, token: string): void {
    const make = this.options.WebSocket ?? (globalThis as { WebSocket?: unknown }).WebSocket as ClientOptions["WebSocket"];
    if (!make) throw new Error("there is no WebSocket here: give one as an option");
    const socket = new make(this.options.url, [SUBPROTOCOL]);
    const here = (run: () => void) => (): void => void this.post(() => turn === this.turn && this.guarded(run));
    const { deviceId, client = { name: "everline-client", version: "0.1.0" } } = this.options;
    const identity: Identity = { token, deviceId, client };
    this.socket = socket;
    socket.onopen = here(() => (this.session = new Session(this.core, identity, now(), this.random)));
    socket.onmessage = (event: { data: unknown }) => here(() => this.session?.receive(String(event.data), now()))();
    socket.onclose = ({ code, reason }: End) => here(() => this.ended({ code, reason }))();
    socket.onerror = () => {};
  }

  /** The connection is over: comes back later, or stops. */
  private ended(end: End | { stop: string }): void {
    this.hangUp();
    const next = "stop" in end ? end
      : afterEnd(end, this.core.attempt, typeof this.options.token === "function", this.random);
    if ("stop" in next || !this.wanted) {
      this.wanted = false;
      return this.core.publish("disconnected", "stop" in next ? next.stop : undefined);
    }
    this.renew = next.renewToken;
    this.core.attempt += 1;
    this.core.publish("disconnected");
    this.retry = setTimeout(() => void this.open(), next.wait);
  }

  private hangUp(): void {
    this.turn += 1;
    clearTimeout(this.retry);
    clearTimeout(this.timer);
    this.session?.end();
    this.session = undefined;
    this.socket?.close(1000);
    this.socket = undefined;
  }
}

/** A clock that only goes forward: milliseconds. */
const now = (): number => performance.now();
