// The requests of the contract, section 6, as an application names them, and what may come of them.

import type { Answer, ErrorFrame, Request } from "./frames.js";

type WithoutId<T> = T extends unknown ? Omit<T, "id"> : never;

/** A request; the client gives it its id. */
export type AnyRequest = WithoutId<Request>;

/** A message's place. */
export interface Sent {
  convId: string;
  convSeq: number;
  /** Milliseconds, server clock. */
  sentAt: number;
  /** It had been accepted before. */
  duplicate: boolean;
}

/**
 * Why something was not done.
 * - `refused`: the server said no; `frame` says why.
 * - `disconnected`: no connection, or it went before the answer. Whether the request took effect is not
 *   known; every request may be repeated.
 * - `unexpected`: the server answered something else than asked.
 * - `outcome_unknown`: a message was tried longer ago than the server remembers keys.
 * - `too_large`, `outbox_full`, `id_in_use`: the outbox does not take the message.
 * - `stopped`: the store failed; the client works no more.
 */
export type Failure = "refused" | "disconnected" | "unexpected" | "outcome_unknown" | "too_large" | "outbox_full"
  | "id_in_use" | "stopped";

/** A failure, with the server's words where it said no. */
export class EverlineError extends Error {
  constructor(readonly failure: Failure, readonly frame?: ErrorFrame) {
    super(frame ? `${frame.code}: ${frame.message}` : failure);
    this.name = "EverlineError";
  }
}

/** The answers by their type. */
export type AnswerTo<T extends Answer["type"]> = Extract<Answer, { type: T }>;
