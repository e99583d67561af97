/** Shapes, prompts and files of the benchmarks. What is made once is kept under .cache/bench. */
import { existsSync } from "node:fs";
import { mkdir, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { gpt2Config as configOf } from "../support/gpt2-config.ts";
import { seededRandom } from "../support/steps.ts";

/** GPT-2 124M's. */
export const gpt2Config = configOf({
  vocabularySize: 50_257,
  hiddenSize: 768,
  layers: 12,
  heads: 12,
  contextTokens: 1024,
  stopIds: [50_256],
});

/** Raise it when what is cached changes, so that nobody measures yesterday's file. */
const cacheVersion = 1;
const cacheFolder = join(import.meta.dirname, `../../.cache/bench/v${cacheVersion}`);

/** The path of a cached file; `make` writes it where it is missing. */
export async function cached(name: string, make: () => Uint8Array | Promise<Uint8Array>): Promise<string> {
  const path = join(cacheFolder, name);
  if (existsSync(path)) return path;
  await mkdir(dirname(path), { recursive: true });
  // Renamed when whole: a run that was stopped must not leave half a file.
  await writeFile(`${path}.${process.pid}`, await make());
  await rename(`${path}.${process.pid}`, path);
  return path;
}

/** Ids of prompts lie below it: a vocabulary that every model has. */
const commonVocabulary = 32_000;

/** Distinct prompts of `tokens` ids each, [batch][tokens], so that nobody can share a prefix. */
export function promptsOf(batch: number, tokens: number): number[][] {
  const random = seededRandom(1000 * tokens + batch);
  const draw = () => Math.floor(random() * commonVocabulary);
  return Array.from({ length: batch }, () => Array.from({ length: tokens }, draw));
}
