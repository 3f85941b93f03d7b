// Made from docs/protocol.schema.json by scripts/frames.mjs: change that, not this.

/** Carries the id of its request. */
export type Answer = SentAnswer | OkAnswer | HistoryAnswer | ChangesAnswer | ConversationsAnswer | MembersAnswer | DevicesAnswer | PresenceAnswer;

/** Another token for this connection. */
export type AuthRequest = {
  /** Chosen by the client. */
  id: MsgId;
  /** JWT, up to 8 KiB. */
  token: string;
  type: "auth";
};

/** Any JSON object; comes back equal as a JSON value. */
export type Body = Record<string, unknown>;

/** To `changes`. */
export type ChangesAnswer = {
  /** All up to it is gone for this user; 0 for nothing. */
  cleared_up_to: number;
  /** All ranges this user has deleted here. */
  deleted: Range[];
  /** The last edit of each message. */
  edited: EditChange[];
  /** The request's id. */
  id: MsgId;
  /** Ask again. */
  more: boolean;
  /** The last of each user and key. */
  reacted: ReactionChange[];
  /** Messages taken back. */
  recalled: RecallChange[];
  type: "changes";
  /** The answer holds as of this `conv_seq`; `since` of the next request. */
  up_to: number;
};

/** Recalls, edits and reactions since a number, and all one's deleted ranges. */
export type ChangesRequest = {
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  /** Exclusive `conv_seq`. */
  since: number;
  type: "changes";
};

/** This user no longer sees anything up to it. */
export type ClearEvent = {
  conv_id: ConvId;
  op: "clear";
  up_to: number;
};

/** Hides everything up to a number from oneself. */
export type ClearRequest = {
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  type: "clear";
  /** Inclusive `conv_seq`. */
  up_to: number;
};

/** Applied and stored up to `seq`. No answer. */
export type ClientAck = {
  /** Sync sequence number. */
  seq: number;
  type: "ack";
};

/** Anything a client sends. */
export type ClientFrame = ClientHello | ClientAck | ClientPong | ClientTyping | Request;

/** The first frame of a connection. */
export type ClientHello = {
  /** What runs there. */
  client?: ClientInfo | null;
  /** The last `conv_seq` held of each large conversation; up to 2000. */
  conversations?: Record<string, number>;
  /** The last entry applied; absent on a fresh device. */
  cursor?: Cursor | null;
  /** The device. */
  device_id: DeviceId;
  /** Carried by `welcome`. */
  id: MsgId;
  /** JWT, up to 8 KiB; absent when the upgrade had an `Authorization` header. */
  token?: string | null;
  type: "hello";
};

/** Name and version of the client program, each up to 64 characters. */
export type ClientInfo = {
  /** Such as `web`. */
  name?: string | null;
  /** Such as `1.0`. */
  version?: string | null;
};

/** Answer to a `ping`; acknowledges like `ack`. No answer. */
export type ClientPong = {
  /** Sync sequence number. */
  seq: number;
  type: "pong";
};

/** The user is typing; may be dropped. No answer. */
export type ClientTyping = {
  /** Where. */
  conv_id: ConvId;
  type: "typing";
};

export type ConvId = string;

/** The conversation itself changed, for every member. */
export type ConversationEvent = {
  conv_id: ConvId;
  conv_seq: number;
  op: "conversation";
} & ({
  /** Up to 4 KiB. */
  attributes?: Body | null;
  change: "created";
  /** The maker first. */
  members: UserId[];
  /** 1-256 characters. */
  title?: string | null;
} | {
  change: "renamed";
  /** 1-256 characters. */
  title: string;
} | {
  /** Up to 4 KiB, whole. */
  attributes: Body;
  change: "attributes";
} | {
  change: "large";
} | {
  change: "dissolved";
});

/** What sort of conversation. */
export type ConversationKind = "direct" | "group";

/** A user's settings of a conversation. */
export type ConversationSettings = {
  /** Not listed. */
  hidden: boolean;
  /** No sound. */
  muted: boolean;
  /** Kept on top. */
  pinned: boolean;
};

/** One of `conversations`. */
export type ConversationSummary = {
  /** Up to 4 KiB. */
  attributes?: Body | null;
  /** Which. */
  conv_id: ConvId;
  /** Head, as far as the user may know. */
  head_seq: number;
  /** Start of the last stay. */
  join_seq: number;
  /** What sort. */
  kind: ConversationKind;
  /** Follows its own log instead of the sync timeline. */
  large: boolean;
  /** The newest message the user may see. */
  last?: LastMessage | null;
  /** When it was sent: milliseconds. */
  last_at?: number | null;
  /** End of the last stay; absent for a member. */
  left_seq?: number | null;
  /** How many members. */
  members_count: number;
  /** Read up to. */
  read_seq: number;
  /** The user's own. */
  settings: ConversationSettings;
  /** 1-256 characters. */
  title?: string | null;
  /** Messages of others not read. */
  unread: number;
};

/** To `conversations`. */
export type ConversationsAnswer = {
  /** Most recent first. */
  conversations: ConversationSummary[];
  /** The request's id. */
  id: MsgId;
  /** `page` of the next request; absent on the last page. */
  next?: string | null;
  type: "conversations";
};

/** One's conversations, most recent first. */
export type ConversationsRequest = {
  /** Only those whose last message is later: milliseconds, exclusive. */
  active_after?: number | null;
  /** Chosen by the client. */
  id: MsgId;
  /** 1-1000; 100 when absent. */
  limit?: number | null;
  /** `next` of the page before: 1-256 bytes. */
  page?: string | null;
  type: "conversations";
};

/** A new group. */
export type CreateRequest = {
  /** Up to 4 KiB. */
  attributes?: Body | null;
  /** What a new member sees. */
  history?: HistoryMode;
  /** Chosen by the client. */
  id: MsgId;
  /** 1-1000, the maker included or not. */
  members: UserId[];
  /** The same op_id makes no second group. */
  op_id: MsgId;
  /** 1-256 characters. */
  title?: string | null;
  type: "create";
};

/** Position in the sync timeline. */
export type Cursor = {
  /** Incarnation of the server's data: 1-64 bytes. */
  epoch: string;
  /** The last entry applied. */
  seq: number;
};

/** This user no longer sees these; they may arrive later and stay hidden. */
export type DeleteEvent = {
  conv_id: ConvId;
  op: "delete";
  ranges: Range[];
};

/** Hides entries from oneself. */
export type DeleteRequest = {
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  /** 1-200. */
  ranges: Range[];
  type: "delete";
};

export type DeviceId = string;

/** One of `devices`. */
export type DeviceInfo = {
  /** Largest `seq` acknowledged. */
  acked_seq: number;
  /** What it said in `hello`. */
  client?: ClientInfo | null;
  /** Has a socket now. */
  connected: boolean;
  /** Which. */
  device_id: DeviceId;
  /** Milliseconds, server clock. */
  last_seen_at: number;
};

/** To `devices`. */
export type DevicesAnswer = {
  /** Every device the server remembers. */
  devices: DeviceInfo[];
  /** The request's id. */
  id: MsgId;
  type: "devices";
};

/** One's devices. */
export type DevicesRequest = {
  /** Chosen by the client. */
  id: MsgId;
  type: "devices";
};

/** One of `edited` in `changes`. */
export type EditChange = {
  /** The new content. */
  body: Body;
  /** Who. */
  by: UserId;
  /** `conv_seq` of the edit. */
  conv_seq: number;
  /** Milliseconds, server clock. */
  edited_at: number;
  /** `conv_seq` of the message. */
  target: number;
};

/** A message has another body, for every member. */
export type EditEvent = {
  body: Body;
  by: UserId;
  conv_id: ConvId;
  conv_seq: number;
  edited_at: number;
  op: "edit";
  target: number;
};

/** Another body for one's own message. */
export type EditRequest = {
  /** The new one, whole. */
  body: Body;
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  /** `conv_seq` of the message, from 1. */
  target: number;
  type: "edit";
};

/** An event at its place in a user's sync timeline. */
export type Entry = Event & {
  /** Sync sequence number. */
  seq: number;
};

/** `code` of an error frame. */
export type ErrorCode = "bad_json" | "unknown_type" | "invalid_field" | "hello_required" | "already_connected" | "invalid_token" | "token_expired" | "revoked" | "ack_ahead" | "too_many_connections" | "rate_limited" | "not_found" | "forbidden" | "too_late" | "gone" | "too_large" | "idempotency_conflict" | "unavailable" | "overloaded";

/** Something went wrong. */
export type ErrorFrame = {
  /** What went wrong. */
  code: ErrorCode;
  /** The top-level field at fault. */
  field?: string | null;
  /** The request's id, null when there was none to read. */
  id?: MsgId | null;
  /** For people. */
  message: string;
  /** Milliseconds to wait before that. */
  retry_after_ms?: number | null;
  /** Whether the same request may succeed later. */
  retryable: boolean;
  type: "error";
};

/** One thing that happened. */
export type Event = MessageEvent | RecallEvent | EditEvent | ReactionEvent | MemberEvent | ConversationEvent | DeleteEvent | ClearEvent | ReadEvent | ReceiptEvent | SettingsEvent | MentionEvent | NotificationEvent;

/** News of large conversations. */
export type HeadsFrame = {
  /** One each. */
  conversations: HeadsItem[];
  type: "heads";
};

/** One large conversation in `heads`. */
export type HeadsItem = {
  /** Which. */
  conv_id: ConvId;
  /** All of (`from_seq`, `head_seq`] the user may see; absent when they are many. */
  entries?: Event[] | null;
  /** What the entries continue, exclusive; absent with them. */
  from_seq?: number | null;
  /** The newest `conv_seq`. */
  head_seq: number;
};

/** To `history`. */
export type HistoryAnswer = {
  /** Nothing more in this direction. */
  complete: boolean;
  /** Ascending `conv_seq`. */
  entries: HistoryEntry[];
  /** The conversation's head, as far as the user may know. */
  head_seq: number;
  /** The request's id. */
  id: MsgId;
  /** For the same parameter of the next request; absent when complete. For `after_at` not always a time. */
  next?: number | null;
  type: "history";
};

/** An event of a conversation as `history` tells it. */
export type HistoryEntry = Event & {
  /** Of a message, always; else absent. */
  reactions?: ReactionCount[] | null;
};

/** What a member sees of the time before he joined. */
export type HistoryMode = "since_join" | "full";

/** Messages as they stand now. */
export type HistoryRequest = {
  /** Exclusive `conv_seq`; excludes the other two. */
  after?: number | null;
  /** Milliseconds, inclusive, or a `next` told before; excludes the other two. */
  after_at?: number | null;
  /** Exclusive `conv_seq`; excludes the other two. */
  before?: number | null;
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  /** 1-200; 30 when absent. */
  limit?: number | null;
  type: "history";
};

/** Adds members. */
export type InviteRequest = {
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  type: "invite";
  /** 1-1000. */
  users: UserId[];
};

/** The newest message a user may see, as it stands. */
export type LastMessage = {
  /** Content; absent when recalled, or left out of a summary. */
  body?: Body | null;
  /** The sender's own key for it. */
  client_msg_id: MsgId;
  /** Where. */
  conv_id: ConvId;
  /** Its place there, from 1. */
  conv_seq: number;
  /** Milliseconds; when the body is that of an edit. */
  edited_at?: number | null;
  /** Users mentioned. */
  mentions?: UserId[];
  op: "message";
  /** A stub: the body is erased. */
  recalled?: boolean;
  /** `conv_seq` of the message answered. */
  reply_to?: number | null;
  /** Who sent it. */
  sender_id: UserId;
  /** Milliseconds, server clock. */
  sent_at: number;
  /** The body is above 1 KiB and left out. */
  truncated?: boolean;
};

/** Goes. */
export type LeaveRequest = {
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  type: "leave";
};

/** `limits` of `welcome`. */
export type Limits = {
  /** Seconds an idempotence key is remembered at least. */
  dedupe_seconds: number;
  /** Largest body: bytes of its compact form. */
  max_body_bytes: number;
  /** Largest frame from a client: bytes. */
  max_frame_bytes: number;
  /** Largest frame to a client: bytes. */
  max_server_frame_bytes: number;
  /** Sync entries sent ahead of the acknowledgement, counted in `seq`. */
  window_entries: number;
};

/** Forgets a device and closes its socket. */
export type LogoutRequest = {
  /** Which. */
  device_id: DeviceId;
  /** Chosen by the client. */
  id: MsgId;
  type: "logout";
};

/** `change` of a `member` entry. */
export type MemberChange = "joined" | "left" | "removed" | "role";

/** Somebody came, went or has another role; one entry per user. Without `by`: done by the server API. */
export type MemberEvent = {
  by?: UserId | null;
  change: MemberChange;
  conv_id: ConvId;
  conv_seq: number;
  op: "member";
  role?: Role | null;
  user_id: UserId;
};

/** One of `members`. */
export type MemberInfo = {
  /** Start of the stay. */
  join_seq: number;
  /** Milliseconds, server clock. */
  joined_at: number;
  /** Read up to. */
  read_seq: number;
  /** Rights. */
  role: Role;
  /** Who. */
  user_id: UserId;
};

/** To `members`. */
export type MembersAnswer = {
  /** The request's id. */
  id: MsgId;
  /** In no promised order. */
  members: MemberInfo[];
  /** `page` of the next request; absent on the last page. */
  next?: string | null;
  type: "members";
};

/** Members of a conversation. */
export type MembersRequest = {
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  /** 1-1000; 100 when absent. */
  limit?: number | null;
  /** `next` of the page before: 1-256 bytes. */
  page?: string | null;
  type: "members";
};

/** This user is mentioned in a large conversation. */
export type MentionEvent = {
  conv_id: ConvId;
  op: "mention";
  sender_id: UserId;
  target: number;
};

/** A message, for every member. */
export type MessageEvent = {
  /** Content; absent when recalled, or left out of a summary. */
  body?: Body | null;
  /** The sender's own key for it. */
  client_msg_id: MsgId;
  /** Where. */
  conv_id: ConvId;
  /** Its place there, from 1. */
  conv_seq: number;
  /** Milliseconds; when the body is that of an edit. */
  edited_at?: number | null;
  /** Users mentioned. */
  mentions?: UserId[];
  op: "message";
  /** A stub: the body is erased. */
  recalled?: boolean;
  /** `conv_seq` of the message answered. */
  reply_to?: number | null;
  /** Who sent it. */
  sender_id: UserId;
  /** Milliseconds, server clock. */
  sent_at: number;
};

export type MsgId = string;

/** From the server API. In the log of `b:all` with its place, else without a conversation. */
export type NotificationEvent = {
  body: Body;
  conv_id?: ConvId | null;
  conv_seq?: number | null;
  op: "notification";
  topic: MsgId;
};

/** To requests that change something; which fields depends on the request. */
export type OkAnswer = {
  /** To `create`. */
  conv_id?: ConvId | null;
  /** Place in the conversation. */
  conv_seq?: number | null;
  /** The request's id. */
  id: MsgId;
  /** Place in the user's sync timeline. */
  seq?: number | null;
  type: "ok";
};

/** Nothing else was sent for a while; answered by `pong`. */
export type PingFrame = {
  /** Head of the sync timeline. */
  head_seq: number;
  type: "ping";
};

/** To `presence`. */
export type PresenceAnswer = {
  /** The request's id. */
  id: MsgId;
  type: "presence";
  /** One for each user asked about whom the asker may know of. */
  users: UserPresence[];
};

/** Somebody came or went; may be dropped. With an `id` it is an [`Answer`]. */
export type PresenceFrame = {
  type: "presence";
  /** Who. */
  users: UserPresence[];
};

/** Who of these is connected. */
export type PresenceRequest = {
  /** Chosen by the client. */
  id: MsgId;
  type: "presence";
  /** 1-1000. */
  users: UserId[];
};

export type Range = [number, number];

/** Sets or takes away one's reaction. */
export type ReactRequest = {
  /** False takes it away. */
  add: boolean;
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  /** 1-64 bytes. */
  key: string;
  /** `conv_seq` of the message, from 1. */
  target: number;
  type: "react";
};

/** One of `reacted` in `changes`. */
export type ReactionChange = {
  /** Set, or taken away. */
  add: boolean;
  /** `conv_seq` of the reaction. */
  conv_seq: number;
  /** 1-64 bytes. */
  key: string;
  /** `conv_seq` of the message. */
  target: number;
  /** Who. */
  user_id: UserId;
};

/** One reaction key of a message. */
export type ReactionCount = {
  /** How many users. */
  count: number;
  /** 1-64 bytes. */
  key: string;
  /** Up to 20 of them, the reader himself first if he is one. */
  users: UserId[];
};

/** A reaction was set (`add`) or taken away, for every member. */
export type ReactionEvent = {
  add: boolean;
  conv_id: ConvId;
  conv_seq: number;
  key: string;
  op: "reaction";
  target: number;
  user_id: UserId;
};

/** This user has read up to it; `unread` at that moment. */
export type ReadEvent = {
  conv_id: ConvId;
  op: "read";
  read_seq: number;
  unread: number;
};

/** One's reading position. */
export type ReadRequest = {
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  /** Inclusive `conv_seq`. */
  read_seq: number;
  type: "read";
};

/** One of `recalled` in `changes`. */
export type RecallChange = {
  /** Who. */
  by: UserId;
  /** `conv_seq` of the recall. */
  conv_seq: number;
  /** `conv_seq` of the message. */
  target: number;
};

/** A message was taken back, for every member. */
export type RecallEvent = {
  by: UserId;
  conv_id: ConvId;
  conv_seq: number;
  op: "recall";
  target: number;
};

/** Takes a message back for everybody. */
export type RecallRequest = {
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  /** `conv_seq` of the message, from 1. */
  target: number;
  type: "recall";
};

/** The other user of a direct conversation has read up to it. */
export type ReceiptEvent = {
  conv_id: ConvId;
  op: "receipt";
  read_seq: number;
  user_id: UserId;
};

/** Takes members out. */
export type RemoveRequest = {
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  type: "remove";
  /** 1-1000. */
  users: UserId[];
};

/** Answered once, by a frame with the same id. */
export type Request = SendRequest | RecallRequest | EditRequest | ReactRequest | DeleteRequest | ClearRequest | ReadRequest | SettingsRequest | CreateRequest | InviteRequest | RemoveRequest | LeaveRequest | UpdateRequest | RoleRequest | SyncRequest | HistoryRequest | ChangesRequest | ConversationsRequest | MembersRequest | PresenceRequest | AuthRequest | DevicesRequest | LogoutRequest;

/** The cursor is of no use: reconcile. */
export type ResetFrame = {
  /** Incarnation of the server's data. */
  epoch: string;
  /** Largest `seq` no longer kept. */
  floor_seq: number;
  /** The new position. */
  head_seq: number;
  /** Of the request `sync` it answers. */
  id?: MsgId | null;
  /** Why. */
  reason: ResetReason;
  type: "reset";
};

/** Why a cursor is of no use. */
export type ResetReason = "too_old" | "epoch_mismatch" | "ahead";

/** A member's role. */
export type Role = "owner" | "admin" | "member";

/** Gives a member a role. */
export type RoleRequest = {
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  /** Which. */
  role: Role;
  type: "role";
  /** To whom. */
  user_id: UserId;
};

/** A message. */
export type SendRequest = {
  /** Content, up to `max_body_bytes`. */
  body: Body;
  /** Idempotence key within sender and conversation. */
  client_msg_id: MsgId;
  /** Chosen by the client. */
  id: MsgId;
  /** Up to 50, as given (not sorted, not made unique); absent equals empty. */
  mentions?: UserId[];
  /** `conv_seq` of the message answered, from 1. */
  reply_to?: number | null;
  type: "send";
} & ({
  conv_id: ConvId;
} | {
  to: UserId;
});

/** To `send`: durable, and will reach every member. */
export type SentAnswer = {
  /** Where. */
  conv_id: ConvId;
  /** The message's place there. */
  conv_seq: number;
  /** The same message was accepted before; the numbers are of then. */
  duplicate: boolean;
  /** The request's id. */
  id: MsgId;
  /** Milliseconds, server clock. */
  sent_at: number;
  type: "sent";
};

/** Anything a server sends. */
export type ServerFrame = WelcomeFrame | SyncFrame | ResetFrame | PingFrame | HeadsFrame | TypingFrame | PresenceFrame | ErrorFrame | Answer;

/** This user's settings, all of them. */
export type SettingsEvent = {
  conv_id: ConvId;
  hidden: boolean;
  muted: boolean;
  op: "settings";
  pinned: boolean;
};

/** One's settings of a conversation; at least one of them. */
export type SettingsRequest = {
  /** Where. */
  conv_id: ConvId;
  /** Not listed. */
  hidden?: boolean | null;
  /** Chosen by the client. */
  id: MsgId;
  /** No sound. */
  muted?: boolean | null;
  /** Kept on top. */
  pinned?: boolean | null;
  type: "settings";
};

/** A piece of the user's sync timeline. */
export type SyncFrame = {
  /** Ascending `seq`, with gaps. */
  entries: Entry[];
  /** The cursor it continues, exclusive. */
  from_seq: number;
  /** Of the request `sync` it answers. */
  id?: MsgId | null;
  /** It reaches the head: what comes may ring. */
  live: boolean;
  /** The cursor after it. */
  to_seq: number;
  type: "sync";
};

/** What became of the cursor in `hello`. */
export type SyncMode = "fresh" | "resumed" | "reset";

/** Moves the session's position; answered by the next `sync` frame, or `reset`. */
export type SyncRequest = {
  /** The last entry applied. */
  after_seq: number;
  /** Chosen by the client. */
  id: MsgId;
  type: "sync";
};

/** Somebody is typing; may be dropped. */
export type TypingFrame = {
  /** Where. */
  conv_id: ConvId;
  type: "typing";
  /** Who. */
  user_id: UserId;
};

/** New title, new attributes. With neither, nothing changes. */
export type UpdateRequest = {
  /** Up to 4 KiB, whole. */
  attributes?: Body | null;
  /** Where. */
  conv_id: ConvId;
  /** Chosen by the client. */
  id: MsgId;
  /** 1-256 characters. */
  title?: string | null;
  type: "update";
};

export type UserId = string;

/** Whether a user is connected. */
export type UserPresence = {
  /** Milliseconds, server clock; when known. */
  last_seen_at?: number | null;
  /** On any device. */
  online: boolean;
  /** Who. */
  user_id: UserId;
};

/** Answer to `hello`. */
export type WelcomeFrame = {
  /** As in `hello`. */
  device_id: DeviceId;
  /** Incarnation of the server's data. */
  epoch: string;
  /** Largest `seq` no longer kept. */
  floor_seq: number;
  /** Last `seq` given. */
  head_seq: number;
  /** Milliseconds between heartbeats. */
  heartbeat_ms: number;
  /** The id of `hello`. */
  id: MsgId;
  /** What the server allows. */
  limits: Limits;
  /** Milliseconds, server clock. */
  server_at: number;
  /** Names this connection in the server's log. */
  session_id: string;
  /** What became of the cursor. */
  sync: SyncMode;
  type: "welcome";
  /** Whom the token names. */
  user_id: UserId;
};
