/**
 * Mixes the distribution of a head row with those of memories (shared/math/memory.ts). The mixture is exact: only the logits of the
 * memories' tokens are raised, and everything that is computed from logits later follows the mixture. Pure.
 * Shapes: V vocabulary, K candidates.
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
import type { Passage } from "../memory/passages.ts";
import type { Found } from "../memory/search.ts";
import type { HeadResult } from "./sampler.ts";
import { forbidden, type LogitChange } from "./sequence.ts";

export type MemorySays = ReturnType<typeof saysOf>;

/** A memory's prediction at one position: the probability of each next token by id, and the greatest of these probabilities. */
export function saysOf(found: Found, rule: MemoryRule) {
  const probabilities = memoryProbabilities(found, rule);
  return { found, probabilities, greatest: Math.max(0, ...probabilities.values()) };
}

/** The weight λ of a memory before its brake (shared/math/memory.ts); 0 without keys. `model`: the model's greatest probability. */
export function weightOf({ found, greatest }: MemorySays, model: number, rule: MemoryRule): number {
  if (found.cosines.length === 0) return 0;
  return memoryWeight(rule, { cosine: found.cosines[0], memory: greatest, model });
}

/** The greatest probability in a head row. */
export function greatestOf({ topScores, logSumExp }: Pick<HeadResult, "topScores" | "logSumExp">): number {
  return Math.exp(topScores[0] - logSumExp);
}

/** The greatest score and logSumExp that a row had before the request's logit changes. Forbidden tokens do not count. */
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
 * Mixes a head row with the prediction of each memory. The row already has the request's logit changes. This function applies the changes
 * to the memories' probabilities, as factors, so that a forbidden token stays forbidden. Changes the row's scores in place. If the row has
 * no scores, mixes only the target's score and the sums. Returns, by memory and token id, what is `added` to the probability before the
 * division by `total`, the sum of the mixed distribution.
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
  // The factor by which changes of other tokens' logits scale the probability of an unchanged token.
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

/** Raises logits. `sums`: the probability added to each token. `left`: the model's share. `total`: `left` plus all of `sums`. */
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

/** Updates `sum`, that is log Σ exp(score · scale), after some scores rose from `before` to `after`. */
function replacedSum(sum: number, before: readonly number[], after: readonly number[], scale: number): number {
  const highest = Math.max(sum, ...after.map((score) => score * scale));
  const risen = after.reduce(
    (more, score, i) => more + Math.exp(score * scale - highest) - Math.exp(before[i] * scale - highest),
    0,
  );
  return highest + Math.log(Math.exp(sum - highest) + risen);
}

/** The memories' shares of a token's probability. `logprob`: the token's in the mixed row. `passageOf` returns a memory key's passage. */
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
    .filter(({ share }) => share > 0)
    .sort((a, b) => b.share - a.share || a.memory - b.memory || a.position - b.position)
    .slice(0, limits.sourcesPerToken)
    .map(({ memory, position, share }) => ({ memory, ...passageOf(memory, position), share }));
  return { share: parts.reduce((sum, { share }) => sum + share, 0), passages };
}

/** The neighbours whose next token is `tokenId`, and each neighbour's part of the token's probability. The parts add up to 1. */
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
