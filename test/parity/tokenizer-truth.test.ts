/**
 * SmolLM2's tokenizer and chat template, packed from its GGUF file, against ids on which Hugging Face's tokenizers and llama.cpp
 * agree. Needs the weights: SMOLLM2_FOLDER names the folder with the GGUF file, tokenizer-truth.json and reference.json.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { GgufHeader } from "../../gpu-backend/models/gguf/header.ts";
import { openPartFiles } from "../../gpu-backend/models/gguf/part-files.ts";
import { tokenizerOfGguf } from "../../gpu-backend/models/import/tokenizer-source.ts";
import { readTensorFile, writeTensorFile } from "../../shared/artifacts/tensor-file.ts";
import { ChatTemplate } from "../../shared/tokenizer/chat-template.ts";
import { packTokenizer } from "../../shared/tokenizer/pack.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";

const folder = process.env.SMOLLM2_FOLDER;

test.skipIf(!folder)("texts and chats of SmolLM2 have the ids that two other tokenizers give them", () => {
  const read = (name: string) => JSON.parse(readFileSync(join(folder!, name), "utf8"));
  const file = openPartFiles(join(folder!, readdirSync(folder!).find((name) => name.endsWith(".gguf"))!));
  const header = new GgufHeader(file);
  const { vocabulary, stopIds } = tokenizerOfGguf(header);
  const template = header.text("tokenizer.chat_template")!;
  file.close();
  const tokenizer = Tokenizer.fromTensors(readTensorFile(writeTensorFile(packTokenizer(vocabulary))));
  expect([stopIds, tokenizer.roles]).toEqual([[2, 0], { endOfTextId: 0, eosId: 2, bosId: 1, addsBos: false }]);

  const counts = { texts: 0, specials: 0, chats: 0 };
  const once = [{ role: "user" as const, content: "" }];
  for (const { text, ids } of read("tokenizer-truth.json") as { text: string; ids: number[] }[]) {
    if (!vocabulary.specials.some((special) => text.includes(special.text))) {
      expect(tokenizer.encode(text), text).toEqual(ids);
      counts.texts++;
      continue;
    }
    // The truth has these with special tokens parsed, which only a template may do.
    expect(new ChatTemplate(text, tokenizer).encode(once, 0), text).toEqual(ids);
    expect(tokenizer.encode(text).some((id) => tokenizer.isSpecial(id))).toBe(false);
    counts.specials++;
  }
  type Chat = { user: string; ids: number[]; rendered: string };
  for (const { user, ids, rendered } of (read("reference.json") as { chat: Chat[] }).chat) {
    const chat = new ChatTemplate(template, tokenizer).encode([{ role: "user", content: user }], 0);
    expect([chat, tokenizer.decode(chat)]).toEqual([ids, rendered]);
    counts.chats++;
  }
  console.log(`equal: ${counts.texts} texts, ${counts.specials} with special tokens, ${counts.chats} chats`);
  expect(counts).toEqual({ texts: 368, specials: 2, chats: 5 });
});
