// The timelines as they grow: one strip for each person's sync timeline, with every device's cursor,
// and one for a conversation. What they show is read from the server by a device of its own that
// begins at the floor: the drawing knows nothing a client could not know.

import { entriesKept } from "./client.js";
import { el, labelOf } from "./dom.js";

const CELL = 27;

const OPS = {
  message: ["M", "message"], recall: ["R", "recall"], edit: ["E", "edit"], reaction: ["+", "reaction"],
  delete: ["D", "delete for me"], clear: ["C", "clear"], read: ["r", "read"], receipt: ["✓", "receipt"],
  member: ["P", "member"], conversation: ["G", "conversation"], settings: ["S", "settings"],
};

const opOf = (op) => OPS[op] ?? ["·", op];

export function legend() {
  const shown = ["message", "edit", "recall", "reaction", "delete", "read", "receipt"];
  return el("ul", { class: "legend", "aria-label": "Operations" }, ...shown.map((op) =>
    el("li", {}, el("span", { class: `cell op-${op}` }, opOf(op)[0]), opOf(op)[1])));
}

// What a cell says when pointed at or read aloud.
function describe(seq, entry) {
  if (!entry) return `${seq}: left out when read, its number counts`;
  const name = opOf(entry.op)[1];
  const place = entry.conv_seq ? ` ${entry.conv_seq}` : "";
  const target = entry.target ? ` of ${entry.target}` : "";
  const conv = entry.conv_id ? ` in ${labelOf(entry.conv_id)}` : "";
  const ranges = entry.ranges ? ` ${entry.ranges.map(([a, b]) => (a === b ? a : `${a}-${b}`)).join(", ")}` : "";
  const read = entry.read_seq ? ` up to ${entry.read_seq}` : "";
  return `${seq}: ${name}${place}${target}${ranges}${read}${conv}`;
}

function cell(seq, entry, extra = "") {
  const text = describe(seq, entry);
  const [letter] = entry ? opOf(entry.op) : ["·"];
  return el("li", { class: `cell ${entry ? `op-${entry.op}` : "left-out"} ${extra}`, title: text, "aria-label": text },
    letter, el("small", {}, seq));
}

// What stands in front of a row under the cells.
function label(name, told) {
  return el("span", { class: "name" }, el("b", {}, name), ` ${told}`);
}

// Common to both kinds: a row of cells that shows the end of a log, and rows under it.
class Strip {
  constructor(title, hint) {
    this.cells = el("ol", { class: "cells" });
    this.facts = el("span", { class: "facts" });
    this.tracks = el("div", { class: "tracks" });
    this.title = el("h2", {}, title);
    this.root = el("section", { class: "strip" },
      el("header", {}, this.title, el("span", { class: "hint" }, hint), this.facts),
      el("div", { class: "log" }, this.cells, this.tracks));
    this.drawn = "";
    new ResizeObserver(() => this.later()).observe(this.root);
  }

  later() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      this.render();
    });
  }

  // First number shown, given the last.
  first(head) {
    const room = Math.max(6, Math.floor((this.cells.clientWidth || 600) / CELL));
    return Math.max(1, head - room + 1);
  }

  replace(cells, tracks) {
    const signature = [...cells, ...tracks].map((node) => node.outerHTML).join("");
    if (signature === this.drawn) return;
    this.drawn = signature;
    const before = this.cells.children.length;
    this.cells.replaceChildren(...cells);
    this.tracks.replaceChildren(...tracks);
    if (before && before < cells.length) this.cells.lastElementChild?.classList.add("new");
  }
}

export class SyncStrip extends Strip {
  constructor(observer, devices) {
    super(`${observer.user}'s sync timeline`, `everything ${observer.user}'s devices must learn; the oldest entries go first`);
    Object.assign(this, { observer, devices });
    this.entries = new Map();
    observer.addEventListener("entry", ({ detail }) => this.entries.set(detail.seq, detail));
    for (const one of [observer, ...devices]) one.addEventListener("change", () => this.later());
    this.later();
  }

  render() {
    const head = Math.max(this.observer.cursor, ...this.devices.map((device) => device.cursor));
    const floor = Math.max(this.observer.floor, head - (entriesKept() ?? head));
    const first = this.first(head);
    this.facts.textContent = head ? `floor ${floor} · head ${head}` : "empty";
    const cells = [];
    for (let seq = first; seq <= head; seq += 1) {
      if (seq <= floor) {
        cells.push(el("li", { class: `cell expired${seq === floor ? " floor" : ""}`, title: `${seq}: below the floor` }));
      } else {
        cells.push(cell(seq, this.entries.get(seq), seq === floor + 1 && floor > 0 ? "above-floor" : ""));
      }
    }
    this.replace(cells, this.devices.map((device) => this.track(device, first, head)));
  }

  // How far a device has come, under the cells it has.
  track(device, first, head) {
    const at = device.cursor;
    const has = Math.max(0, at - first + 1);
    const waiting = Math.max(0, head - at);
    const state = device.state === "live" ? "live" : "off";
    const bar = el("span", { class: "has" });
    bar.style.width = `${has * CELL}px`;
    const gap = el("span", { class: "missing" });
    gap.style.width = `${Math.min(waiting, head - first + 1) * CELL}px`;
    const told = !device.cache.cursor ? "new" : waiting ? `at ${at}, ${waiting} behind` : `at ${at}`;
    return el("div", { class: `track ${state}` }, label(device.name, told), bar, gap);
  }
}

export class ConversationStrip extends Strip {
  constructor(observers, devices) {
    super("", "kept for good; bodies are here and nowhere else");
    Object.assign(this, { observers, devices, id: "d:alice:bob" });
    this.logs = new Map();
    for (const observer of observers) {
      observer.addEventListener("entry", ({ detail }) => this.take(detail));
    }
    for (const one of [...observers, ...devices]) one.addEventListener("change", () => this.later());
    this.later();
  }

  select(id) {
    this.id = id;
    this.later();
  }

  take(entry) {
    if (!entry.conv_id || !entry.conv_seq) return;
    if (!this.logs.has(entry.conv_id)) this.logs.set(entry.conv_id, new Map());
    this.logs.get(entry.conv_id).set(entry.conv_seq, entry);
  }

  // Everything any device knows of the conversation.
  known() {
    return this.devices.map((device) => device.cache.conversations.get(this.id)).filter(Boolean);
  }

  render() {
    const log = new Map(this.logs.get(this.id) ?? []);
    const known = this.known();
    const head = Math.max(0, ...log.keys(), ...known.map((conv) => conv.head));
    const first = this.first(head);
    const recalled = new Set();
    for (const conv of known) {
      // Older than the sync timeline: what devices still hold tells.
      for (const message of conv.messages.values()) {
        if (message.recalled) recalled.add(message.seq);
        if (!log.has(message.seq)) log.set(message.seq, { op: "message", conv_id: this.id, conv_seq: message.seq });
      }
    }
    for (const entry of log.values()) if (entry.op === "recall") recalled.add(entry.target);
    const title = known.find((conv) => conv.title)?.title;
    this.title.textContent = `Conversation timeline: ${labelOf(this.id, title)}`;
    this.facts.textContent = head ? `head ${head}` : "empty";
    const cells = [];
    for (let seq = first; seq <= head; seq += 1) {
      cells.push(cell(seq, log.get(seq), recalled.has(seq) ? "erased" : ""));
    }
    this.replace(cells, ["alice", "bob"].map((user) => this.track(user, first, head)));
  }

  // What one person sees of it, and has read.
  track(user, first, head) {
    const mine = this.devices.filter((device) => device.user === user);
    const best = mine.reduce((a, b) => (b.cursor > a.cursor ? b : a));
    const conv = best.cache.conversations.get(this.id);
    const marks = [];
    for (let seq = first; conv && seq <= head; seq += 1) {
      const isUnread = best.cache.counts(conv, conv.messages.get(seq));
      const kind = best.cache.isDeleted(conv, seq) ? "deleted" : isUnread ? "unread" : "seen";
      marks.push(el("span", { class: `mark ${kind}` }));
    }
    const told = conv ? `read ${conv.read}, unread ${conv.unread}` : "not in it";
    return el("div", { class: `track marks ${user}` }, label(user, told), ...marks);
  }
}
