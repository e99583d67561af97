/** Neither a prefix cache hit nor a sequence's length class changes a bit of its answer, on real ONNX sessions of every weight format. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { kvFormatFor, weightFormats } from "../../gpu-backend/runtime/products.ts";
import type { StepRunner } from "../../gpu-backend/runtime/step.ts";
import type { Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import { createEngineHarness, sequenceRequest } from "../support/engine-harness.ts";
import { type ModelHarness, openModelHarness } from "../support/model-harness.ts";
import { seededRandom } from "../support/steps.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { readTinyArtifacts } from "../support/tiny-families.ts";
import { tinyConfig, writeTinyModel } from "../support/tiny-model.ts";

const seed = 2027;
const random = seededRandom(seed);
const draw = (length: number) => Array.from({ length }, () => Math.floor(random() * tinyConfig.stopIds[0]));
const mixture = {
  base: 0.5,
  adapters: ["c0", "c1"].map((centroidId) => ({ centroidId, weight: 0.25 })),
  evidence: { tokens: 407, temper: 0.3, floor: 0.1 },
};
const mixtureIn = (frame: Frame | undefined) => (frame?.type === "done" ? frame.mixture : null);
const logit_bias: [number, number][] = [[tinyConfig.stopIds[0], -100]];

const folder = temporaryFolder();
await writeTinyModel(folder);

const families = (["GPT-2", "Llama"] as const).flatMap((family) => weightFormats.map((format) => ({ family, format })));

describe.each(families)("a $family in $format", ({ family, format }) => {
  let model: ModelHarness;
  beforeAll(async () => {
    const artifacts = await readTinyArtifacts(folder, family);
    model = await openModelHarness(artifacts, { format, kv: kvFormatFor(format) });
  });
  afterAll(() => model.stop());

  const harness = (prefixBytes: number) => model.harness({ prefixBytes });

  test("short sequences beside a long one, in its length class or in their own, get the bits that they get alone", async () => {
    const sampling = { logit_bias, logprobs: 5 };
    const requests = [300, 20, 21, 310, 50, 62, 7, 33].map((length, i) =>
      sequenceRequest(`s${i}`, draw(length), { sampling, ...(i < 3 ? { maxTokens: 6, mixture } : { maxTokens: 12 }) }),
    );
    const { runner } = model;
    const { config, gates, kvFormat } = runner;
    let [steps, passes, splitPasses] = [0, 0, 0];
    const framesOf = async (classBytes: number, some: SequenceRequest[]) => {
      const run: StepRunner["run"] = (input) => {
        if (input.tokens === 1 && input.sequences > 0) passes++;
        if (input.longPast) splitPasses++;
        return runner.run(input);
      };
      const own = { config, gates, kvFormat, classBytes, run, release: () => Promise.resolve() };
      const target = createEngineHarness({ runner: own, prefixBytes: 0 });
      [steps, passes, splitPasses] = [0, 0, 0];
      await target.engine.submit(null, some);
      for (; target.engine.busy; steps++) await target.engine.step();
      return some.map(({ id }) => target.framesOf(id).slice(0, -1));
    };
    const apart = await framesOf(0, requests);
    expect(passes).toBeLessThanOrEqual(steps);
    expect(splitPasses).toBeGreaterThan(0);
    const together = await framesOf(Number.POSITIVE_INFINITY, requests);
    expect(splitPasses).toBe(0);
    expect(apart).toEqual(together);
    for (const [i, request] of requests.entries()) expect([apart[i]]).toEqual(await framesOf(0, [request]));
  });

  test("a beginning of 400 tokens, computed under c0, changes no token and no logprob bit under c1, c0 or the base", async () => {
    const shared = draw(400);
    const sampled = { logit_bias, logprobs: 5, temperature: 1 };
    const request = (id: string, own: number, rest: Partial<SequenceRequest> = {}) =>
      sequenceRequest(id, [...shared, ...draw(own)], { maxTokens: 24, ...rest, sampling: { ...sampled, seed: own } });
    const work: [string | null, SequenceRequest][] = [
      ["c0", request("first", 30)],
      ["c1", request("c1", 20)],
      ["c0", request("c0", 0)],
      [null, request("base", 61)],
      ["c1", request("compared", 3, { compare: true })],
      // The evidence of this prompt includes tokens that were computed for another sequence.
      ["c0", request("mixed", 7, { mixture, compare: true })],
      // All tokens of this prompt but the last are cached.
      ["c1", { ...request("one", 0), promptIds: shared.slice(0, 385) }],
    ];
    // A prompt that is cached whole reuses all but its last token; with int8 keys and values only whole blocks are reused.
    const isWhole = kvFormatFor(format) === "int8";
    const expected: Record<string, number> = { first: 0, c0: isWhole ? 384 : 399, one: 384 };
    const target = await harness(2 ** 26).run(work[0]);
    await target.run(...work.slice(1));
    // `late` shares 400 tokens with the other prompts. They end within a block that the sequence `base` left in the cache.
    const late = request("late", 62);
    const other = late.promptIds.find((id) => work.every(([, { promptIds }]) => promptIds[400] !== id))!;
    late.promptIds[400] = other;
    work.push(["c1", late]);
    await target.run(["c1", late]);
    for (const [centroid, one] of work) {
      const alone = await harness(0).run([centroid, one]);
      expect(alone.tokensOf(one.id).length).toBe(24);
      expect(target.tokenFramesOf(one.id)).toEqual(alone.tokenFramesOf(one.id));
      expect(mixtureIn(target.lastFrameOf(one.id))).toEqual(mixtureIn(alone.lastFrameOf(one.id)));
      const last = target.lastFrameOf(one.id);
      const reusedTokens = last?.type === "done" ? last.reusedTokens : null;
      expect(reusedTokens).toBe(expected[one.id] ?? (isWhole ? 384 : 400));
    }
  });

  // Attention takes queries in blocks of 64. The last query of 65 is alone in its block, where the kernel sums in another order.
  test.each([33, 49, 64, 65, 66, 97, 127])("a repeated prompt of %d tokens gets the same bits", async (length) => {
    const prompt = sequenceRequest("whole", draw(length), { maxTokens: 4, sampling: { logit_bias, logprobs: 5 } });
    const target = harness(2 ** 26);
    for (const id of ["whole", "again"]) await target.run([null, { ...prompt, id }]);
    const tokens = (id: string) => target.tokenFramesOf(id).map((frame) => ({ ...frame, id: "" }));
    expect(tokens("again")).toEqual(tokens("whole"));
  });

  test("eight choices of one prompt, two centroids, are the same as each alone", async () => {
    const promptIds = draw(200);
    const choice = (id: string, seed: number) =>
      sequenceRequest(id, promptIds, { sampling: { logit_bias, temperature: 1, seed, logprobs: 1 } });
    const work = Array.from({ length: 8 }, (_, i): [string, SequenceRequest] => [`c${i % 2}`, choice(`s${i}`, i)]);
    const target = await harness(2 ** 26).run(...work);
    expect(target.engine.stats.prefixes).toMatchObject({ reusedTokens: 7 * 192 });
    for (const [centroid, one] of work) {
      const alone = await harness(0).run([centroid, one]);
      expect(target.tokenFramesOf(one.id)).toEqual(alone.tokenFramesOf(one.id));
    }
  });
});
