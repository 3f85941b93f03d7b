// A scripted server without a network: the other end of a client's WebSocket.

import assert from "node:assert/strict";

import { Client, MemoryStore } from "../../src/index.js";
import type { ClientOptions, WebSocketLike } from "../../src/index.js";

/** For anything that is waited for: milliseconds. */
export const DEADLINE = 20_000;

export type Frame = Record<string, unknown>;

/** One connection, seen from the server. */
class Peer implements WebSocketLike {
  readyState = 1;
  onopen: WebSocketLike["onopen"] = null;
  onmessage: WebSocketLike["onmessage"] = null;
  onclose: WebSocketLike["onclose"] = null;
  onerror: WebSocketLike["onerror"] = null;
  readonly frames: Frame[] = [];

  send(text: string): void {
    this.frames.push(JSON.parse(text) as Frame);
  }

  close(): void {
    this.readyState = 3;
  }
}

/** A server for one client: its connections one after the other, and what the client sent on each. */
export class Line {
  private readonly peers: Peer[] = [];
  readonly WebSocket: NonNullable<ClientOptions["WebSocket"]>;

  constructor() {
    const { peers } = this;
    this.WebSocket = class extends Peer {
      constructor() {
        super();
        peers.push(this);
        queueMicrotask(() => this.onopen?.({} as never));
      }
    };
  }

  /** How often the client has connected. */
  get connections(): number {
    return this.peers.length;
  }

  /** What the client sent on this connection and nobody has looked at. */
  get sent(): readonly Frame[] {
    return this.peers.at(-1)?.frames ?? [];
  }

  /** The client's next frame that `isIt`; those before it are gone. */
  async next(isIt: (frame: Frame) => boolean = () => true): Promise<Frame> {
    let found: Frame | undefined;
    await until("a frame of the client", () => {
      // What an earlier connection was sent tells nothing any more.
      const frames = this.peers.at(-1)?.frames ?? [];
      while (!found && frames.length > 0) {
        const frame = frames.shift();
        if (frame && isIt(frame)) found = frame;
      }
      return found !== undefined;
    });
    assert.ok(found);
    return found;
  }

  send(frame: Frame | string): void {
    this.peers.at(-1)?.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) } as never);
  }

  close(code: number): void {
    const peer = this.peers.at(-1);
    if (!peer) return;
    peer.readyState = 3;
    peer.onclose?.({ code, reason: "why" } as never);
  }

  /** A client on this line. */
  client(options: Partial<ClientOptions> = {}): Client {
    return new Client({
      url: "ws://nowhere/v1/ws", token: "t", deviceId: "phone", WebSocket: this.WebSocket, store: new MemoryStore(),
      random: () => 0, ...options,
    });
  }
}

/** Waits until it is so. */
export async function until(what: string, isSo: () => boolean): Promise<void> {
  const deadline = Date.now() + DEADLINE;
  while (!isSo()) {
    if (Date.now() > deadline) throw new Error(`${what}: did not happen in time`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
