// The demo server and a browser for tests: both on this machine only, both with a directory of their own.
//
// EVERLINE_BIN names the server's binary (the dev build by default), CHROMIUM the browser's.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";
import { WebSocket } from "ws";

const BINARY = process.env.EVERLINE_BIN ?? fileURLToPath(new URL("../../../target/debug/everline", import.meta.url));
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--font-render-hinting=none",
];
const START_WITHIN = 60_000;

/** Starts `everline demo`; its address, and how to stop it. */
export async function startDemo() {
  const dir = mkdtempSync(join(tmpdir(), "everline-web-"));
  const child = spawn(BINARY, ["demo", "--listen", "127.0.0.1:0", "--dir", join(dir, "store")], { cwd: dir, stdio: ["ignore", "pipe", "pipe"] });
  const address = await new Promise((resolve, reject) => {
    let text = "";
    const late = setTimeout(() => reject(new Error(`the demo did not start: ${text}`)), START_WITHIN);
    const read = (chunk) => {
      text += chunk;
      const found = /open http:\/\/([\d.]+:\d+)/.exec(text)?.[1];
      if (found) resolve(found), clearTimeout(late);
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.once("exit", (code) => reject(new Error(`the demo ended with ${code}: ${text}`)));
  });
  return {
    address,
    async stop() {
      const gone = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      await gone;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** Debian's Chromium with a profile of its own. */
export async function startBrowser(options) {
  const executablePath = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((path) => existsSync(path));
  if (!executablePath) throw new Error("no chromium in /usr/bin; CHROMIUM may name one");
  const profile = mkdtempSync(join(tmpdir(), "everline-chromium-"));
  const context = await chromium.launchPersistentContext(profile, { executablePath, args: FLAGS, headless: true, ...options });
  return {
    context,
    async stop() {
      await context.close();
      rmSync(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
    },
  };
}

/** Sends many messages of a user from several devices: each alone would meet the rate limit. */
export async function flood(address, user, conv_id, count, devices = 10) {
  const { token } = await (await fetch(`http://${address}/demo/token?user=${user}`)).json();
  const one = (number) => new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://${address}/v1/ws`, "everline.v1.json");
    const todo = Array.from({ length: Math.ceil(count / devices) }, (_, at) => `flood-${number}-${at}`);
    const next = () => {
      const key = todo[0];
      if (!key) return socket.close(), resolve();
      socket.send(JSON.stringify({ type: "send", id: key, conv_id, client_msg_id: key, body: { text: `message ${key}` } }));
    };
    socket.on("error", reject);
    socket.on("open", () => socket.send(JSON.stringify({ type: "hello", id: "h", token, device_id: `flood-${number}` })));
    socket.on("message", (data) => {
      const frame = JSON.parse(String(data));
      if (frame.type === "sync") socket.send(JSON.stringify({ type: "ack", seq: frame.to_seq }));
      else if (frame.type === "welcome") next();
      else if (frame.type === "sent") todo.shift(), next();
      else if (frame.type === "error") setTimeout(next, frame.retry_after_ms ?? 100);
    });
  });
  await Promise.all(Array.from({ length: devices }, (_, number) => one(number)));
}
