// What one device keeps: cursor, conversations, messages, what is deleted, what is not sent yet.
// No sockets and no DOM. Everything that arrives may arrive twice, or after something newer:
// applying it again must change nothing.

const MINE = 1000;

export class Cache {
  constructor(user) {
    this.user = user;
    this.outbox = [];
    this.drop();
  }

  // Everything but the outbox: after an epoch of its own is gone.
  drop() {
    this.cursor = null;
    this.conversations = new Map();
    // While a reset is open: up to where each conversation was held before it. Sync entries do not
    // move `reconciled` then. Kept over restarts, for the position has moved already.
    this.open = null;
  }

  conversation(id) {
    let conv = this.conversations.get(id);
    if (!conv) {
      conv = {
        id, title: null, messages: new Map(), deleted: [], cleared: 0, changed: new Map(),
        head: 0, held: 0, counted: 0, reconciled: 0, unread: 0, read: 0, peerRead: 0,
      };
      this.conversations.set(id, conv);
    }
    return conv;
  }

  // One entry of the sync timeline.
  apply(entry) {
    if (!entry.conv_id) return;
    const conv = this.conversation(entry.conv_id);
    const seq = entry.conv_seq ?? 0;
    const isNew = seq > conv.counted;
    switch (entry.op) {
      case "message":
        this.put(conv, entry, null);
        if (isNew && this.counts(conv, conv.messages.get(seq))) conv.unread += 1;
        break;
      case "recall": {
        const message = conv.messages.get(entry.target);
        if (isNew && message && this.counts(conv, message)) conv.unread -= 1;
        this.recall(conv, entry.target, seq);
        break;
      }
      case "edit":
        this.edit(conv, entry.target, seq, entry.body, entry.edited_at);
        break;
      case "reaction":
        this.react(conv, entry.target, seq, entry);
        break;
      case "delete":
        for (const [from, to] of entry.ranges) this.forget(conv, from, to);
        break;
      case "clear":
        this.forget(conv, 1, entry.up_to);
        conv.cleared = Math.max(conv.cleared, entry.up_to);
        break;
      case "read":
        conv.read = Math.max(conv.read, entry.read_seq);
        conv.unread = entry.unread;
        break;
      case "receipt":
        conv.peerRead = Math.max(conv.peerRead, entry.read_seq);
        break;
      case "conversation":
        conv.title = entry.title ?? conv.title;
        if (entry.change === "created") conv.read = Math.max(conv.read, seq);
        break;
      case "member":
        // Who joins starts with everything before read.
        if (entry.change === "joined" && entry.user_id === this.user) {
          conv.read = Math.max(conv.read, seq);
          if (isNew) conv.unread = 0;
        }
        break;
    }
    conv.head = Math.max(conv.head, seq);
    conv.counted = Math.max(conv.counted, seq);
    conv.held = Math.max(conv.held, seq);
    if (!this.open) conv.reconciled = Math.max(conv.reconciled, seq);
  }

  // Takes in a message as it stands. `asOf`: head_seq of the answer it came with; null for an entry.
  put(conv, entry, asOf) {
    const known = conv.messages.get(entry.conv_seq);
    const message = {
      seq: entry.conv_seq, sender: entry.sender_id, client: entry.client_msg_id, at: entry.sent_at,
      text: entry.body ? String(entry.body.text ?? JSON.stringify(entry.body)) : "",
      recalled: Boolean(entry.recalled), edited: entry.edited_at ?? 0,
      reactions: entry.reactions
        ? new Map(entry.reactions.map((one) => [one.key, new Set(one.users)]))
        : known?.reactions ?? new Map(),
    };
    conv.messages.set(message.seq, message);
    this.outbox = this.outbox.filter((one) => message.sender !== this.user || one.client_msg_id !== message.client);
    // What was learned of it since, the answer does not know.
    const change = conv.changed.get(message.seq);
    if (!change) return;
    if (change.recall) Object.assign(message, { recalled: true, text: "" });
    else if (change.edit > (asOf ?? 0)) Object.assign(message, { text: change.text, edited: change.edited });
    for (const word of change.words.values()) if (word.seq > (asOf ?? 0)) say(message, word);
  }

  change(conv, target) {
    let change = conv.changed.get(target);
    if (!change) conv.changed.set(target, (change = { recall: 0, edit: 0, text: "", edited: 0, words: new Map() }));
    return change;
  }

  recall(conv, target, seq) {
    this.change(conv, target).recall = seq;
    const message = conv.messages.get(target);
    if (message) Object.assign(message, { recalled: true, text: "" });
  }

  edit(conv, target, seq, body, edited) {
    const change = this.change(conv, target);
    if (seq <= change.edit) return;
    Object.assign(change, { edit: seq, text: String(body?.text ?? ""), edited });
    const message = conv.messages.get(target);
    if (message && !message.recalled) Object.assign(message, { text: change.text, edited });
  }

  react(conv, target, seq, { user_id, key, add }) {
    const change = this.change(conv, target);
    const word = { seq, user: user_id, key, add };
    const name = `${user_id}\n${key}`;
    if (seq <= (change.words.get(name)?.seq ?? 0)) return;
    change.words.set(name, word);
    const message = conv.messages.get(target);
    if (message) say(message, word);
  }

  forget(conv, from, to) {
    for (const message of conv.messages.values()) {
      if (message.seq >= from && message.seq <= to && this.counts(conv, message)) conv.unread -= 1;
    }
    conv.deleted.push([from, to]);
  }

  isDeleted(conv, seq) {
    return seq <= conv.cleared || conv.deleted.some(([from, to]) => seq >= from && seq <= to);
  }

  // Whether a message stands in `unread`.
  counts(conv, message) {
    return message && message.sender !== this.user && !message.recalled
      && message.seq > Math.max(conv.read, conv.cleared) && !this.isDeleted(conv, message.seq);
  }

  // One of `conversations`: its numbers hold as of its head; what came since is counted on top.
  summary(one) {
    const conv = this.conversation(one.conv_id);
    conv.title = one.title ?? conv.title;
    if (one.read_seq >= conv.read) {
      conv.read = one.read_seq;
      conv.unread = one.unread;
      for (const message of conv.messages.values()) {
        const later = conv.changed.get(message.seq)?.recall > one.head_seq;
        if (message.seq > one.head_seq && this.counts(conv, message)) conv.unread += 1;
        if (message.seq <= one.head_seq && later && this.counts(conv, { ...message, recalled: false })) conv.unread -= 1;
      }
    }
    conv.counted = Math.max(conv.counted, one.head_seq);
    conv.head = Math.max(conv.head, one.head_seq);
    return conv;
  }

  // Begins to reconcile, or goes on with what was begun.
  begin() {
    this.open ??= Object.fromEntries([...this.conversations].map(([id, conv]) => [id, conv.held]));
    return this.open;
  }

  // An answer to `history`; `toHead`: nothing is missing between it and its head.
  history(conv, answer, toHead) {
    for (const entry of answer.entries) if (entry.op === "message") this.put(conv, entry, answer.head_seq);
    if (toHead) conv.held = Math.max(conv.held, answer.head_seq);
  }

  // An answer to `changes`: what happened to messages held, and all that is deleted.
  changes(conv, answer) {
    for (const one of answer.recalled) this.recall(conv, one.target, one.conv_seq);
    for (const one of answer.edited) this.edit(conv, one.target, one.conv_seq, one.body, one.edited_at);
    for (const one of answer.reacted) this.react(conv, one.target, one.conv_seq, one);
    conv.deleted = answer.deleted.map(([from, to]) => [from, to]);
    conv.cleared = Math.max(conv.cleared, answer.cleared_up_to);
    if (!answer.more) conv.reconciled = Math.max(conv.reconciled, answer.up_to);
  }

  // Messages to show, ascending, and those not sent yet.
  shown(conv) {
    const messages = [...conv.messages.values()].filter((message) => !this.isDeleted(conv, message.seq));
    return messages.sort((a, b) => a.seq - b.seq).slice(-MINE);
  }

  save() {
    const conversations = [...this.conversations.values()].map((conv) => ({
      ...conv,
      messages: [...conv.messages.values()].map((message) => ({
        ...message, reactions: [...message.reactions].map(([key, users]) => [key, [...users]]),
      })),
      changed: [...conv.changed].map(([target, change]) => [target, { ...change, words: [...change.words] }]),
    }));
    return JSON.stringify({ cursor: this.cursor, open: this.open, outbox: this.outbox, conversations });
  }

  load(text) {
    const { cursor, open, outbox, conversations } = JSON.parse(text);
    Object.assign(this, { cursor, open, outbox });
    for (const conv of conversations) {
      conv.messages = new Map(conv.messages.map((message) => [message.seq, {
        ...message, reactions: new Map(message.reactions.map(([key, users]) => [key, new Set(users)])),
      }]));
      conv.changed = new Map(conv.changed.map(([target, change]) => [target, { ...change, words: new Map(change.words) }]));
      this.conversations.set(conv.id, conv);
    }
  }
}

function say(message, { user, key, add }) {
  const users = message.reactions.get(key) ?? new Set();
  if (add) users.add(user);
  else users.delete(user);
  if (users.size) message.reactions.set(key, users);
  else message.reactions.delete(key);
}
