// The timelines as they grow: one strip for each person's sync timeline with every device's cursor, and
// one for a conversation.

import { isHidden } from "../../js/src/index.js";
import type { Conversation, Entry, Event as LogEvent } from "../../js/src/index.js";
import { entriesKept } from "./device.js";
import type { Device } from "./device.js";
import { el, hueOf, labelOf, perFrame } from "./dom.js";
import type { Observer } from "./observer.js";

/** Width of a cell with its gap: pixels. */
const CELL = 27;

const OPS: Record<string, [string, string]> = {
  message: ["M", "message"], recall: ["R", "recall"], edit: ["E", "edit"], reaction: ["+", "reaction"],
  delete: ["D", "delete for me"], clear: ["C", "clear"], read: ["r", "read"], receipt: ["✓", "receipt"],
  member: ["P", "member"], conversation: ["G", "conversation"], settings: ["S", "settings"], mention: ["@", "mention"],
  notification: ["N", "notification"],
};
const opOf = (op: string): [string, string] => OPS[op] ?? ["·", op];

export function legend(): HTMLElement {
  const shown = ["message", "edit", "recall", "reaction", "delete", "read", "receipt", "conversation"];
  return el("ul", { class: "legend", "aria-label": "Operations" },
    ...shown.map((op) => el("li", {}, el("span", { class: `cell op-${op}`, "aria-hidden": "true" }, opOf(op)[0]), opOf(op)[1])));
}

/** What a cell says when pointed at or read aloud. */
function describe(seq: number, entry: LogEvent | undefined): string {
  if (!entry) return `${seq}: left out when read, its number counts`;
  const place = "conv_seq" in entry && entry.conv_seq ? ` ${entry.conv_seq}` : "";
  const target = "target" in entry ? ` of ${entry.target}` : "";
  const ranges = entry.op === "delete" ? ` ${entry.ranges.map(([a, b]) => (a === b ? a : `${a}-${b}`)).join(", ")}` : "";
  const read = "read_seq" in entry ? ` up to ${entry.read_seq}` : "";
  const conv = "conv_id" in entry && entry.conv_id ? ` in ${labelOf(entry.conv_id, undefined)}` : "";
  return `${seq}: ${opOf(entry.op)[1]}${place}${target}${ranges}${read}${conv}`;
}

function cell(seq: number, entry: LogEvent | undefined, extra = ""): HTMLElement {
  const text = describe(seq, entry);
  const [letter] = entry ? opOf(entry.op) : ["·"];
  return el("li", { class: `cell ${entry ? `op-${entry.op}` : "left-out"} ${extra}`, title: text, "aria-label": text },
    letter, el("small", {}, seq));
}

const label = (name: string, told: string): HTMLElement => el("span", { class: "label" }, el("b", {}, name), ` ${told}`);

/** Common to both kinds: a row of cells that shows the end of a log, and rows under it. */
abstract class Strip {
  readonly root: HTMLElement;
  protected readonly title: HTMLElement;
  protected readonly facts = el("span", { class: "facts" });
  protected readonly overview = el("div", { class: "overview", "aria-hidden": "true" });
  private readonly cells = el("ol", { class: "cells" });
  private readonly tracks = el("div", { class: "tracks" });
  private drawn = "";
  readonly later = perFrame(() => this.render());

  constructor(title: string, hint: string) {
    this.title = el("h2", {}, title);
    this.root = el("section", { class: "strip" },
      el("header", {}, this.title, el("span", { class: "hint" }, hint), this.facts),
      el("div", { class: "log" }, this.overview, this.cells, this.tracks));
    new ResizeObserver(() => this.later()).observe(this.root);
  }

  protected abstract render(): void;

  /** First number shown, given the last. */
  protected first(head: number): number {
    const room = Math.max(6, Math.floor((this.cells.clientWidth || 600) / CELL));
    return Math.max(1, head - room + 1);
  }

  protected replace(overview: HTMLElement[], cells: HTMLElement[], tracks: HTMLElement[]): void {
    const signature = [...overview, ...cells, ...tracks].map((node) => node.outerHTML).join("");
    if (signature === this.drawn) return;
    this.drawn = signature;
    this.overview.replaceChildren(...overview);
    this.cells.replaceChildren(...cells);
    this.tracks.replaceChildren(...tracks);
  }
}

/** A user's sync timeline: floor, head, and where each device is. */
export class SyncStrip extends Strip {
  constructor(private readonly observer: Observer, private readonly devices: () => Device[]) {
    super(`${observer.user}'s sync timeline`, `what ${observer.user}'s devices must learn, in one order; the oldest go first`);
    this.root.classList.add(`hue-${hueOf(observer.user)}`);
    observer.addEventListener("change", () => this.later());
    this.later();
  }

  protected render(): void {
    const devices = this.devices();
    const head = Math.max(this.observer.head, ...devices.map(({ client }) => client.cursor.seq));
    const floor = Math.max(this.observer.floor, head - (entriesKept() ?? head));
    const first = this.first(head);
    this.facts.textContent = head ? `floor ${floor} · head ${head}` : "empty";
    const cells: HTMLElement[] = [];
    for (let seq = first; seq <= head; seq += 1) {
      if (seq <= floor) cells.push(el("li", { class: "cell expired", title: `${seq}: below the floor` }, el("small", {}, seq)));
      else cells.push(cell(seq, this.observer.entries.get(seq), seq === floor + 1 && floor > 0 ? "above-floor" : ""));
    }
    this.replace(overview(floor, head, devices), cells, devices.map((device) => track(device, first, head, floor)));
  }
}

/** The whole timeline in one line: what is gone, what is kept, and a tick for each device. */
function overview(floor: number, head: number, devices: Device[]): HTMLElement[] {
  if (head === 0) return [];
  const at = (seq: number): string => `${(seq / head) * 100}%`;
  const gone = el("span", { class: "gone" });
  gone.style.width = at(floor);
  const kept = el("span", { class: "kept" });
  kept.style.left = at(floor);
  const ticks = devices.map((device) => {
    const tick = el("span", { class: `tick ${device.client.status === "live" ? "live" : "off"}` });
    tick.style.left = at(Math.min(head, device.client.cursor.seq));
    return tick;
  });
  return [gone, kept, ...ticks];
}

/** How far a device has come, under the cells it has. */
function track(device: Device, first: number, head: number, floor: number): HTMLElement {
  const { seq: at } = device.client.cursor;
  const bar = el("span", { class: "has" });
  bar.style.width = `${Math.max(0, at - first + 1) * CELL}px`;
  const gap = el("span", { class: "missing" });
  gap.style.width = `${Math.min(Math.max(0, head - at), head - first + 1) * CELL}px`;
  const told = !device.client.state.cursor ? "new" : at < floor ? `at ${at}, below the floor` : at < head ? `at ${at}, ${head - at} behind` : `at ${at}`;
  return el("div", { class: `track ${device.client.status === "live" ? "live" : "off"}` }, label(device.name, told), bar, gap);
}

/** A conversation's timeline, and what each person sees of it. */
export class ConversationStrip extends Strip {
  private id = "d:alice:bob";
  private readonly logs = new Map<string, Map<number, LogEvent>>();

  constructor(private readonly devices: () => Device[]) {
    super("", "kept for good; bodies are here and nowhere else");
    this.later();
  }

  watch(observer: Observer): void {
    observer.addEventListener("entry", (event) => this.take((event as CustomEvent<Entry>).detail));
    observer.addEventListener("change", () => this.later());
  }

  select(id: string): void {
    this.id = id;
    this.later();
  }

  private take(entry: Entry): void {
    if (!("conv_seq" in entry) || !entry.conv_id || !entry.conv_seq) return;
    let log = this.logs.get(entry.conv_id);
    if (!log) this.logs.set(entry.conv_id, (log = new Map()));
    log.set(entry.conv_seq, entry);
  }

  protected render(): void {
    const known = this.devices().flatMap(({ client }) => client.state.conversations.get(this.id) ?? []);
    const log = new Map<number, LogEvent>(this.logs.get(this.id));
    const head = Math.max(0, ...log.keys(), ...known.map((held) => held.heldTo));
    const recalled = new Set<number>();
    for (const held of known) for (const [seq, message] of held.messages) {
      // Older than the sync timeline: what devices still hold tells.
      if (message.recalled) recalled.add(seq);
      if (!log.has(seq)) log.set(seq, { op: "message", conv_id: this.id, conv_seq: seq } as LogEvent);
    }
    for (const entry of log.values()) if (entry.op === "recall") recalled.add(entry.target);
    this.title.textContent = `Conversation timeline: ${labelOf(this.id, known.find((held) => held.title)?.title)}`;
    this.facts.textContent = head ? `head ${head}` : "empty";
    const first = this.first(head);
    const cells: HTMLElement[] = [];
    for (let seq = first; seq <= head; seq += 1) cells.push(cell(seq, log.get(seq), recalled.has(seq) ? "erased" : ""));
    const users = [...new Set(this.devices().map((device) => device.user))];
    this.replace([], cells, users.flatMap((user) => this.track(user, first, head) ?? []));
  }

  /** What one person sees of it, and has read. */
  private track(user: string, first: number, head: number): HTMLElement | undefined {
    const mine = this.devices().filter((device) => device.user === user);
    const best = mine.reduce((a, b) => (b.client.cursor.seq > a.client.cursor.seq ? b : a));
    const held = best.client.state.conversations.get(this.id);
    if (!held) return undefined;
    const marks: HTMLElement[] = [];
    for (let seq = first; seq <= head; seq += 1) marks.push(el("span", { class: `mark ${markOf(held, seq, user)}` }));
    const told = `read ${held.readSeq}, unread ${best.client.unread(this.id)}`;
    return el("div", { class: `track marks hue-${hueOf(user)}` }, label(user, told), ...marks);
  }
}

function markOf(held: Conversation, seq: number, user: string): string {
  if (isHidden(held, seq)) return "deleted";
  const message = held.messages.get(seq);
  return message && seq > held.readSeq && message.senderId !== user && !message.recalled ? "unread" : "seen";
}
