/// <reference lib="esnext.float16" />
/**
 * What the trunk makes of texts: the states before the last feed-forward part, of length 1, which are keys and queries of memories, and
 * final hidden states. Cached on disk in half precision, a file for each pass.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { nullIfMissing, writeWhole } from "../../../files.ts";
import type { TrunkRunner } from "../../../runtime/trunk-runner.ts";
import { type Text, tokensOf } from "../texts.ts";

/** Texts of one pass. Fixed: batching may change the last bit, and a resumed run must give the same bytes. */
const textsPerPass = 8;

/** Both [tokens of all texts, D], text after text. */
export interface TextStates {
  states: Float32Array;
  hidden: Float32Array;
}

export interface StateCache {
  directory: string;
  /** What the states depend on besides the texts. */
  key: string;
  hiddenSize: number; // D
  trunk: Pick<TrunkRunner, "states">;
}

/** States of all tokens of the texts. Throws the signal's reason when aborted; finished passes stay in the cache. */
export async function statesOf(texts: readonly Text[], cache: StateCache, signal?: AbortSignal): Promise<TextStates> {
  const size = tokensOf(texts) * cache.hiddenSize;
  const all = { states: new Float32Array(size), hidden: new Float32Array(size) };
  let at = 0;
  for (let from = 0; from < texts.length; from += textsPerPass) {
    signal?.throwIfAborted();
    const halves = await passOf(texts.slice(from, from + textsPerPass), cache);
    all.states.set(halves.subarray(0, halves.length / 2), at);
    all.hidden.set(halves.subarray(halves.length / 2), at);
    at += halves.length / 2;
  }
  return all;
}

/** States, then hidden states, of the texts of one pass. */
async function passOf(texts: readonly Text[], cache: StateCache): Promise<Float16Array<ArrayBuffer>> {
  const hash = createHash("sha256").update(cache.key);
  for (const { ids } of texts) hash.update(Int32Array.of(ids.length, ...ids));
  const path = join(cache.directory, `states-${hash.digest("hex").slice(0, 16)}.f16`);
  const cached = await readFile(path).catch(nullIfMissing);
  if (cached) return new Float16Array(new Uint8Array(cached).buffer);
  const halves = await compute(texts, cache);
  await writeWhole(path, new Uint8Array(halves.buffer));
  return halves;
}

/** One pass over right-padded texts. */
async function compute(
  texts: readonly Text[],
  { hiddenSize: D, trunk }: StateCache,
): Promise<Float16Array<ArrayBuffer>> {
  const T = Math.max(...texts.map(({ ids }) => ids.length));
  const tokenIds = new Int32Array(texts.length * T);
  for (const [s, { ids }] of texts.entries()) tokenIds.set(ids, s * T);
  const { states, hidden } = await trunk.states(tokenIds, texts.length, T);
  const size = tokensOf(texts) * D;
  const halves = new Float16Array(2 * size);
  let at = 0;
  for (const [s, { ids }] of texts.entries()) {
    for (let t = 0; t < ids.length; t++, at += D) {
      const row = (s * T + t) * D;
      halves.set(normalised(states.subarray(row, row + D)), at);
      halves.set(hidden.subarray(row, row + D), size + at);
    }
  }
  return halves;
}

export function normalised(vector: Float32Array): Float32Array {
  const length = Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0));
  return vector.map((x) => x / length);
}
