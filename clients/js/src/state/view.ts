// What an application shows of a state, without the numbers that only order it.
//
// Plain JSON with the contract's names. Two devices of a user that hold the same messages and have caught
// up have equal views; tests and the shared vectors compare them.

import { EVERYBODY } from "./model.js";
import type { Conversation, HeldMessage, State } from "./model.js";
import { unreadOf } from "./unread.js";

/** A conversation as it is shown; absent fields are not known or not set. */
export type View = Record<string, unknown>;

/** What is shown, by conversation; `b:all` is not one. */
export function viewOf(state: State): Record<string, View> {
  const shown = [...state.conversations].filter(([convId]) => convId !== EVERYBODY).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(shown.map(([convId, held]) => [convId, viewOfConversation(held, state.userId)]));
}

function viewOfConversation(held: Conversation, me: string | undefined): View {
  const seqs = [...held.messages.keys()].sort((a, b) => a - b);
  const lastUpTo = (seq: number): number | undefined => seqs.filter((one) => one <= seq).at(-1);
  return present({
    messages: seqs.flatMap((seq) => {
      const message = held.messages.get(seq);
      return message ? [viewOfMessage(seq, message)] : [];
    }),
    deleted: held.deleted,
    cleared_up_to: held.clearedUpTo,
    read_up_to: lastUpTo(held.readSeq),
    unread: unreadOf(held, me),
    peer_read_up_to: lastUpTo(held.peerReadSeq),
    title: held.title,
    attributes: held.attributes,
    settings: held.settings,
    members: held.members && Object.fromEntries([...held.members].sort(([a], [b]) => (a < b ? -1 : 1))),
    left: held.leftSeq !== undefined,
    large: held.large,
  });
}

function viewOfMessage(seq: number, message: HeldMessage): View {
  const reactions = [...message.reactions].sort(([a], [b]) => (a < b ? -1 : 1));
  return present({
    conv_seq: seq,
    sender_id: message.senderId,
    client_msg_id: message.clientMsgId,
    sent_at: message.sentAt,
    body: message.body,
    recalled: message.recalled || undefined,
    reply_to: message.replyTo,
    mentions: message.mentions.length ? message.mentions : undefined,
    edited_at: message.editedAt,
    reactions: reactions.map(([key, { users, unnamed }]) =>
      ({ key, count: users.size + unnamed, users: [...users].sort() })),
  });
}

function present(view: View): View {
  return Object.fromEntries(Object.entries(view).filter(([, value]) => value !== undefined));
}
