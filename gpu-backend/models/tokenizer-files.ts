/** The tokenizer of a Hugging Face model folder, its ends of text, and the sampling that its authors propose. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { samplingSchema } from "../../shared/contracts/sampling.ts";
import { packGpt2Tokenizer, packTokenizer } from "../../shared/tokenizer/pack.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { nullIfMissing } from "../files.ts";
import type { ModelConfig } from "../runtime/model-config.ts";
import { tokenizerOfJson } from "./tokenizer-source.ts";

export interface FolderTokenizer {
  /** Content of tokenizer.safetensors. */
  file: TensorFile;
  stopIds: number[];
}

const ids = z
  .union([
    z
      .int()
      .min(0)
      .transform((id) => [id]),
    z.array(z.int().min(0)),
  ])
  .nullish();
const generationSchema = z.object({
  eos_token_id: ids,
  do_sample: z.boolean().nullish(),
  ...samplingSchema.pick({ temperature: true, top_p: true, top_k: true, repetition_penalty: true }).partial().shape,
});
const beginSchema = z.object({ bos_token_id: ids });

/** Throws an Error that names the file and the entry, or both sizes, where they do not fit. */
export async function readTokenizerFiles(folder: string, config: ModelConfig): Promise<FolderTokenizer> {
  const read = (name: string) => readFile(join(folder, name), "utf8");
  const { vocabularySize } = config;
  const isGpt2 = config.positions === "learned";
  let tokenizer: FolderTokenizer;
  if (isGpt2) {
    const [vocabulary, merges] = [await read("vocab.json"), await read("merges.txt")];
    const stopIds = [...config.stopIds];
    tokenizer = { file: packGpt2Tokenizer(vocabulary, merges, stopIds[0]), stopIds };
  } else {
    const { eos_token_id } = await readGeneration(folder);
    const [bosId = null] = beginSchema.parse(JSON.parse(await read("config.json"))).bos_token_id ?? [];
    const eosIds = [...config.stopIds, ...(eos_token_id ?? [])];
    const { vocabulary, stopIds } = tokenizerOfJson(await read("tokenizer.json"), { vocabularySize, eosIds, bosId });
    tokenizer = { file: packTokenizer(vocabulary), stopIds };
  }
  const { vocabularySize: found } = Tokenizer.fromTensors(tokenizer.file);
  if (found !== vocabularySize) {
    const name = isGpt2 ? "vocab.json" : "tokenizer.json";
    throw new Error(`${folder}/${name} has ${found} entries, config.json says ${vocabularySize}`);
  }
  return tokenizer;
}

/** What generation_config.json proposes for requests that name no sampling; undefined where it proposes none. */
export async function readSampling(folder: string) {
  const { do_sample, eos_token_id: _, ...sampling } = await readGeneration(folder);
  return do_sample && Object.keys(sampling).length > 0 ? sampling : undefined;
}

async function readGeneration(folder: string): Promise<z.infer<typeof generationSchema>> {
  const name = join(folder, "generation_config.json");
  const text = await readFile(name, "utf8").catch(nullIfMissing);
  const fields = Object.entries(JSON.parse(text ?? "{}")).filter(([, value]) => value !== null);
  const parsed = generationSchema.safeParse(Object.fromEntries(fields));
  if (parsed.success) return parsed.data;
  const [{ path, message }] = parsed.error.issues;
  throw new Error(`${name}: ${path.join(".")}: ${message}`);
}
