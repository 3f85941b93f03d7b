// Puts the page together: devices side by side, and the timelines under them.

import { Device } from "./device.js";
import { askDevice } from "./dialogs.js";
import { Observer } from "./observer.js";
import { Pane } from "./pane.js";
import { play } from "./story.js";
import { ConversationStrip, legend, SyncStrip } from "./strips.js";

const FIRST: [string, string][] = [["alice", "phone"], ["alice", "laptop"], ["bob", "phone"], ["bob", "laptop"]];
const ADDED = "everline/added";
const CONV = "d:alice:bob";

function at<T extends HTMLElement>(id: string): T {
  const node = document.getElementById(id);
  if (!node) throw new Error(`the page has no ${id}`);
  return node as T;
}

const panes: Pane[] = [];
const observers = new Map<string, Observer>();
const devices = (): Device[] => panes.map((pane) => pane.device);
const conversation = new ConversationStrip(devices);
at("strips").append(conversation.root);
at("legend").append(legend());

/** A timeline under the devices, for each person once. */
function watch(user: string): void {
  if (observers.has(user)) return;
  const observer = new Observer(user);
  observers.set(user, observer);
  conversation.watch(observer);
  const strip = new SyncStrip(observer, () => devices().filter((device) => device.user === user));
  conversation.root.before(strip.root);
  addEventListener("everline-changed", () => strip.later());
}

function added(): [string, string][] {
  return JSON.parse(sessionStorage.getItem(ADDED) ?? "[]") as [string, string][];
}

function add(user: string, name: string, removable: boolean): Pane {
  const device = new Device(user, name);
  const remove = (): void => {
    device.switch(false);
    panes.splice(panes.indexOf(pane), 1);
    pane.root.remove();
    sessionStorage.setItem(ADDED, JSON.stringify(added().filter(([one, two]) => one !== user || two !== name)));
    dispatchEvent(new Event("everline-changed"));
  };
  const pane: Pane = new Pane(device, (convId) => conversation.select(convId), removable ? remove : undefined);
  device.addEventListener("change", () => {
    conversation.later();
    dispatchEvent(new Event("everline-changed"));
  });
  panes.push(pane);
  at("devices").append(pane.root);
  watch(user);
  return pane;
}

for (const [user, name] of FIRST) add(user, name, false).show(CONV);
for (const [user, name] of added()) add(user, name, true);

const told = at("told");
const named = (user: string, name: string): Device => {
  const found = devices().find((device) => device.user === user && device.name === name);
  if (!found) throw new Error(`no ${user} ${name}`);
  return found;
};

at("story").addEventListener("click", async () => {
  at<HTMLButtonElement>("story").disabled = true;
  for (const pane of panes) if (pane.device.user === "alice" || pane.device.user === "bob") pane.show(CONV);
  await play(named("alice", "phone"), named("bob", "phone"), named("bob", "laptop"), (text) => { told.textContent = text; });
  at<HTMLButtonElement>("story").disabled = false;
});

at("add").addEventListener("click", async () => {
  const asked = await askDevice();
  if (!asked) return;
  const { user, name } = asked;
  if (devices().some((device) => device.user === user && device.name === name)) {
    told.textContent = `${user}'s ${name} is here already.`;
    return;
  }
  sessionStorage.setItem(ADDED, JSON.stringify([...added(), [user, name]]));
  const pane = add(user, name, true);
  pane.root.scrollIntoView({ behavior: "smooth", inline: "nearest", block: "nearest" });
});

// For tests that drive the page from outside.
Object.assign(window, { everline: { panes, observers } });
