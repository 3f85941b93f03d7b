// What a client asks by itself: the list, missing pages, changes, members.
//
// It decides from the marks in the state what to ask next, and holds nothing that would be missed when the
// connection goes: a new connection begins with a new loader and the marks saved. At most AT_ONCE requests
// are under way, one per conversation.

import type { Answer, MemberInfo } from "./frames.js";
import type { AnyRequest } from "./requests.js";
import { applyChanges, applyConversations, applyHistory, applyMembers } from "./state/answers.js";
import type { HistoryFrom } from "./state/answers.js";
import { isStale, seqOf } from "./state/model.js";
import type { State } from "./state/model.js";

/** Requests of the loader under way. */
const AT_ONCE = 8;
/** Lists paged for a row before it is taken not to exist: one that moves to the front while the list is
 *  paged is missed. */
const TRIES = 3;
/** Rows, members and messages a page. */
const PAGE = 200;

/** A request of the loader, to be given back with its answer. */
export type Job =
  | { kind: "list"; run: number; askedAt: number }
  | { kind: "part"; convId: string; generation: number; part: Part };

type Part = { kind: "history"; from: HistoryFrom } | { kind: "changes"; began: number } | { kind: "members" };

/** Pages of one conversation between two requests of a run. */
interface Progress {
  generation: number;
  changes: { began: number; since: number } | undefined;
  page: string | undefined;
  members: MemberInfo[];
}

export class Loader {
  private readonly queue = new Set<string>();
  private readonly busy = new Set<string>();
  /** The list between two of its pages. */
  private list: { beganAt: number; page: string | undefined } | undefined;
  private listBusy = false;
  /** Counts resets: a page of the list asked before one moves nothing. */
  private run = 0;
  private rowsWanted = false;
  /** Lists paged in vain for rows that are wanted. */
  private tries = 0;
  private readonly progress = new Map<string, Progress>();

  /** The marks of these may have changed. */
  lookAt(state: State, touched: Iterable<string>): void {
    for (const convId of touched) {
      const held = state.conversations.get(convId);
      if (!held) continue;
      this.rowsWanted ||= held.stale.row !== undefined;
      if (isStale(held)) this.queue.add(convId);
    }
  }

  /** A reset: everything begins anew; what is under way will finish nothing. */
  restart(state: State): void {
    this.run += 1;
    this.list = undefined;
    this.listBusy = false;
    this.rowsWanted = false;
    this.tries = 0;
    this.progress.clear();
    this.lookAt(state, state.conversations.keys());
  }

  /** The next request, if one may be sent now. */
  next(state: State): [AnyRequest, Job] | undefined {
    if (this.busy.size + Number(this.listBusy) >= AT_ONCE) return undefined;
    if ((state.listWanted || this.rowsWanted) && !this.listBusy) return this.nextPage(state);
    for (const convId of [...this.queue].sort()) {
      if (this.busy.has(convId)) continue;
      this.queue.delete(convId);
      const next = this.nextPart(state, convId);
      if (!next) continue;
      this.busy.add(convId);
      const generation = state.conversations.get(convId)?.stale.generation ?? 0;
      return [next[0], { kind: "part", convId, generation, part: next[1] }];
    }
    return undefined;
  }

  /** Whether messages or changes are known to be missing that will be asked for. */
  isBehind(state: State): boolean {
    return [...this.queue, ...this.busy].some((convId) => {
      const stale = state.conversations.get(convId)?.stale;
      return stale && (stale.gap !== undefined || stale.changes !== undefined);
    });
  }

  private nextPage(state: State): [AnyRequest, Job] {
    const askedAt = seqOf(state);
    this.list ??= { beganAt: askedAt, page: undefined };
    this.listBusy = true;
    const { page } = this.list;
    return [{ type: "conversations", ...(page !== undefined && { page }), limit: PAGE }, { kind: "list", run: this.run, askedAt }];
  }

  private nextPart(state: State, convId: string): [AnyRequest, Part] | undefined {
    const stale = state.conversations.get(convId)?.stale;
    if (!stale) return undefined;
    const history = (from: HistoryFrom): [AnyRequest, Part] =>
      [{ type: "history", conv_id: convId, ...from, limit: PAGE } as AnyRequest, { kind: "history", from }];
    if (stale.gap !== undefined) return history({ after: stale.gap });
    if (stale.older) return history(stale.older.before === undefined ? {} : { before: stale.older.before });
    const progress = this.progress.get(convId);
    const known = progress?.generation === stale.generation ? progress : undefined;
    if (stale.changes !== undefined) {
      const { began, since } = known?.changes ?? { began: stale.changes, since: stale.changes };
      return [{ type: "changes", conv_id: convId, since }, { kind: "changes", began }];
    }
    if (!stale.members) return undefined;
    const page = known?.page;
    return [{ type: "members", conv_id: convId, ...(page !== undefined && { page }), limit: PAGE }, { kind: "members" }];
  }

  /** Takes an answer in. Which conversations it touched. */
  answered(state: State, job: Job, answer: Answer): Set<string> {
    this.free(job);
    const touched = new Set<string>();
    if (job.kind === "part") {
      this.partAnswered(state, job, answer);
      touched.add(job.convId);
    } else if (answer.type === "conversations") {
      for (const row of answer.conversations) touched.add(row.conv_id);
      applyConversations(state, answer.conversations, job.askedAt);
      if (job.run === this.run) this.turnPage(state, answer.next ?? undefined, touched);
    }
    this.lookAt(state, touched);
    return touched;
  }

  /** An error that will come again: its part is given up. */
  refused(state: State, job: Job): Set<string> {
    this.free(job);
    const touched = new Set<string>();
    if (job.kind === "list") {
      this.endList(state, touched);
      return touched;
    }
    const stale = state.conversations.get(job.convId)?.stale;
    if (stale && stale.generation === job.generation) {
      if (job.part.kind === "history") stale.gap = stale.older = undefined;
      else if (job.part.kind === "changes") stale.changes = undefined;
      else stale.members = false;
    }
    touched.add(job.convId);
    this.lookAt(state, touched);
    return touched;
  }

  /** An error that may not come again: it will be asked once more. */
  postponed(job: Job): void {
    this.free(job);
    if (job.kind === "part") this.queue.add(job.convId);
  }

  private free(job: Job): void {
    if (job.kind === "part") this.busy.delete(job.convId);
    else if (job.run === this.run) this.listBusy = false;
  }

  private turnPage(state: State, next: string | undefined, touched: Set<string>): void {
    this.rowsWanted = [...state.conversations.values()].some(({ stale }) => stale.row !== undefined);
    if (next !== undefined && this.list && (state.listWanted || this.rowsWanted)) this.list.page = next;
    else this.endList(state, touched);
  }

  /** The last page: rows that were wanted before the first and did not come are looked for again, then
   *  given up. */
  private endList(state: State, touched: Set<string>): void {
    const beganAt = this.list?.beganAt ?? 0;
    this.list = undefined;
    state.listWanted = false;
    const inVain = [...state.conversations].filter(([, { stale }]) => stale.row !== undefined && stale.row <= beganAt);
    this.tries = inVain.length > 0 ? this.tries + 1 : 0;
    if (this.tries >= TRIES) {
      this.tries = 0;
      for (const [convId, held] of inVain) {
        held.stale.row = undefined;
        touched.add(convId);
      }
    }
    this.rowsWanted = [...state.conversations.values()].some(({ stale }) => stale.row !== undefined);
  }

  private partAnswered(state: State, job: Job & { kind: "part" }, answer: Answer): void {
    const { convId, generation, part } = job;
    const finishes = (state.conversations.get(convId)?.stale.generation ?? 0) === generation;
    if (part.kind === "history" && answer.type === "history") {
      applyHistory(state, convId, part.from, answer, finishes);
    } else if (part.kind === "changes" && answer.type === "changes") {
      applyChanges(state, convId, part.began, answer, finishes);
      if (finishes) {
        const more = answer.more ? { began: part.began, since: answer.up_to } : undefined;
        this.progressOf(convId, generation).changes = more;
      }
    } else if (part.kind === "members" && answer.type === "members" && finishes) {
      const known = this.progressOf(convId, generation);
      known.members.push(...answer.members);
      known.page = answer.next ?? undefined;
      if (known.page === undefined) applyMembers(state, convId, known.members.splice(0));
    }
    const held = state.conversations.get(convId);
    if (!held || !isStale(held)) this.progress.delete(convId);
  }

  private progressOf(convId: string, generation: number): Progress {
    let known = this.progress.get(convId);
    if (known?.generation !== generation) {
      known = { generation, changes: undefined, page: undefined, members: [] };
      this.progress.set(convId, known);
    }
    return known;
  }
}
