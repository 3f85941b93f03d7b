// When to connect again, or never: a pure function of how the connection ended.
//
// Full jitter, so that a thousand clients of a restarted server don't come back together.

/** Shortest and longest wait, and the spread of a restart (1001, 1012): milliseconds. */
export const SHORTEST = 500;
export const LONGEST = 20_000;
export const RESTART_SPREAD = 5_000;

/** Number in [0, 1). */
export type Random = () => number;

/** How a connection ended: a close code, 1006 where there was none. */
export interface End {
  code: number;
  reason: string;
}

/** What to do next: come back after so many milliseconds, or stop for a reason. */
export type Next = { wait: number; renewToken: boolean } | { stop: string };

/** `attempt`: connections in a row that did not get live, from 0. */
export function afterEnd({ code, reason }: End, attempt: number, provider: boolean, random: Random): Next {
  if (code === 4401) return provider ? { wait: jittered(attempt, random), renewToken: true } : { stop: "token_expired" };
  if (!reconnects(code)) return { stop: reason || `closed with ${code}` };
  if (code === 1001 || code === 1012) return { wait: random() * RESTART_SPREAD, renewToken: false };
  if (code === 1013) return { wait: between(RESTART_SPREAD, LONGEST, random), renewToken: false };
  return { wait: jittered(attempt, random), renewToken: false };
}

/** Whether a client comes back by itself after this close code. */
export function reconnects(code: number): boolean {
  return ![1003, 1007, 1009].includes(code) && !(code >= 4500 && code <= 4599);
}

/** Between the shortest wait and a bound that doubles with each attempt up to the longest. */
export function jittered(attempt: number, random: Random): number {
  return between(SHORTEST, Math.min(LONGEST, SHORTEST * 2 ** Math.min(attempt + 1, 10)), random);
}

const between = (from: number, to: number, random: Random): number => from + (to - from) * random();
