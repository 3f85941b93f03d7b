// The web client in a real Chromium, against the real server: two people, four devices.
//
//   node test/browser.mjs                    runs it
//   node test/browser.mjs --screenshots DIR  and writes pictures there

import assert from "node:assert/strict";
import { join } from "node:path";

import { flood, startBrowser, startDemo } from "./demo.mjs";

const DEADLINE = 60_000;
const pictures = process.argv.includes("--screenshots") ? process.argv.at(process.argv.indexOf("--screenshots") + 1) : undefined;
const DESK = { width: 1400, height: 1000 };
const PHONE = { width: 390, height: 844 };

const demo = await startDemo();
const browser = await startBrowser({ viewport: DESK, colorScheme: "light", reducedMotion: "reduce" });
const page = browser.context.pages()[0] ?? await browser.context.newPage();
page.setDefaultTimeout(DEADLINE);
const failures = [];
page.on("pageerror", (error) => failures.push(String(error)));
page.on("console", (message) => message.type() === "error" && !/ERR_CONNECTION|WebSocket/.test(message.text()) && failures.push(message.text()));

// What goes over the line, and whether answers are held back.
let hold = false;
const said = [];
await page.routeWebSocket(/\/v1\/ws$/, (socket) => {
  const server = socket.connectToServer();
  socket.onMessage((text) => {
    said.push(JSON.parse(String(text)));
    server.send(text);
  });
  server.onMessage((text) => {
    if (!hold) socket.send(text);
  });
});

const pane = (whose) => page.getByRole("region", { name: whose, exact: true });
const messages = (whose) => pane(whose).getByRole("log").locator("li");
const message = (whose, text) => messages(whose).filter({ hasText: text });
const live = (whose) => pane(whose).getByRole("status").filter({ hasText: /^live$/ }).waitFor();
const toggle = (whose) => pane(whose).getByRole("switch");
const ALICE = "alice's phone";
const BOB = "bob's phone";
const LAPTOP = "bob's laptop";

async function say(whose, text) {
  await pane(whose).getByRole("textbox").fill(text);
  await pane(whose).getByRole("textbox").press("Enter");
}

async function act(whose, text, button) {
  await message(whose, text).focus();
  await message(whose, text).getByRole("button", { name: new RegExp(`^${button} message`) }).click();
}

/** What a device knows of the direct conversation, as text. */
const held = (whose) => page.evaluate((whose) => {
  const found = window.everline.panes.find(({ device }) => `${device.user}'s ${device.name}` === whose);
  const conversation = found.device.client.state.conversations.get("d:alice:bob");
  return JSON.stringify([...conversation.messages].sort(([a], [b]) => a - b).map(([seq, { body, recalled }]) => [seq, body?.text, recalled]));
}, whose);

async function until(what, isSo) {
  const deadline = Date.now() + DEADLINE;
  while (!(await isSo())) {
    if (Date.now() > deadline) throw new Error(`${what}: did not happen in time`);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}

async function picture(name) {
  await page.mouse.move(700, 60);
  if (pictures) await page.screenshot({ path: join(pictures, `${name}.png`) });
}

const tests = {
  async "what one device sends every device has"() {
    await say(ALICE, "Hi Bob! Dinner tonight?");
    for (const whose of [BOB, LAPTOP, "alice's laptop"]) await message(whose, "Dinner tonight").waitFor();
    await say(BOB, "With pleasure. Where?");
    await message(ALICE, "With pleasure").waitFor();
    await say(ALICE, "The little place by the canal, at eight");
    await act(BOB, "by the canal", "♥");
    await message(ALICE, "by the canal").locator(".reaction").filter({ hasText: "♥ 1" }).waitFor();
    await act(ALICE, "by the canal", "Edit");
    await pane(ALICE).getByRole("textbox").fill("The little place at the harbour, at eight");
    await pane(ALICE).getByRole("textbox").press("Enter");
    await message(BOB, "at the harbour").filter({ hasText: "edited" }).waitFor();
  },

  async "others see that somebody types, until he has sent it"() {
    const typing = (whose) => pane(whose).getByText("alice typing…");
    await pane(ALICE).getByRole("textbox").focus();
    await until("bob sees alice typing", async () => {
      await page.keyboard.press("x");
      return await typing(BOB).count() === 1 && await typing(LAPTOP).count() === 1;
    });
    assert.equal(await typing("alice's laptop").count(), 0, "not on her own devices");
    await say(ALICE, "I was only thinking");
    await message(BOB, "only thinking").waitFor();
    await typing(BOB).waitFor({ state: "detached" });
    await act(ALICE, "only thinking", "Delete");
    await act(BOB, "only thinking", "Delete");
  },

  async "a device that was off line learns a delete and a recall"() {
    await say(ALICE, "Bring the blue umbrella");
    await say(ALICE, "No, the other way round");
    for (const whose of [BOB, LAPTOP]) await message(whose, "other way round").waitFor();
    // With the keyboard, as everything.
    await toggle(LAPTOP).focus();
    await page.keyboard.press("Space");
    await pane(LAPTOP).getByRole("status").filter({ hasText: "off line" }).waitFor();
    await act(BOB, "Dinner tonight", "Delete");
    await message(BOB, "Dinner tonight").waitFor({ state: "detached" });
    await act(ALICE, "other way round", "Recall");
    await message(BOB, "message recalled").waitFor();
    await say(BOB, "Found it, see you there");
    await message(ALICE, "see you there").waitFor();
    // Still there on the device that knows nothing of it.
    assert.equal(await message(LAPTOP, "Dinner tonight").count(), 1);
    assert.equal(await message(LAPTOP, "other way round").count(), 1);
    await picture("demo");
    await page.emulateMedia({ colorScheme: "dark" });
    await picture("demo-dark");
    await page.emulateMedia({ colorScheme: "light" });
    await toggle(LAPTOP).click();
    await live(LAPTOP);
    await message(LAPTOP, "Dinner tonight").waitFor({ state: "detached" });
    await message(LAPTOP, "other way round").waitFor({ state: "detached" });
    await message(LAPTOP, "see you there").waitFor();
    assert.equal(await message(ALICE, "Dinner tonight").count(), 1, "others keep it");
    assert.equal(await held(LAPTOP), await held(BOB));
  },

  async "a group is made, people are invited, unread is counted until it is read"() {
    await pane(ALICE).getByRole("button", { name: /^Conversations/ }).click();
    await pane(ALICE).getByRole("button", { name: "New" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("bob").check();
    await dialog.getByLabel("Title").fill("trip");
    await dialog.getByRole("button", { name: "Begin" }).click();
    await pane(ALICE).getByText("2 members").waitFor();
    await say(ALICE, "Who drives?");
    await message(ALICE, "Who drives?").waitFor();
    await pane(ALICE).getByRole("button", { name: "Invite" }).click();
    await dialog.getByLabel("carol").check();
    await dialog.getByRole("button", { name: "Invite" }).click();
    await pane(ALICE).getByText("3 members").waitFor();
    await pane(BOB).getByRole("button", { name: "Conversations, 1 unread" }).click();
    await pane(BOB).getByRole("button", { name: "trip, 1 unread" }).click();
    await message(BOB, "Who drives?").waitFor();
    await until("it is read on both devices", async () =>
      await pane(LAPTOP).getByRole("button", { name: "Conversations", exact: true }).count() === 1);
    for (const whose of [ALICE, BOB]) {
      await pane(whose).getByRole("button", { name: /^Conversations/ }).click();
      await pane(whose).getByRole("button", { name: whose === ALICE ? /^bob/ : /^alice/ }).click();
    }
  },

  async "a page reloaded in the middle of sending sends once"() {
    hold = true;
    await say(ALICE, "sent into a silent line");
    await until("it went out", () => said.some((frame) => frame.type === "send" && frame.body.text === "sent into a silent line"));
    await message(ALICE, "in the outbox").waitFor();
    await page.reload();
    await message(ALICE, "sent into a silent line").filter({ hasText: "in the outbox" }).waitFor();
    // What was there is there, before any server was asked.
    await message(ALICE, "at the harbour").waitFor();
    hold = false;
    await page.reload();
    await live(ALICE);
    await message(BOB, "sent into a silent line").waitFor();
    await message(ALICE, "in the outbox").waitFor({ state: "detached" });
    const tries = said.filter((frame) => frame.type === "send" && frame.body.text === "sent into a silent line");
    assert.ok(tries.length > 1, "it was sent again");
    assert.equal(new Set(tries.map((frame) => frame.client_msg_id)).size, 1, "under one key");
    for (const whose of [ALICE, BOB]) assert.equal(await message(whose, "sent into a silent line").count(), 1);
  },

  async "a device 1,000 entries behind is reset and misses nothing"() {
    await toggle(LAPTOP).click();
    await pane(LAPTOP).getByRole("status").filter({ hasText: "off line" }).waitFor();
    await act(ALICE, "blue umbrella", "Recall");
    await act(BOB, "at the harbour", "Delete");
    await flood(demo.address, "alice", "d:alice:bob", 1010);
    await say(ALICE, "the last of many");
    await message(BOB, "the last of many").waitFor();
    await page.getByText(/at \d+, below the floor/).waitFor();
    await picture("demo-reset");
    const resets = page.evaluate(() => new Promise((resolve) => {
      const { device } = window.everline.panes.find(({ device }) => device.user === "bob" && device.name === "laptop");
      const seen = [];
      device.addEventListener("told", ({ detail }) => {
        if (detail.type === "reset" || detail.type === "reconciled") seen.push(detail.reason ?? detail.type);
        if (seen.length === 2) resolve(seen);
      });
    }));
    await toggle(LAPTOP).click();
    assert.deepEqual(await resets, ["too_old", "reconciled"]);
    await live(LAPTOP);
    await message(LAPTOP, "the last of many").waitFor();
    assert.equal(await held(LAPTOP), await held(BOB));
    for (const gone of ["umbrella", "harbour"]) assert.ok(!(await held(LAPTOP)).includes(gone), gone);
  },

  async "a new device has the newest page, and older ones as it scrolls"() {
    await pane(LAPTOP).getByRole("button", { name: /forgets everything/ }).click();
    await live(LAPTOP);
    await message(LAPTOP, "the last of many").waitFor();
    const before = JSON.parse(await held(LAPTOP)).length;
    assert.ok(before <= 200, `${before} messages of a page`);
    await pane(LAPTOP).getByRole("log").evaluate((log) => { log.scrollTop = 0; });
    await until("older ones", async () => JSON.parse(await held(LAPTOP)).length > before);
  },

  async "the page fits a phone, and everything has a name"() {
    await page.setViewportSize(PHONE);
    await until("nothing sticks out", () => page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth));
    await picture("demo-phone");
    await page.setViewportSize(DESK);
    const nameless = await page.evaluate(() => [...document.querySelectorAll("button, input")]
      .filter((one) => !(one.ariaLabel || one.textContent?.trim() || one.getAttribute("aria-label"))).length);
    assert.equal(nameless, 0);
  },
};

let failed = 0;
try {
  await page.goto(`http://${demo.address}/`);
  for (const whose of [ALICE, "alice's laptop", BOB, LAPTOP]) await live(whose);
  for (const [name, run] of Object.entries(tests)) {
    const began = Date.now();
    try {
      await run();
      assert.deepEqual(failures, [], "errors of the page");
      console.log(`ok   ${name} (${Date.now() - began} ms)`);
    } catch (error) {
      failed += 1;
      console.error(`FAIL ${name}\n${error.stack}\n${failures.join("\n")}`);
      await page.screenshot({ path: join(process.env.TMPDIR ?? "/tmp", "everline-browser-failure.png") });
      break;
    }
  }
} finally {
  await browser.stop();
  await demo.stop();
}
process.exit(failed ? 1 : 0);
