// One device on the page: a client with a store of its own, and the switch that takes it off line.
//
// Its id is of this browser tab, so that a second tab is other devices and does not push these out. What
// devices there are, and which are off, outlives a reload with the tab.

import { Client, deleteDatabase, IndexedDbStore } from "../../js/src/index.js";
import type { ClientEvent } from "../../js/src/index.js";

let kept: number | undefined;

/** How many entries the server keeps in a sync timeline; known after the first token. */
export const entriesKept = (): number | undefined => kept;

/** A token of a user, from the route that only the demo has. */
export async function fetchToken(user: string): Promise<string> {
  const answer = await fetch(`/demo/token?user=${encodeURIComponent(user)}`);
  if (!answer.ok) throw new Error(`token: ${answer.status}`);
  const { token, sync_max_entries } = await answer.json() as { token: string; sync_max_entries: number };
  kept = sync_max_entries;
  return token;
}

export const socketUrl = (): string => `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/ws`;

/** What tells this tab from another. */
export const tabId = remembered("tab", () => Math.random().toString(36).slice(2, 7));

function remembered(key: string, make: () => string): string {
  const known = sessionStorage.getItem(`everline/${key}`);
  if (known) return known;
  const made = make();
  sessionStorage.setItem(`everline/${key}`, made);
  return made;
}

export class Device extends EventTarget {
  readonly id: string;
  client: Client;
  /** Why it does not come back, when it does not. */
  why = "";

  constructor(readonly user: string, readonly name: string) {
    super();
    this.id = `${name}-${tabId}`;
    this.client = this.make();
    if (this.online) this.client.connect();
    else void this.client.load().then(() => this.changed());
  }

  private get offKey(): string {
    return `everline/off/${this.user}/${this.name}`;
  }

  /** Whether the switch is on. */
  get online(): boolean {
    return sessionStorage.getItem(this.offKey) === null;
  }

  switch(on: boolean): void {
    if (on) sessionStorage.removeItem(this.offKey);
    else sessionStorage.setItem(this.offKey, "1");
    this.why = "";
    if (on) this.client.connect();
    else void this.client.close();
    this.changed();
  }

  /** Forgets everything but its name, as a new device would. */
  async forget(): Promise<void> {
    await this.client.dispose();
    await deleteDatabase(this.database);
    this.client = this.make();
    this.switch(true);
  }

  private get database(): string {
    return `everline/${this.user}/${this.id}`;
  }

  private make(): Client {
    const client = new Client({
      url: socketUrl(), token: () => fetchToken(this.user), deviceId: this.id, preload: 1,
      store: new IndexedDbStore(this.database), client: { name: "web client", version: "1" },
    });
    client.on((event) => {
      if (event.type === "status") this.why = event.stopped ?? "";
      this.dispatchEvent(new CustomEvent<ClientEvent>("told", { detail: event }));
      this.changed();
    });
    return client;
  }

  private changed(): void {
    this.dispatchEvent(new Event("change"));
  }
}
