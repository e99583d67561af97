/** Makes artifacts for an untrained model: one centroid with scale 0, so that the base answers alone. */
import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Manifest } from "../../../shared/artifacts/manifest.ts";
import { writeTensorFile } from "../../../shared/artifacts/tensor-file.ts";
import { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import { readSmoothing, smoothingFile } from "../../engine/smoothing-file.ts";
import { writeWhole } from "../../files.ts";
import { measureMagnitudes } from "../../runtime/calibration.ts";
import { floatsOf, type ModelWeights } from "../../runtime/model-weights.ts";
import { bankShape, initialParameters, servedParameters } from "../../training/bank/parameters.ts";
import { readChatTemplate } from "../../training/chat-template-file.ts";
import { quantised } from "../../training/clustering/placement.ts";
import { fitPromptRows } from "../../training/clustering/prompt-space.ts";
import { prefixTokens } from "../../training/corpus/windows.ts";
import { publish, servedModel } from "../../training/publish.ts";
import { headOf, readBaseText, withBase } from "../base.ts";

/** Dimensions of the prompt embedding; the hidden size if that is smaller. */
export const baseDimensions = 64;
/** Number of ids that the embedding is fitted to. In byte-pair encoding, the lowest ids are the most frequent tokens. */
const fittedPieces = 4096;

export async function publishBaseArtifacts(folder: string, name: string): Promise<Manifest> {
  const { config, weightsHash, text, tokenEmbedding } = await withBase(folder, async (base) => {
    requireFinite(folder, base.weights);
    const text = await readBaseText(folder, base.config);
    return { ...headOf(base), text };
  });
  const { vocabularySize: V, hiddenSize: D } = config;
  const P = Math.min(baseDimensions, D);
  const pieces = Array.from({ length: Math.min(fittedPieces, V) }, (_, id) => ({
    tokenIds: Int32Array.of(id),
    document: String(id),
  }));
  const rows = fitPromptRows(tokenEmbedding, D, pieces, P);
  // The centroid has no effect, because its scale is 0. The initial bank changes nothing.
  const centroids = { count: 1, dimensions: P, vectors: new Float32Array(P).fill(1, 0, 1) };
  const fixed = bankShape({ rank: 0, biases: 0 });
  const generated = bankShape({ rank: 1, biases: 0, hidden: 1, dimensions: P });
  return publish(
    join(folder, "artifacts"),
    {
      ...servedParameters(
        { shape: fixed, parameters: initialParameters(fixed, D, 0) },
        { shape: generated, parameters: initialParameters(generated, D, 0) },
      ),
      centroids,
      scales: Float32Array.of(0),
    },
    quantised(rows, P),
    text.tokenizer,
    [{ label: [], size: 0, position: [0, 0], scale: 0, gain: null }],
    {
      prefixTokens,
      model: {
        ...servedModel(name, config, text),
        weights: weightsHash,
        chatTemplate: await readChatTemplate(folder, text),
      },
      training: null,
    },
  );
}

/** A single value that is not finite makes sequences fail. */
function requireFinite(folder: string, weights: ModelWeights): void {
  for (const [name, weight] of weights) {
    const values = floatsOf(weight);
    const index = values.findIndex((value) => !Number.isFinite(value));
    if (index < 0) continue;
    throw new Error(`${folder}: element ${index} of ${name} is ${values[index]}`);
  }
}

/** Does nothing if the folder has a smoothing file. */
export async function smoothBase(folder: string): Promise<void> {
  if (await readSmoothing(folder)) return;
  const text = await readFile(new URL("../calibration.txt", import.meta.url), "utf8");
  const magnitudes = await withBase(folder, async ({ config, weights }) => {
    const { tokenizer } = await readBaseText(folder, config);
    const ids = Tokenizer.fromTensors(tokenizer).encode(text);
    return measureMagnitudes({ config, weights, threads: availableParallelism() }, ids);
  });
  await writeWhole(join(folder, smoothingFile), writeTensorFile(magnitudes));
}
