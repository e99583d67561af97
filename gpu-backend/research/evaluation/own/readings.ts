/**
 * What models and memories say of each token of a kind's texts: all that rules are fitted on and measured with. Cached on disk.
 * Shapes: S texts, P positions of each, K neighbours.
 */
import {
  alignedCopy,
  readTensorFile,
  tensorFrom,
  tensorOf,
  writeTensorFile,
} from "../../../../shared/artifacts/tensor-file.ts";
import { positionsOfEvidence } from "../../../../shared/math/evidence.ts";
import type { Text } from "../texts.ts";
import type { Model } from "./data.ts";
import { promptTokens, scoredTokens } from "./kinds.ts";

/** Prompt tokens that choose the brakes. */
const brakePositions = 32;

/** Positions of a text whose next token is read, [P]: those that choose the brakes, then those that are scored. */
export const evidencePositions = positionsOfEvidence(promptTokens, undefined, brakePositions);
export const readPositions = [
  ...evidencePositions,
  ...Array.from({ length: scoredTokens }, (_, i) => promptTokens - 1 + i),
];

/** What one memory says beside one model. */
export interface MemoryReading {
  /** Of the nearest keys, best first, [S, P, K]. */
  cosines: Float32Array;
  nextIds: Int32Array;
  /** Of `nextIds` under the model. */
  logprobs: Float32Array;
}

export interface ModelReading {
  /** Of the tokens that came, [S, P]. */
  logprobs: Float32Array;
  /** The likeliest token, [S, P]. */
  topIds: Int32Array;
  topLogprobs: Float32Array;
  /** By name (`memoryNames`). */
  memories: Record<string, MemoryReading>;
}

/** By model; passages are read apart from the others. */
export type Readings = Partial<Record<Model, ModelReading>>;

/** The tokens that came, [S × P]. */
export function targetsOf(texts: readonly Text[]): Int32Array {
  return Int32Array.from(texts.flatMap(({ ids }) => readPositions.map((t) => ids[t + 1])));
}

export function packReading({ memories, ...own }: ModelReading): Uint8Array<ArrayBuffer> {
  const tensors = new Map<string, ReturnType<typeof tensorFrom>>();
  const add = (name: string, array: Float32Array | Int32Array) => tensors.set(name, tensorFrom(array, [array.length]));
  for (const [part, array] of Object.entries(own)) add(part, array);
  for (const [name, { cosines, nextIds, logprobs }] of Object.entries(memories)) {
    add(`${name}.cosines`, cosines);
    add(`${name}.nextIds`, nextIds);
    add(`${name}.logprobs`, logprobs);
  }
  return writeTensorFile(tensors);
}

export function unpackReading(bytes: Uint8Array): ModelReading {
  const file = readTensorFile(bytes);
  const floats = (name: string) => new Float32Array(alignedCopy(tensorOf(file, name).bytes));
  const integers = (name: string) => new Int32Array(alignedCopy(tensorOf(file, name).bytes));
  const names = [...file.keys()].filter((name) => name.endsWith(".cosines")).map((name) => name.split(".")[0]);
  const memories = names.map((name): [string, MemoryReading] => [
    name,
    {
      cosines: floats(`${name}.cosines`),
      nextIds: integers(`${name}.nextIds`),
      logprobs: floats(`${name}.logprobs`),
    },
  ]);
  return {
    ...{ logprobs: floats("logprobs"), topIds: integers("topIds"), topLogprobs: floats("topLogprobs") },
    memories: Object.fromEntries(memories),
  };
}
