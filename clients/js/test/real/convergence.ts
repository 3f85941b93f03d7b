// Devices that are cut off, fall below the floor and come back end where one ends that was never behind:
// random histories on the real server, all that the devices of two users show compared.
//
//   node build/test/real/convergence.js            some seeds
//   EVERLINE_SEED=7 node build/test/real/convergence.js
//   EVERLINE_SEEDS=100 node build/test/real/convergence.js

import assert from "node:assert/strict";

import { WebSocket } from "ws";

import { Client } from "../../src/index.js";
import type { AnyRequest, Answer, ClientOptions } from "../../src/index.js";
import type { View } from "../../src/state/view.js";
import { seeded } from "../support/random.js";
import { Device, until } from "./device.js";
import { flakyWebSocket } from "./flaky.js";
import type { Faults } from "./flaky.js";
import { startServer, tokenOf } from "./server.js";

const USERS = ["alice", "bob"];
const ROUNDS = 6;
const SYNC_MAX_ENTRIES = 50;
/** In which what one user did reaches the others: milliseconds. */
const SOON = 10_000;

class World {
  readonly random: () => number;
  readonly faults: Faults = { lose: 0, double: 0, cut: 0 };
  readonly conversations: string[];
  readonly devices: Device[] = [];
  readonly steady: Device[] = [];
  private readonly drivers = new Map<string, Client>();
  private sent = 0;

  constructor(private readonly url: string, seed: number) {
    this.random = seeded(seed);
    const names = Object.fromEntries(USERS.map((user) => [user, `${user}-${seed}`]));
    this.conversations = [`d:${names.alice}:${names.bob}`];
    for (const user of Object.values(names)) {
      const line = flakyWebSocket(this.faults, this.random);
      this.steady.push(new Device(url, user, "steady", this.random));
      this.devices.push(new Device(url, user, "flaky", this.random, line));
      this.devices.push(new Device(url, user, "flaky-idb", this.random, line, true));
    }
    for (const user of [...Object.values(names), `carol-${seed}`]) {
      const socket = WebSocket as unknown as NonNullable<ClientOptions["WebSocket"]>;
      const driver = new Client({ url, token: tokenOf(user), deviceId: "driver", WebSocket: socket });
      driver.connect();
      this.drivers.set(user, driver);
    }
  }

  get users(): string[] {
    return [...this.drivers.keys()];
  }

  below(bound: number): number {
    return Math.floor(this.random() * bound);
  }

  pick<T>(of: readonly T[]): T {
    const one = of[this.below(of.length)];
    assert.ok(one !== undefined);
    return one;
  }

  /** What the server answers; absent when it refuses, which is as good. */
  async ask(user: string, request: AnyRequest): Promise<Answer | undefined> {
    const driver = this.drivers.get(user);
    assert.ok(driver);
    await until(`${user}'s driver is connected`, () => driver.status === "live");
    return driver.request(request).catch(() => undefined);
  }

  /** The head of a user's sync timeline. */
  async head(user: string): Promise<number> {
    const probe = new WebSocket(this.url, "everline.v1.json");
    const frame = await new Promise<string>((resolve, reject) => {
      probe.on("error", reject);
      probe.on("open", () => probe.send(JSON.stringify({ type: "hello", id: "1", token: tokenOf(user), device_id: "probe" })));
      probe.on("message", (data) => resolve(String(data)));
    });
    probe.close();
    return (JSON.parse(frame) as { head_seq: number }).head_seq;
  }

  /** One random act of somebody. */
  async act(): Promise<void> {
    const [alice = "", bob = "", carol = ""] = this.users;
    const conv_id = this.pick(this.conversations);
    const page = await this.ask(bob, { type: "history", conv_id, limit: 1 });
    const head = page?.type === "history" ? page.head_seq : 1;
    const target = Math.max(1, head - this.below(12));
    const who = this.pick(this.users);
    const chance = this.below(100);
    if (chance < 40) {
      const client_msg_id = `m${(this.sent += 1)}`;
      await this.ask(who, { type: "send", conv_id, client_msg_id, body: { n: this.below(1e9) } } as AnyRequest);
    } else if (chance < 50) await this.ask(who, { type: "recall", conv_id, target });
    else if (chance < 58) await this.ask(who, { type: "edit", conv_id, target, body: { n: this.below(1e9) } });
    else if (chance < 68) await this.ask(who, { type: "react", conv_id, target, key: this.pick(["+1", "ok"]), add: this.random() < 0.7 });
    else if (chance < 76) await this.ask(who, { type: "delete", conv_id, ranges: [[target, target + this.below(3)]] });
    else if (chance < 78) await this.ask(who, { type: "clear", conv_id, up_to: target });
    else if (chance < 85) await this.ask(who, { type: "read", conv_id, read_seq: target });
    else if (chance < 87) await this.ask(who, { type: "settings", conv_id, muted: this.random() < 0.5, pinned: this.random() < 0.5 });
    else if (chance < 89) await this.create(alice, bob, carol);
    else if (chance < 93) await this.ask(bob, { type: "invite", conv_id, users: [alice] });
    else if (chance < 95) await this.ask(bob, { type: "remove", conv_id, users: [alice] });
    else if (chance < 96) await this.ask(who, { type: "leave", conv_id });
    else if (chance < 98) await this.ask(bob, { type: "role", conv_id, user_id: this.pick([alice, carol]), role: this.pick(["admin", "member"]) });
    else await this.ask(bob, { type: "update", conv_id, title: `t${this.below(1e6)}`, attributes: { n: this.below(1e6) } });
  }

  private async create(alice: string, bob: string, carol: string): Promise<void> {
    const members = this.random() < 0.5 ? [carol] : [carol, alice];
    const history = this.random() < 0.5 ? "full" : "since_join";
    const op_id = `op${this.conversations.length}`;
    const made = await this.ask(bob, { type: "create", members, title: "t", history, op_id });
    if (made?.type === "ok" && made.conv_id) this.conversations.push(made.conv_id);
  }

  async stop(): Promise<void> {
    for (const device of [...this.steady, ...this.devices]) await device.stop();
    for (const driver of this.drivers.values()) await driver.close();
  }
}

/** A recall after one has left is told to nobody who has left: only one who asks again sees a stub. */
function comparable(view: Record<string, View>, other: Record<string, View>): Record<string, View> {
  return Object.fromEntries(Object.entries(view).map(([convId, one]) => {
    const two = other[convId];
    if (!one.left || !two?.left) return [convId, one];
    const gone = new Set([one, two].flatMap((each) =>
      (each.messages as View[]).filter((message) => message.recalled).map((message) => message.conv_seq)));
    const messages = (one.messages as View[]).filter((message) => !gone.has(message.conv_seq))
      .map((message) => ({ ...message, reactions: [] }));
    const { unread: _, read_up_to: __, ...rest } = one;
    return [convId, { ...rest, messages }];
  }));
}

function compare(what: string, expected: Record<string, View>, got: Record<string, View>): void {
  const [one, two] = [comparable(got, expected), comparable(expected, got)];
  for (const convId of new Set([...Object.keys(one), ...Object.keys(two)])) {
    assert.deepEqual(one[convId], two[convId], `${what}: ${convId}`);
  }
}

/** Every device of every user shows what the one shows that was never behind. What one user did reaches
 *  the others soon, not at once: a difference must go by itself. */
async function check(world: World, seed: number, round: string, devices: Device[]): Promise<void> {
  // All outboxes first: what one user still sends is news to the other.
  for (const device of devices) await device.sentAll();
  for (const steady of world.steady) {
    for (const device of devices.filter((one) => one.user === steady.user)) {
      const deadline = Date.now() + SOON;
      for (let same = false; !same;) {
        try {
          await checkOne(world, steady, device);
          same = true;
        } catch (error) {
          if (Date.now() < deadline) continue;
          console.error(`seed ${seed}, ${round}: ${device.user}'s ${device.name}`);
          throw error;
        }
      }
    }
  }
}

async function checkOne(world: World, steady: Device, device: Device): Promise<void> {
  for (const one of [steady, device]) await one.caughtUp(() => world.head(one.user));
  const expected = await steady.view();
  compare(`${steady.user}'s ${device.name}`, expected, await device.view());
  await checkUnread(world, steady.user, expected);
}

/** The server's unread numbers and titles are the devices'. */
async function checkUnread(world: World, user: string, view: Record<string, View>): Promise<void> {
  const answer = await world.ask(user, { type: "conversations", limit: 1000 });
  assert.ok(answer?.type === "conversations");
  for (const row of answer.conversations) {
    const shown = view[row.conv_id];
    assert.ok(shown, `${row.conv_id} is missing`);
    assert.equal(shown.title, row.title ?? undefined, `title of ${row.conv_id}`);
    if (shown.left) continue;
    // Of a large conversation the server may count recalled ones until they are read.
    const recalled = row.large ? (shown.messages as View[]).filter((message) => message.recalled).length : 0;
    const [least, most] = [Number(shown.unread), Number(shown.unread) + recalled];
    assert.ok(least <= row.unread && row.unread <= most, `unread of ${row.conv_id}: ${row.unread}, shown ${least}`);
  }
}

async function round(world: World): Promise<void> {
  const faulty = world.random() < 0.7;
  Object.assign(world.faults, faulty ? { lose: 0.1, double: 0.1, cut: 0.02 } : { lose: 0, double: 0, cut: 0 });
  for (const device of world.devices) if (world.random() < 0.5) await device.stop();
  const acts = 1 + world.below(160);
  for (let act = 0; act < acts; act += 1) {
    await world.act();
    const device = world.pick(world.devices);
    if (world.random() < 0.02) device.start();
    if (world.random() < 0.03) await device.stop();
    if (world.random() < 0.1 && device.client) {
      // The outbox, over whatever happens to the connection.
      await device.client.queue({ to: { conv_id: world.conversations[0] ?? "" }, body: { n: world.below(1e9) } });
    }
    if (act % 10 === 9) for (const steady of world.steady) await steady.caughtUp(() => world.head(steady.user));
  }
  Object.assign(world.faults, { lose: 0.03, double: 0.03, cut: 0 });
  for (const device of world.devices) device.start();
}

/** Runs one history; how many resets its devices had. */
async function run(url: string, seed: number): Promise<number> {
  const world = new World(url, seed);
  for (const device of [...world.steady, ...world.devices]) device.start();
  // Steady devices must be there from the first entry on.
  for (const steady of world.steady) await steady.caughtUp(() => world.head(steady.user));
  for (let number = 0; number < ROUNDS; number += 1) {
    await round(world);
    if (world.random() < 0.6) await check(world, seed, `round ${number}`, world.devices);
  }
  const fresh = world.steady.map(({ user }) => new Device(url, user, "fresh", world.random));
  for (const device of fresh) device.start();
  await check(world, seed, "at the end", [...world.devices, ...fresh]);
  const steadyResets = world.steady.reduce((sum, device) => sum + device.resets, 0);
  const resets = world.devices.reduce((sum, device) => sum + device.resets, 0);
  for (const device of fresh) await device.stop();
  await world.stop();
  assert.equal(steadyResets, 0, "a steady device was reset: it is no measure then");
  return resets;
}

const number = (name: string): number | undefined => (process.env[name] ? Number(process.env[name]) : undefined);
const one = number("EVERLINE_SEED");
const seeds = one === undefined ? Array.from({ length: number("EVERLINE_SEEDS") ?? 10 }, (_, seed) => seed) : [one];
const flags = ["--sync-max-entries", String(SYNC_MAX_ENTRIES), "--max-devices", "20", "--heartbeat", "500ms"];
// In every other history a group of three is a large conversation.
const servers = [await startServer(...flags), await startServer(...flags, "--large-conversation-members", "2")];
let resets = 0;
try {
  for (const seed of seeds) {
    const began = Date.now();
    const had = await run(servers[seed % 2]?.url ?? "", seed).catch((error: unknown) => {
      console.error(`seed ${seed} failed: EVERLINE_SEED=${seed} npm run convergence -w everline-client`);
      console.error(error instanceof Error ? error.message : error);
      return process.exit(1);
    });
    resets += had;
    console.log(`seed ${seed}: ${had} resets, ${Date.now() - began} ms`);
  }
} finally {
  for (const server of servers) await server.stop();
}
assert.ok(seeds.length < 8 || resets > seeds.length / 2, `only ${resets} resets: the test is blind`);
console.log(`${seeds.length} histories, ${resets} resets: all devices show the same`);
