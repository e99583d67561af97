/** Reads a base model for training: its tokenizer, trunk and tied head. */
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

/** The parts of a base's artifacts that new artifacts keep. */
async function formerlyServed(
  directory: string,
): Promise<Pick<Manifest, "memory"> & { model: Partial<Manifest["model"]> }> {
  const json = await readFile(join(directory, "artifacts", manifestFile), "utf8").catch(nullIfMissing);
  if (json === null) return { model: {} };
  const { model, memory } = parseManifest(json);
  const { name, servedAs, contextTokens, sampling } = model;
  return { model: { name, servedAs, contextTokens, ...(sampling && { sampling }) }, memory };
}

/** Reads a base. `served` in the result is the manifest's `model` without the hash of the weights. Throws an Error that names the faulty file. */
export async function readBase(directory: string) {
  const { config, weightsHash, tokenEmbedding } = await withBase(directory, headOf);
  const text = await readBaseText(directory, config);
  const name = basename(resolve(directory));
  const former = await formerlyServed(directory);
  return {
    name,
    // The rule by which memories are mixed with the model was fitted to the base, so new artifacts keep it.
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
    /** int8 weights are smoothed, as for serving. */
    openTrunk: (threads: number, format: WeightFormat = "fp32") =>
      openTrunk(directory, weightsHash, { threads, format }),
  };
}

/** Opens the weights only when called: a resumed training may have its hidden states already. Throws an Error if the weights changed. */
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
