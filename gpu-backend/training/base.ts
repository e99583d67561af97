/** A base model as training needs it: its tokenizer, its trunk, and its tied head. */
import { readFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { packGpt2Tokenizer } from "../../shared/tokenizer/pack.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { readModelFolder } from "../models/safetensors/model-folder.ts";
import { floatsOf, weightOf } from "../runtime/model-weights.ts";
import type { ModelShape } from "../runtime/step.ts";
import { createTrunkRunner, type TrunkRunner } from "../runtime/trunk-runner.ts";
import { readChatTemplate } from "./chat-template-file.ts";

export interface TrainingBase {
  name: string;
  config: ModelShape;
  /** SHA-256 of the weights. */
  weightsHash: string;
  /** The tied head, [V, D]. */
  tokenEmbedding: Float32Array;
  tokenizer: Pick<Tokenizer, "encode" | "pieceOf">;
  /** Content of tokenizer.safetensors. */
  tokenizerFile: TensorFile;
  /** The model's own, if it has one. */
  chatTemplate: string | undefined;
  openTrunk(threads: number): Promise<TrunkRunner>;
}

/** Reads a model folder. Throws an Error that names the file at fault. */
export async function readBase(directory: string): Promise<TrainingBase> {
  const { config, weights, weightsHash } = await readModelFolder(directory);
  const tokenizerFile = packGpt2Tokenizer(
    await readFile(join(directory, "vocab.json"), "utf8"),
    await readFile(join(directory, "merges.txt"), "utf8"),
    config.stopIds[0],
  );
  return {
    name: basename(resolve(directory)),
    config,
    weightsHash,
    tokenEmbedding: floatsOf(weightOf(weights, "model.embed_tokens.weight")),
    tokenizer: Tokenizer.fromTensors(tokenizerFile),
    tokenizerFile,
    chatTemplate: await readChatTemplate(directory, tokenizerFile),
    openTrunk: (threads) => createTrunkRunner({ config, weights, threads }),
  };
}
