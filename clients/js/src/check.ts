// Whether a frame of the server has what the client relies on.
//
// A frame that makes no sense ends the connection before anything of it is applied: going on without it
// could miss what was in it. Fields the client does not use, unknown types and unknown ops pass.

import type { Answer, ServerFrame } from "./frames.js";

type Kind = "string" | "number" | "boolean" | "object" | "array" | "ranges";
type Fields = Record<string, Kind>;

const EVENTS: Record<string, Fields> = {
  message: { conv_id: "string", conv_seq: "number", sender_id: "string", client_msg_id: "string", sent_at: "number" },
  recall: { conv_id: "string", conv_seq: "number", target: "number", by: "string" },
  edit: { conv_id: "string", conv_seq: "number", target: "number", by: "string", body: "object", edited_at: "number" },
  reaction: { conv_id: "string", conv_seq: "number", target: "number", user_id: "string", key: "string", add: "boolean" },
  member: { conv_id: "string", conv_seq: "number", change: "string", user_id: "string" },
  conversation: { conv_id: "string", conv_seq: "number", change: "string" },
  delete: { conv_id: "string", ranges: "ranges" },
  clear: { conv_id: "string", up_to: "number" },
  read: { conv_id: "string", read_seq: "number", unread: "number" },
  receipt: { conv_id: "string", user_id: "string", read_seq: "number" },
  settings: { conv_id: "string", muted: "boolean", pinned: "boolean", hidden: "boolean" },
  mention: { conv_id: "string", target: "number", sender_id: "string" },
  notification: { topic: "string", body: "object" },
};

const FRAMES: Record<string, Fields> = {
  welcome: {
    user_id: "string", epoch: "string", head_seq: "number", floor_seq: "number", sync: "string", heartbeat_ms: "number",
    limits: "object",
  },
  sync: { from_seq: "number", to_seq: "number", live: "boolean", entries: "array" },
  reset: { reason: "string", epoch: "string", head_seq: "number", floor_seq: "number" },
  ping: {},
  heads: { conversations: "array" },
  typing: { conv_id: "string", user_id: "string" },
  error: { code: "string", message: "string", retryable: "boolean" },
  ok: { id: "string" },
  sent: { id: "string", conv_id: "string", conv_seq: "number", sent_at: "number", duplicate: "boolean" },
  history: { id: "string", entries: "array", complete: "boolean", head_seq: "number" },
  changes: {
    id: "string", recalled: "array", edited: "array", reacted: "array", up_to: "number", more: "boolean", deleted: "ranges",
    cleared_up_to: "number",
  },
  conversations: { id: "string", conversations: "array" },
  members: { id: "string", members: "array" },
  devices: { id: "string", devices: "array" },
  presence: { users: "array" },
};

/** What is in the arrays of a frame. */
const ITEMS: Record<string, Record<string, Fields>> = {
  heads: { conversations: { conv_id: "string", head_seq: "number" } },
  changes: {
    recalled: { target: "number", conv_seq: "number", by: "string" },
    edited: { target: "number", conv_seq: "number", body: "object", edited_at: "number" },
    reacted: { target: "number", conv_seq: "number", user_id: "string", key: "string", add: "boolean" },
  },
  conversations: {
    conversations: {
      conv_id: "string", head_seq: "number", read_seq: "number", unread: "number", join_seq: "number", large: "boolean",
      settings: "object",
    },
  },
  members: { members: { user_id: "string", role: "string", read_seq: "number" } },
  presence: { users: { user_id: "string", online: "boolean" } },
};

/** A frame the client knows and that is whole; absent for one of an unknown type. Throws on anything else. */
export function parseFrame(text: string): ServerFrame | Answer | undefined {
  const frame: unknown = JSON.parse(text);
  if (!isObject(frame) || typeof frame.type !== "string") throw new Error("not a frame");
  const { type } = frame;
  const fields = FRAMES[type];
  if (!fields) return undefined;
  has(frame, fields, type);
  for (const [name, item] of Object.entries(ITEMS[type] ?? {})) {
    for (const one of frame[name] as unknown[]) has(one, item, `${type}.${name}`);
  }
  if (type === "sync") for (const entry of frame.entries as unknown[]) event(entry, { seq: "number" });
  if (type === "history") for (const entry of frame.entries as unknown[]) event(entry, {});
  if (type === "heads") {
    for (const { entries } of frame.conversations as { entries?: unknown }[]) {
      if (entries !== undefined && entries !== null) {
        if (!Array.isArray(entries)) throw new Error("heads: entries");
        for (const entry of entries) event(entry, {});
      }
    }
  }
  return frame as unknown as ServerFrame | Answer;
}

function event(value: unknown, more: Fields): void {
  has(value, { op: "string", ...more }, "entry");
  const { op } = value as { op: string };
  const fields = EVENTS[op];
  if (fields) has(value, fields, op);
}

function has(value: unknown, fields: Fields, where: string): void {
  if (!isObject(value)) throw new Error(`${where}: not an object`);
  for (const [name, kind] of Object.entries(fields)) {
    if (!is(value[name], kind)) throw new Error(`${where}: ${name}`);
  }
}

function is(value: unknown, kind: Kind): boolean {
  switch (kind) {
    case "number": return Number.isSafeInteger(value) && (value as number) >= 0;
    case "array": return Array.isArray(value);
    case "object": return isObject(value);
    case "ranges": return Array.isArray(value) && value.every((one) => Array.isArray(one) && is(one[0], "number") && is(one[1], "number"));
    default: return typeof value === kind;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
