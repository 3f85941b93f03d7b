// Where a device keeps what it knows: the contract of a store, and the one in memory.
//
// A store holds records and understands none of them. `save` is all or nothing and is finished before the
// server is told (ack) or the application hears of it: that is what makes a crash harmless.

import type { Conversation, ConversationRecord, HeldMessage, Notification, Preload, State } from "./state/model.js";
import { newState } from "./state/model.js";
import type { OutboxItem } from "./outbox.js";

/** What is neither a conversation nor a message. */
export type Meta = Omit<State, "conversations">;

/** Everything a store holds. */
export interface Saved {
  meta: Meta | undefined;
  conversations: [convId: string, record: ConversationRecord][];
  messages: [convId: string, convSeq: number, message: HeldMessage][];
  /** Oldest first. */
  outbox: OutboxItem[];
}

/** One change, to be stored all or nothing. Values are plain and may be cloned structurally. */
export interface Write {
  /** Everything but the outbox goes first. */
  drop: boolean;
  meta: Meta;
  conversations: [convId: string, record: ConversationRecord][];
  /** Without a message: it goes. */
  messages: [convId: string, convSeq: number, message: HeldMessage | undefined][];
  /** Whole, when it changed. */
  outbox: OutboxItem[] | undefined;
}

/** A store of one device. Calls come one at a time. */
export interface Store {
  /** What was saved last. */
  load(): Promise<Saved>;
  /** Stores a change. A failure stops the client; what could not be stored is not acknowledged. */
  save(write: Write): Promise<void>;
  /** No further calls will come. */
  close?(): void;
}

/** Keeps it in memory: a next client with the same store goes on where this one was. */
export class MemoryStore implements Store {
  private meta: Meta | undefined;
  private conversations = new Map<string, ConversationRecord>();
  private messages = new Map<string, Map<number, HeldMessage>>();
  private outbox: OutboxItem[] = [];

  async load(): Promise<Saved> {
    const messages = [...this.messages].flatMap(([convId, held]) =>
      [...held].map(([seq, message]): [string, number, HeldMessage] => [convId, seq, message]));
    const { meta, outbox } = this;
    return structuredClone({ meta, conversations: [...this.conversations], messages, outbox });
  }

  async save(write: Write): Promise<void> {
    const { drop, meta, conversations, messages, outbox } = structuredClone(write);
    if (drop) {
      this.conversations.clear();
      this.messages.clear();
    }
    this.meta = meta;
    if (outbox) this.outbox = outbox;
    for (const [convId, record] of conversations) this.conversations.set(convId, record);
    for (const [convId, seq, message] of messages) {
      let held = this.messages.get(convId);
      if (!held) this.messages.set(convId, (held = new Map()));
      if (message) held.set(seq, message);
      else held.delete(seq);
    }
  }
}

/** The state a store holds. */
export function restore(saved: Saved, preload: Preload): State {
  const state: State = { ...newState(preload), ...saved.meta, preload };
  for (const [convId, record] of saved.conversations) {
    state.conversations.set(convId, { ...record, messages: new Map(), touched: new Set() });
  }
  for (const [convId, seq, message] of saved.messages) state.conversations.get(convId)?.messages.set(seq, message);
  return state;
}

/** What changed since the last write: of the conversations named, or of all. Forgets that it changed. */
export function writeOf(state: State, touched: Iterable<string>, drop: boolean, outbox: OutboxItem[] | undefined): Write {
  const { conversations: all, ...meta } = state;
  const write: Write = { drop, meta: meta as Meta & { notifications: Notification[] }, conversations: [], messages: [], outbox };
  for (const convId of new Set(drop ? all.keys() : touched)) {
    const held = all.get(convId);
    if (!held) continue;
    write.conversations.push([convId, recordOf(held)]);
    for (const seq of drop ? held.messages.keys() : held.touched) {
      write.messages.push([convId, seq, held.messages.get(seq)]);
    }
    held.touched.clear();
  }
  return write;
}

function recordOf({ messages: _messages, touched: _touched, ...record }: Conversation): ConversationRecord {
  return record;
}
