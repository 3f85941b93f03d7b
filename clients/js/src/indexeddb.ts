// A store in IndexedDB: one database per device, one transaction per change.
//
// The transaction asks for strict durability: the server is told only of what is on the disk. Two clients
// must not share one database; a tab that wants its own device takes its own name.

import type { ConversationRecord, HeldMessage } from "./state/model.js";
import type { OutboxItem } from "./outbox.js";
import type { Meta, Saved, Store, Write } from "./store.js";

const VERSION = 1;
const STORES = ["meta", "conversations", "messages", "outbox"];

interface MessageRow {
  convId: string;
  convSeq: number;
  message: HeldMessage;
}

/** Keeps it in an IndexedDB database. */
export class IndexedDbStore implements Store {
  private database: IDBDatabase | undefined;

  /** `name`: of the database; `factory`: for tests outside a browser. */
  constructor(private readonly name: string, private readonly factory: IDBFactory = globalThis.indexedDB) {}

  async load(): Promise<Saved> {
    this.database = await open(this.factory, this.name);
    const transaction = this.database.transaction(STORES, "readonly");
    const all = <T>(store: string): Promise<T[]> => answer(transaction.objectStore(store).getAll());
    const [[meta], conversations, messages, outbox] = await Promise.all([
      all<Meta>("meta"),
      all<{ convId: string; record: ConversationRecord }>("conversations"),
      all<MessageRow>("messages"),
      all<OutboxItem>("outbox"),
    ]);
    return {
      meta,
      conversations: conversations.map(({ convId, record }) => [convId, record]),
      messages: messages.map(({ convId, convSeq, message }) => [convId, convSeq, message]),
      outbox,
    };
  }

  async save(write: Write): Promise<void> {
    if (!this.database) throw new Error("the store is not open");
    const transaction = this.database.transaction(STORES, "readwrite", { durability: "strict" });
    const done = finished(transaction);
    const [meta, conversations, messages, outbox] = STORES.map((name) => transaction.objectStore(name)) as
      [IDBObjectStore, IDBObjectStore, IDBObjectStore, IDBObjectStore];
    if (write.drop) {
      conversations.clear();
      messages.clear();
    }
    meta.put(write.meta, "state");
    for (const [convId, record] of write.conversations) conversations.put({ convId, record });
    for (const [convId, convSeq, message] of write.messages) {
      if (message) messages.put({ convId, convSeq, message } satisfies MessageRow);
      else messages.delete([convId, convSeq]);
    }
    if (write.outbox) {
      outbox.clear();
      write.outbox.forEach((item, at) => outbox.put(item, at));
    }
    await done;
  }

  close(): void {
    this.database?.close();
    this.database = undefined;
  }
}

/** Removes a database and everything in it. */
export async function deleteDatabase(name: string, factory: IDBFactory = globalThis.indexedDB): Promise<void> {
  await answer(factory.deleteDatabase(name));
}

function open(factory: IDBFactory, name: string): Promise<IDBDatabase> {
  const request = factory.open(name, VERSION);
  request.onupgradeneeded = () => {
    const database = request.result;
    database.createObjectStore("meta");
    database.createObjectStore("conversations", { keyPath: "convId" });
    database.createObjectStore("messages", { keyPath: ["convId", "convSeq"] });
    database.createObjectStore("outbox");
  };
  return answer(request);
}

function answer<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("IndexedDB failed"));
  });
}

function finished(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new Error("the transaction was aborted"));
  });
}
