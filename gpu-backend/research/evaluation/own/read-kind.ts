/** Reads a kind's texts by every model and memory. What is finished is kept on disk. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { nullIfMissing, writeWhole } from "../../../files.ts";
import { keyOf } from "../../../training/prepare.ts";
import type { Scorer } from "../scorer.ts";
import type { Text } from "../texts.ts";
import type { Model } from "./data.ts";
import { comparedSize, firstTokens, type Kind, knownSizes, promptTokens, scoredTokens } from "./kinds.ts";
import { afterPassages, firstKeys, type Known, memoryOf } from "./known.ts";
import type { Found, Reader } from "./reader.ts";
import { packReadings, type Readings, readPositions, targetsOf, unpackReadings } from "./readings.ts";
import { type StateCache, statesOf, type TextStates } from "./states.ts";

export const memoryNames = { own: (tokens: number) => `own ${tokens}`, foreign: "foreign" } as const;

export interface ReadOptions {
  reader: Reader;
  scorer: Pick<Scorer, "gatesOf">;
  /** Q */
  gates: number;
  cache: StateCache;
  /** What the readings depend on besides texts, weights and this code. */
  cacheKey: readonly unknown[];
  signal?: AbortSignal | undefined;
}

/** `foreign`: the kind whose known text is the foreign memory. */
export async function readKind(kind: Kind, foreign: Kind, options: ReadOptions): Promise<Readings> {
  const { cache, cacheKey, signal } = options;
  const size = comparedSize(kind.group);
  const foreignText = firstTokens(foreign.known, size);
  const key = keyOf(...cacheKey, cache.key, size, kind.texts, kind.known, foreignText);
  const path = join(cache.directory, `readings-${key}.safetensors`);
  const cached = await readFile(path).catch(nullIfMissing);
  if (cached) return unpackReadings(cached);

  const D = cache.hiddenSize;
  const known = await statesOf(kind.known, cache, signal);
  const own = memoryOf(kind.known, known, D);
  const foreignStates = await statesOf(foreign.known, cache, signal);
  const foreignMemory = firstKeys(memoryOf(foreign.known, foreignStates, D), foreign.known, size);
  const texts = await statesOf(kind.texts, cache, signal);
  const memories: Record<string, Known> = {
    ...Object.fromEntries(
      knownSizes[kind.group].map((tokens) => [memoryNames.own(tokens), firstKeys(own, kind.known, tokens)]),
    ),
    [memoryNames.foreign]: foreignMemory,
  };
  const readings = await readAll(kind, { texts, known, memories, size }, options);
  await writeWhole(path, packReadings(readings));
  return readings;
}

interface Material {
  texts: TextStates;
  known: TextStates;
  memories: Record<string, Known>;
  size: number;
}

async function readAll(
  kind: Kind,
  { texts, known, memories, size }: Material,
  { reader, scorer, gates: Q, cache, signal }: ReadOptions,
): Promise<Readings> {
  const D = cache.hiddenSize;
  const targets = targetsOf(kind.texts);
  const rows = rowsOf(kind.texts, texts, D);
  const found: Record<string, Found> = {};
  for (const [name, memory] of Object.entries(memories)) found[name] = await reader.search(rows.states, memory);

  const gatesOf: Record<"base" | "static" | "mixture", Float32Array> = {
    base: new Float32Array(targets.length * Q),
    static: new Float32Array(targets.length * Q),
    mixture: new Float32Array(targets.length * Q),
  };
  let at = 0;
  for (const [s, { ids }] of kind.texts.entries()) {
    const chosen = await scorer.gatesOf(ids, texts.hidden.subarray(at, at + ids.length * D), promptTokens);
    at += ids.length * D;
    for (const model of ["static", "mixture"] as const) {
      for (let i = 0; i < readPositions.length; i++) {
        gatesOf[model].set(chosen[model], (s * readPositions.length + i) * Q);
      }
    }
  }
  const read = (model: keyof typeof gatesOf, memoriesOf: Record<string, Found>) =>
    reader.read(rows.hidden, gatesOf[model], targets, memoriesOf);

  const excerpts = firstTokens(kind.known, size);
  const after = afterPassages(kind.texts, texts.hidden, excerpts, known.hidden, D);
  const shifted = rowsOf(after, await statesOf(after, cache, signal), D);
  const own = memoryNames.own(size);
  const foundAfter = { [own]: await reader.search(shifted.states, memories[own]) };
  const result: Record<Model, Readings[Model]> = {
    base: await read("base", found),
    static: await read("static", {}),
    mixture: await read("mixture", found),
    passage: await reader.read(shifted.hidden, gatesOf.base, targets, foundAfter),
  };
  return result;
}

/** Rows of the positions that are read. What a text has before its last 160 tokens is a passage. */
function rowsOf(texts: readonly Text[], { states, hidden }: TextStates, D: number): TextStates {
  const P = readPositions.length;
  const rows = { states: new Float32Array(texts.length * P * D), hidden: new Float32Array(texts.length * P * D) };
  let end = 0;
  for (const [s, { ids }] of texts.entries()) {
    end += ids.length;
    for (const [i, t] of readPositions.entries()) {
      const from = (end - promptTokens - scoredTokens + t) * D;
      rows.states.set(states.subarray(from, from + D), (s * P + i) * D);
      rows.hidden.set(hidden.subarray(from, from + D), (s * P + i) * D);
    }
  }
  return rows;
}
