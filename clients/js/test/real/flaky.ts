// A line that breaks: it loses and doubles sync frames and is cut, by chances that a test sets.
//
// Only what is pushed is lost or doubled, for that is what a client must survive on one connection; everything else is
// lost by a cut. A lost `sync` is noticed by the next heartbeat; `heads` are not lost while connected (contract,
// section 3), and nothing would tell of the last one before the next, so they are doubled only.

import { WebSocket } from "ws";

import type { ClientOptions } from "../../src/index.js";

/** Chances of each frame. */
export interface Faults {
  lose: number;
  double: number;
  cut: number;
}

/** A constructor for `ClientOptions.WebSocket`. */
export function flakyWebSocket(faults: Faults, random: () => number): NonNullable<ClientOptions["WebSocket"]> {
  return class extends WebSocket {
    override emit(event: string | symbol, ...args: unknown[]): boolean {
      if (event !== "message") return super.emit(event, ...args);
      if (random() < faults.cut) {
        this.terminate();
        return true;
      }
      const { type, id } = JSON.parse(String(args[0])) as { type: string; id?: string };
      const isPush = (type === "sync" || type === "heads") && id === undefined;
      if (type === "sync" && isPush && random() < faults.lose) return true;
      if (isPush && random() < faults.double) super.emit(event, ...args);
      return super.emit(event, ...args);
    }
  } as unknown as NonNullable<ClientOptions["WebSocket"]>;
}
