/**
 * The embedded base against what others compute from the same file. Truth (test/fixtures/smollm2-135m.json): token ids on which
 * Hugging Face's tokenizers and llama.cpp agree; log-probabilities and greedy tokens of PyTorch over the dequantised weights, with
 * activations in float32.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { artifactsOf, readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { type OpenModel, openModel } from "../../gpu-backend/engine/open-model.ts";
import { ChatTemplate } from "../../shared/tokenizer/chat-template.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import truth from "../fixtures/smollm2-135m.json" with { type: "json" };
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

  /** Log-probabilities of a text's tokens after the first, and the likeliest token at each. */
  async function scored(texts: readonly (readonly number[])[]) {
    const harness = createEngineHarness({ runner: opened.runner, prefixBytes: 0 });
    const requests = texts.map((ids, i) =>
      sequenceRequest(`t${i}`, [...ids], { maxTokens: 0, promptLogprobs: true, sampling: { logprobs: 1 } }),
    );
    await harness.engine.submit(null, requests);
    await harness.finish();
    return requests.map(({ id }) => {
      const frame = harness.framesOf(id).find(({ type }) => type === "prompt");
      if (frame?.type !== "prompt") throw new Error(`no prompt frame: ${JSON.stringify(harness.framesOf(id))}`);
      return { logprobs: frame.logprobs.slice(1) as number[], best: frame.alternatives.slice(1).map(([[id]]) => id) };
    });
  }

  test(`chooses the same token as float32 for ${100 * agreement}% of given texts`, async () => {
    const found = await scored(truth.greedy.map(({ promptIds, nextIds }) => [...promptIds, ...nextIds]));
    const same = found.flatMap(({ best }, i) => {
      const { promptIds, nextIds } = truth.greedy[i];
      return nextIds.map((id, k) => best[promptIds.length + k - 1] === id);
    });
    const share = same.filter(Boolean).length / same.length;
    console.log(`${format}: ${(100 * share).toFixed(2)}% of ${same.length} tokens`);
    expect(share).toBeGreaterThanOrEqual(agreement);
  });
});
