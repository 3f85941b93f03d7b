// A real server for tests: the binary of this repository on a free loopback port, with a store of its own.
//
// EVERLINE_BIN names the binary; the dev build by default.

import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const SECRET = "a secret of the tests, long enough for HS256";
const BINARY = process.env.EVERLINE_BIN ?? fileURLToPath(new URL("../../../../../target/debug/everline", import.meta.url));
/** For the server to listen: milliseconds. */
const START_WITHIN = 60_000;

export interface Server {
  url: string;
  stop(): Promise<void>;
}

/** Starts a server; `options` follow those of the tests. */
export async function startServer(...options: string[]): Promise<Server> {
  const dir = mkdtempSync(join(tmpdir(), "everline-js-"));
  const child = spawn(BINARY, [
    "serve", "--listen", "127.0.0.1:0", "--store", `embedded:${join(dir, "store")}`, "--jwt-secret", SECRET,
    "--rate-messages", "0", "--rate-requests", "0", "--rate-connects", "0", ...options,
  ], { cwd: dir, stdio: ["ignore", "pipe", "pipe"] });
  const address = await listening(child);
  return {
    url: `ws://${address}/v1/ws`,
    async stop() {
      const gone = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      await gone;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** Waits for the line that says where it listens. */
function listening(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    const late = setTimeout(() => reject(new Error(`the server did not start: ${text}`)), START_WITHIN);
    const read = (chunk: Buffer): void => {
      // Colours of the log, when there are any.
      text += chunk.toString().replaceAll(/\u001b\[[0-9;]*m/g, "");
      const found = /addr=(127\.0\.0\.1:\d+)/.exec(text)?.[1];
      if (!found) return;
      clearTimeout(late);
      resolve(found);
    };
    child.stdout?.on("data", read);
    child.stderr?.on("data", read);
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`the server ended with ${code}: ${text}`)));
  });
}

/** A token of a user, good for an hour. */
export function tokenOf(user: string): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: user, aud: "everline", exp })}`;
  return `${text}.${createHmac("sha256", SECRET).update(text).digest("base64url")}`;
}
