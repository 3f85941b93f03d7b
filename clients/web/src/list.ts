// The list of conversations of one device: most recent first, with what is unread.

import type { Conversation } from "../../js/src/index.js";
import type { Device } from "./device.js";
import { el, labelOf } from "./dom.js";

/** The newest message that is held: its place, and a line about it. */
function newest(held: Conversation, device: Device): { at: number; line: string } {
  const seq = Math.max(0, ...held.messages.keys());
  const message = held.messages.get(seq);
  if (!message) return { at: 0, line: "" };
  const text = message.recalled ? "message recalled" : textOf(message.body);
  return { at: message.sentAt, line: message.senderId === device.user ? `you: ${text}` : text };
}

/** What a body says to people. */
export function textOf(body: Record<string, unknown> | undefined): string {
  if (!body) return "";
  return typeof body.text === "string" ? body.text : JSON.stringify(body);
}

export function conversationList(device: Device, open: (convId: string) => void): HTMLElement {
  const rows = [...device.client.state.conversations]
    .filter(([convId, held]) => convId !== "b:all" && !held.settings.hidden)
    .map(([convId, held]) => ({ convId, held, ...newest(held, device) }))
    .sort((a, b) => b.at - a.at);
  return el("ul", { class: "list", "aria-label": `Conversations on ${device.user}'s ${device.name}` },
    ...rows.map(({ convId, held, line }) => {
      const name = labelOf(convId, held.title, device.user);
      const unread = device.client.unread(convId);
      const label = `${name}${unread ? `, ${unread} unread` : ""}${held.leftSeq === undefined ? "" : ", you left"}`;
      return el("li", {}, el("button", { type: "button", "data-conv": convId, "aria-label": label, onclick: () => open(convId) },
        el("span", { class: "name" }, name), unread ? el("span", { class: "badge" }, unread) : null,
        el("span", { class: "line" }, line || (convId.startsWith("d:") ? "" : "group"))));
    }));
}
