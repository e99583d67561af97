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
import { type Model, models } from "./data.ts";
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

export type Readings = Record<Model, ModelReading>;

/** The tokens that came, [S × P]. */
export function targetsOf(texts: readonly Text[]): Int32Array {
  return Int32Array.from(texts.flatMap(({ ids }) => readPositions.map((t) => ids[t + 1])));
}

export function packReadings(readings: Readings): Uint8Array<ArrayBuffer> {
  const tensors = new Map<string, ReturnType<typeof tensorFrom>>();
  const add = (name: string, array: Float32Array | Int32Array) => tensors.set(name, tensorFrom(array, [array.length]));
  for (const model of models) {
    const { memories, ...own } = readings[model];
    for (const [part, array] of Object.entries(own)) add(`${model}.${part}`, array);
    for (const [name, memory] of Object.entries(memories)) {
      for (const [part, array] of Object.entries(memory)) add(`${model}.${name}.${part}`, array as Float32Array);
    }
  }
  return writeTensorFile(tensors);
}

export function unpackReadings(bytes: Uint8Array): Readings {
  const file = readTensorFile(bytes);
  const floats = (name: string) => new Float32Array(alignedCopy(tensorOf(file, name).bytes));
  const integers = (name: string) => new Int32Array(alignedCopy(tensorOf(file, name).bytes));
  const read = (model: Model): ModelReading => {
    const names = [...file.keys()].flatMap((name) =>
      name.startsWith(`${model}.`) && name.endsWith(".cosines") ? [name.split(".")[1]] : [],
    );
    return {
      logprobs: floats(`${model}.logprobs`),
      topIds: integers(`${model}.topIds`),
      topLogprobs: floats(`${model}.topLogprobs`),
      memories: Object.fromEntries(
        names.map((name) => {
          const at = `${model}.${name}`;
          return [
            name,
            {
              cosines: floats(`${at}.cosines`),
              nextIds: integers(`${at}.nextIds`),
              logprobs: floats(`${at}.logprobs`),
            },
          ];
        }),
      ),
    };
  };
  return Object.fromEntries(models.map((model) => [model, read(model)])) as Readings;
}
