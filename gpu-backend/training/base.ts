import { readFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { type Manifest, manifestFile, parseManifest } from "../../shared/artifacts/manifest.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { readSmoothing } from "../engine/smoothing-file.ts";
import { nullIfMissing } from "../files.ts";
import { headOf, readBaseText, withBase } from "../models/base.ts";
import type { WeightFormat } from "../runtime/products.ts";
import { smoothed } from "../runtime/smoothing.ts";
import { createTrunkRunner } from "../runtime/trunk-runner.ts";
import { readChatTemplate } from "./chat-template-file.ts";
import { servedModel } from "./publish.ts";

export type TrainingBase = Awaited<ReturnType<typeof readBase>>;

/** Parts of a base's old artifacts that new artifacts keep. */
async function formerlyServed(
  directory: string,
): Promise<Pick<Manifest, "memory"> & { model: Partial<Manifest["model"]> }> {
  const json = await readFile(join(directory, "artifacts", manifestFile), "utf8").catch(nullIfMissing);
  if (json === null) return { model: {} };
  const { model, memory } = parseManifest(json);
  const { name, servedAs, contextTokens, sampling } = model;
  return { model: { name, servedAs, contextTokens, ...(sampling && { sampling }) }, memory };
}

/** `served` is the manifest's `model` without the hash of the weights. */
export async function readBase(directory: string) {
  const { config, weightsHash, tokenEmbedding } = await withBase(directory, headOf);
  const text = await readBaseText(directory, config);
  const name = basename(resolve(directory));
  const former = await formerlyServed(directory);
  return {
    name,
    // New artifacts keep the rule of memories, because it was fitted to the base.
    memory: former.memory,
    served: {
      ...servedModel(name, config, text),
      ...former.model,
      chatTemplate: await readChatTemplate(directory, text),
    },
    config,
    weightsHash,
    tokenEmbedding,
    tokenizer: Tokenizer.fromTensors(text.tokenizer),
    tokenizerFile: text.tokenizer,
    /** Smooths int8 weights, as serving does. */
    openTrunk: (threads: number, format: WeightFormat = "fp32") =>
      openTrunk(directory, weightsHash, { threads, format }),
  };
}

/** Throws an Error if the weights have changed since `readBase`. */
function openTrunk(directory: string, wantedHash: string, options: { threads: number; format: WeightFormat }) {
  return withBase(directory, async ({ config, weights, weightsFile, weightsHash }) => {
    if (weightsHash !== wantedHash) {
      throw new Error(`${join(directory, weightsFile)} changed: its SHA-256 is ${weightsHash}, it was ${wantedHash}`);
    }
    const smoothing = options.format === "int8" ? await readSmoothing(directory) : null;
    const stored = smoothing ? smoothed(config, weights, smoothing.magnitudes) : weights;
    return createTrunkRunner({ config, weights: stored, ...options });
  });
}
