/** Reads a kind's texts by every model and memory. What is finished is kept on disk. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { nullIfMissing, writeWhole } from "../../../files.ts";
import { keyOf } from "../../../training/prepare.ts";
import type { Scorer } from "../scorer.ts";
import type { Text } from "../texts.ts";
import { type Model, models } from "./data.ts";
import { comparedSize, firstTokens, type Kind, knownSizes, promptTokens, scoredTokens } from "./kinds.ts";
import { afterPassages, firstKeys, type Known, memoryOf } from "./known.ts";
import type { Found, Reader } from "./reader.ts";
import { type ModelReading, packReading, type Readings, readPositions, targetsOf, unpackReading } from "./readings.ts";
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
export async function readKind(
  kind: Kind,
  foreign: Kind,
  options: ReadOptions,
  wanted: readonly Model[] = models,
): Promise<Readings> {
  const { cache, cacheKey, signal } = options;
  const D = cache.hiddenSize;
  const size = comparedSize(kind.group);
  const key = keyOf(...cacheKey, cache.key, size, kind.texts, kind.known, firstTokens(foreign.known, size));
  const pathOf = (model: Model) => join(cache.directory, `reading-${key}-${model}.safetensors`);
  const readings: Readings = {};
  for (const model of wanted) {
    const cached = await readFile(pathOf(model)).catch(nullIfMissing);
    if (cached) readings[model] = unpackReading(cached);
  }
  const missing = wanted.filter((model) => !readings[model]);
  if (missing.length === 0) return readings;

  const known = await statesOf(kind.known, cache, signal);
  const own = memoryOf(kind.known, known, D);
  const texts = await statesOf(kind.texts, cache, signal);
  const foreignKnown = memoryOf(foreign.known, await statesOf(foreign.known, cache, signal), D);
  const memories: Record<string, Known> = {
    ...Object.fromEntries(
      knownSizes[kind.group].map((tokens) => [memoryNames.own(tokens), firstKeys(own, kind.known, tokens)]),
    ),
    [memoryNames.foreign]: firstKeys(foreignKnown, foreign.known, size),
  };
  const material = { texts, known, memories };
  const inPlace = missing.filter((model) => model !== "passage");
  const read = inPlace.length > 0 ? await readInPlace(kind, inPlace, material, options) : {};
  if (missing.includes("passage")) read.passage = await readAfterPassages(kind, material, options);
  for (const model of missing) {
    readings[model] = read[model]!;
    await writeWhole(pathOf(model), packReading(readings[model]));
  }
  return readings;
}

interface Material {
  texts: TextStates;
  known: TextStates;
  memories: Record<string, Known>;
}

/** By models that see the text alone. */
async function readInPlace(
  kind: Kind,
  wanted: readonly Model[],
  { texts, memories }: Material,
  { reader, scorer, gates: Q, cache: { hiddenSize: D } }: ReadOptions,
): Promise<Readings> {
  const targets = targetsOf(kind.texts);
  const rows = rowsOf(kind.texts, texts, D);
  const found: Record<string, Found> = {};
  for (const [name, memory] of Object.entries(memories)) found[name] = await reader.search(rows.states, memory);

  const P = readPositions.length;
  const adapted = { static: new Float32Array(targets.length * Q), mixture: new Float32Array(targets.length * Q) };
  let at = 0;
  const adapts = wanted.some((model) => model !== "base");
  for (const [s, { ids }] of adapts ? kind.texts.entries() : []) {
    const chosen = await scorer.gatesOf(ids, texts.hidden.subarray(at, at + ids.length * D), promptTokens);
    at += ids.length * D;
    for (const model of ["static", "mixture"] as const) {
      for (let i = 0; i < P; i++) adapted[model].set(chosen[model], (s * P + i) * Q);
    }
  }
  const gatesOf = { ...adapted, base: new Float32Array(targets.length * Q) };
  const readings: Readings = {};
  for (const model of ["base", "static", "mixture"] as const) {
    if (!wanted.includes(model)) continue;
    readings[model] = await reader.read(rows.hidden, gatesOf[model], targets, model === "static" ? {} : found);
  }
  return readings;
}

/** By the base after the nearest passage of the known text, and the memory of all of it. */
async function readAfterPassages(
  kind: Kind,
  { texts, known, memories }: Material,
  { reader, gates: Q, cache, signal }: ReadOptions,
): Promise<ModelReading> {
  const D = cache.hiddenSize;
  const size = comparedSize(kind.group);
  const after = afterPassages(kind.texts, texts.hidden, firstTokens(kind.known, size), known.hidden, D);
  const rows = rowsOf(after, await statesOf(after, cache, signal), D);
  const own = memoryNames.own(size);
  const found = { [own]: await reader.search(rows.states, memories[own]) };
  const targets = targetsOf(kind.texts);
  return reader.read(rows.hidden, new Float32Array(targets.length * Q), targets, found);
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
