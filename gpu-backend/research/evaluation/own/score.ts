/** What methods gain, from readings and a rule. Pure. */
import {
  type MemoryMatch,
  type MemoryRule,
  memoryProbabilities,
  memoryShares,
  memoryWeight,
  weighBrakes,
} from "../../../../shared/math/memory.ts";
import type { MemoryReading, ModelReading } from "../reader.ts";
import type { Model } from "./data.ts";
import { evidencePositions, readPositions } from "./kinds.ts";
import type { Readings } from "./read-kind.ts";

/** A way to answer: a model, and the memory that it reads, by the name in the readings. */
export interface Method {
  model: Model;
  memory?: string;
}

/** Of each scored token of a text, [scoredTokens]. */
export interface TextScore {
  logprobs: Float64Array;
  /** 1 where the likeliest token is the one that came. */
  correct: number[];
}

const P = readPositions.length;
const E = evidencePositions.length;

/** What λ is computed from, and what it is worth: one position of one text. */
export interface Observation extends MemoryMatch {
  /** Of the token that came: under the memory and under the model. */
  ofMemory: number;
  ofModel: number;
}

/** Position `at` of all that are read, of all texts. */
export function observationAt(
  reading: ModelReading,
  { cosines, nextIds }: MemoryReading,
  target: number,
  at: number,
  rule: MemoryRule,
): { observation: Observation; probabilities: Map<number, number> } {
  const K = cosines.length / reading.logprobs.length;
  const own = { cosines: cosines.subarray(at * K, (at + 1) * K), nextIds: nextIds.subarray(at * K, (at + 1) * K) };
  const probabilities = memoryProbabilities(own, rule);
  const observation = {
    cosine: own.cosines[0],
    memory: Math.max(...probabilities.values()),
    model: Math.exp(reading.topLogprobs[at]),
    ofMemory: probabilities.get(target) ?? 0,
    ofModel: Math.exp(reading.logprobs[at]),
  };
  return { observation, probabilities };
}

/** Scores every text of a kind. `targets`: the tokens that came, [S × P]. */
export function scoreKind(
  readings: Readings,
  { model, memory }: Method,
  targets: Int32Array,
  rule: MemoryRule,
): TextScore[] {
  const reading = readings[model];
  return Array.from({ length: targets.length / P }, (_, s) => {
    if (memory === undefined) return scoreAlone(reading, targets, s * P);
    return scoreWithMemory(reading, reading.memories[memory], targets, s * P, rule);
  });
}

function scoreAlone({ logprobs, topIds }: ModelReading, targets: Int32Array, from: number): TextScore {
  return {
    logprobs: Float64Array.from(logprobs.subarray(from + E, from + P)),
    correct: Array.from(targets.subarray(from + E, from + P), (id, i) => Number(id === topIds[from + E + i])),
  };
}

function scoreWithMemory(
  reading: ModelReading,
  found: MemoryReading,
  targets: Int32Array,
  from: number,
  rule: MemoryRule,
): TextScore {
  const seen = Array.from({ length: P }, (_, i) => observationAt(reading, found, targets[from + i], from + i, rule));
  const weights = seen.map(({ observation }) => memoryWeight(rule, observation));
  const evidence = seen.slice(0, E).map(({ observation }, i) => ({
    weight: weights[i],
    probability: observation.ofMemory,
  }));
  const chosen = weighBrakes(
    rule,
    seen.slice(0, E).map(({ observation }) => observation.ofModel),
    [evidence],
  );
  const K = found.cosines.length / reading.logprobs.length;
  const logprobs = new Float64Array(P - E);
  const correct: number[] = [];
  for (let i = E; i < P; i++) {
    const { observation, probabilities } = seen[i];
    const [share] = memoryShares(rule, [weights[i]], chosen);
    logprobs[i - E] = Math.log(observation.ofModel + share * (observation.ofMemory - observation.ofModel));
    const at = from + i;
    let best = { id: reading.topIds[at], p: 0 };
    best.p = (1 - share) * observation.model + share * (probabilities.get(best.id) ?? 0);
    for (let k = at * K; k < (at + 1) * K; k++) {
      const id = found.nextIds[k];
      const p = (1 - share) * Math.exp(found.logprobs[k]) + share * probabilities.get(id)!;
      if (p > best.p || (p === best.p && id < best.id)) best = { id, p };
    }
    correct.push(Number(best.id === targets[at]));
  }
  return { logprobs, correct };
}

/** Tokens of a greedy suggestion, at most, that is compared with what the author wrote. */
const suggestionTokens = 32;

/** How many tokens a greedy suggestion after the prompt begins with that the author wrote. */
export function suggestedTokens(correct: ArrayLike<number>): number {
  const wrong = Array.from(correct).slice(0, suggestionTokens).indexOf(0);
  return wrong < 0 ? suggestionTokens : wrong;
}
