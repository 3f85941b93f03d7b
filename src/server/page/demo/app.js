// Puts the page together: four devices, three strips, two observers.

import { Device } from "./client.js";
import { el } from "./dom.js";
import { Panel } from "./panel.js";
import { play } from "./story.js";
import { ConversationStrip, SyncStrip, legend } from "./strips.js";

const USERS = ["alice", "bob"];
const NAMES = ["phone", "laptop"];

const devices = {};
for (const user of USERS) {
  for (const name of NAMES) devices[`${user} ${name}`] = new Device({ user, name });
}
const all = Object.values(devices);
const observers = USERS.map((user) => new Device({ user, name: "drawing", fromFloor: true }));
const conversation = new ConversationStrip(observers, all);
const panels = all.map((device) => new Panel(device, { onSelect: (id) => conversation.select(id) }));

document.querySelector("#devices").append(...panels.map((panel) => panel.root));
document.querySelector("#strips").append(
  ...observers.map((observer) => new SyncStrip(observer, all.filter((device) => device.user === observer.user)).root),
  conversation.root,
);
document.querySelector("#legend").append(legend());

const told = document.querySelector("#told");
const storyButton = document.querySelector("#story");
storyButton.addEventListener("click", async () => {
  storyButton.disabled = true;
  for (const panel of panels) panel.select("d:alice:bob");
  await play(devices, (text) => { told.textContent = text; });
  storyButton.disabled = false;
});

const groupButton = document.querySelector("#group");
groupButton.addEventListener("click", async () => {
  const device = devices["alice phone"];
  const title = `trip ${new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`;
  try {
    const fields = { members: ["alice", "bob", "carol"], title, op_id: crypto.randomUUID() };
    const { conv_id } = await device.request("create", fields);
    told.textContent = `Alice made the group “${title}” with Bob and Carol.`;
    for (const panel of panels) panel.select(conv_id);
  } catch (error) {
    told.textContent = error.code === "disconnected" ? "Alice's phone is off line." : error.message;
  }
});

for (const device of [...observers, ...all]) device.online();

// For tests that drive the page from outside.
window.everline = { devices, observers };
