/** Shapes, prompts and files of the benchmarks. Files that are made once are cached under .cache/bench. */
import { existsSync } from "node:fs";
import { mkdir, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { gpt2Config as configOf } from "../support/gpt2-config.ts";
import { seededRandom } from "../support/steps.ts";

export const gpt2Config = configOf({
  vocabularySize: 50_257,
  hiddenSize: 768,
  layers: 12,
  heads: 12,
  contextTokens: 1024,
  stopIds: [50_256],
});

/** Raise this version when cached files get another content. */
const cacheVersion = 1;
const cacheFolder = join(import.meta.dirname, `../../.cache/bench/v${cacheVersion}`);

/** Returns the path of a cached file. `make` gives the content of a missing file. */
export async function cached(name: string, make: () => Uint8Array | Promise<Uint8Array>): Promise<string> {
  const path = join(cacheFolder, name);
  if (existsSync(path)) return path;
  await mkdir(dirname(path), { recursive: true });
  // The file gets its name once it is whole, so that a stopped run leaves no partial file.
  await writeFile(`${path}.${process.pid}`, await make());
  await rename(`${path}.${process.pid}`, path);
  return path;
}

/** Prompts use ids below this number, which every vocabulary has. */
const commonVocabulary = 32_000;

/** [batch][tokens]. Prompts differ, so that no system can share a prefix. */
export function promptsOf(batch: number, tokens: number): number[][] {
  const random = seededRandom(1000 * tokens + batch);
  const draw = () => Math.floor(random() * commonVocabulary);
  return Array.from({ length: batch }, () => Array.from({ length: tokens }, draw));
}
