/** How much of a text must be seen to place it: the same tokens, scored under assignments from prefixes of many lengths. */

import type { EdgeTable } from "../../../shared/math/assignment.ts";
import type { PlacedSet, WindowSet } from "../bank/batches.ts";
import type { LossMeter } from "../bank/loss.ts";
import type { Adapters } from "../bank/measure.ts";
import { adaptedLosses, baseLosses } from "../bank/measure.ts";
import { prefixTokens, scoredTokens } from "../corpus/windows.ts";
import { assignAll, embedWindows } from "../embed.ts";

const lengths = [8, 16, 32, 64, 128] as const;
const longest = lengths[lengths.length - 1];
/** Windows at most: each is scored once for each centroid that some prefix takes it to. */
const windowLimit = 600;

export interface PrefixLosses {
  /** null: the base. */
  length: number | null;
  /** Summed loss of the tokens after the longest prefix, per chosen window. */
  losses: number[];
  /** Windows that this prefix takes to the centroid that the longest takes them to, as a share. */
  agreement: number;
}

/** Test windows that reach far enough beyond the longest prefix, evenly chosen; the same for every caller. */
export function prefixWindows(set: WindowSet): number[] {
  const long = [...set.windows.keys()].filter((i) => scoredTokens(set.windows[i]) >= longest);
  const every = Math.max(1, Math.ceil(long.length / windowLimit));
  return long.filter((_, at) => at % every === 0);
}

/** Scored tokens of a window after the longest prefix. */
export function tokensAfterPrefixes(set: WindowSet, index: number): number {
  return scoredTokens(set.windows[index]) - skipped;
}
const skipped = longest - prefixTokens;

export async function prefixLosses(
  meter: LossMeter,
  set: PlacedSet,
  table: EdgeTable,
  adapters: Adapters,
): Promise<PrefixLosses[]> {
  const indexes = prefixWindows(set);
  const full = new Float32Array(adapters.centroids.count).fill(1);
  const membersAt = lengths.map((length) => assignAll(embedWindows(set.windows, table, length), adapters.centroids));
  const settled = membersAt[membersAt.length - 1];
  const base = await baseLosses(meter, set, adapters.parameters, indexes, skipped);
  const result: PrefixLosses[] = [{ length: null, losses: [...base], agreement: 0 }];
  const known = new Map<string, number>(); // window and centroid → loss
  for (const [l, length] of lengths.entries()) {
    const memberOf = membersAt[l];
    const missing = indexes.filter((i) => !known.has(`${i}/${memberOf[i]}`));
    const losses = await adaptedLosses(meter, set, adapters, full, memberOf, missing, skipped);
    for (const [at, i] of missing.entries()) known.set(`${i}/${memberOf[i]}`, losses[at]);
    result.push({
      length,
      losses: indexes.map((i) => known.get(`${i}/${memberOf[i]}`)!),
      agreement: indexes.filter((i) => memberOf[i] === settled[i]).length / indexes.length,
    });
  }
  return result;
}
