// The messages of one conversation on one device, and what can be done to them.
//
// Rows that did not change stay, so that a focused message keeps the focus. Older pages are asked for when
// the top comes near.

import { isHidden } from "../../js/src/index.js";
import type { Conversation, HeldMessage, OutboxItem } from "../../js/src/index.js";
import type { Device } from "./device.js";
import { el } from "./dom.js";
import { textOf } from "./list.js";

const KEYS = ["♥", "★"];
/** Pixels from the top at which older messages are asked for. */
const NEAR_TOP = 80;

export interface MessageActions {
  edit(seq: number, text: string): void;
  run(what: Promise<unknown>): void;
}

export class Messages {
  readonly root: HTMLOListElement;
  private rows = new Map<string, { signature: string; node: HTMLElement }>();
  private convId = "";
  private atEnd = true;
  private asking = false;

  constructor(private readonly device: Device, private readonly actions: MessageActions) {
    this.root = el("ol", { class: "messages", tabindex: 0, role: "log", "aria-live": "off" });
    this.root.setAttribute("aria-label", `Messages on ${device.user}'s ${device.name}`);
    this.root.addEventListener("scroll", () => void this.older());
  }

  /** The next picture shows the end. */
  toEnd(): void {
    this.atEnd = true;
  }

  render(convId: string): void {
    const { root } = this;
    if (convId !== this.convId) {
      this.rows.clear();
      root.replaceChildren();
      this.convId = convId;
      this.atEnd = true;
    }
    const wasAtEnd = this.atEnd || root.scrollHeight - root.scrollTop - root.clientHeight < 40;
    const below = root.scrollHeight - root.scrollTop;
    this.atEnd = false;
    if (!this.replace(this.wanted())) return wasAtEnd ? this.scrollToEnd() : undefined;
    if (wasAtEnd) this.scrollToEnd();
    // Older messages came above: what was looked at stays where it is.
    else if (root.scrollTop < NEAR_TOP * 2) root.scrollTop = root.scrollHeight - below;
  }

  private scrollToEnd(): void {
    this.root.scrollTop = this.root.scrollHeight;
  }

  private wanted(): [string, string, () => HTMLElement][] {
    const held = this.device.client.state.conversations.get(this.convId);
    const shown = held ? [...held.messages].filter(([seq]) => !isHidden(held, seq)).sort(([a], [b]) => a - b) : [];
    const rows = shown.map(([seq, message]): [string, string, () => HTMLElement] => {
      const seen = message.senderId === this.device.user && (held?.peerReadSeq ?? 0) >= seq;
      const reactions = [...message.reactions].map(([key, { users, unnamed }]) => [key, [...users], unnamed]);
      const signature = JSON.stringify([message.body, message.recalled, message.editedAt, seen, reactions, message.replyTo]);
      return [`#${seq}`, signature, () => this.message(seq, message, seen, held)];
    });
    const pending = this.device.client.pending(this.convId).map(({ item, sent }): [string, string, () => HTMLElement] =>
      [item.clientMsgId, String(Boolean(sent)), () => this.waiting(item, Boolean(sent))]);
    return [...rows, ...pending];
  }

  /** Puts the rows in place. Whether anything changed. */
  private replace(wanted: [string, string, () => HTMLElement][]): boolean {
    const kept = new Map<string, { signature: string; node: HTMLElement }>();
    for (const [key, signature, make] of wanted) {
      const old = this.rows.get(key);
      kept.set(key, old?.signature === signature ? old : { signature, node: make() });
    }
    const nodes = [...kept.values()].map(({ node }) => node);
    this.rows = kept;
    const { root } = this;
    if (nodes.length === root.children.length && nodes.every((node, at) => root.children[at] === node)) return false;
    const focused = document.activeElement;
    const seq = focused instanceof HTMLElement && root.contains(focused) ? focused.closest("li")?.dataset.key : undefined;
    root.replaceChildren(...nodes);
    if (seq) nodes.find((node) => node.dataset.key === seq)?.focus({ preventScroll: true });
    return true;
  }

  private async older(): Promise<void> {
    const { client } = this.device;
    const first = client.state.conversations.get(this.convId)?.completeFrom ?? 1;
    if (this.asking || this.root.scrollTop > NEAR_TOP || first <= 1 || client.status !== "live") return;
    this.asking = true;
    await client.history(this.convId, { before: first }, 50).catch(() => {});
    this.asking = false;
  }

  private message(seq: number, message: HeldMessage, seen: boolean, held: Conversation | undefined): HTMLElement {
    const mine = message.senderId === this.device.user;
    const marks = [message.editedAt !== undefined && "edited", seen && "read"].filter(Boolean).join(" · ");
    const reactions = [...message.reactions].map(([key, { users, unnamed }]) =>
      el("span", { class: "reaction", title: [...users].join(", ") }, `${key} ${users.size + unnamed}`));
    const text = message.recalled ? "message recalled" : textOf(message.body);
    return el("li", { class: `message${mine ? " mine" : ""}${message.recalled ? " gone" : ""}`, tabindex: 0, "data-key": `#${seq}`, "data-seq": seq },
      el("div", { class: "bubble" },
        mine || this.convId.startsWith("d:") ? null : el("span", { class: "sender" }, message.senderId),
        el("span", { class: "text" }, text),
        el("span", { class: "meta" }, `#${seq}${marks ? ` · ${marks}` : ""}`), ...reactions),
      held?.leftSeq === undefined || message.recalled ? el("div", { class: "actions" }, ...this.buttons(seq, message, mine)) : null);
  }

  private buttons(seq: number, message: HeldMessage, mine: boolean): HTMLElement[] {
    const { convId, device: { client, user } } = this;
    const button = (label: string, run: () => void): HTMLElement =>
      el("button", { type: "button", "aria-label": `${label} message ${seq}`, onclick: run }, label);
    const act = (label: string, make: () => Promise<unknown>): HTMLElement => button(label, () => this.actions.run(make()));
    const buttons: HTMLElement[] = [];
    if (!message.recalled) {
      for (const key of KEYS) {
        const mineToo = message.reactions.get(key)?.users.has(user) ?? false;
        buttons.push(act(mineToo ? `un${key}` : key, () => client.react(convId, seq, key, !mineToo)));
      }
      if (mine) {
        buttons.push(button("Edit", () => this.actions.edit(seq, textOf(message.body))));
        buttons.push(act("Recall", () => client.recall(convId, seq)));
      }
    }
    buttons.push(act("Delete", () => client.delete(convId, [[seq, seq]])));
    return buttons;
  }

  private waiting(item: OutboxItem, sent: boolean): HTMLElement {
    return el("li", { class: "message mine waiting", tabindex: 0, "data-key": item.clientMsgId },
      el("div", { class: "bubble" }, el("span", { class: "text" }, textOf(item.body)),
        el("span", { class: "meta" }, sent ? "sent" : "in the outbox")));
  }
}
