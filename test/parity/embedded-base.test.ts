/**
 * The embedded base as it is served, against what others compute from the same file: token ids on which Hugging Face's tokenizers
 * and llama.cpp agree (smollm2-tokens.json), and greedy tokens of PyTorch in float32 (smollm2-reference.json).
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { artifactsOf, readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { type OpenModel, openModel } from "../../gpu-backend/engine/open-model.ts";
import { ChatTemplate } from "../../shared/tokenizer/chat-template.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import reference from "../fixtures/smollm2-reference.json" with { type: "json" };
import truth from "../fixtures/smollm2-tokens.json" with { type: "json" };
import { embeddedBase } from "../support/embedded-base.ts";
import { createEngineHarness, sequenceRequest } from "../support/engine-harness.ts";

describe("its tokenizer", () => {
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

  test("writes chats as the model's template does", () => {
    for (const { user, ids } of truth.chats) {
      expect([...template.encode([{ role: "user", content: user }], 0)]).toEqual(ids);
    }
  });
});

/**
 * Texts that a greedy model wrote, of which a fifth of the tokens lead by less than .3 nats: int8 agrees with float32 on 93% of all.
 */
const formats = [
  { format: "int8", agreement: 0.9 },
  { format: "exact", agreement: 0.99 },
] as const;

describe.each(formats)("in $format", ({ format, agreement }) => {
  let opened: OpenModel;
  let scratch: string;
  beforeAll(async () => {
    scratch = await mkdtemp(path.join(tmpdir(), "smollm2-"));
    const settings = {
      modelDirectory: embeddedBase,
      artifactsDirectory: artifactsOf(embeddedBase),
      dataDirectory: scratch,
    };
    opened = await openModel({ ...settings, threads: 2, weightFormat: format, device: "cpu" }, () => performance.now());
  }, 120_000);
  afterAll(async () => {
    await opened?.runner.release();
    await rm(scratch, { recursive: true, force: true });
  });

  /** The likeliest token at each place of a text after the first. */
  async function likeliest(texts: readonly (readonly number[])[]) {
    const harness = createEngineHarness({ runner: opened.runner, prefixBytes: 0 });
    const requests = texts.map((ids, i) =>
      sequenceRequest(`t${i}`, [...ids], { maxTokens: 0, promptLogprobs: true, sampling: { logprobs: 1 } }),
    );
    await harness.engine.submit(null, requests);
    await harness.finish();
    return requests.map(({ id }) => {
      const frame = harness.framesOf(id).find(({ type }) => type === "prompt");
      if (frame?.type !== "prompt") throw new Error(`no prompt frame: ${JSON.stringify(harness.framesOf(id))}`);
      return frame.alternatives.slice(1).map(([[id]]) => id);
    });
  }

  test(`chooses the same token as float32 for ${100 * agreement}% of given texts`, async () => {
    const found = await likeliest(reference.greedy.map(({ ids, next }) => [...ids, ...next]));
    const same = found.flatMap((best, i) => {
      const { ids, next } = reference.greedy[i];
      return next.map((id, k) => best[ids.length + k - 1] === id);
    });
    const share = same.filter(Boolean).length / same.length;
    console.log(`${format}: ${(100 * share).toFixed(2)}% of ${same.length} tokens`);
    expect(share).toBeGreaterThanOrEqual(agreement);
  });
});
