import fc from "fast-check";
import { describe, expect, test, vi } from "vitest";
import { KvArena } from "../../../../gpu-backend/kv/arena.ts";
import type { DoneFrame, SequenceRequest } from "../../../../shared/contracts/inference.ts";
import type { ErrorKind } from "../../../../shared/errors.ts";
import { uniformAt } from "../../../../shared/math/sampling.ts";
import { createEngineHarness, sequenceRequest } from "../../../support/engine-harness.ts";
import { createFakeRunner, type FakeRunner, fakeConfig, fakeLogits } from "../../../support/fake-runner.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 1715;
const V = fakeConfig.vocabularySize;
/** Keys, values and states of one position. */
const positionBytes = (2 * fakeConfig.layers + 1) * fakeConfig.hiddenSize * 4;
/** End of text out of reach, so that lengths are what the test says. */
const neverEnds = { logit_bias: [[fakeConfig.stopIds[0], -100]] as [number, number][] };

const prompt = (length: number, salt = 0) => Array.from({ length }, (_, i) => (i * 7 + salt * 13 + 1) % 90);

/** The text of a token, as the harness has it. */
const letterOf = (id: number) => String.fromCharCode(97 + (id % 26));

/** Greedy decoding by the fake's definition, without an engine. */
function greedy(promptIds: number[], count: number, bias: ReadonlyMap<number, number> = new Map()): number[] {
  const ids = [...promptIds];
  for (let i = 0; i < count; i++) {
    const logits = fakeLogits(V, ids);
    for (const [id, value] of bias) logits[id] += value;
    ids.push(Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b)[0]);
  }
  return ids.slice(promptIds.length);
}
const noEnd = new Map([[fakeConfig.stopIds[0], -100]]);

describe("a sequence", () => {
  test("of any prompt length is decoded as the definition says, and counts its tokens", async () => {
    for (const length of [1, 2, 63, 64, 65, 128, 200]) {
      const { engine, finish, tokensOf, lastFrameOf } = createEngineHarness({ runner: createFakeRunner() });
      await engine.submit(null, [sequenceRequest("a", prompt(length), { maxTokens: 80, sampling: neverEnds })]);
      await finish();
      expect(tokensOf("a")).toEqual(greedy(prompt(length), 80, noEnd));
      expect(lastFrameOf("a")).toMatchObject({
        type: "done",
        finishReason: "length",
        promptTokens: length,
        completionTokens: 80,
        adapter: null,
      });
    }
  });

  test("ends with the end of text, which is not emitted", async () => {
    const { engine, finish, tokensOf, lastFrameOf } = createEngineHarness({ runner: createFakeRunner() });
    // The fake's logits lie in [-4, 4]: with +2 the end comes soon, and not at once.
    const forced: [number, number][] = [[fakeConfig.stopIds[0], 2]];
    const expected = greedy(prompt(5), 60, new Map(forced));
    const end = expected.indexOf(fakeConfig.stopIds[0]);
    await engine.submit(null, [sequenceRequest("a", prompt(5), { maxTokens: 60, sampling: { logit_bias: forced } })]);
    await finish();
    expect(end).toBeGreaterThan(0);
    expect(tokensOf("a")).toEqual(expected.slice(0, end));
    expect(lastFrameOf("a")).toMatchObject({ finishReason: "stop", completionTokens: end });
  });

  test("ends with a stop token as with the end of text, and with the end of text only where that is not ignored", async () => {
    const runner = createFakeRunner();
    const forced: [number, number][] = [[fakeConfig.stopIds[0], 2]];
    const expected = greedy(prompt(5), 60, new Map(forced));
    const end = expected.indexOf(fakeConfig.stopIds[0]);
    const { engine, finish, tokensOf, lastFrameOf } = createEngineHarness({ runner });
    const sampling = { logit_bias: forced, ignore_eos: true };
    const after = expected.findIndex((id, i) => i > end && !expected.slice(0, i).includes(id));
    await engine.submit(null, [
      sequenceRequest("ignored", prompt(5), { maxTokens: 60, sampling }),
      sequenceRequest("stopped", prompt(5), {
        maxTokens: 60,
        sampling: { ...sampling, stop_token_ids: [expected[after]] },
      }),
      sequenceRequest("both", prompt(5), {
        maxTokens: 60,
        sampling: { ...sampling, stop_token_ids: [expected[after], fakeConfig.stopIds[0]] },
      }),
      // What is no text does not count as such.
      sequenceRequest("text", prompt(5), {
        maxTokens: 60,
        sampling: { ...sampling, stop: [letterOf(fakeConfig.stopIds[0])] },
      }),
    ]);
    await finish();
    expect(tokensOf("ignored")).toEqual(expected);
    expect(lastFrameOf("ignored")).toMatchObject({ finishReason: "length", completionTokens: 60 });
    expect(tokensOf("stopped")).toEqual(expected.slice(0, after));
    expect(lastFrameOf("stopped")).toMatchObject({ finishReason: "stop", completionTokens: after });
    expect(tokensOf("both")).toEqual(expected.slice(0, end));
    expect(tokensOf("text").length).not.toBe(end + 1);
    expect(after).toBeGreaterThan(end);
  });

  test("every stop id ends a choice, unless they are ignored, and none comes before min_tokens", async () => {
    const stopIds = [fakeConfig.stopIds[0], 7, 31];
    const runner = createFakeRunner({ config: { stopIds } });
    const { engine, finish, tokensOf, lastFrameOf } = createEngineHarness({ runner });
    for (const id of stopIds) {
      const sampling = { logit_bias: [[id, 100]] as [number, number][] };
      await engine.submit(null, [
        sequenceRequest(`ends${id}`, prompt(5), { maxTokens: 6, sampling }),
        sequenceRequest(`waits${id}`, prompt(5), { maxTokens: 6, sampling: { ...sampling, min_tokens: 3 } }),
        sequenceRequest(`ignores${id}`, prompt(5), { maxTokens: 6, sampling: { ...sampling, ignore_eos: true } }),
      ]);
      await finish();
      expect(lastFrameOf(`ends${id}`)).toMatchObject({ finishReason: "stop", completionTokens: 0 });
      expect(lastFrameOf(`waits${id}`)).toMatchObject({ finishReason: "stop", completionTokens: 3 });
      expect(tokensOf(`waits${id}`).filter((token) => stopIds.includes(token))).toEqual([]);
      expect(tokensOf(`ignores${id}`)).toEqual(Array(6).fill(id));
      expect(lastFrameOf(`ignores${id}`)).toMatchObject({ finishReason: "length" });
    }
  });

  test("does not end before min_tokens: ids that would end it cannot come, stop strings are text", async () => {
    const runner = createFakeRunner();
    const { engine, finish, tokensOf, lastFrameOf } = createEngineHarness({ runner });
    const [endOfTextId] = fakeConfig.stopIds;
    const letters = greedy(prompt(9), 12, noEnd).map(letterOf);
    const stop = letters.slice(2, 4).join("");
    await engine.submit(null, [
      sequenceRequest("end", prompt(5), {
        maxTokens: 20,
        sampling: {
          min_tokens: 7,
          temperature: 2,
          seed: 3,
          logprobs: 20,
          stop_token_ids: [4],
          logit_bias: [
            [endOfTextId, 100],
            [4, 100],
          ],
        },
      }),
      sequenceRequest("string", prompt(9), { maxTokens: 12, sampling: { ...neverEnds, min_tokens: 5, stop: [stop] } }),
      sequenceRequest("just", prompt(9), { maxTokens: 12, sampling: { ...neverEnds, min_tokens: 4, stop: [stop] } }),
      sequenceRequest("most", prompt(5), {
        maxTokens: 6,
        sampling: { min_tokens: 6, logit_bias: [[endOfTextId, 100]] },
      }),
      sequenceRequest("rest", prompt(5), {
        ...{ maxTokens: 20, continuedIds: [1, 2, 3] },
        sampling: { min_tokens: 7, logit_bias: [[endOfTextId, 100]] },
      }),
    ]);
    await finish();
    expect(lastFrameOf("end")).toMatchObject({ finishReason: "stop", completionTokens: 7 });
    expect(letters.slice(4).join("").includes(stop)).toBe(false);
    expect(tokensOf("string").length).toBe(12);
    expect(tokensOf("just").length).toBe(4);
    expect(lastFrameOf("most")).toMatchObject({ finishReason: "length", completionTokens: 6 });
    expect(lastFrameOf("rest")).toMatchObject({ finishReason: "stop", completionTokens: 7 });
  });

  test("ends where the context does, with its last token in it", async () => {
    const { engine, finish, tokensOf, lastFrameOf } = createEngineHarness({
      runner: createFakeRunner({ config: { contextTokens: 40 } }),
    });
    await engine.submit(null, [sequenceRequest("a", prompt(39), { maxTokens: 10, sampling: neverEnds })]);
    await engine.submit(null, [sequenceRequest("b", prompt(30), { maxTokens: 100, sampling: neverEnds })]);
    await finish();
    expect(tokensOf("a").length).toBe(1);
    expect(tokensOf("b").length).toBe(10);
    expect(lastFrameOf("b")).toMatchObject({ finishReason: "length", completionTokens: 10 });
  });

  test("stops at a stop string across token boundaries, with the token that completes it", async () => {
    const runner = createFakeRunner();
    const letters = greedy(prompt(9), 12, noEnd).map(letterOf);
    const stop = letters.slice(6, 9).join("");
    const { engine, finish, tokensOf, lastFrameOf } = createEngineHarness({ runner });
    await engine.submit(null, [sequenceRequest("a", prompt(9), { sampling: { ...neverEnds, stop: ["#", stop] } })]);
    await finish();
    const end = letters.join("").indexOf(stop) + stop.length;
    expect(tokensOf("a").length).toBe(end);
    expect(lastFrameOf("a")).toMatchObject({ finishReason: "stop", completionTokens: end });
  });

  test("resumed from the tokens already sent goes on with the same ones, sampled and penalised alike", async () => {
    const sampling = {
      ...neverEnds,
      temperature: 1,
      top_p: 0.9,
      seed: 5,
      frequency_penalty: 0.7,
      presence_penalty: 0.3,
      repetition_penalty: 1.2,
    };
    const { engine, finish, tokensOf, tokenFramesOf, lastFrameOf } = createEngineHarness({
      runner: createFakeRunner(),
    });
    await engine.submit(null, [sequenceRequest("whole", prompt(20), { maxTokens: 40, sampling })]);
    await finish();
    const continuedIds = tokensOf("whole").slice(0, 13);
    await engine.submit(null, [sequenceRequest("rest", prompt(20), { maxTokens: 40, continuedIds, sampling })]);
    await finish();
    expect(tokensOf("rest")).toEqual(tokensOf("whole").slice(13));
    expect(tokenFramesOf("rest")[0].index).toBe(13);
    expect(lastFrameOf("rest")).toMatchObject({ completionTokens: 40 });
  });

  test("that was complete when it broke off ends at once, for the same reason", async () => {
    const runner = createFakeRunner();
    const { engine, lastFrameOf } = createEngineHarness({ runner });
    await engine.submit(null, [
      sequenceRequest("length", prompt(3), { maxTokens: 2, continuedIds: [1, 2] }),
      sequenceRequest("stop", prompt(3), { continuedIds: [1, 2], sampling: { stop: ["bc"] } }),
      sequenceRequest("nothing", prompt(3), { maxTokens: 0 }),
    ]);
    expect(lastFrameOf("length")).toMatchObject({ finishReason: "length", completionTokens: 2 });
    expect(lastFrameOf("stop")).toMatchObject({ finishReason: "stop", completionTokens: 2 });
    expect(lastFrameOf("nothing")).toMatchObject({ finishReason: "length", completionTokens: 0 });
    expect(runner.steps).toEqual([]);
  });
});

describe("sampling", () => {
  test("draws with (seed, position); logit bias and penalties enter before the draw", async () => {
    const sampling = { temperature: 0, presence_penalty: 1.5, frequency_penalty: 0.5, repetition_penalty: 1.5 };
    const { engine, finish, tokensOf, tokenFramesOf } = createEngineHarness({ runner: createFakeRunner() });
    await engine.submit(null, [
      sequenceRequest("a", prompt(4), {
        maxTokens: 60,
        sampling: {
          ...sampling,
          logit_bias: [
            [3, 2.5],
            [99, -100],
          ],
          logprobs: 2,
        },
      }),
    ]);
    await finish();
    const ids = prompt(4);
    const counts = new Map<number, number>();
    for (const frame of tokenFramesOf("a")) {
      const logits = fakeLogits(V, ids);
      for (const id of new Set(ids)) logits[id] = logits[id] > 0 ? logits[id] / 1.5 : logits[id] * 1.5;
      logits[3] += 2.5;
      logits[99] -= 100;
      for (const [id, count] of counts) logits[id] -= 1.5 + 0.5 * count;
      const ranked = Array.from(logits.keys()).sort((x, y) => logits[y] - logits[x] || x - y);
      const total = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
      expect(frame.tokenId).toBe(ranked[0]);
      expect(frame.logprob).toBeCloseTo(logits[ranked[0]] - total, 4);
      expect(frame.alternatives!.map(([id]) => id)).toEqual(ranked.slice(0, 2));
      ids.push(frame.tokenId);
      counts.set(frame.tokenId, (counts.get(frame.tokenId) ?? 0) + 1);
    }
    expect(new Set(tokensOf("a")).size).toBeGreaterThan(30);
  });

  test("takes the token of the inverse distribution function, beyond the top K too", async () => {
    const { engine, finish, tokenFramesOf } = createEngineHarness({ runner: createFakeRunner({ topCount: 4 }) });
    const sampling = { temperature: 2, seed: 11, logprobs: 0 };
    await engine.submit(null, [sequenceRequest("a", prompt(6), { maxTokens: 40, sampling })]);
    await finish();
    const ids = prompt(6);
    let beyond = 0;
    for (const { index, tokenId, logprob } of tokenFramesOf("a")) {
      const logits = fakeLogits(V, ids);
      const ranked = Array.from(logits.keys()).sort((x, y) => logits[y] - logits[x] || x - y);
      const weights = ranked.map((id) => Math.exp(logits[id] / 2));
      const total = weights.reduce((a, b) => a + b);
      let sum = 0;
      const sums = weights.map((weight) => {
        sum += weight;
        return sum;
      });
      const rank = sums.findIndex((reached) => reached > uniformAt(11, index) * total);
      expect(tokenId).toBe(ranked[rank]);
      expect(logprob).toBeCloseTo(logits[tokenId] - Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0)), 4);
      if (rank >= 4) beyond++;
      ids.push(tokenId);
    }
    expect(beyond).toBeGreaterThan(5);
  });
});

test("the head is computed for nobody until a prompt's last chunk", async () => {
  const runner = createFakeRunner();
  const { engine, finish } = createEngineHarness({ runner, limits: { chunkTokens: 8 } });
  await engine.submit(null, [sequenceRequest("a", prompt(20), { maxTokens: 2 })]);
  await finish();
  expect(runner.steps.map(({ headRows }) => headRows)).toEqual([0, 0, 1, 1]);
});

describe("prompt logprobs", () => {
  test.each([64, 16, 5])("come in one frame before the first token, right across chunks of %d", async (chunkTokens) => {
    for (const length of [1, 2, 64, 65, 130]) {
      const runner = createFakeRunner();
      const { engine, finish, framesOf } = createEngineHarness({ runner, limits: { chunkTokens } });
      const ids = prompt(length);
      const request = { maxTokens: 2, promptLogprobs: true, sampling: { ...neverEnds, logprobs: 3 } };
      await engine.submit(null, [sequenceRequest("a", ids, request)]);
      await finish();
      const frames = framesOf("a");
      expect(frames.map(({ type }) => type)).toEqual(["prompt", "token", "token", "done"]);
      const [frame] = frames;
      if (frame.type !== "prompt") throw new Error("no prompt frame");
      expect(frame.logprobs.length).toBe(length);
      expect([frame.logprobs[0], frame.alternatives[0]]).toEqual([null, []]);
      for (let i = 1; i < length; i++) {
        const logits = fakeLogits(V, ids.slice(0, i));
        const total = Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));
        expect(frame.logprobs[i]).toBeCloseTo(logits[ids[i]] - total, 4);
        expect(frame.alternatives[i][0][0]).toBe(logits.indexOf(logits.reduce((a, b) => Math.max(a, b))));
      }
    }
  });

  test("are served without a completion, too", async () => {
    const { engine, finish, framesOf } = createEngineHarness({ runner: createFakeRunner() });
    const ask = (id: string, length: number) =>
      engine.submit(null, [sequenceRequest(id, prompt(length), { maxTokens: 0, promptLogprobs: true })]);
    await ask("long", 100);
    await ask("one", 1);
    await finish();
    expect(framesOf("long").map(({ type }) => type)).toEqual(["prompt", "done"]);
    expect(framesOf("one")).toMatchObject([{ type: "prompt", logprobs: [null] }, { finishReason: "length" }]);
  });
});

describe("compare", () => {
  test("gives each token's logprob without the adapter, of the same context and bias", async () => {
    const { engine, finish, framesOf, tokenFramesOf } = createEngineHarness({ runner: createFakeRunner() });
    const ids = prompt(70);
    const sampling = { logit_bias: [[5, 3]] as [number, number][], temperature: 1.5, seed: 2 };
    await engine.submit("c1", [
      sequenceRequest("a", ids, { maxTokens: 20, compare: true, promptLogprobs: true, sampling }),
      sequenceRequest("b", prompt(3), { maxTokens: 20, sampling: { temperature: 1 } }),
    ]);
    await finish();
    const [promptFrame] = framesOf("a");
    if (promptFrame.type !== "prompt") throw new Error("no prompt frame");
    const baseLogprob = (history: number[], id: number, bias: number) => {
      const logits = fakeLogits(V, history);
      logits[5] += bias;
      return logits[id] - Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));
    };
    ids.forEach((id, i) => {
      if (i > 0) expect(promptFrame.baseLogprobs![i]).toBeCloseTo(baseLogprob(ids.slice(0, i), id, 0), 4);
    });
    expect(promptFrame.baseLogprobs).not.toEqual(promptFrame.logprobs);
    for (const { tokenId, baseLogprob: found, logprob } of tokenFramesOf("a")) {
      expect(found).toBeCloseTo(baseLogprob(ids, tokenId, 3), 4);
      expect(logprob).not.toBeCloseTo(found!, 4);
      ids.push(tokenId);
    }
    expect(tokenFramesOf("b")[0]).not.toHaveProperty("baseLogprob");
  });

  test.each([null, "off"])(
    "with centroid %s gives the same logprob twice, and needs no second head row",
    async (id) => {
      const runner = createFakeRunner();
      const { engine, finish, tokenFramesOf, lastFrameOf } = createEngineHarness({ runner });
      await engine.submit(id, [sequenceRequest("a", prompt(3), { compare: true })]);
      await finish();
      for (const frame of tokenFramesOf("a")) expect(frame.baseLogprob).toBe(frame.logprob);
      expect(Math.max(...runner.steps.map((step) => step.headRows))).toBe(1);
      expect(lastFrameOf("a")).toMatchObject({ adapter: id && { hash: "hash-off", scale: 0, cache: "generated" } });
    },
  );
});

describe("what cannot be served ends in one explicit error", () => {
  const refused: [string, Parameters<typeof sequenceRequest>[1], object, ErrorKind, RegExp][] = [
    ["a prompt as long as the context", prompt(512), {}, "context_length_exceeded", /512 tokens.*512/],
    ["a token id out of the vocabulary", [1, 100], {}, "invalid_request", /100.*99/],
    ["such an id among the continued", [1], { continuedIds: [200] }, "invalid_request", /200.*99/],
    ["a stop token of such an id", [1], { sampling: { stop_token_ids: [5, 100] } }, "invalid_request", /100.*99/],
    ["more tokens at least than at most", [1], { sampling: { min_tokens: 17 } }, "invalid_request", /17.*16/],
    ["a bias on such an id", [1], { sampling: { logit_bias: [[150, 1]] } }, "invalid_request", /150.*99/],
  ];
  test.each(refused)("%s", async (_, ids, rest, kind, message) => {
    const { engine, finish, framesOf, tokensOf } = createEngineHarness({ runner: createFakeRunner() });
    await engine.submit("c0", [
      sequenceRequest("bad", ids, rest),
      sequenceRequest("good", [1], { sampling: neverEnds }),
    ]);
    await finish();
    expect(framesOf("bad")).toEqual([
      { type: "error", id: "bad", kind, message: expect.stringMatching(message), retryAfterSeconds: null },
    ]);
    expect(tokensOf("good").length).toBe(16);
  });

  test("a full queue", async () => {
    const { engine, finish, lastFrameOf } = createEngineHarness({
      runner: createFakeRunner(),
      limits: { maxSequences: 1, maxQueue: 4 },
    });
    await engine.submit(
      "c0",
      ["a", "b", "c"].map((id) => sequenceRequest(id, [1])),
    );
    expect(lastFrameOf("c")).toMatchObject({ type: "error", kind: "overloaded", retryAfterSeconds: 3 });
    await finish();
    expect(lastFrameOf("a")?.type).toBe("done");
    expect(lastFrameOf("b")?.type).toBe("done");
  });

  test("a deadline that passes before there is a slot; one that has a slot by then is served", async () => {
    const { engine, finish, lastFrameOf, framesOf } = createEngineHarness({
      runner: createFakeRunner(),
      limits: { maxSequences: 1 },
    });
    const deadlineMs = 30; // the harness's clock goes on by one whenever it is read
    await engine.submit(null, [
      sequenceRequest("running", [1], { deadlineMs, maxTokens: 100, sampling: neverEnds }),
      sequenceRequest("waiting", [1], { deadlineMs }),
      sequenceRequest("patient", [1]),
    ]);
    await finish();
    expect(lastFrameOf("running")).toMatchObject({ type: "done", completionTokens: 100 });
    expect(framesOf("waiting")).toEqual([
      {
        type: "error",
        id: "waiting",
        kind: "deadline_exceeded",
        message: expect.stringMatching(/30 ms/),
        retryAfterSeconds: null,
      },
    ]);
    expect(lastFrameOf("patient")?.type).toBe("done");
  });

  test("an adapter that cannot be generated", async () => {
    const { engine, lastFrameOf } = createEngineHarness({ runner: createFakeRunner() });
    await engine.submit("nowhere", [sequenceRequest("a", [1])]);
    expect(lastFrameOf("a")).toMatchObject({ type: "error", kind: "internal" });
    expect(engine.busy).toBe(false);
  });
});

describe("cancelling", () => {
  test("frees the slot within one step, in every state", async () => {
    const harness = createEngineHarness({ runner: createFakeRunner(), limits: { maxSequences: 2 } });
    const { engine, lastFrameOf } = harness;
    await engine.submit("c0", [
      sequenceRequest("decoding", prompt(3), { maxTokens: 400, sampling: neverEnds }),
      sequenceRequest("prefilling", prompt(400)),
      sequenceRequest("waiting", prompt(3)),
    ]);
    await engine.step();
    expect(engine.stats).toMatchObject({ running: 2, waiting: 1 });
    engine.cancel(["decoding", "prefilling", "waiting", "unknown"]);
    await engine.step();
    expect(engine.stats).toMatchObject({ running: 0, waiting: 0 });
    for (const id of ["decoding", "prefilling", "waiting"]) {
      expect(lastFrameOf(id)).toMatchObject({ type: "error", kind: "cancelled" });
    }
    expect(engine.busy).toBe(false);
  });

  test("while the adapter is being made leaves nothing behind", async () => {
    const made = Promise.withResolvers<void>();
    const source = {
      hashOf: () => "hash",
      async generate() {
        await made.promise;
        return { hash: "hash", gates: new Float32Array(2), changes: [], scale: 1, bytes: 100 };
      },
    };
    const { engine, framesOf } = createEngineHarness({ runner: createFakeRunner(), source });
    const submitted = engine.submit("c0", [sequenceRequest("a", [1])]);
    engine.cancel(["a"]);
    await engine.step();
    made.resolve();
    await submitted;
    expect(framesOf("a")).toMatchObject([{ type: "error", kind: "cancelled" }]);
    expect(engine.busy).toBe(false);
  });

  test("during a phase takes effect before the next", async () => {
    const harness = createEngineHarness({
      runner: createFakeRunner({
        before: async () => harness.engine.cancel(["a"]),
      }),
    });
    await harness.engine.submit(null, [sequenceRequest("a", [1], { sampling: neverEnds })]);
    await harness.engine.step();
    expect(harness.tokensOf("a").length).toBe(1);
    expect(harness.lastFrameOf("a")).toMatchObject({ kind: "cancelled" });
  });
});

describe("a sequence that gives way to another tenant", () => {
  const greedy = { tenant: "greedy", maxTokens: 60, sampling: { ...neverEnds, temperature: 1, seed: 4 } };
  const modest = (id: string) =>
    sequenceRequest(id, prompt(9), { tenant: "modest", maxTokens: 5, sampling: neverEnds });

  test("goes on where it was, decoding or prefilling, with its own keys and values", async () => {
    const { engine, finish, tokensOf } = createEngineHarness({
      runner: createFakeRunner(),
      limits: { maxSequences: 2 },
    });
    await engine.submit(null, [sequenceRequest("a", prompt(5), greedy), sequenceRequest("b", prompt(300), greedy)]);
    for (let i = 0; i < 3; i++) await engine.step();
    await engine.submit(null, [modest("m")]);
    await engine.step();
    expect(engine.stats).toMatchObject({ running: 2, waiting: 1, parked: 1, preemptions: 1 });
    expect(tokensOf("m").length).toBe(2);
    await finish();
    for (const [id, length] of [
      ["a", 5],
      ["b", 300],
    ] as const) {
      const alone = createEngineHarness({ runner: createFakeRunner() });
      await alone.engine.submit(null, [sequenceRequest(id, prompt(length), greedy)]);
      await alone.finish();
      expect(tokensOf(id)).toEqual(alone.tokensOf(id));
    }
    expect(engine.stats).toMatchObject({ running: 0, waiting: 0, parked: 0 });
  });

  test("can be cancelled while it waits, and leaves no memory behind", async () => {
    const harness = createEngineHarness({ runner: createFakeRunner(), limits: { maxSequences: 2 } });
    const { engine, finish, lastFrameOf } = harness;
    await engine.submit("c0", [sequenceRequest("a", prompt(5), greedy), sequenceRequest("b", prompt(5), greedy)]);
    await engine.step();
    await engine.submit("c1", [modest("m")]);
    await engine.step();
    expect(engine.stats.parked).toBe(1);
    engine.cancel(["a", "b"]);
    await finish();
    expect(["a", "b", "m"].map((id) => lastFrameOf(id)?.type)).toEqual(["error", "error", "done"]);
    expect(engine.stats).toMatchObject({ parked: 0, kvUsedBytes: 0 });
  });
});

test("a chunk that one pass computes becomes a block of the prefix cache without a copy out of the arena", async () => {
  const read = vi.spyOn(KvArena.prototype, "read");
  const { engine, finish, framesOf } = createEngineHarness({ runner: createFakeRunner() });
  const done = (id: string) => framesOf(id).at(-1) as DoneFrame;
  await engine.submit(null, [sequenceRequest("a", prompt(150), { maxTokens: 3, sampling: neverEnds })]);
  await finish();
  expect(read).not.toHaveBeenCalled();
  // What it has in common with the third chunk is a part of that: it goes on in the middle of it.
  const longer = [...prompt(140), ...prompt(20, 5)];
  await engine.submit(null, [sequenceRequest("b", longer, { maxTokens: 3, sampling: neverEnds })]);
  await finish();
  expect([done("a").reusedTokens, done("b").reusedTokens]).toEqual([0, 140]);
  expect(read).toHaveBeenCalledTimes(1);
  read.mockRestore();
  await engine.submit(null, [sequenceRequest("c", longer, { maxTokens: 3, sampling: neverEnds })]);
  await finish();
  expect(done("c").reusedTokens).toBe(159);
});

describe("a long row beside short ones", () => {
  const config = { contextTokens: 1024 };
  const shorts = (maxTokens: number) =>
    Array.from({ length: 31 }, (_, i) => sequenceRequest(`s${i}`, prompt(20, i), { maxTokens, sampling: neverEnds }));
  const long = sequenceRequest("long", prompt(900, 7), { maxTokens: 25, sampling: neverEnds });
  /** Positions that decode passes read, by step. */
  const decodedPositions = (steps: FakeRunner["steps"], from: number) =>
    steps.slice(from).flatMap(({ tokens, readPositions }) => (tokens === 1 ? [readPositions] : []));

  // A second class of GPT-2 124M costs a pass as much as attention over some 300 positions.
  const classBytes = 300 * positionBytes;

  test("costs them not one position of attention; all get the tokens that they get alone", async () => {
    const runner = createFakeRunner({ config, classBytes });
    const { engine, finish, tokensOf, reports } = createEngineHarness({ runner });
    await engine.submit(null, shorts(40));
    for (let i = 0; i < 3; i++) await engine.step();
    await engine.submit(null, [long]);
    while (tokensOf("long").length < 5) {
      const from = runner.steps.length;
      await engine.step();
      const isDecoding = tokensOf("long").length > 0;
      expect(decodedPositions(runner.steps, from)).toEqual(isDecoding ? [31 * 64 + 1024] : [31 * 64]);
    }
    expect(reports.at(-1)).toMatchObject({ phase: "decode", sequences: 32, tokens: 32, sampledTokens: 32 });
    await finish();
    for (const request of [...shorts(40), long]) {
      const alone = createEngineHarness({ runner: createFakeRunner({ config }) });
      await alone.engine.submit(null, [request]);
      await alone.finish();
      expect(tokensOf(request.id)).toEqual(alone.tokensOf(request.id));
    }
  });

  test("needs no memory for short ones as long as it is: 31 and one run in what four rows of the context take", async () => {
    const runner = createFakeRunner({ config, classBytes });
    const kvBytes = 4 * 1024 * positionBytes;
    const { engine, finish } = createEngineHarness({ runner, kvBytes });
    await engine.submit(null, [...shorts(40), long]);
    for (let i = 0; i < 6; i++) await engine.step();
    expect(engine.stats).toMatchObject({ running: 32, waiting: 0 });
    while (engine.busy) {
      await engine.step();
      expect(engine.stats.kvBytes).toBeLessThanOrEqual(kvBytes);
    }
    await finish();
  });

  test("is in one class with them where a second class costs more than it saves, or is never cheaper", async () => {
    for (const classBytes of [30_000 * positionBytes, Number.POSITIVE_INFINITY]) {
      const runner = createFakeRunner({ config, classBytes });
      const { engine, tokensOf } = createEngineHarness({ runner });
      await engine.submit(null, [...shorts(40), long]);
      while (tokensOf("long").length < 2) await engine.step();
      const from = runner.steps.length;
      await engine.step();
      expect(decodedPositions(runner.steps, from)).toEqual([32 * 1024]);
    }
  });
});

test("a micro-batch reports one cache result, the next one a hit", async () => {
  const { engine, finish, lastFrameOf } = createEngineHarness({ runner: createFakeRunner() });
  await engine.submit("c0", [sequenceRequest("a", [1]), sequenceRequest("b", [2])]);
  await engine.submit("c0", [sequenceRequest("c", [1])]);
  await finish();
  const cacheOf = (id: string) => {
    const frame = lastFrameOf(id);
    return frame?.type === "done" ? frame.adapter?.cache : null;
  };
  expect(["a", "b", "c"].map(cacheOf)).toEqual(["generated", "generated", "hit"]);
});

test("any traffic gives each sequence what it gets alone, and gives every slot and adapter back", async () => {
  const arrival = fc.record({
    length: fc.integer({ min: 1, max: 150 }),
    maxTokens: fc.integer({ min: 0, max: 80 }),
    tenant: fc.constantFrom("t", "t", "t", "u"),
    centroid: fc.constantFrom(null, "c0", "c1", "off"),
    temperature: fc.constantFrom(0, 0.8),
    promptLogprobs: fc.boolean(),
    compare: fc.boolean(),
    stepsBefore: fc.integer({ min: 0, max: 2 }),
    cancelAfter: fc.option(fc.integer({ min: 0, max: 12 }), { freq: 2 }),
  });
  const requestOf = (
    a: Pick<SequenceRequest, "tenant" | "maxTokens" | "promptLogprobs" | "compare"> & {
      length: number;
      temperature: number;
    },
    i: number,
  ) =>
    sequenceRequest(`s${i}`, prompt(a.length, i), {
      tenant: a.tenant,
      maxTokens: a.maxTokens,
      promptLogprobs: a.promptLogprobs,
      compare: a.compare,
      sampling: { temperature: a.temperature, seed: i, stop: ["ab"], frequency_penalty: 0.4, logprobs: 1 },
    });
  // Memory for three sequences as long as the context.
  const kvBytes = 3 * 512 * 2 * (fakeConfig.layers + 1) * fakeConfig.hiddenSize * 4;
  let [preemptions, splits] = [0, 0];
  await fc.assert(
    fc.asyncProperty(
      fc.array(arrival, { maxLength: 12, size: "max" }),
      fc.integer({ min: 2, max: 5 }),
      async (arrivals, maxSequences) => {
        const limits = { maxSequences, stepTokens: 200 };
        const runner = createFakeRunner({ classBytes: 0 });
        const together = createEngineHarness({
          runner,
          limits,
          kvBytes,
        });
        const due = new Map<number, string[]>();
        let now = 0;
        const step = async () => {
          together.engine.cancel(due.get(now++) ?? []);
          const from = runner.steps.length;
          await together.engine.step();
          if (runner.steps.slice(from).some(({ isSplit }) => isSplit)) splits++;
          expect(together.engine.stats.kvBytes).toBeLessThanOrEqual(kvBytes);
        };
        for (const [i, a] of arrivals.entries()) {
          for (let s = 0; s < a.stepsBefore; s++) await step();
          await together.engine.submit(a.centroid, [requestOf(a, i)]);
          if (a.cancelAfter !== null) due.set(now + a.cancelAfter, [...(due.get(now + a.cancelAfter) ?? []), `s${i}`]);
        }
        while (together.engine.busy) await step();
        for (const [i, a] of arrivals.entries()) {
          const alone = createEngineHarness({ runner: createFakeRunner() });
          await alone.engine.submit(a.centroid, [requestOf(a, i)]);
          await alone.finish();
          const isCancelled = together.lastFrameOf(`s${i}`)?.type === "error";
          const expected = alone.framesOf(`s${i}`).filter((frame) => frame.type !== "done");
          const found = together.framesOf(`s${i}`).slice(0, -1);
          expect(found).toEqual(isCancelled ? expected.slice(0, found.length) : expected);
        }
        expect(together.engine.stats).toMatchObject({ running: 0, waiting: 0 });
        preemptions += together.engine.stats.preemptions;
      },
    ),
    { seed, numRuns: 60 },
  );
  expect(preemptions).toBeGreaterThan(10);
  expect(splits).toBeGreaterThan(50);
});

test("a soak of 1,000 random sequences of three tenants returns every slot, and the memory", async () => {
  const random = seededRandom(seed);
  const { engine, finish, lastFrameOf, reports } = createEngineHarness({
    runner: createFakeRunner(),
    limits: { maxSequences: 16 },
  });
  const oneRow = 2 * (fakeConfig.layers + 1) * fakeConfig.hiddenSize * 4 * fakeConfig.contextTokens;
  for (let i = 0; i < 1000; i++) {
    const tenant = ["often", "often", "often", "seldom", "rarely"][Math.floor(random() * 5)];
    const request = { tenant, maxTokens: Math.floor(random() * 60), sampling: { temperature: 1, seed: i } };
    await engine.submit(`c${i % 5}`, [sequenceRequest(`s${i}`, prompt(1 + Math.floor(random() * 200), i), request)]);
    await engine.step();
    if (random() < 0.2) engine.cancel([`s${i}`]);
  }
  await finish();
  for (let i = 0; i < 1000; i++) expect(lastFrameOf(`s${i}`)?.type).toMatch(/done|error/);
  expect(engine.stats).toMatchObject({ running: 0, waiting: 0, parked: 0 });
  expect(engine.stats.kvBytes).toBeLessThanOrEqual(oneRow);
  expect(engine.stats.preemptions).toBeGreaterThan(10);
  const area = reports.filter(({ phase }) => phase === "prefill").map(({ tokens }) => tokens);
  expect(Math.max(...area)).toBeLessThanOrEqual(256);
});
