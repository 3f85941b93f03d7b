// One device on the screen: its conversations, messages, and the switch that takes it off line.

import { el, labelOf } from "./dom.js";

const LIKE = "♥";
const STATES = { disconnected: "off line", connecting: "connecting", syncing: "catching up", live: "live" };

export class Panel {
  constructor(device, { onSelect }) {
    this.device = device;
    this.onSelect = onSelect;
    this.selected = "d:alice:bob";
    this.editing = null;
    this.rows = new Map();
    this.atEnd = true;
    this.build();
    device.addEventListener("change", () => this.later());
    this.render();
  }

  build() {
    const { user, name } = this.device;
    this.state = el("span", { class: "state", role: "status" });
    this.toggle = el("button", {
      class: "switch", type: "button", role: "switch", "aria-label": `${user}'s ${name} on line`,
      onclick: () => (this.device.wanted ? this.device.offline() : this.device.online()),
    }, el("span", { class: "knob" }));
    this.tabs = el("div", { class: "tabs", role: "group", "aria-label": `Conversations on ${user}'s ${name}` });
    this.list = el("ol", { class: "messages", tabindex: "0", "aria-label": `Messages on ${user}'s ${name}` });
    this.list.addEventListener("click", () => this.read());
    this.input = el("input", {
      type: "text", name: "text", autocomplete: "off", maxlength: "500", placeholder: `Write as ${user}`,
      "aria-label": `Write as ${user} on the ${name}`, onfocus: () => this.read(),
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.edit(null);
    });
    this.submit = el("button", { type: "submit" }, "Send");
    this.form = el("form", { class: "compose", onsubmit: (event) => this.send(event) }, this.input, this.submit);
    this.cursor = el("span", { class: "cursor" });
    this.note = el("span", { class: "note", role: "status" });
    const forget = el("button", {
      type: "button", class: "quiet", title: "Forgets everything, as a new device would",
      "aria-label": `${user}'s ${name} forgets everything`, onclick: () => this.device.forget(),
    }, "Forget");
    this.root = el("section", { class: `device ${user}`, "aria-label": `${user}'s ${name}` },
      el("header", {},
        el("h2", {}, el("span", { class: "who" }, user), ` ${name}`), this.state, this.toggle),
      this.tabs, this.list, this.form,
      el("footer", {}, this.cursor, this.note, forget));
  }

  later() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      this.render();
    });
  }

  // ---- what the user does -----------------------------------------------------------------------

  select(id) {
    this.selected = id;
    this.edit(null);
    this.atEnd = true;
    this.onSelect(id);
    this.read();
    this.later();
  }

  read() {
    const conv = this.device.cache.conversations.get(this.selected);
    if (conv && conv.unread > 0 && this.device.state === "live") {
      this.ask("read", { conv_id: conv.id, read_seq: conv.head });
    }
  }

  send(event) {
    event.preventDefault();
    const text = this.input.value.trim();
    if (!text) return;
    if (this.editing) {
      this.ask("edit", { conv_id: this.selected, target: this.editing, body: { text } });
      this.edit(null);
    } else {
      this.input.value = "";
      this.onSelect(this.selected);
      this.device.send(this.selected, text);
      this.atEnd = true;
    }
  }

  edit(message) {
    const was = this.editing;
    this.editing = message?.seq ?? null;
    if (message || was) this.input.value = message?.text ?? "";
    this.submit.textContent = message ? "Save" : "Send";
    this.form.classList.toggle("editing", Boolean(message));
    if (message) this.input.focus();
  }

  async ask(type, fields) {
    try {
      await this.device.request(type, fields);
      this.note.textContent = "";
    } catch (error) {
      this.note.textContent = error.code === "disconnected" ? "only on line" : error.message;
    }
  }

  // ---- drawing ----------------------------------------------------------------------------------

  render() {
    const { device } = this;
    const { cache, state } = device;
    this.root.dataset.state = state;
    this.root.dataset.group = String(!this.selected.startsWith("d:"));
    this.state.textContent = device.why || STATES[state];
    this.toggle.setAttribute("aria-checked", String(device.wanted));
    this.cursor.textContent = cache.cursor ? `cursor ${device.cursor}` : "no cursor";
    this.renderTabs();
    const conv = cache.conversations.get(this.selected);
    const unsent = cache.outbox.filter((one) => one.conv_id === this.selected);
    this.renderMessages(conv ? cache.shown(conv) : [], unsent, conv);
  }

  renderTabs() {
    const { cache } = this.device;
    const ids = new Set(["d:alice:bob", ...cache.conversations.keys()]);
    const tabs = [...ids].map((id) => {
      const conv = cache.conversations.get(id);
      const unread = conv?.unread ?? 0;
      const name = labelOf(id, conv?.title, this.device.user);
      return el("button", {
        type: "button", "aria-pressed": String(id === this.selected), onclick: () => this.select(id),
        "aria-label": unread ? `${name}, ${unread} unread` : name,
      }, name, unread ? el("span", { class: "badge" }, unread) : null);
    });
    const signature = tabs.map((tab) => tab.outerHTML).join("");
    if (signature === this.tabsShown) return;
    this.tabsShown = signature;
    this.tabs.replaceChildren(...tabs);
  }

  // Rows that did not change stay, so that a focused message keeps the focus.
  renderMessages(messages, unsent, conv) {
    const { list } = this;
    const wasAtEnd = this.atEnd || list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    this.atEnd = false;
    const kept = new Map();
    const rows = [];
    const add = (key, signature, make) => {
      const old = this.rows.get(key);
      const row = old?.signature === signature ? old : { signature, node: make() };
      kept.set(key, row);
      rows.push(row.node);
    };
    for (const message of messages) {
      const seen = message.sender === this.device.user && conv.peerRead >= message.seq;
      const reactions = [...message.reactions].map(([key, users]) => `${key}${[...users].join()}`).join(" ");
      const { seq, text, recalled, edited } = message;
      add(seq, JSON.stringify([text, recalled, edited, seen, reactions]), () => this.message(message, seen));
    }
    for (const one of unsent) add(one.client_msg_id, `${one.failed}`, () => this.unsent(one));
    this.rows = kept;
    const same = rows.length === list.children.length && rows.every((row, at) => list.children[at] === row);
    if (!same) {
      const focused = document.activeElement;
      list.replaceChildren(...rows);
      if (focused && list.contains(focused)) focused.focus({ preventScroll: true });
    }
    if (wasAtEnd) list.scrollTop = list.scrollHeight;
  }

  message(message, seen) {
    const { user } = this.device;
    const mine = message.sender === user;
    const act = (label, run) => el("button", { type: "button", onclick: run, "aria-label": `${label} message ${message.seq}` }, label);
    const ask = (type, fields) => () => this.ask(type, { conv_id: this.selected, ...fields });
    const reacted = message.reactions.get(LIKE)?.has(user);
    const actions = [act("Delete", ask("delete", { ranges: [[message.seq, message.seq]] }))];
    if (!message.recalled) {
      actions.unshift(act(reacted ? "Unlike" : LIKE, ask("react", { target: message.seq, key: LIKE, add: !reacted })));
      if (mine) actions.push(act("Edit", () => this.edit(message)), act("Recall", ask("recall", { target: message.seq })));
    }
    const reactions = [...message.reactions].map(([key, users]) =>
      el("span", { class: "reaction", title: [...users].join(", ") }, `${key} ${users.size}`));
    const marks = [message.edited && !message.recalled ? "edited" : "", seen ? "read" : ""].filter(Boolean).join(" · ");
    return el("li", { class: `message${mine ? " mine" : ""}${message.recalled ? " gone" : ""}`, tabindex: "0" },
      el("div", { class: "bubble" },
        mine ? null : el("span", { class: "sender" }, message.sender),
        el("span", { class: "text" }, message.recalled ? "message recalled" : message.text),
        el("span", { class: "meta" }, `#${message.seq}${marks ? ` · ${marks}` : ""}`), ...reactions),
      el("div", { class: "actions" }, ...actions));
  }

  unsent(one) {
    return el("li", { class: `message mine waiting${one.failed ? " failed" : ""}`, tabindex: "0" },
      el("div", { class: "bubble" },
        el("span", { class: "text" }, one.text),
        el("span", { class: "meta" }, one.failed ? one.failed : "in the outbox")));
  }
}
