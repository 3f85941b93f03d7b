// One device: a WebSocket, a cursor, and the rules of the contract that make them gapless.
//
//   a frame is applied iff its from_seq is the cursor; else the log is asked again from the cursor
//   entries and cursor are stored together, and only then acknowledged
//   a message stays in the outbox, under the same client_msg_id, until it was answered
//
// Events: "change" (state or cache), "entry" (detail: an entry applied).

import { Cache } from "./cache.js";

const RETRY_LEAST = 500;
const RETRY_MOST = 20_000;
const ACK_PAUSE = 300;

export class Device extends EventTarget {
  // `fromFloor`: reads its user's whole timeline at every start, and stores nothing.
  constructor({ user, name, fromFloor = false }) {
    super();
    Object.assign(this, { user, name, fromFloor });
    this.cache = new Cache(user);
    this.key = `everline-demo/${user}/${name}`;
    this.state = "disconnected";
    this.wanted = false;
    this.why = "";
    this.floor = 0;
    this.acked = 0;
    this.window = 500;
    this.pending = new Map();
    this.count = 0;
    this.failures = 0;
    if (!fromFloor) this.restore();
  }

  get cursor() {
    return this.cache.cursor?.seq ?? 0;
  }

  // ---- connection -------------------------------------------------------------------------------

  online() {
    this.wanted = true;
    this.failures = 0;
    if (!this.socket) this.connect();
  }

  offline() {
    this.wanted = false;
    clearTimeout(this.retry);
    this.socket?.close(1000);
    this.closed("");
  }

  // A device that has lost everything but its name.
  forget() {
    this.offline();
    this.cache = new Cache(this.user);
    try { localStorage.removeItem(this.key); } catch { /* nothing was stored */ }
    this.online();
  }

  async connect() {
    clearTimeout(this.retry);
    this.become("connecting");
    let token;
    try {
      token = await fetchToken(this.user);
    } catch {
      return this.closed("no token");
    }
    if (!this.wanted || this.socket) return;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/v1/ws`, "everline.v1.json");
    this.socket = socket;
    socket.onopen = () => this.write({
      type: "hello", id: "hello", token, device_id: this.name,
      cursor: (!this.fromFloor && this.cache.cursor) || undefined, client: { name: "demo page", version: "1" },
    });
    socket.onmessage = (event) => {
      if (socket === this.socket) this.receive(JSON.parse(event.data));
    };
    socket.onclose = (event) => {
      if (socket !== this.socket) return;
      const final = event.code >= 4500 && event.code < 4600;
      if (final) this.wanted = false;
      this.closed(final ? event.reason || `closed (${event.code})` : "");
    };
  }

  closed(why) {
    this.socket = null;
    this.waitsFor = null;
    this.why = why;
    clearTimeout(this.silence);
    for (const { reject } of this.pending.values()) reject({ code: "disconnected", message: "off line" });
    this.pending.clear();
    this.become("disconnected");
    if (!this.wanted) return;
    // Full jitter: many devices of a restarted server do not come back at the same moment.
    this.failures += 1;
    const most = Math.min(RETRY_MOST, RETRY_LEAST * 2 ** this.failures);
    this.retry = setTimeout(() => this.connect(), RETRY_LEAST + Math.random() * (most - RETRY_LEAST));
  }

  become(state) {
    this.state = state;
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  write(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  // ---- frames -----------------------------------------------------------------------------------

  receive(frame) {
    this.listen();
    switch (frame.type) {
      case "welcome": return this.welcome(frame);
      case "sync": return this.sync(frame);
      case "reset": return this.reset(frame);
      case "ping":
        this.acked = Math.max(this.acked, this.cursor);
        return this.write({ type: "pong", seq: this.cursor });
    }
    const waiting = this.pending.get(frame.id);
    if (!waiting) return;
    this.pending.delete(frame.id);
    if (frame.type === "error") waiting.reject(frame);
    else waiting.resolve(frame);
  }

  // A server that says nothing for two heartbeats and a half is gone.
  listen() {
    clearTimeout(this.silence);
    if (this.heartbeat) this.silence = setTimeout(() => this.socket?.close(4000), this.heartbeat * 2.5);
  }

  welcome(frame) {
    this.failures = 0;
    this.why = "";
    this.heartbeat = frame.heartbeat_ms;
    this.window = frame.limits.window_entries;
    this.floor = frame.floor_seq;
    this.acked = this.cursor;
    if (frame.sync === "fresh") {
      this.cache.drop();
      this.cache.cursor = { epoch: frame.epoch, seq: this.fromFloor ? frame.floor_seq : frame.head_seq };
      this.acked = this.cursor;
      if (this.fromFloor) this.ask();
      else this.loadAll().catch(() => {});
    } else if (frame.sync === "resumed" && this.cache.open) {
      // A reset was left unfinished.
      this.reconcile().catch(() => {});
    }
    this.become("syncing");
    this.flush();
  }

  sync(frame) {
    const asked = frame.id !== undefined && frame.id === this.waitsFor;
    if (frame.from_seq !== this.cursor) {
      if (frame.to_seq > this.cursor && !this.waitsFor) this.ask();
      return;
    }
    if (asked || this.waitsFor) this.waitsFor = null;
    for (const entry of frame.entries) {
      this.cache.apply(entry);
      this.dispatchEvent(new CustomEvent("entry", { detail: entry }));
    }
    this.cache.cursor.seq = frame.to_seq;
    this.store();
    this.acknowledge();
    this.become(frame.live ? "live" : "syncing");
  }

  // Reads the log again from the cursor. Asked once: what does not continue the cursor is dropped.
  ask() {
    this.waitsFor = `sync-${(this.count += 1)}`;
    this.write({ type: "sync", id: this.waitsFor, after_seq: this.cursor });
  }

  // At the latest after a quarter of the window; soon in any case.
  acknowledge() {
    if (this.cursor - this.acked >= this.window / 4) return this.ackNow();
    clearTimeout(this.ackLater);
    this.ackLater = setTimeout(() => this.ackNow(), ACK_PAUSE);
  }

  ackNow() {
    if (this.cursor <= this.acked) return;
    this.acked = this.cursor;
    this.write({ type: "ack", seq: this.cursor });
  }

  // The cursor is of no use any more: position first, then what was missed, from the conversations.
  reset(frame) {
    this.waitsFor = null;
    this.floor = frame.floor_seq;
    if (frame.reason !== "too_old") this.cache.drop();
    this.cache.cursor = { epoch: frame.epoch, seq: frame.head_seq };
    this.acked = this.cursor;
    this.lastReset = frame.reason;
    const work = frame.reason === "too_old" ? this.reconcile() : this.loadAll();
    work.catch(() => {});
    this.become("syncing");
  }

  // ---- requests ---------------------------------------------------------------------------------

  request(type, fields) {
    const id = `r${(this.count += 1)}`;
    if (this.socket?.readyState !== WebSocket.OPEN) {
      return Promise.reject({ code: "disconnected", message: "off line" });
    }
    this.write({ type, id, ...fields });
    return new Promise((resolve, reject) => this.pending.set(id, { resolve, reject }));
  }

  // Every conversation of the user, its numbers taken over.
  async summaries() {
    const found = [];
    let page;
    do {
      const answer = await this.request("conversations", { page, limit: 100 });
      found.push(...answer.conversations.map((one) => this.cache.summary(one)));
      page = answer.next;
    } while (page !== undefined);
    return found;
  }

  // A fresh device: every conversation, and the newest messages of each.
  async loadAll() {
    this.cache.begin();
    for (const conv of await this.summaries()) {
      this.cache.history(conv, await this.request("history", { conv_id: conv.id, limit: 100 }), true);
      await this.catchUp(conv, 0);
      await this.peer(conv);
    }
    this.reconciled();
  }

  // After too long an absence: changes to what is held, then what was missed.
  async reconcile() {
    const held = this.cache.begin();
    this.store();
    for (const conv of await this.summaries()) {
      await this.catchUp(conv, conv.reconciled);
      let after = held[conv.id] ?? 0;
      while (after !== undefined) {
        const answer = await this.request("history", { conv_id: conv.id, after, limit: 100 });
        this.cache.history(conv, answer, answer.complete);
        after = answer.complete ? undefined : answer.next;
      }
      await this.peer(conv);
    }
    this.reconciled();
  }

  reconciled() {
    this.cache.open = null;
    this.store();
    this.changed();
  }

  // How far the other one of a direct conversation has read.
  async peer(conv) {
    if (!conv.id.startsWith("d:")) return;
    const { members } = await this.request("members", { conv_id: conv.id });
    const peer = members.find((member) => member.user_id !== this.user);
    conv.peerRead = Math.max(conv.peerRead, peer?.read_seq ?? 0);
  }

  async catchUp(conv, since) {
    let answer;
    do {
      answer = await this.request("changes", { conv_id: conv.id, since });
      this.cache.changes(conv, answer);
      since = answer.up_to;
    } while (answer.more);
  }

  // Puts a message into the outbox; it is sent now, or when the device is on line again.
  send(conv_id, text) {
    this.cache.outbox.push({ client_msg_id: `${Date.now().toString(36)}-${crypto.randomUUID()}`, conv_id, text });
    this.store();
    this.changed();
    this.flush();
  }

  flush() {
    for (const one of this.cache.outbox) {
      if (one.failed) continue;
      const { client_msg_id, conv_id, text } = one;
      this.request("send", { conv_id, client_msg_id, body: { text } }).then(
        ({ conv_seq, sent_at, duplicate }) => {
          if (!duplicate) {
            const conv = this.cache.conversation(conv_id);
            if (!conv.messages.has(conv_seq)) {
              this.cache.put(conv, { conv_seq, sender_id: this.user, client_msg_id, sent_at, body: { text } }, null);
            }
          }
          this.cache.outbox = this.cache.outbox.filter((other) => other.client_msg_id !== client_msg_id);
          this.store();
          this.changed();
        },
        (error) => {
          if (error.code === "disconnected") return;
          if (error.retryable || error.code === "rate_limited") {
            setTimeout(() => this.flush(), error.retry_after_ms ?? 1000);
            return;
          }
          one.failed = error.message;
          this.changed();
        },
      );
    }
  }

  // ---- storage ----------------------------------------------------------------------------------

  store() {
    if (this.fromFloor) return;
    try { localStorage.setItem(this.key, this.cache.save()); } catch { /* kept in memory only */ }
  }

  restore() {
    try {
      const text = localStorage.getItem(this.key);
      if (text) this.cache.load(text);
    } catch {
      this.cache = new Cache(this.user);
    }
  }
}

let kept = null;

// How many entries the server keeps in a sync timeline; known after the first token.
export function entriesKept() {
  return kept;
}

async function fetchToken(user) {
  const answer = await fetch(`/demo/token?user=${encodeURIComponent(user)}`);
  if (!answer.ok) throw new Error(`token: ${answer.status}`);
  const { token, sync_max_entries } = await answer.json();
  kept = sync_max_entries;
  return token;
}
