/** What methods gain, from readings and a rule. Pure. */
import {
  type MemoryRule,
  memoryProbabilities,
  memoryShares,
  memoryWeight,
  type Neighbours,
  weighBrakes,
} from "../../../shared/math/memory.ts";
import type { Reading } from "../../training/bank/reader.ts";
import { observationAt } from "../mixtures.ts";
import { evidencePositions, readPositions } from "./kinds.ts";

/**
 * What the head reads: the base's state, an adapter's, that of an own adapter of the known text (at full strength, as `auto` mixes
 * it, and as `auto` mixes it beside the memory), and the base's after a passage of the known text.
 */
export type Model = "base" | "static" | "mixture" | "adapter" | "auto" | "both" | "passage";

/** What a model says at positions, and the keys of memories that are nearest to each; `otherLogprobs` are of their next tokens. */
export interface ModelReading extends Reading {
  memories: Record<string, readonly Neighbours[]>;
}

/** Of the positions that are read, of all texts: [S × P]. */
export type Readings = Record<Model, ModelReading>;

/** A way to answer: a model, and the memory that it reads, by the name in the readings. */
export interface Method {
  model: Model;
  memory?: string;
}

/** Of each scored token of a text, [scoredTokens]. */
export interface TextScore {
  logprobs: ArrayLike<number>;
  /** 1 where the likeliest token is the one that came. */
  correct: number[];
}

const P = readPositions.length;
const E = evidencePositions.length;

/** Scores every text of a kind. `targets`: the tokens that came, [S × P]. */
export function scoreKind(
  readings: Readings,
  { model, memory }: Method,
  targets: Int32Array,
  rule: MemoryRule,
): TextScore[] {
  const reading = readings[model];
  return Array.from({ length: targets.length / P }, (_, s) => {
    if (memory !== undefined) return scoreWithMemory(reading, memory, targets, s * P, rule);
    const [from, to] = [s * P + E, (s + 1) * P];
    return {
      logprobs: reading.logprobs.subarray(from, to),
      correct: Array.from(targets.subarray(from, to), (id, i) => Number(id === reading.topIds[from + i])),
    };
  });
}

function scoreWithMemory(
  reading: ModelReading,
  memory: string,
  targets: Int32Array,
  from: number,
  rule: MemoryRule,
): TextScore {
  const found = reading.memories[memory].slice(from, from + P);
  const seen = found.map((own, i) => observationAt(reading, from + i, own, targets[from + i], rule));
  const weights = seen.map((observation) => memoryWeight(rule, observation));
  const evidence = seen.slice(0, E);
  const chosen = weighBrakes(
    rule,
    evidence.map(({ ofModel }) => ofModel),
    [evidence.map(({ ofMemory }, i) => ({ weight: weights[i], probability: ofMemory }))],
  );
  const firstOther = Object.keys(reading.memories).indexOf(memory) * rule.neighbours;
  const others = reading.otherLogprobs.length / reading.logprobs.length;
  const logprobs: number[] = [];
  const correct: number[] = [];
  for (let i = E; i < P; i++) {
    const { ofModel, ofMemory, model } = seen[i];
    const [share] = memoryShares(rule, [weights[i]], chosen);
    logprobs.push(Math.log(ofModel + share * (ofMemory - ofModel)));
    const at = from + i;
    const probabilities = memoryProbabilities(found[i], rule);
    let best = { id: reading.topIds[at], p: 0 };
    best.p = (1 - share) * model + share * (probabilities.get(best.id) ?? 0);
    for (const [k, id] of found[i].nextIds.entries()) {
      const ofOther = Math.exp(reading.otherLogprobs[at * others + firstOther + k]);
      const p = (1 - share) * ofOther + share * probabilities.get(id)!;
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
