/** Scores texts by a method and a rule of memories, from the predictions of read-kind.ts. Pure. */
import { type MemoryRule, memoryProbabilities, type Neighbours } from "../../../shared/math/memory.ts";
import type { Reading } from "../../training/bank/reader.ts";
import { mixedWithMemory, observationAt } from "../../training/memory-scores.ts";
import { evidenceCount as E, readPositions } from "./kinds.ts";

/**
 * The model before any memory is mixed in. "static" is the static adapter, "mixture" what `auto` serves. Three models have an own
 * adapter, fitted to the memory's text: "adapter" at full strength, "auto" as `auto` weighs it, and "both" as `auto` weighs it beside the
 * memory. "passage" is the base after a passage of the memory's text.
 */
export type Model = "base" | "static" | "mixture" | "adapter" | "auto" | "both" | "passage";

/** Predictions at the positions of all texts, [S × P]. `otherLogprobs` covers the next tokens of all neighbours. */
export interface ModelReading extends Reading {
  /** Nearest keys at each position, by the memory's name. */
  memories: Record<string, readonly Neighbours[]>;
}

export type Readings = Record<Model, ModelReading>;

export interface Method {
  model: Model;
  memory?: string;
}

interface TextScore {
  logprobs: ArrayLike<number>;
  /** 1 where the likeliest token equals the text's token, else 0. */
  correct: number[];
}

const P = readPositions.length;

/** `targets` are the texts' own next tokens, [S × P]. */
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
  const mixed = mixedWithMemory(seen, E, rule);
  const firstOther = Object.keys(reading.memories).indexOf(memory) * rule.neighbours;
  const others = reading.otherLogprobs.length / reading.logprobs.length;
  const correct: number[] = [];
  for (let i = E; i < P; i++) {
    const { model } = seen[i];
    const { share } = mixed[i - E];
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
  return { logprobs: mixed.map(({ logprob }) => logprob), correct };
}

/** Maximum tokens of a greedy continuation that are compared with the text. */
const suggestionTokens = 32;

/** Number of tokens of a greedy continuation before the first wrong token. */
export function suggestedTokens(correct: ArrayLike<number>): number {
  const wrong = Array.from(correct).slice(0, suggestionTokens).indexOf(0);
  return wrong < 0 ? suggestionTokens : wrong;
}
