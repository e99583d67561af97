import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { requireValid } from "../../shared/artifacts/checked-json.ts";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { samplingSchema } from "../../shared/contracts/sampling.ts";
import { packTokenizer } from "../../shared/tokenizer/pack.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { nullIfMissing } from "../files.ts";
import type { ModelConfig } from "../runtime/model-config.ts";
import { tokenizerOfJson } from "./tokenizer-source.ts";

export const tokenizerJsonFile = "tokenizer.json";

const id = z.int().min(0);
const ids = z.union([id.transform((one) => [one]), z.array(id)]).nullish();
const generationSchema = z.object({
  eos_token_id: ids,
  do_sample: z.boolean().nullish(),
  ...samplingSchema.pick({ temperature: true, top_p: true, top_k: true, repetition_penalty: true }).partial().shape,
});
const beginSchema = z.object({ bos_token_id: ids });

/** `tokenizer` is the content of tokenizer.safetensors. Throws an Error that names the faulty file and entry. */
export async function readTokenizerFiles(
  folder: string,
  config: ModelConfig,
): Promise<{ tokenizer: TensorFile; stopIds: number[] }> {
  const read = (name: string) => readFile(join(folder, name), "utf8");
  const { vocabularySize } = config;
  const { eos_token_id } = await readGeneration(folder);
  const [bosId = null] = beginSchema.parse(JSON.parse(await read("config.json"))).bos_token_id ?? [];
  const eosIds = [...config.stopIds, ...(eos_token_id ?? [])];
  const { vocabulary, stopIds } = tokenizerOfJson(await read(tokenizerJsonFile), { vocabularySize, eosIds, bosId });
  const tokenizer = packTokenizer(vocabulary);
  const { vocabularySize: found } = Tokenizer.fromTensors(tokenizer);
  if (found === vocabularySize) return { tokenizer, stopIds };
  throw new Error(`${folder}/${tokenizerJsonFile} has ${found} entries, config.json says ${vocabularySize}`);
}

export async function readSampling(folder: string) {
  const { do_sample, eos_token_id: _, ...sampling } = await readGeneration(folder);
  return do_sample && Object.keys(sampling).length > 0 ? sampling : undefined;
}

async function readGeneration(folder: string): Promise<z.infer<typeof generationSchema>> {
  const name = join(folder, "generation_config.json");
  const text = await readFile(name, "utf8").catch(nullIfMissing);
  const fields = Object.entries(JSON.parse(text ?? "{}")).filter(([, value]) => value !== null);
  return requireValid(generationSchema, Object.fromEntries(fields), name);
}
