// A set of inclusive conv_seq intervals in one normal form: sorted, disjoint, merged where they touch.
// Two devices that know the same compare equal.

import type { Range } from "../frames.js";

/** The set with an interval more; an inverted one is ignored. */
export function addRange(ranges: Range[], [from, to]: Range): Range[] {
  if (from > to) return ranges;
  const apart: Range[] = [];
  for (const held of ranges) {
    if (held[1] + 1 < from || to + 1 < held[0]) {
      apart.push(held);
    } else {
      from = Math.min(from, held[0]);
      to = Math.max(to, held[1]);
    }
  }
  return [...apart, [from, to] as Range].sort((a, b) => a[0] - b[0]);
}

/** The set without everything up to `upTo`, inclusive. */
export function dropUpTo(ranges: Range[], upTo: number): Range[] {
  return ranges.filter(([, to]) => to > upTo).map(([from, to]) => [Math.max(from, upTo + 1), to]);
}
