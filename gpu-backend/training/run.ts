/** What trainings and measurements have in common: where they run, and parts of which an interrupted one keeps those that it finished. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { deserialize, serialize } from "node:v8";
import { nullIfMissing, writeWhole } from "../files.ts";
import type { Progress } from "./progress.ts";

export interface Run {
  threads: number;
  /** Where finished parts are kept. */
  folder: string;
  progress: Progress;
  signal?: AbortSignal;
}

/** One of the parts: a name for the progress, and all that its result depends on, as JSON writes it. */
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
    const path = join(folder, `${stage.replace(" ", "-")}-${keyOf(part.key)}.part`);
    const kept = await readFile(path).catch(nullIfMissing);
    const result = kept ? (deserialize(kept) as T) : await compute(part);
    if (!kept) await writeWhole(path, serialize(result));
    results.push(result);
    progress.advance(results.length, part.name);
  }
  return results;
}

/** A short name for a set of choices, for file names. */
export function keyOf(...choices: unknown[]): string {
  return createHash("sha256").update(JSON.stringify(choices)).digest("hex").slice(0, 16);
}
