// The shared vectors for clients: docs/conformance/client.json. README.md there says what a step means.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { viewOf } from "../src/index.js";
import type { Client } from "../src/index.js";
import { Line, until } from "./support/line.js";
import type { Frame } from "./support/line.js";

type Step = Record<string, unknown>;
interface Vectors {
  welcome: Frame;
  vectors: { name: string; steps: Step[] }[];
}

const url = new URL("../../../../docs/conformance/client.json", import.meta.url);
const { welcome, vectors } = JSON.parse(readFileSync(url, "utf8")) as Vectors;

/** What differs from the pattern; nothing when it is met. `null` in a pattern: absent. */
function difference(got: unknown, pattern: unknown, path = ""): string | undefined {
  if (pattern === null) return got === undefined || got === null ? undefined : `${path}: ${JSON.stringify(got)} is there`;
  if (Array.isArray(pattern)) {
    if (!Array.isArray(got) || got.length !== pattern.length) return `${path}: ${JSON.stringify(got)}`;
    return pattern.map((one, at) => difference(got[at], one, `${path}[${at}]`)).find((one) => one);
  }
  if (typeof pattern === "object") {
    if (typeof got !== "object" || got === null) return `${path}: ${JSON.stringify(got)}`;
    return Object.entries(pattern as object)
      .map(([name, one]) => difference((got as Frame)[name], one, `${path}.${name}`)).find((one) => one);
  }
  return got === pattern ? undefined : `${path}: ${JSON.stringify(got)} instead of ${JSON.stringify(pattern)}`;
}

class Run {
  private readonly line = new Line();
  private readonly client: Client;
  private readonly names = new Map<string, unknown>();
  private stopped = false;

  constructor() {
    this.client = this.line.client();
    this.client.on((event) => {
      if (event.type === "status" && event.stopped) this.stopped = true;
    });
    this.client.connect();
  }

  async step(step: Step): Promise<void> {
    const [[kind, value] = ["", undefined]] = Object.entries(step);
    switch (kind) {
      case "expect": return this.expect(value as Frame);
      case "send": return this.line.send(this.named(value) as Frame);
      case "welcome": {
        const { limits, ...more } = value as { limits?: object };
        return this.line.send({ ...welcome, id: this.names.get("hello"), ...more, limits: { ...welcome.limits as object, ...limits } });
      }
      case "close": return this.line.close(value as number);
      case "status": return until(`status ${String(value)}`, () => this.client.status === value);
      case "stopped": return until("stopped", () => this.stopped);
      case "state": return this.state(value as Record<string, unknown>);
      case "outbox": return this.outbox(value as string[]);
      case "nothing": return this.nothing();
      case "queue": {
        const { to, body, client_msg_id: clientMsgId } = value as { to: string; body: Frame; client_msg_id: string };
        await this.client.queue({ to: { to }, body, clientMsgId });
        return;
      }
      default: throw new Error(`unknown step ${kind}`);
    }
  }

  private async expect(pattern: Frame): Promise<void> {
    const beside = (frame: Frame): boolean => frame.type === "ack" && pattern.type !== "ack";
    const frame = await this.line.next((one) => !beside(one));
    const { id, ...rest } = pattern;
    assert.equal(difference(frame, rest), undefined, JSON.stringify(frame));
    if (typeof id === "string") this.names.set(id, frame.id);
    if (frame.type === "hello") this.names.set("hello", frame.id);
  }

  /** The frame with the ids that were named. */
  private named(value: unknown): unknown {
    const frame = value as Frame;
    return typeof frame.id === "string" && frame.id.startsWith("$") ? { ...frame, id: this.names.get(frame.id) } : frame;
  }

  private async state(pattern: Record<string, unknown>): Promise<void> {
    const wrong = (): string | undefined => {
      const view = viewOf(this.client.state);
      if (Object.keys(pattern).length === 0 && Object.keys(view).length > 0) return "something is held";
      return difference(view, pattern);
    };
    await until("the state", () => wrong() === undefined).catch(() => assert.fail(wrong()));
  }

  private async outbox(keys: string[]): Promise<void> {
    await until("the outbox", () => difference(this.client.outbox.map((item) => item.clientMsgId), keys) === undefined);
  }

  /** The client has sent nothing that was not expected: a ping is answered by a pong and nothing before. */
  private async nothing(): Promise<void> {
    this.line.send({ type: "ping", head_seq: 0 });
    const frame = await this.line.next((one) => one.type !== "ack");
    assert.equal(frame.type, "pong", JSON.stringify(frame));
  }

  async end(): Promise<void> {
    await this.client.close();
  }
}

for (const { name, steps } of vectors) {
  test(name, async () => {
    const run = new Run();
    for (const [at, step] of steps.entries()) {
      await run.step(step).catch((error: unknown) => {
        throw new Error(`step ${at}, ${JSON.stringify(step)}: ${String(error)}`);
      });
    }
    await run.end();
  });
}
