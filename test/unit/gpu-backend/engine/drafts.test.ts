import { describe, expect, test } from "vitest";
import { checkedTokens, Drafts } from "../../../../gpu-backend/engine/drafts.ts";
import type { SequenceRequest } from "../../../../shared/contracts/inference.ts";
import { createEngineHarness, sequenceRequest } from "../../../support/engine-harness.ts";
import { createFakeRunner, fakeConfig, promptOf } from "../../../support/fake-runner.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 20_261_130;
const random = seededRandom(seed);
const below = (end: number) => Math.floor(random() * end);

/** Continues `text` token by token as an engine would. Returns the passes, the guesses, and both since guessing first paused. */
function continued(text: readonly number[], known: number, { cost, memory }: { cost: number; memory?: number[] }) {
  const drafts = new Drafts();
  const counts = { passes: 0, guessed: 0, pausedTokens: 0, pausedGuesses: 0 };
  let isPaused = false;
  for (let length = known; length < text.length; counts.passes++) {
    drafts.remember(memory?.slice(length, length + checkedTokens) ?? []);
    const guess = drafts.propose(text.slice(0, length), cost, text.length - length - 1);
    const wrong = guess.findIndex((id, i) => id !== text[length + i]);
    const right = wrong < 0 ? guess.length : wrong;
    if (guess.length > 0) drafts.checked(right);
    counts.guessed += guess.length;
    isPaused ||= counts.guessed > 0 && guess.length === 0;
    if (isPaused) {
      counts.pausedTokens += right + 1;
      counts.pausedGuesses += guess.length;
    }
    length += right + 1;
  }
  return counts;
}

test("text that repeats takes a fraction of the passes, and so does text that a memory knows", () => {
  const period = Array.from({ length: 20 }, () => below(50_000));
  const repeated = Array.from({ length: 400 }, (_, i) => period[i % period.length]);
  expect(continued(repeated, 40, { cost: 0.13 }).passes).toBeLessThan(90);
  const once = Array.from({ length: 400 }, () => below(50_000));
  expect(continued(once, 40, { cost: 0.13 }).passes).toBe(360);
  expect(continued(once, 40, { cost: 0.13, memory: once }).passes).toBeLessThan(90);
});

test(`once guesses have proved wrong, they are at most 5% of the tokens, until they are right again (seed ${seed})`, () => {
  // Phrases recur all the time, but what follows them is random.
  const text = Array.from({ length: 3000 }, (_, i) => (i % 3 < 2 ? i % 3 : 100 + below(10_000)));
  const { passes, pausedGuesses, pausedTokens } = continued(text, 100, { cost: 0.13 });
  expect(pausedTokens).toBeGreaterThan(2500);
  expect(pausedGuesses / pausedTokens).toBeLessThanOrEqual(0.05);
  expect(passes).toBeLessThanOrEqual(2900);
  const period = Array.from({ length: 50 }, () => below(50_000));
  const recovered = [...text, ...Array.from({ length: 1000 }, (_, i) => period[i % 50])];
  expect(continued(recovered, 100, { cost: 0.13 }).passes).toBeLessThan(passes + 300);
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
      expect(guessed.steps).toBeLessThanOrEqual(plain.steps);
      expect([plain.drafts.checked, guessed.kv]).toEqual([0, 0]);
      expect(guessed.drafts.accepted).toBeLessThanOrEqual(guessed.drafts.checked);
    }
  });

  test("fewer passes, and none past the longest answer", async () => {
    const request = sequenceRequest("a", promptOf(100), { maxTokens: 200, sampling: { ignore_eos: true } });
    const { steps, drafts } = await framesOf(request, 0.13);
    expect(steps).toBeLessThan(100);
    expect(drafts.accepted).toBeGreaterThan(100);
    expect((await framesOf(sequenceRequest("a", promptOf(100), { maxTokens: 1 }), 0.13)).drafts.checked).toBe(0);
  });

  test("resumed tokens are computed several a pass", async () => {
    const continuedIds = Array.from({ length: 64 }, () => below(90));
    const request = sequenceRequest("a", promptOf(20), { maxTokens: 65, continuedIds });
    const { steps } = await framesOf(request, 0.13);
    expect(steps).toBe(1 + 64 / checkedTokens);
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

test("a guess that the model cannot compute ends nothing unless the sequence comes to it", async () => {
  const sampling = { ignore_eos: true, temperature: 0.4, seed: 5 };
  const request = sequenceRequest("a", promptOf(30), { maxTokens: 200, sampling });
  const expected = (await createEngineHarness({ runner: createFakeRunner({ seen: 2 }) }).run(["c1", request])).tokensOf(
    "a",
  );
  const text = [...request.promptIds, ...expected];
  const base = createFakeRunner({ seen: 2, draftCost: 0.13 });
  /** Breaks the second row if its token is a wrong guess, or from `from` on. */
  const brokenFrom = (from: number): typeof base.run => {
    return async (input) => {
      const output = await base.run(input);
      const isWrong = input.drafts && input.tokenIds[1] !== text[input.positions[1]];
      if (!isWrong && !(input.drafts && input.positions[1] >= from)) return output;
      broken++;
      output.states.fill(Number.NaN, fakeConfig.hiddenSize);
      output.logSumExp.fill(Number.NaN, 1);
      return output;
    };
  };
  let broken = 0;
  const served = await createEngineHarness({ runner: { ...base, run: brokenFrom(1000) } }).run(["c1", request]);
  expect(broken).toBeGreaterThan(0);
  expect(served.tokensOf("a")).toEqual(expected);
  const ended = await createEngineHarness({ runner: { ...base, run: brokenFrom(0) } }).run(["c1", request]);
  expect(ended.lastFrameOf("a")).toMatchObject({ type: "error", kind: "generation_failed" });
  expect(ended.tokensOf("a")).toEqual(expected.slice(0, ended.tokensOf("a").length));
  expect(ended.engine.stats.kvUsedBytes).toBe(0);
});
