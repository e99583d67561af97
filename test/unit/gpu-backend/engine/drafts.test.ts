import { describe, expect, test } from "vitest";
import { checkedTokens, Drafts } from "../../../../gpu-backend/engine/drafts.ts";
import { bytesPerPosition, kvShapeOf } from "../../../../gpu-backend/kv/kv-budget.ts";
import type { StepInput } from "../../../../gpu-backend/runtime/step.ts";
import type { SequenceRequest } from "../../../../shared/contracts/inference.ts";
import { createEngineHarness, sequenceRequest } from "../../../support/engine-harness.ts";
import { createFakeRunner, fakeConfig, promptOf } from "../../../support/fake-runner.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 20_261_130;
const random = seededRandom(seed);
const below = (end: number) => Math.floor(random() * end);

/** Continues `text` from its first `known` tokens as an engine would. `memory`: text that a memory knows. */
function continued(text: readonly number[], known: number, memory: readonly number[] = []) {
  const drafts = new Drafts();
  const counts = { passes: 0, guesses: 0 };
  for (let length = known; length < text.length; counts.passes++) {
    drafts.remember(memory.slice(length, length + checkedTokens));
    const guess = drafts.propose(text.slice(0, length), 0.13, text.length - length - 1);
    const wrong = guess.findIndex((id, i) => id !== text[length + i]);
    const right = wrong < 0 ? guess.length : wrong;
    if (guess.length > 0) drafts.checked(right);
    counts.guesses += guess.length;
    length += right + 1;
  }
  return counts;
}

test(`text that repeats takes a fraction of the passes, and so does text that a memory knows (seed ${seed})`, () => {
  const period = Array.from({ length: 20 }, () => below(50_000));
  const repeated = Array.from({ length: 400 }, (_, i) => period[i % period.length]);
  expect(continued(repeated, 40).passes).toBeLessThan(90);
  const once = Array.from({ length: 400 }, () => below(50_000));
  expect(continued(once, 40)).toEqual({ passes: 360, guesses: 0 });
  expect(continued(once, 40, once).passes).toBeLessThan(90);
});

test(`once guesses have proved wrong, they are at most 5% of the tokens, until they are right again (seed ${seed})`, () => {
  // Phrases recur all the time, but what follows them is random.
  const text = Array.from({ length: 3000 }, (_, i) => (i % 3 < 2 ? i % 3 : 100 + below(10_000)));
  const [start, whole] = [text.slice(0, 300), text].map((part) => continued(part, 100));
  expect(start.guesses).toBeGreaterThan(0);
  expect((whole.guesses - start.guesses) / (text.length - 300)).toBeLessThanOrEqual(0.05);
  const period = Array.from({ length: 50 }, () => below(50_000));
  const recovered = [...text, ...Array.from({ length: 1000 }, (_, i) => period[i % 50])];
  expect(continued(recovered, 100).passes).toBeLessThan(whole.passes + 300);
});

describe(`a sequence that decodes alone has the same frames with guesses as without (seed ${seed})`, () => {
  /** With few last tokens that count, generated text soon repeats itself. */
  const framesOf = async (request: SequenceRequest, draftCost: number, limits = {}) => {
    const runner = createFakeRunner({ seen: 2, draftCost });
    const harness = createEngineHarness({ runner, limits });
    await harness.run(["c1", request]);
    const frames = harness.framesOf(request.id).map((frame) => ({ ...frame, timings: null }));
    return {
      frames,
      steps: runner.steps.length,
      drafts: harness.engine.stats.drafts,
      kv: harness.engine.stats.kvUsedBytes,
    };
  };
  const cases: [string, Parameters<typeof sequenceRequest>[2]][] = [
    ["greedy", {}],
    ["sampled", { sampling: { temperature: 0.4, seed: 5 } }],
    ["with logprobs beside the base", { compare: true, sampling: { logprobs: 3 } }],
    ["to a stop string", { sampling: { stop: ["qz", "ab", "mm"] } }],
    ["with penalties", { sampling: { frequency_penalty: 0.3, repetition_penalty: 1.2 } }],
    ["from min_tokens on", { sampling: { min_tokens: 60, ignore_eos: false } }],
    ["to the context's end", { maxTokens: 1000 }],
    ["resumed", { continuedIds: Array.from({ length: 30 }, () => below(90)) }],
  ];
  test.each(cases)("%s", async (_name, rest) => {
    for (let salt = 0; salt < 4; salt++) {
      const prompt = promptOf(5 + below(200), salt);
      const sampling = { ignore_eos: salt % 2 === 0, ...rest?.sampling };
      const request = sequenceRequest("a", prompt, { maxTokens: 120, ...rest, sampling });
      const plain = await framesOf(request, Number.POSITIVE_INFINITY);
      const guessed = await framesOf(request, 0.13);
      expect(guessed.frames).toEqual(plain.frames);
      // One pass computes several resumed tokens.
      expect(guessed.steps).toBeLessThanOrEqual(plain.steps - (request.continuedIds.length * 3) / 4);
      expect([plain.drafts.checked, guessed.kv]).toEqual([0, 0]);
      expect(guessed.drafts.accepted).toBeLessThanOrEqual(guessed.drafts.checked);
    }
  });
});

test("beside another sequence none guesses, and the tokens are those that it has alone", async () => {
  const requests = [0, 1].map((salt) =>
    sequenceRequest(`${salt}`, promptOf(30, salt), { maxTokens: 90, sampling: { ignore_eos: true } }),
  );
  const runner = () => createFakeRunner({ seen: 2, draftCost: 0.13 });
  const together = await createEngineHarness({ runner: runner() }).run(["c1", ...requests]);
  expect(together.engine.stats.drafts.checked).toBe(0);
  for (const request of requests) {
    const alone = await createEngineHarness({ runner: runner() }).run(["c1", request]);
    expect(alone.engine.stats.drafts.accepted).toBeGreaterThan(20);
    expect(alone.tokensOf(request.id)).toEqual(together.tokensOf(request.id));
  }
});

describe("a pass that is not finite", () => {
  const sampling = { ignore_eos: true, temperature: 0.4, seed: 5 };
  const request = sequenceRequest("a", promptOf(30), { maxTokens: 200, sampling });
  const base = createFakeRunner({ seen: 2, draftCost: 0.13 });
  /** Rows from `broken(input)` on are not finite; none if it gives null. */
  const served = async (broken: (input: StepInput) => number | null, asked = request) => {
    const run: typeof base.run = async (input) => {
      const output = await base.run(input);
      const from = broken(input);
      if (from === null) return output;
      output.states.fill(Number.NaN, from * fakeConfig.hiddenSize);
      output.logSumExp.fill(Number.NaN, from);
      return output;
    };
    return createEngineHarness({ runner: { ...base, run } }).run(["c1", asked]);
  };

  test.each([0, 1])("changes nothing if a wrong guess broke row %d", async (row) => {
    const expected = (await served(() => null)).tokensOf("a");
    const text = [...request.promptIds, ...expected];
    let broken = 0;
    const harness = await served((input) => {
      const isWrong = input.drafts && input.tokenIds[1] !== text[input.positions[1]];
      broken += Number(isWrong ?? false);
      return isWrong ? row : null;
    });
    expect(broken).toBeGreaterThan(0);
    expect(harness.tokensOf("a")).toEqual(expected);
    expect(harness.engine.stats.kvUsedBytes).toBe(0);
  });

  test("ends the sequence at the token that cannot be computed, guessed or resumed", async () => {
    const at = 120;
    const brokenAt = ({ positions }: StepInput) => (positions.includes(at) ? positions.indexOf(at) : null);
    const whole = (await served(() => null)).tokensOf("a");
    for (const continuedIds of [[], whole.slice(0, at - 27)]) {
      const harness = await served(brokenAt, { ...request, continuedIds });
      expect(harness.lastFrameOf("a")).toMatchObject({ type: "error", kind: "generation_failed" });
      expect(harness.tokensOf("a")).toEqual(continuedIds.length > 0 ? [] : whole.slice(0, at - 29));
    }
  });
});

test("guesses that would have changed a row's length class leave no room that the memory lacks", async () => {
  for (const [change, arrives] of [
    [126, 115],
    [126, 119],
    [126, 121],
    [125, 119],
  ]) {
    const text = Array.from({ length: 400 }, (_, i) => (i < change ? i % 20 : 21 + (i % 70)));
    const base = createFakeRunner({ draftCost: 0.13, config: { contextTokens: 320 } });
    const run: typeof base.run = async (input) => {
      const output = await base.run(input);
      input.headRows.forEach((row, n) => {
        output.topIds[n * output.topCount] = text[input.positions[row] + 1];
      });
      return output;
    };
    const memory = { kvBytes: 320 * bytesPerPosition(kvShapeOf(base.config)), prefixBytes: 0 };
    const limits = { chunkTokens: 64, stepTokens: 64 };
    const harness = createEngineHarness({ runner: { ...base, run }, limits, ...memory });
    const sampling = { ignore_eos: true };
    await harness.engine.submit(null, [sequenceRequest("a", text.slice(0, 100), { maxTokens: 40, sampling })]);
    while (100 + harness.tokensOf("a").length < arrives) await harness.engine.step();
    await harness.run([null, sequenceRequest("b", promptOf(90, 1), { maxTokens: 38, sampling })]);
    expect(harness.tokensOf("a")).toEqual(text.slice(100, 140));
  }
});
