// One device on the screen: its switch, its list of conversations, and the one that is open.

import { directId, EverlineError } from "../../js/src/index.js";
import type { ClientEvent } from "../../js/src/index.js";
import type { Device } from "./device.js";
import { askPeople } from "./dialogs.js";
import { el, hueOf, labelOf, perFrame } from "./dom.js";
import { conversationList } from "./list.js";
import { Messages } from "./messages.js";

const STATES = { disconnected: "off line", connecting: "connecting", syncing: "catching up", live: "live" };
/** "is typing" is told this often, and shown this long: milliseconds. */
const TYPING_EVERY = 3000;
const TYPING_SHOWN = 5000;
/** Users of one `presence` request. */
const MOST_WATCHED = 1000;

export class Pane {
  readonly root: HTMLElement;
  /** The conversation that is open; none: the list. */
  open: string | undefined;
  private editing: number | undefined;
  private typedAt = 0;
  private typing = new Map<string, number>();
  /** Whose typing this connection was asked to tell; empty: nobody's. */
  private watched = "";
  private readonly state = el("span", { class: "state", role: "status" });
  private readonly toggle: HTMLButtonElement;
  private readonly bar = el("div", { class: "bar" });
  private readonly body = el("div", { class: "body" });
  private readonly messages: Messages;
  private readonly input: HTMLInputElement;
  private readonly submit = el("button", { type: "submit" }, "Send");
  private readonly form: HTMLFormElement;
  private readonly cursor = el("span", { class: "cursor" });
  private readonly note = el("span", { class: "note", role: "status" });
  private shown = "";
  private readonly later = perFrame(() => this.render());

  constructor(readonly device: Device, private readonly onOpen: (convId: string) => void, close?: () => void) {
    const { user, name } = device;
    const whose = `${user}'s ${name}`;
    this.toggle = el("button", {
      class: "switch", type: "button", role: "switch", "aria-label": `${whose} on line`,
      onclick: () => device.switch(!device.online),
    }, el("span", { class: "knob" }));
    this.messages = new Messages(device, { edit: (seq, text) => this.edit(seq, text), run: (what) => void this.run(what) });
    this.messages.root.addEventListener("click", () => this.read());
    this.input = el("input", {
      type: "text", name: "text", autocomplete: "off", maxlength: 2000, placeholder: `Write as ${user}`,
      "aria-label": `Write as ${user} on the ${name}`, onfocus: () => this.read(), oninput: () => this.tellTyping(),
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.edit(undefined, "");
    });
    this.form = el("form", { class: "compose", onsubmit: (event) => this.send(event) }, this.input, this.submit);
    const forget = el("button", {
      type: "button", class: "quiet", title: "Forgets everything, as a new device would",
      "aria-label": `${whose} forgets everything`, onclick: () => void device.forget(),
    }, "Forget");
    const remove = close && el("button", { type: "button", class: "quiet", "aria-label": `Remove ${whose}`, onclick: close }, "Remove");
    this.root = el("section", { class: `device hue-${hueOf(user)}`, "aria-label": whose },
      el("header", {}, el("h2", {}, el("span", { class: "who" }, user), ` ${name}`), this.state, this.toggle),
      this.bar, this.body, this.form, el("footer", {}, this.cursor, this.note, forget, remove));
    device.addEventListener("change", () => this.later());
    device.addEventListener("told", (event) => this.told((event as CustomEvent<ClientEvent>).detail));
    this.later();
  }

  /** Shows a conversation, or the list. */
  show(convId: string | undefined): void {
    this.open = convId;
    this.edit(undefined, "");
    this.messages.toEnd();
    if (convId) {
      this.onOpen(convId);
      this.read();
    }
    this.later();
  }

  // ---- what the user does -----------------------------------------------------------------------

  private read(): void {
    const { client } = this.device;
    const held = this.open ? client.state.conversations.get(this.open) : undefined;
    if (!this.open || !held || client.unread(this.open) === 0 || client.status !== "live") return;
    void this.run(client.read(this.open, Math.max(held.heldTo, ...held.messages.keys())));
  }

  private send(event: Event): void {
    event.preventDefault();
    const text = this.input.value.trim();
    if (!text || !this.open) return;
    const { client } = this.device;
    if (this.editing !== undefined) {
      void this.run(client.edit(this.open, this.editing, { text }));
      this.edit(undefined, "");
      return;
    }
    this.input.value = "";
    this.typedAt = 0;
    this.messages.toEnd();
    void this.run(client.queue({ to: { conv_id: this.open }, body: { text } }).then(({ sent }) => sent));
  }

  private edit(seq: number | undefined, text: string): void {
    if (seq === undefined && this.editing === undefined) return;
    this.editing = seq;
    this.input.value = text;
    this.submit.textContent = seq === undefined ? "Send" : "Save";
    this.form.classList.toggle("editing", seq !== undefined);
    if (seq !== undefined) this.input.focus();
  }

  private async run(what: Promise<unknown>): Promise<void> {
    try {
      await what;
      this.note.textContent = "";
    } catch (error) {
      const off = error instanceof EverlineError && error.failure === "disconnected";
      this.note.textContent = off ? "only on line" : error instanceof EverlineError ? error.frame?.message ?? error.message : String(error);
    }
  }

  private async begin(): Promise<void> {
    const { client, user } = this.device;
    const asked = await askPeople(`New conversation as ${user}`, "Begin", [user], true);
    const [first] = asked?.users ?? [];
    if (!asked || !first) return;
    if (asked.users.length === 1 && !asked.title) return this.show(directId(user, first));
    const title = asked.title || asked.users.join(", ");
    await this.run(client.create({ members: asked.users, title }, crypto.randomUUID()).then((convId) => this.show(convId)));
  }

  private async invite(convId: string): Promise<void> {
    const { client } = this.device;
    const members = [...client.state.conversations.get(convId)?.members?.keys() ?? []];
    const asked = await askPeople("Invite", "Invite", members, false);
    if (asked) await this.run(client.invite(convId, asked.users));
  }

  /** Asks to be told when the others of the open conversation type. */
  private watch(): void {
    const { client, user } = this.device;
    if (client.status !== "live") {
      this.watched = "";
      return;
    }
    const held = this.open ? client.state.conversations.get(this.open) : undefined;
    if (!this.open || !held) return;
    const people = this.open.startsWith("d:") ? this.open.split(":").slice(1) : [...held.members?.keys() ?? []];
    const others = people.filter((one) => one !== user).slice(0, MOST_WATCHED);
    const whom = others.join(" ");
    if (!others.length || whom === this.watched) return;
    this.watched = whom;
    client.presence(others).catch(() => { this.watched = ""; });
  }

  private tellTyping(): void {
    const now = Date.now();
    if (!this.open || now - this.typedAt < TYPING_EVERY || this.device.client.status !== "live") return;
    this.typedAt = now;
    this.device.client.typing(this.open);
  }

  private told(event: ClientEvent): void {
    if (event.type === "typing") {
      this.typing.set(`${event.convId} ${event.userId}`, Date.now() + TYPING_SHOWN);
      setTimeout(() => this.later(), TYPING_SHOWN + 50);
    } else if (event.type === "applied" && event.live) {
      for (const entry of event.entries) if (entry.op === "message") this.typing.delete(`${entry.conv_id} ${entry.sender_id}`);
      // Whoever writes here has it before his eyes.
      if (document.activeElement === this.input) this.read();
    } else if (event.type === "failed") {
      this.note.textContent = event.error.message;
    }
  }

  // ---- drawing ----------------------------------------------------------------------------------

  private render(): void {
    const { device, root } = this;
    const { client } = device;
    root.dataset.state = client.status;
    root.dataset.view = this.open ? "conversation" : "list";
    const shown = client.status === "disconnected" && device.online && !device.why ? "waiting to connect" : STATES[client.status];
    setText(this.state, device.why || shown);
    this.toggle.setAttribute("aria-checked", String(device.online));
    setText(this.cursor, client.state.cursor ? `cursor ${client.cursor.seq}` : "no cursor");
    this.form.hidden = !this.open;
    this.watch();
    if (this.open) this.renderConversation(this.open);
    else this.renderList();
  }

  private renderList(): void {
    const list = conversationList(this.device, (convId) => this.show(convId));
    const signature = `list ${list.outerHTML}`;
    if (signature === this.shown) return;
    this.shown = signature;
    const focused = document.activeElement?.closest<HTMLElement>("[data-conv]");
    const key = focused && this.body.contains(focused) ? focused.dataset.conv : undefined;
    this.bar.replaceChildren(el("span", { class: "title" }, "Conversations"),
      el("button", { type: "button", class: "quiet", onclick: () => void this.begin() }, "New"));
    this.body.replaceChildren(list.children.length ? list : el("p", { class: "empty" }, "Nothing here yet."));
    if (key) [...this.body.querySelectorAll<HTMLElement>("[data-conv]")].find((row) => row.dataset.conv === key)?.focus();
  }

  private renderConversation(convId: string): void {
    const { device: { client, user } } = this;
    const held = client.state.conversations.get(convId);
    const others = [...client.state.conversations.keys()].filter((one) => one !== convId);
    const elsewhere = others.reduce((sum, one) => sum + client.unread(one), 0);
    const now = Date.now();
    const typing = [...this.typing].filter(([key, until]) => key.startsWith(`${convId} `) && until > now).map(([key]) => key.split(" ")[1]);
    const members = held?.members?.size;
    const hint = typing.length ? `${typing.join(", ")} typing…` : held?.leftSeq !== undefined ? "you left"
      : members && !convId.startsWith("d:") ? `${members} members` : "";
    const unread = client.unread(convId);
    const title = labelOf(convId, held?.title, user);
    const signature = JSON.stringify([convId, title, hint, elsewhere, unread]);
    if (signature !== this.shown) {
      this.shown = signature;
      const hadFocus = this.bar.contains(document.activeElement);
      const back = el("button", {
        type: "button", class: "back", "aria-label": `Conversations${elsewhere ? `, ${elsewhere} unread` : ""}`, onclick: () => this.show(undefined),
      }, "‹", elsewhere ? el("span", { class: "badge" }, elsewhere) : null);
      const invite = convId.startsWith("g:") && held?.leftSeq === undefined
        ? el("button", { type: "button", class: "quiet", onclick: () => void this.invite(convId) }, "Invite") : null;
      this.bar.replaceChildren(back, el("span", { class: "title" }, title),
        unread ? el("span", { class: "badge", "aria-label": `${unread} unread` }, unread) : el("span", {}), el("span", { class: "hint" }, hint), ...(invite ? [invite] : []));
      if (hadFocus) back.focus();
    }
    if (this.body.firstChild !== this.messages.root) this.body.replaceChildren(this.messages.root);
    this.messages.render(convId);
  }
}

function setText(node: HTMLElement, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}
