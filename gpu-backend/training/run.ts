/** A run keeps finished parts in a folder, so that an interrupted run resumes. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { deserialize, serialize } from "node:v8";
import { nullIfMissing, writeWhole } from "../files.ts";
import type { Progress } from "./progress.ts";

export interface Run {
  threads: number;
  folder: string;
  progress: Progress;
  signal?: AbortSignal;
}

export interface Part {
  name: string;
  /** Everything that the result depends on, as JSON. */
  key: unknown;
}

/** Reads results that an earlier run kept. Throws the signal's reason when aborted. */
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

export function keyOf(...choices: unknown[]): string {
  return createHash("sha256").update(JSON.stringify(choices)).digest("hex").slice(0, 16);
}
