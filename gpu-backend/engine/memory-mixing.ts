/**
 * Mixes a head row's distribution with the distributions of memories (shared/math/memory.ts). Raises only the logits of the memories'
 * tokens, so that all later results follow the mixture exactly. Shapes: V vocabulary, K candidates.
 */
import type { TokenSources } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import {
  type BrakeWeights,
  type MemoryRule,
  memoryProbabilities,
  memoryShares,
  memoryWeight,
  type Neighbours,
} from "../../shared/math/memory.ts";
import type { OpenMemory } from "../memory/memory-cache.ts";
import type { Passage } from "../memory/passages.ts";
import type { Found } from "../memory/search.ts";
import { checkedTokens } from "./drafts.ts";
import type { HeadResult } from "./sampler.ts";
import { forbidden, type LogitChange } from "./sequence.ts";

export type MemorySays = ReturnType<typeof saysOf>;

/** A memory's prediction at one position. `greatest` is its greatest probability. */
export function saysOf(found: Found, rule: MemoryRule) {
  const probabilities = memoryProbabilities(found, rule);
  return { found, probabilities, greatest: Math.max(0, ...probabilities.values()) };
}

/** The memory's weight λ, without its brake (shared/math/memory.ts). `model` is the model's greatest probability. */
export function weightOf({ found, greatest }: MemorySays, model: number, rule: MemoryRule): number {
  if (found.cosines.length === 0) return 0;
  return memoryWeight(rule, { cosine: found.cosines[0], memory: greatest, model });
}

export function greatestOf({ topScores, logSumExp }: Pick<HeadResult, "topScores" | "logSumExp">): number {
  return Math.exp(topScores[0] - logSumExp);
}

/** The row before the request's logit changes. Forbidden tokens do not count. */
function unchanged(row: HeadResult, changes: readonly LogitChange[]): Pick<HeadResult, "topScores" | "logSumExp"> {
  if (changes.length === 0) return row;
  const scores = row.scores!.slice();
  for (const { id, penalty, value } of changes) {
    const score = scores[id] - value;
    scores[id] = value === forbidden ? Number.NEGATIVE_INFINITY : score > 0 ? score * penalty : score / penalty;
  }
  const highest = scores.reduce((most, score) => Math.max(most, score));
  const sum = scores.reduce((all, score) => all + Math.exp(score - highest), 0);
  return { topScores: Float32Array.of(highest), logSumExp: highest + Math.log(sum) };
}

/**
 * Mixes in place. A forbidden token stays forbidden, because the request's logit changes also scale the memories' probabilities. Returns,
 * by memory and token id, what was `added` to the probability, and `total`, by which the sum was divided.
 */
export function mixMemories(
  row: HeadResult,
  says: readonly MemorySays[],
  { rule, brakes }: { rule: MemoryRule; brakes: BrakeWeights },
  { changes = [], targetId, temperature }: { changes?: Iterable<LogitChange>; targetId: number; temperature: number },
) {
  const changed = [...changes];
  const before = unchanged(row, changed);
  const weights = says.map((one) => weightOf(one, greatestOf(before), rule));
  const shares = memoryShares(rule, weights, brakes);
  const left = 1 - shares.reduce((sum, share) => sum + share, 0);
  // Factor by which the logit changes of other tokens scale the probability of an unchanged token.
  const scale = Math.exp(before.logSumExp - row.logSumExp);
  const added = says.map(
    ({ probabilities }, m) =>
      new Map(probabilities.entries().map(([id, probability]) => [id, scale * shares[m] * probability])),
  );
  for (const { id, penalty, value } of changed) {
    for (const [m, { probabilities }] of says.entries()) {
      const probability = probabilities.get(id);
      if (probability === undefined) continue;
      added[m].set(id, shares[m] * probability ** penalty * Math.exp(value + before.logSumExp - row.logSumExp));
    }
  }
  const sums = new Map<number, number>();
  for (const one of added) for (const [id, more] of one) sums.set(id, (sums.get(id) ?? 0) + more);
  const total = sums.values().reduce((sum, more) => sum + more, left);
  return { row: raised(row, sums, { left, total, targetId, temperature }), added, total };
}

/** `sums` has the probability added to each token, `left` is the model's share, and `total` is the sum of both. */
function raised(
  row: HeadResult,
  sums: ReadonlyMap<number, number>,
  { left, total, targetId, temperature }: { left: number; total: number; targetId: number; temperature: number },
): HeadResult {
  const { logSumExp, scores } = row;
  const raise = (score: number, more: number) =>
    more > 0 ? Math.fround(logSumExp + Math.log(Math.exp(score - logSumExp) + more / left)) : score;
  const mixed = {
    ...row,
    logSumExp: logSumExp + Math.log(total / left),
    targetScore: raise(row.targetScore, sums.get(targetId) ?? 0),
  };
  if (!scores) return mixed;
  const before: number[] = [];
  const after: number[] = [];
  for (const [id, more] of sums) {
    before.push(scores[id]);
    scores[id] = raise(scores[id], more);
    after.push(scores[id]);
  }
  const candidates = [...new Set([...row.topIds, ...sums.keys()])]
    .sort((a, b) => scores[b] - scores[a] || a - b)
    .slice(0, row.topIds.length);
  return {
    ...mixed,
    topIds: Int32Array.from(candidates),
    topScores: Float32Array.from(candidates, (id) => scores[id]),
    scaledLogSumExp:
      temperature === 1 ? mixed.logSumExp : replacedSum(row.scaledLogSumExp, before, after, 1 / temperature),
  };
}

/** `sum` is log Σ exp(score · scale). Some scores rose from `before` to `after`. */
function replacedSum(sum: number, before: readonly number[], after: readonly number[], scale: number): number {
  const highest = Math.max(sum, ...after.map((score) => score * scale));
  const risen = after.reduce(
    (more, score, i) => more + Math.exp(score * scale - highest) - Math.exp(before[i] * scale - highest),
    0,
  );
  return highest + Math.log(Math.exp(sum - highest) + risen);
}

/** Passages with a smaller share of a token's probability are not reported. */
const leastShare = 1e-4;

/** `logprob` is the token's log-probability in the mixed row. `passageOf` returns a memory key's passage. */
export function sourcesOf(
  { added, total }: Pick<ReturnType<typeof mixMemories>, "added" | "total">,
  says: readonly MemorySays[],
  { tokenId, logprob, theta }: { tokenId: number; logprob: number; theta: number },
  passageOf: (memory: number, position: number) => Passage,
): TokenSources {
  const parts = says.flatMap(({ found }, memory) => {
    const ofToken = partsOf(found, tokenId, theta);
    const share = (added[memory].get(tokenId) ?? 0) / total / Math.exp(logprob);
    return ofToken.map(({ position, part }) => ({ memory, position, share: share * part }));
  });
  const passages = parts
    .filter(({ share }) => share >= leastShare)
    .sort((a, b) => b.share - a.share || a.memory - b.memory || a.position - b.position)
    .slice(0, limits.sourcesPerToken)
    .map(({ memory, position, share }) => ({ memory, ...passageOf(memory, position), share }));
  return { share: parts.reduce((sum, { share }) => sum + share, 0), passages };
}

/** The memory's tokens after the nearest key that predicted `tokenId`, fewer than `checkedTokens`. */
export function continuationOf(
  memories: readonly OpenMemory[],
  says: readonly MemorySays[],
  tokenId: number,
): readonly number[] {
  let [nearest, ids]: [number, readonly number[]] = [Number.NEGATIVE_INFINITY, []];
  for (const [m, { found }] of says.entries()) {
    const at = found.nextIds.indexOf(tokenId);
    if (at < 0 || found.cosines[at] <= nearest) continue;
    const next = found.positions[at] + 1;
    nearest = found.cosines[at];
    ids = [...memories[m].search.memory.nextIds.subarray(next, next + checkedTokens - 1)];
  }
  return ids;
}

/** Each neighbour's part of the token's probability. The parts add up to 1. */
function partsOf(
  { cosines, nextIds, positions }: Neighbours & Pick<Found, "positions">,
  tokenId: number,
  theta: number,
): { position: number; part: number }[] {
  const own = [...nextIds.keys()].filter((i) => nextIds[i] === tokenId);
  const weights = own.map((i) => Math.exp(theta * (cosines[i] - cosines[0])));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return own.map((i, at) => ({ position: positions[i], part: weights[at] / sum }));
}
