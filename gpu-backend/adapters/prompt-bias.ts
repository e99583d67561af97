/**
 * The prompt bias: what a request's own prompt says of the tokens to come. A token that the prompt uses more than text
 * in general is likely to come again, so its logit rises by
 *
 *   strength · log(1 + count / (prior · p))
 *
 * for its count in the prompt and its frequency p in the training text. Tokens that the prompt lacks stay as they are, so
 * the bias is as sparse as the prompt is short. It is a function of prompt and artifacts alone: what is generated
 * changes nothing in it, and a sequence that another backend resumes has the same bits of it. Serving and measuring both
 * run this code.
 */
import { hyperNetworkFile, type Manifest } from "../../shared/artifacts/manifest.ts";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import type { RowBias } from "./adapter.ts";
import { floatsOf } from "./hyper-network.ts";

/** A token that training never saw has about −20; one occurrence of a frequency of 0 would weigh more than any number. */
const lowestLogFrequency = -100;

export interface PromptBiasShape {
  /** 0 is off. */
  strength: number;
  /** An occurrence of a token of frequency p weighs 1 / (prior · p). */
  prior: number;
}

/**
 * null where nothing is added. The end of text is never made likelier: a prompt says nothing about where its answer ends.
 * @param logFrequencies natural logarithm of each token's frequency, [V]
 */
export function promptBias(
  promptIds: Iterable<number>,
  logFrequencies: Float32Array,
  { strength, prior }: PromptBiasShape,
  endOfTextId: number,
): RowBias | null {
  if (strength === 0) return null;
  const counts = new Map<number, number>();
  for (const id of promptIds) if (id !== endOfTextId) counts.set(id, (counts.get(id) ?? 0) + 1);
  if (counts.size === 0) return null;
  const ids = Int32Array.from(counts.keys()).sort();
  const values = Float32Array.from(ids, (id) => {
    const occurrences = counts.get(id)! / (prior * Math.exp(logFrequencies[id]));
    return strength * Math.log1p(occurrences);
  });
  return { ids, values };
}

export interface WornPromptBias {
  strength: number;
  bias: RowBias;
}

/** The prompt bias of a prompt on top of a centroid's adapter; null where the centroid has none, or where it adds nothing. */
export type PromptBiasSource = (centroidId: string, promptIds: readonly number[]) => WornPromptBias | null;

/** Serves what `manifest` says. Nothing is kept of a prompt. Throws an Error where hyper-network.safetensors lacks `unigram`. */
export function servedPromptBias(manifest: Manifest, file: TensorFile): PromptBiasSource {
  if (!manifest.promptBias) return () => null;
  const { prior } = manifest.promptBias;
  const { vocabularySize, endOfTextId } = manifest.model;
  const logFrequencies = floatsOf(file, "unigram", [vocabularySize]);
  const bad = logFrequencies.findIndex((value) => !(value <= 0 && value >= lowestLogFrequency));
  if (bad >= 0) {
    throw new Error(
      `${hyperNetworkFile}: unigram: value ${bad} is ${logFrequencies[bad]}, it must be ${lowestLogFrequency} to 0`,
    );
  }
  const strengths = new Map(manifest.centroids.map(({ id, promptBias: strength = 0 }) => [id, strength]));
  return (centroidId, promptIds) => {
    const strength = strengths.get(centroidId) ?? 0;
    const bias = promptBias(promptIds, logFrequencies, { strength, prior }, endOfTextId);
    return bias && { strength, bias };
  };
}
