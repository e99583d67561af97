/** What all measurements have in common: where they run, and parts of which an interrupted one keeps those that it finished. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { deserialize, serialize } from "node:v8";
import { nullIfMissing, writeWhole } from "../files.ts";
import { keyOf } from "../training/prepare.ts";
import type { Progress } from "../training/progress.ts";

export interface Run {
  threads: number;
  /** Where finished parts are kept. */
  folder: string;
  progress: Progress;
  signal?: AbortSignal;
}

/** One of the parts of a measurement: a name for the progress, and all that its result depends on, as JSON writes it. */
export interface Part {
  name: string;
  key: unknown;
}

/** Computes the parts one after the other; what was finished before is read. Throws the signal's reason when aborted. */
export async function resultsOf<P extends Part, T>(
  stage: string,
  parts: readonly P[],
  compute: (part: P) => Promise<T>,
  { folder, progress, signal }: Run,
): Promise<T[]> {
  const results: T[] = [];
  progress.stage(stage, parts.length);
  for (const part of parts) {
    signal?.throwIfAborted();
    const path = join(folder, `${stage}-${keyOf(part.key)}.part`);
    const kept = await readFile(path).catch(nullIfMissing);
    const result = kept ? (deserialize(kept) as T) : await compute(part);
    if (!kept) await writeWhole(path, serialize(result));
    results.push(result);
    progress.advance(results.length, part.name);
  }
  return results;
}

/** The same data with every number rounded to three decimals. */
export function rounded<T>(value: T): T {
  return JSON.parse(JSON.stringify(value, (_, one) => (typeof one === "number" ? Number(one.toFixed(3)) : one))) as T;
}
