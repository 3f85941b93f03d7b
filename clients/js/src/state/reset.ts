// A fresh start, and the reset: what becomes stale, and when it is over.
//
// Marks are part of the state and saved with it, so that an interrupted reconciliation goes on where it
// was, and a second reset begins it anew without losing where the hole began.

import type { Cursor, ResetFrame } from "../frames.js";
import { EVERYBODY, isStale, lower, newState } from "./model.js";
import type { State } from "./model.js";

/** A device without a cursor starts at the head. */
export function firstStart(state: State, cursor: Cursor): void {
  state.cursor = cursor;
  state.listWanted = state.preload !== "none";
  state.loading = state.listWanted ? "fresh" : "no";
}

/** Takes in a reset: the cursor moves to its head. `too_old` keeps what is held and marks it stale; the
 *  other reasons drop it. Whether it was dropped. */
export function applyReset(state: State, frame: ResetFrame): boolean {
  const cursor = { epoch: frame.epoch, seq: frame.head_seq };
  if (frame.reason !== "too_old") {
    Object.assign(state, { ...newState(state.preload), userId: state.userId });
    firstStart(state, cursor);
    return true;
  }
  state.cursor = cursor;
  state.loading = "reset";
  state.listWanted = true;
  for (const [convId, held] of state.conversations) {
    // The log of b:all is followed by itself.
    if (convId === EVERYBODY) continue;
    const { stale } = held;
    stale.generation += 1;
    stale.row = frame.head_seq;
    if (held.completeFrom !== undefined) stale.gap ??= held.heldTo;
    if (held.reconciledSeq !== undefined) stale.changes = lower(stale.changes, held.reconciledSeq);
    const wanted = typeof state.preload === "number" || held.members !== undefined || held.peerReadSeq > 0;
    stale.members = wanted && !held.large && held.leftSeq === undefined;
    stale.memberChanges = [];
  }
  return false;
}

/** Ends the first load or the reset when nothing is missing any more. Whether it did. */
export function closeIfDone(state: State): boolean {
  if (state.loading === "no" || state.listWanted) return false;
  for (const held of state.conversations.values()) if (isStale(held)) return false;
  state.loading = "no";
  return true;
}
