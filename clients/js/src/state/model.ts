// What a device knows: the model a store keeps and an application reads.
//
// Plain values, no I/O, no clock. Two devices of one user that have caught up show the same (view.ts),
// however they got there: entry by entry, or by a reset. A mistake in this directory shows recalled or
// deleted messages again, so every rule has its test.
//
// What makes the two ways meet:
// - Everything has a number. A change is kept with its conv_seq, each facet of a target (recall, edit,
//   one user's reaction) for itself, and a message with the head its answer was true of (asOf). The
//   higher number wins, in whatever order they come; a recall wins over all.
// - Changes are kept without their target too, and are put on it when it comes.
// - Holes are known. completeFrom and heldTo bound what is held without a hole; a reset or a rejoin
//   writes down where it begins (Stale), and that is saved with the rest.
// - Unread is counted wherever everything above the read position is held (unread.ts).

import type { Body, ConversationSettings, Cursor, Range, Role } from "../frames.js";

/**
 * What a client loads by itself on a fresh device, and of conversations that are new to it: nothing; the
 * list of conversations; the list and of each conversation this many pages of its newest messages, their
 * changes and its members (`Infinity`: everything).
 */
export type Preload = "none" | "list" | number;

/** What is being loaded before the state may be called live: nothing, a first load, a reset. */
export type Loading = "no" | "fresh" | "reset";

/** All a device knows. */
export interface State {
  /** Whose it is; unknown before the first `welcome`. */
  userId: string | undefined;
  /** Epoch and the last entry applied; absent on a fresh device. */
  cursor: Cursor | undefined;
  /** By id, those left included. */
  conversations: Map<string, Conversation>;
  /** The newest `MAX_NOTIFICATIONS`, in order of arrival. */
  notifications: Notification[];
  preload: Preload;
  loading: Loading;
  /** The list of conversations is to be paged from its start. */
  listWanted: boolean;
}

/** Notifications kept. */
export const MAX_NOTIFICATIONS = 1000;

/** One notification of the server API; `convSeq`: its place in `b:all`. */
export interface Notification {
  convSeq: number | undefined;
  topic: string;
  body: Body;
}

/** One conversation, without its messages: what a store keeps as one record. */
export interface ConversationRecord {
  /** Deleted by this user, sorted and disjoint; also hides what comes later. */
  deleted: Range[];
  /** All up to it is gone for this user. */
  clearedUpTo: number;
  /** Read up to. */
  readSeq: number;
  /** Read up to by the other user of a direct conversation, as far as told. */
  peerReadSeq: number;
  title: string | undefined;
  /** While a member. */
  attributes: Body | undefined;
  settings: ConversationSettings;
  /** Members and roles; absent when not known, in large conversations and after leaving. */
  members: Map<string, Role> | undefined;
  /** End of the stay, when this user is no member any more. */
  leftSeq: number | undefined;
  /** The first leave after which no `joined` entry has come: what is missing at a return begins there. */
  rejoinFrom: number | undefined;
  /** Follows its own log (`heads`) instead of the sync timeline. */
  large: boolean;
  /** Recalls, edits and reactions by target, with their numbers; also of targets not held. */
  changes: Map<number, TargetChanges>;
  /** Changes are known up to here: `up_to` of the last complete `changes`, moved on by entries only
   *  while no reset is open. */
  reconciledSeq: number | undefined;
  /** All visible messages from here to `heldTo` are held, but for `stale.gap`. */
  completeFrom: number | undefined;
  /** End of what is held without a hole: the last entry followed that is no change. */
  heldTo: number;
  /** What is to be loaded; saved, so that an interrupted load goes on. */
  stale: Stale;
  /** The part of the server's unread number that is about messages not held, and as of which conv_seq. */
  unheld: { count: number; asOf: number };
  /** Which state each piece is known as of: conv_seq, but the sync seq for settings. `row`: the row, or what
   *  entries have told of it since; of use in large conversations. */
  known: { title: number; attributes: number; membership: number; settings: number; row: number; preloaded: boolean };
}

/** One conversation. */
export interface Conversation extends ConversationRecord {
  /** By conv_seq, in no order; deleted and cleared ones are not there. */
  messages: Map<number, HeldMessage>;
  /** Messages changed since the last save. */
  touched: Set<number>;
}

/** A message as it stands. */
export interface HeldMessage {
  senderId: string;
  clientMsgId: string;
  /** Milliseconds, server clock. */
  sentAt: number;
  /** Absent when recalled. */
  body: Body | undefined;
  replyTo: number | undefined;
  mentions: string[];
  recalled: boolean;
  editedAt: number | undefined;
  /** By key; keys nobody uses are not there. */
  reactions: Map<string, Reaction>;
  /** Changes up to this conv_seq are in it already. */
  asOf: number;
}

/** Who reacted with one key: those known by name, and how many more (`history` names at most 20). */
export interface Reaction {
  users: Set<string>;
  unnamed: number;
}

/** What is known to have happened to one message. */
export interface TargetChanges {
  /** conv_seq of the recall. */
  recalled: number | undefined;
  edit: Edit | undefined;
  /** The last act of each key and user. */
  reactions: Map<string, Map<string, { convSeq: number; add: boolean }>>;
}

export interface Edit {
  convSeq: number;
  body: Body;
  editedAt: number;
}

/** What of a conversation is to be loaded. */
export interface Stale {
  /** Messages after this conv_seq may be missing. */
  gap: number | undefined;
  /** Older pages to load; `before`: the next page ends before it, absent for the newest. */
  older: { pages: number; before: number | undefined } | undefined;
  /** `changes` after this conv_seq are to be asked. */
  changes: number | undefined;
  /** The row in `conversations` is to be read, in an answer asked at or after this sync seq. */
  row: number | undefined;
  members: boolean;
  /** Changes of membership while that is so: put on the answer again. */
  memberChanges: [string, Role | undefined][];
  /** Large: newest head told while loading. */
  headsSeen: number;
  /** Goes up with every mark: an answer asked for before it finishes nothing. */
  generation: number;
}

export function newState(preload: Preload): State {
  return {
    userId: undefined, cursor: undefined, conversations: new Map(), notifications: [], preload, loading: "no",
    listWanted: false,
  };
}

function newConversation(): Conversation {
  return {
    deleted: [], clearedUpTo: 0, readSeq: 0, peerReadSeq: 0, title: undefined, attributes: undefined,
    settings: { muted: false, pinned: false, hidden: false }, members: undefined, leftSeq: undefined,
    rejoinFrom: undefined, large: false, changes: new Map(), reconciledSeq: undefined, completeFrom: undefined,
    heldTo: 0,
    stale: {
      gap: undefined, older: undefined, changes: undefined, row: undefined, members: false, memberChanges: [],
      headsSeen: 0, generation: 0,
    },
    unheld: { count: 0, asOf: 0 },
    known: { title: 0, attributes: 0, membership: 0, settings: 0, row: 0, preloaded: false },
    messages: new Map(), touched: new Set(),
  };
}

/** The last sync entry applied; 0 on a fresh device. */
export const seqOf = (state: State): number => state.cursor?.seq ?? 0;

export function conversationOf(state: State, convId: string): Conversation {
  let held = state.conversations.get(convId);
  if (!held) state.conversations.set(convId, (held = newConversation()));
  return held;
}

/** The conversation of the notifications to everybody. */
export const EVERYBODY = "b:all";
export const isDirect = (convId: string): boolean => convId.startsWith("d:");

/** The direct conversation of two users: their ids sorted bytewise (ids are ASCII). */
export const directId = (a: string, b: string): string => (a < b ? `d:${a}:${b}` : `d:${b}:${a}`);

/** Whether this user does not see it: deleted or cleared. */
export function isHidden(held: ConversationRecord, convSeq: number): boolean {
  return convSeq <= held.clearedUpTo || held.deleted.some(([from, to]) => from <= convSeq && convSeq <= to);
}

/** Whether something of it is being loaded. */
export function isStale({ stale }: ConversationRecord): boolean {
  return loadsLog(stale) || stale.row !== undefined || stale.members;
}

/** Whether missing pieces of a log are being loaded. */
export function loadsLog(stale: Stale): boolean {
  return stale.gap !== undefined || stale.older !== undefined || stale.changes !== undefined;
}

/** Large: everything up to here is held, messages and changes; absent before anything is. */
export function positionOf(held: ConversationRecord): number | undefined {
  return held.reconciledSeq === undefined ? undefined : Math.min(held.reconciledSeq, held.heldTo);
}

/** Large conversations and the last conv_seq held of each, as `hello` names them. */
export function largePositions(state: State): Record<string, number> {
  const named: [string, number][] = [];
  for (const [convId, held] of state.conversations) {
    const position = positionOf(held);
    if (held.large && held.leftSeq === undefined && position !== undefined) named.push([convId, position]);
  }
  return Object.fromEntries(named.slice(0, 2000));
}

/** The lower of a mark that may be absent and a number. */
export const lower = (mark: number | undefined, seq: number): number => Math.min(mark ?? seq, seq);
