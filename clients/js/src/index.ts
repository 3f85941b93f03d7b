// The client library of Everline: one device of one user, kept in step with a server.
//
// | file | holds |
// |---|---|
// | client | the driver: socket, pump, reconnecting; what the application holds |
// | session, core | one connection, and what outlives it; no sockets, no timers |
// | loader | what the client asks by itself, decided from marks in the state |
// | state/ | the model and what entries and answers do to it; pure |
// | outbox, backoff, check | messages on their way; when to come back; frames that make sense; pure |
// | store, indexeddb | where it is kept |
// | frames | the types of the contract, made from its schema |

export { Client } from "./client.js";
export type { ClientOptions, WebSocketLike } from "./client.js";
export type { ClientEvent, Outgoing, Status } from "./core.js";
export type * from "./frames.js";
export { deleteDatabase, IndexedDbStore } from "./indexeddb.js";
export type { OutboxItem } from "./outbox.js";
export { EverlineError } from "./requests.js";
export type { AnyRequest, Failure, Sent } from "./requests.js";
export type { HistoryFrom } from "./state/answers.js";
export { directId, EVERYBODY, isDirect, isHidden, isStale } from "./state/model.js";
export type { Conversation, HeldMessage, Preload, Reaction, State } from "./state/model.js";
export { unreadOf } from "./state/unread.js";
export { viewOf } from "./state/view.js";
export { MemoryStore } from "./store.js";
export type { Saved, Store, Write } from "./store.js";
