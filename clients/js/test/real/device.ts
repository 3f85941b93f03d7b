// A device in a test, and how it is waited for.

import assert from "node:assert/strict";

import { IDBFactory } from "fake-indexeddb";
import { WebSocket } from "ws";

import { Client, IndexedDbStore, isStale, MemoryStore, viewOf } from "../../src/index.js";
import type { ClientOptions, Store } from "../../src/index.js";
import type { View } from "../../src/state/view.js";
import { restore } from "../../src/store.js";
import { tokenOf } from "./server.js";

/** For anything that is waited for: milliseconds. */
export const DEADLINE = 60_000;

type SocketType = NonNullable<ClientOptions["WebSocket"]>;

/** Keeps its store over clients: each start is a new process, as far as the library can tell. */
export class Device {
  client: Client | undefined;
  resets = 0;
  private readonly store: () => Store;

  constructor(
    private readonly url: string, readonly user: string, readonly name: string,
    private readonly random: () => number, private readonly socket: SocketType = WebSocket as unknown as SocketType,
    indexedDb = false,
  ) {
    const factory = new IDBFactory();
    const memory = new MemoryStore();
    this.store = () => (indexedDb ? new IndexedDbStore(name, factory) : memory);
  }

  start(): void {
    if (this.client) return;
    this.client = new Client({
      url: this.url, token: tokenOf(this.user), deviceId: this.name, store: this.store(), preload: Infinity,
      WebSocket: this.socket, random: () => this.random() * 0.1,
    });
    this.client.on((event) => {
      if (event.type === "reset") this.resets += 1;
    });
    this.client.connect();
  }

  async stop(): Promise<void> {
    const { client } = this;
    this.client = undefined;
    await client?.close();
  }

  /** Nothing waits in the outbox. */
  async sentAll(): Promise<void> {
    const { client } = this;
    await client?.load();
    await until(`${this.user}'s ${this.name} has sent all`, () => client?.outbox.length === 0,
      () => `${client?.status}, ${client?.outbox.length} to send`);
  }

  /** Everything applied, loaded and sent. */
  async caughtUp(head: () => Promise<number>): Promise<void> {
    const { client } = this;
    if (!client) throw new Error(`${this.name} is off`);
    await until(`${this.user}'s ${this.name} is live at the head`, async () =>
      client.status === "live" && client.outbox.length === 0 && client.cursor.seq === await head()
        && client.cursor.acked === client.cursor.seq && ![...client.state.conversations.values()].some(isStale),
    () => `${client.status} at ${client.cursor.seq}, ${client.outbox.length} to send, ${client.state.loading}`);
  }

  /** What it shows, and what it would show after a restart: the same. */
  async view(): Promise<Record<string, View>> {
    if (!this.client) throw new Error(`${this.name} is off`);
    const shown = viewOf(this.client.state);
    assert.deepEqual(viewOf(restore(await this.store().load(), Infinity)), shown, `${this.name}: saved is not what is shown`);
    return shown;
  }
}

/** Waits until it is so, or fails with what is so instead. */
export async function until(what: string, isSo: () => boolean | Promise<boolean>, instead = (): string => ""): Promise<void> {
  const deadline = Date.now() + DEADLINE;
  while (!(await isSo())) {
    if (Date.now() > deadline) throw new Error(`${what}: did not happen in time; ${instead()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
