// What vectors cannot show: the store's part, tokens, waits, and that the types are fresh.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { test } from "node:test";

import { IDBFactory } from "fake-indexeddb";

import { afterEnd, LONGEST, reconnects, RESTART_SPREAD, SHORTEST } from "../src/backoff.js";
import { Client, EverlineError, IndexedDbStore, MemoryStore, viewOf } from "../src/index.js";
import type { Store, Write } from "../src/index.js";
import { addRange, dropUpTo } from "../src/state/ranges.js";
import { Line, until } from "./support/line.js";
import type { Frame } from "./support/line.js";
import { seeded } from "./support/random.js";

const WELCOME = {
  type: "welcome", id: "1", user_id: "alice", device_id: "phone", session_id: "s", epoch: "e1", head_seq: 0, floor_seq: 0,
  sync: "fresh", server_at: 1, heartbeat_ms: 25_000,
  limits: { max_frame_bytes: 65_536, max_body_bytes: 100, max_server_frame_bytes: 1 << 20, window_entries: 40, dedupe_seconds: 60 },
};
const message = (seq: number): Frame => ({
  seq, op: "message", conv_id: "d:alice:bob", conv_seq: seq, sender_id: "bob", client_msg_id: `b${seq}`, sent_at: seq,
  body: { text: `m${seq}` },
});
const sync = (from: number, to: number): Frame => ({
  type: "sync", from_seq: from, to_seq: to, live: true,
  entries: Array.from({ length: to - from }, (_, at) => message(from + at + 1)),
});

async function welcomed(line: Line, client: Client, more: Frame = {}): Promise<Frame> {
  client.connect();
  const hello = await line.next((frame) => frame.type === "hello");
  line.send({ ...WELCOME, ...more });
  return hello;
}

test("nothing is acknowledged or told before it is stored", async () => {
  const line = new Line();
  let open = (): void => {};
  const gate = new Promise<void>((resolve) => (open = resolve));
  const inner = new MemoryStore();
  const store: Store = {
    load: () => inner.load(),
    async save(write: Write) {
      if (write.messages.length > 0) await gate;
      await inner.save(write);
    },
  };
  const client = line.client({ store });
  let told = 0;
  client.on((event) => {
    if (event.type === "applied") told += 1;
  });
  await welcomed(line, client);
  line.send(sync(0, 20));
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.equal(told, 0);
  open();
  const ack = await line.next((frame) => frame.type === "ack");
  assert.equal(ack.seq, 20);
  assert.equal(told, 1);
  assert.equal((await inner.load()).meta?.cursor?.seq, 20);
  await client.close();
});

test("a store that fails stops the client, and nothing of it is acknowledged", async () => {
  const line = new Line();
  const inner = new MemoryStore();
  const store: Store = {
    load: () => inner.load(),
    save: (write) => (write.messages.length > 0 ? Promise.reject(new Error("disk full")) : inner.save(write)),
  };
  const client = line.client({ store });
  let stopped = "";
  client.on((event) => {
    if (event.type === "status" && event.stopped) stopped = event.stopped;
  });
  await welcomed(line, client);
  line.send(sync(0, 20));
  await until("stopped", () => stopped.includes("disk full"));
  assert.ok(!line.sent.some((frame) => frame.type === "ack"));
});

for (const [name, make] of [
  ["memory", (): (() => Store) => { const store = new MemoryStore(); return () => store; }],
  ["IndexedDB", (): (() => Store) => { const factory = new IDBFactory(); return () => new IndexedDbStore("phone", factory); }],
] as const) {
  test(`${name}: a message survives a reload in the middle of sending, once and under its key`, async () => {
    const store = make();
    const line = new Line();
    const first = line.client({ store: store() });
    await welcomed(line, first);
    line.send(sync(0, 3));
    await line.next((frame) => frame.type === "ack");
    const { clientMsgId } = await first.queue({ to: { to: "bob" }, body: { text: "hi" } });
    await line.next((frame) => frame.type === "send" && frame.client_msg_id === clientMsgId);
    // The page goes without a word.
    const shown = viewOf(first.state);
    const second = line.client({ store: store() });
    const hello = await welcomed(line, second, { sync: "resumed", head_seq: 3 });
    assert.deepEqual(hello.cursor, { epoch: "e1", seq: 3 });
    assert.deepEqual(viewOf(second.state), shown);
    const again = await line.next((frame) => frame.type === "send");
    assert.equal(again.client_msg_id, clientMsgId);
    line.send({ type: "sent", id: again.id, conv_id: "d:alice:bob", conv_seq: 4, sent_at: 9, duplicate: true });
    await until("an empty outbox", () => second.outbox.length === 0);
    // Sent, and its entry is not here yet: shown all the same.
    assert.deepEqual(second.pending("d:alice:bob").map(({ sent }) => sent?.convSeq), [4]);
    line.send({ ...sync(3, 4), entries: [{ ...message(4), sender_id: "alice", client_msg_id: clientMsgId }] });
    await until("its entry", () => second.pending("d:alice:bob").length === 0);
    await Promise.all([first.close(), second.close()]);
    assert.equal((await store().load()).outbox.length, 0);
  });

  test(`${name}: what was dropped is gone, what was deleted is gone`, async () => {
    const store = make();
    const line = new Line();
    const client = line.client({ store: store() });
    await welcomed(line, client);
    line.send(sync(0, 3));
    line.send({ type: "sync", from_seq: 3, to_seq: 4, live: true, entries: [{ seq: 4, op: "delete", conv_id: "d:alice:bob", ranges: [[1, 2]] }] });
    await line.next((frame) => frame.type === "ack" && frame.seq === 4);
    assert.deepEqual((await store().load()).messages.map(([, seq]) => seq), [3]);
    line.send({ type: "reset", reason: "epoch_mismatch", epoch: "e2", head_seq: 9, floor_seq: 0 });
    await until("the drop", () => client.state.cursor?.epoch === "e2");
    await client.close();
    const saved = await store().load();
    assert.deepEqual([saved.conversations, saved.messages, saved.meta?.cursor], [[], [], { epoch: "e2", seq: 9 }]);
  });
}

test("what the application loaded before the list came is asked for its deletes too", async () => {
  const line = new Line();
  const client = line.client({ preload: Infinity });
  const is = (type: string) => (frame: Frame): boolean => frame.type === type;
  await welcomed(line, client, { head_seq: 70 });
  line.send(sync(70, 70));
  const list = await line.next(is("conversations"));
  const asking = client.history("d:alice:bob");
  const page = await line.next(is("history"));
  line.send({ type: "history", id: page.id, entries: [{ ...message(1), reactions: [] }], complete: true, head_seq: 2 });
  await asking;
  line.send({ type: "conversations", id: list.id, conversations: [{
    conv_id: "d:alice:bob", kind: "direct", head_seq: 2, last_at: 1, read_seq: 0, unread: 1, join_seq: 1, large: false,
    members_count: 2, settings: { muted: false, pinned: false, hidden: false },
  }] });
  const changes = await line.next(is("changes"));
  assert.equal(changes.since, 0);
  line.send({ type: "changes", id: changes.id, recalled: [], edited: [], reacted: [], up_to: 2, more: false, deleted: [[2, 2]],
    cleared_up_to: 0 });
  const members = await line.next(is("members"));
  line.send({ type: "members", id: members.id, members: [
    { user_id: "bob", joined_at: 1, join_seq: 1, role: "member", read_seq: 1 },
  ] });
  await until("live", () => client.status === "live");
  const shown = viewOf(client.state)["d:alice:bob"];
  assert.deepEqual([shown?.deleted, shown?.peer_read_up_to], [[[2, 2]], 1]);
  await client.close();
});

test("what was had until a removal is loaded also where it is known to be large only later", async () => {
  const line = new Line();
  const client = line.client({ preload: Infinity });
  const is = (type: string) => (frame: Frame): boolean => frame.type === type;
  const member = (seq: number, convSeq: number, change: string): Frame => ({
    type: "sync", from_seq: seq - 1, to_seq: seq, live: true,
    entries: [{ seq, op: "member", conv_id: "g:1", conv_seq: convSeq, change, user_id: "alice", by: "bob" }],
  });
  const noChanges = { type: "changes", recalled: [], edited: [], reacted: [], up_to: 6, more: false, deleted: [],
    cleared_up_to: 0 };
  await welcomed(line, client);
  line.send(sync(0, 0));
  const first = await line.next(is("conversations"));
  line.send({ type: "conversations", id: first.id, conversations: [] });
  line.send(member(1, 3, "joined"));
  const list = await line.next(is("conversations"));
  const newest = await line.next(is("history"));
  // Answered as things stood before a message and the removal.
  line.send(member(2, 6, "removed"));
  line.send({ type: "history", id: newest.id, entries: [], complete: true, head_seq: 4 });
  const changes = await line.next(is("changes"));
  line.send({ ...noChanges, id: changes.id });
  line.send({ type: "conversations", id: list.id, conversations: [{
    conv_id: "g:1", kind: "group", title: "town", head_seq: 6, last_at: 1, read_seq: 3, unread: 1, join_seq: 3, left_seq: 6,
    large: true, members_count: 2, settings: { muted: false, pinned: false, hidden: false },
  }] });
  const rest = await line.next(is("history"));
  assert.equal(rest.after, 4);
  await client.close();
});

test("answers that come behind the own entry do not touch the next message", async () => {
  const line = new Line();
  const client = line.client();
  await welcomed(line, client);
  line.send(sync(0, 0));
  await until("live", () => client.status === "live");
  const keys: string[] = [];
  for (let n = 0; n < 3; n += 1) keys.push((await client.queue({ to: { to: "bob" }, body: { n } })).clientMsgId);
  const is = (type: string) => (frame: Frame): boolean => frame.type === type;
  const error = (id: unknown): Frame => ({
    type: "error", id, code: "unavailable", message: "", retryable: true, retry_after_ms: 0, field: null,
  });
  let asked = await line.next(is("send"));
  for (const [at, late] of ["sent", "unavailable"].entries()) {
    assert.equal(asked.client_msg_id, keys[at]);
    const own = { ...message(at + 1), sender_id: "alice", client_msg_id: keys[at] };
    line.send({ type: "sync", from_seq: at, to_seq: at + 1, live: true, entries: [own] });
    const next = await line.next(is("send"));
    assert.equal(next.client_msg_id, keys[at + 1]);
    if (late === "sent") {
      line.send({ type: "sent", id: asked.id, conv_id: "d:alice:bob", conv_seq: at + 1, sent_at: 1, duplicate: false });
    } else {
      line.send(error(asked.id));
    }
    line.send({ type: "ping", head_seq: at + 1 });
    assert.equal((await line.next((frame) => frame.type !== "ack")).type, "pong", `twice at once, behind ${late}`);
    asked = next;
  }
  await client.close();
});

test("a message the outbox cannot take is refused at once", async () => {
  const line = new Line();
  const client = line.client();
  await welcomed(line, client);
  line.send(sync(0, 0));
  await until("live", () => client.status === "live");
  const refused = (failure: string) => (error: unknown): boolean => error instanceof EverlineError && error.failure === failure;
  await assert.rejects(client.send({ to: "bob" }, { text: "x".repeat(100) }), refused("too_large"));
  await client.queue({ to: { to: "bob" }, body: {}, clientMsgId: "k" });
  await assert.rejects(client.send({ to: "bob" }, {}, { clientMsgId: "k" }), refused("id_in_use"));
  await client.close();
  await assert.rejects(client.recall("g:1", 1), refused("disconnected"));
});

test("an expired token is renewed where there is who renews it, and is final where not", async () => {
  const line = new Line();
  const asked: boolean[] = [];
  const client = line.client({ token: (renew) => `${asked.push(renew)}` });
  await welcomed(line, client);
  line.close(4401);
  const hello = await line.next((frame) => frame.type === "hello" && frame.token === "2");
  assert.deepEqual([asked, hello.token], [[false, true], "2"]);
  await client.close();
  assert.deepEqual(afterEnd({ code: 4401, reason: "" }, 0, false, () => 0), { stop: "token_expired" });
});

test("another user's token must not touch what is kept", async () => {
  const line = new Line();
  const store = new MemoryStore();
  const first = line.client({ store });
  await welcomed(line, first);
  await until("saved", () => first.state.userId === "alice");
  await first.close();
  const second = line.client({ store });
  let stopped = "";
  second.on((event) => {
    if (event.type === "status" && event.stopped) stopped = event.stopped;
  });
  await welcomed(line, second, { user_id: "bob", sync: "resumed" });
  await until("stopped", () => stopped !== "");
  assert.equal((await store.load()).meta?.userId, "alice");
});

test("waits are spread over their whole range and bounded", () => {
  const random = seeded(1);
  const waits = (code: number, attempt: number): [number, number] => {
    const all = Array.from({ length: 2000 }, () => {
      const next = afterEnd({ code, reason: "" }, attempt, true, random);
      return "wait" in next ? next.wait : assert.fail("stops");
    });
    return [Math.min(...all), Math.max(...all)];
  };
  for (const [code, attempt, from, to] of [
    [1006, 0, SHORTEST, 1000], [1006, 2, SHORTEST, 4000], [4408, 30, SHORTEST, LONGEST], [1012, 9, 0, RESTART_SPREAD],
    [1001, 0, 0, RESTART_SPREAD], [1013, 0, RESTART_SPREAD, LONGEST],
  ] as const) {
    const [least, most] = waits(code, attempt);
    const slack = (to - from) * 0.02;
    assert.ok(least >= from && least < from + slack && most <= to && most > to - slack, `${code} ${attempt}: ${least} ${most}`);
  }
  for (const code of [1000, 1001, 1006, 1011, 1012, 1013, 4400, 4408, 4429, 4499]) assert.ok(reconnects(code), `${code}`);
  for (const code of [1003, 1007, 1009, 4500, 4503, 4504, 4509, 4599]) assert.ok(!reconnects(code), `${code}`);
});

test("ranges have one form", () => {
  const set = (ranges: [number, number][]): [number, number][] => ranges.reduce(addRange, [] as [number, number][]);
  for (const other of [[[12, 12], [1, 3], [4, 9]], [[5, 9], [1, 6], [12, 12]], [[1, 9], [12, 12], [2, 2], [9, 8]]]) {
    assert.deepEqual(set(other as [number, number][]), [[1, 9], [12, 12]]);
  }
  assert.deepEqual(dropUpTo([[3, 5], [8, 10]], 8), [[9, 10]]);
});

test("the types are those of the schema", () => {
  const script = fileURLToPath(new URL("../../scripts/frames.mjs", import.meta.url));
  const made = spawnSync(process.execPath, [script, "--check"], { encoding: "utf8" });
  assert.equal(made.status, 0, made.stderr);
});
