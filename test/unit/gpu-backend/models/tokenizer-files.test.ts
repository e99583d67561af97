import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { readSampling, readTokenizerFiles } from "../../../../gpu-backend/models/tokenizer-files.ts";
import type { ModelConfig } from "../../../../gpu-backend/runtime/model-config.ts";
import { byteAlphabet } from "../../../../shared/tokenizer/pack.ts";
import { Tokenizer } from "../../../../shared/tokenizer/tokenizer.ts";
import { gpt2TokenizerJson } from "../../../support/gpt2-tokenizer.ts";
import { temporaryFolder } from "../../../support/temporary-folder.ts";
import { tinyConfig } from "../../../support/tiny-model.ts";

const specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const pieces = [...specials, ...byteAlphabet()];
const tokenizerJson = {
  ...gpt2TokenizerJson({ pieces, merges: [], endOfTextId: 0 }),
  added_tokens: specials.map((content, id) => ({ id, content, special: true })),
};
const config: ModelConfig = {
  ...tinyConfig,
  ...{ vocabularySize: 259, stopIds: [2], positions: { theta: 10_000, scaling: null } },
};

let folder: string;
const write = (name: string, content: object) => writeFile(join(folder, name), JSON.stringify(content));
beforeEach(async () => {
  folder = temporaryFolder();
  await write("tokenizer.json", tokenizerJson);
  await write("config.json", { bos_token_id: 1 });
});

test("a Llama folder's tokenizer is that of tokenizer.json, with the ends that generation_config.json adds", async () => {
  await write("generation_config.json", { eos_token_id: [2, 1], temperature: null });
  const { tokenizer: file, stopIds } = await readTokenizerFiles(folder, config);
  const tokenizer = Tokenizer.fromTensors(file);
  expect(stopIds).toEqual([2, 1, 0]);
  expect(tokenizer.roles).toEqual({ endOfTextId: 0, eosId: 2, bosId: 1, addsBos: false });
  expect(tokenizer.encode("a1")).toEqual([pieces.indexOf("a"), pieces.indexOf("1")]);
  await expect(readTokenizerFiles(folder, { ...config, vocabularySize: 200 })).rejects.toThrow(
    /tokenizer\.json has 259 entries, config\.json says 200/,
  );
});

test("sampling is what generation_config.json proposes where it samples, within bounds", async () => {
  expect(await readSampling(folder)).toBeUndefined();
  await write("generation_config.json", { do_sample: true, temperature: 0.6, top_p: 0.9, top_k: null, max_length: 9 });
  expect(await readSampling(folder)).toEqual({ temperature: 0.6, top_p: 0.9 });
  await write("generation_config.json", { temperature: 0.6 });
  expect(await readSampling(folder)).toBeUndefined();
  await write("generation_config.json", { do_sample: true, temperature: 7 });
  await expect(readSampling(folder)).rejects.toThrow(/generation_config\.json is not valid: temperature/);
});
