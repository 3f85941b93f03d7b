// Reads a user's whole sync timeline, from the floor, for the drawing: as a device of its own that keeps
// nothing. The drawing knows nothing a client could not know.

import type { Entry } from "../../js/src/index.js";
import { fetchToken, socketUrl, tabId } from "./device.js";

/** Entries remembered; a server that keeps more is drawn from here on. */
const MOST = 5000;

interface Frame {
  type: string;
  from_seq: number;
  to_seq: number;
  floor_seq: number;
  head_seq: number;
  epoch: string;
  entries: Entry[];
}

export class Observer extends EventTarget {
  readonly entries = new Map<number, Entry>();
  head = 0;
  floor = 0;
  private epoch = "";
  private at = 0;

  constructor(readonly user: string) {
    super();
    void this.connect();
  }

  private async connect(): Promise<void> {
    const again = (): void => void setTimeout(() => void this.connect(), 500 + Math.random() * 1500);
    let token: string;
    try {
      token = await fetchToken(this.user);
    } catch {
      return again();
    }
    const socket = new WebSocket(socketUrl(), "everline.v1.json");
    const write = (frame: object): void => socket.send(JSON.stringify(frame));
    const ask = (): void => write({ type: "sync", id: "s", after_seq: this.at });
    socket.onopen = () => write({ type: "hello", id: "h", token, device_id: `drawing-${tabId}` });
    socket.onclose = again;
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(String(data)) as Frame;
      if (frame.type === "welcome" || frame.type === "reset") {
        if (frame.epoch !== this.epoch) this.entries.clear();
        this.epoch = frame.epoch;
        this.floor = frame.floor_seq;
        this.head = frame.head_seq;
        this.at = Math.max(frame.floor_seq, this.entries.size ? Math.min(this.at, frame.head_seq) : 0);
        ask();
      } else if (frame.type === "ping") write({ type: "pong", seq: this.at });
      else if (frame.type === "sync" && frame.from_seq === this.at) {
        this.take(frame);
        write({ type: "ack", seq: this.at });
      }
      this.dispatchEvent(new Event("change"));
    };
  }

  private take(frame: Frame): void {
    this.at = frame.to_seq;
    this.head = Math.max(this.head, this.at);
    for (const entry of frame.entries) {
      this.entries.set(entry.seq, entry);
      this.dispatchEvent(new CustomEvent<Entry>("entry", { detail: entry }));
    }
    for (const seq of this.entries.keys()) if (this.entries.size > MOST) this.entries.delete(seq);
  }
}
