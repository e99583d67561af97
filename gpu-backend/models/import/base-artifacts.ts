/**
 * Artifacts of an untrained model: its own tokenizer and prompt embedding, and one centroid of scale 0 (auto-off), so that the
 * base alone is served until `npm run train` makes better ones.
 */
import { join } from "node:path";
import type { Manifest } from "../../../shared/artifacts/manifest.ts";
import { floatsOf, type ModelWeights, weightOf } from "../../runtime/model-weights.ts";
import { bankShape, initialParameters, servedParameters } from "../../training/bank/parameters.ts";
import { readChatTemplate } from "../../training/chat-template-file.ts";
import { quantised } from "../../training/clustering/placement.ts";
import { fitPromptSpace, foldRows } from "../../training/clustering/prompt-space.ts";
import { prefixTokens } from "../../training/corpus/windows.ts";
import { publish } from "../../training/publish.ts";
import { readModelFolder } from "../safetensors/model-folder.ts";
import { readSampling, readTokenizerFiles } from "./tokenizer-files.ts";

/** P, where the hidden size is not smaller. */
export const baseDimensions = 64;
/** The prompt embedding is fitted to the pieces of lowest id, which byte-pair merging made first as the most frequent. */
const fittedPieces = 4096;

/** Writes `<folder>/artifacts` for the model in `folder`. Throws an Error that names the file at fault. */
export async function publishBaseArtifacts(folder: string, name: string): Promise<Manifest> {
  const { config, weights, weightsHash } = await readModelFolder(folder);
  requireFinite(folder, weights);
  const tokenizer = await readTokenizerFiles(folder, config);
  const { vocabularySize: V, hiddenSize: D, contextTokens } = config;
  const tokenEmbedding = floatsOf(weightOf(weights, "model.embed_tokens.weight"));
  const P = Math.min(baseDimensions, D);
  const pieces = Array.from({ length: Math.min(fittedPieces, V) }, (_, id) => ({
    tokenIds: Int32Array.of(id),
    document: String(id),
  }));
  const space = fitPromptSpace(tokenEmbedding, D, pieces, P);
  // Nothing depends on the centroid while its scale is 0, nor on the bank, which starts as no delta at all.
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
      space,
    },
    quantised(foldRows(space, tokenEmbedding), P),
    tokenizer.file,
    [{ label: [], size: 0, position: [0, 0], scale: 0, gain: null }],
    {
      prefixTokens,
      model: {
        name,
        servedAs: "gpt2",
        weights: weightsHash,
        ...{ vocabularySize: V, hiddenSize: D, contextTokens, stopIds: tokenizer.stopIds },
        chatTemplate: await readChatTemplate(folder, tokenizer.file),
        sampling: await readSampling(folder),
      },
      training: null,
    },
  );
}

/** One such weight makes every sequence that meets it, or all, fail while it is served. */
function requireFinite(folder: string, weights: ModelWeights): void {
  for (const [name, weight] of weights) {
    const values = floatsOf(weight);
    const index = values.findIndex((value) => !Number.isFinite(value));
    if (index < 0) continue;
    throw new Error(`${folder}/model.safetensors: element ${index} of ${name} is ${values[index]}`);
  }
}
