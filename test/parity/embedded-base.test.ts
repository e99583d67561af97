/** The embedded base's token ids are those on which Hugging Face's tokenizers and llama.cpp agree (smollm2-tokens.json). */
import { beforeAll, expect, test } from "vitest";
import { readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { ChatTemplate } from "../../shared/tokenizer/chat-template.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import truth from "../fixtures/smollm2-tokens.json" with { type: "json" };
import { embeddedBase } from "../support/embedded-base.ts";

let tokenizer: Tokenizer;
let template: ChatTemplate;
beforeAll(async () => {
  const artifacts = await readArtifacts(embeddedBase);
  artifacts.model.close();
  tokenizer = artifacts.tokenizer;
  template = new ChatTemplate(artifacts.manifest.model.chatTemplate ?? null, tokenizer);
});

test(`gives ${truth.texts.length} texts the ids on which two implementations agree`, () => {
  const wrong = truth.texts.filter(({ text, ids }) => tokenizer.encode(text).join() !== ids.join());
  expect(wrong).toEqual([]);
});

test("renders chats as the model's own template does", () => {
  for (const { user, ids } of truth.chats) {
    expect([...template.encode([{ role: "user", content: user }], 0)]).toEqual(ids);
  }
});
