import { expect, test } from "vitest";
import type { SequenceRequest } from "../../../../shared/contracts/inference.ts";
import type { SamplingChanges } from "../../../../shared/contracts/sampling.ts";
import type { ErrorKind } from "../../../../shared/errors.ts";
import { uniformAt } from "../../../../shared/math/sampling.ts";
import { createEngineHarness, sequenceRequest } from "../../../support/engine-harness.ts";
import {
  createFakeRunner,
  type FakeRunner,
  fakeConfig,
  fakeLogits,
  logSumExp,
  neverEnds,
  promptOf as prompt,
  rankedIds,
} from "../../../support/fake-runner.ts";

const V = fakeConfig.vocabularySize;
/** Bytes of one position's keys, values and state. */
const positionBytes = (2 * fakeConfig.layers + 1) * fakeConfig.hiddenSize * 4;

type Options = Partial<Parameters<typeof createEngineHarness>[0]> & { centroid?: string };
/** An engine that has served these requests. */
async function served(requests: SequenceRequest[], { centroid, ...options }: Options = {}) {
  const harness = createEngineHarness({ runner: createFakeRunner(), ...options });
  await harness.engine.submit(centroid ?? null, requests);
  await harness.finish();
  return harness;
}

/** The text of a token in the harness. */
const letterOf = (id: number) => String.fromCharCode(97 + (id % 26));

/** Greedy decoding of the fake runner's logits, without an engine. */
function greedy(promptIds: number[], count: number, bias: readonly (readonly [number, number])[]): number[] {
  const ids = [...promptIds];
  for (let i = 0; i < count; i++) {
    const logits = fakeLogits(V, ids);
    for (const [id, value] of bias) logits[id] += value;
    ids.push(rankedIds(logits)[0]);
  }
  return ids.slice(promptIds.length);
}

test("a sequence of any prompt length is decoded as the definition says, and counts its tokens", async () => {
  for (const length of [1, 2, 63, 64, 65, 128, 200]) {
    const request = sequenceRequest("a", prompt(length), { maxTokens: 80, sampling: neverEnds });
    const { tokensOf, lastFrameOf } = await served([request]);
    expect(tokensOf("a")).toEqual(greedy(prompt(length), 80, neverEnds.logit_bias));
    const counted = { promptTokens: length, completionTokens: 80, adapter: null };
    expect(lastFrameOf("a")).toMatchObject({ type: "done", finishReason: "length", ...counted });
  }
});

test("a sequence ends with a stop token as with the end of text, and with the end of text only where that is not ignored", async () => {
  const [endOfTextId] = fakeConfig.stopIds;
  const logit_bias: [number, number][] = [[endOfTextId, 2]];
  const expected = greedy(prompt(5), 60, logit_bias);
  const end = expected.indexOf(endOfTextId);
  const after = expected.findIndex((id, i) => i > end && !expected.slice(0, i).includes(id));
  const request = (id: string, changes: SamplingChanges) =>
    sequenceRequest(id, prompt(5), { maxTokens: 60, sampling: { logit_bias, ignore_eos: true, ...changes } });
  const { tokensOf, lastFrameOf } = await served([
    request("plain", { ignore_eos: false }),
    request("ignored", {}),
    request("stopped", { stop_token_ids: [expected[after]] }),
    request("both", { stop_token_ids: [expected[after], endOfTextId] }),
    // The end-of-text token adds no text, so it does not cause this stop, although the harness has a letter for its id.
    request("text", { stop: [letterOf(endOfTextId)] }),
  ]);
  expect([end > 0, after > end]).toEqual([true, true]);
  for (const id of ["plain", "both"]) {
    expect(tokensOf(id)).toEqual(expected.slice(0, end));
    expect(lastFrameOf(id)).toMatchObject({ finishReason: "stop", completionTokens: end });
  }
  expect(tokensOf("ignored")).toEqual(expected);
  expect(lastFrameOf("ignored")).toMatchObject({ finishReason: "length", completionTokens: 60 });
  expect(tokensOf("stopped")).toEqual(expected.slice(0, after));
  expect(lastFrameOf("stopped")).toMatchObject({ finishReason: "stop", completionTokens: after });
  expect(tokensOf("text").length).not.toBe(end + 1);
});

test("every stop id ends a choice, unless they are ignored, and none comes before min_tokens", async () => {
  const stopIds = [fakeConfig.stopIds[0], 7, 31];
  for (const stopId of stopIds) {
    const request = (id: string, changes: SamplingChanges) =>
      sequenceRequest(id, prompt(5), { maxTokens: 6, sampling: { logit_bias: [[stopId, 100]], ...changes } });
    const requests = [
      request("ends", {}),
      request("waits", { min_tokens: 3 }),
      request("ignores", { ignore_eos: true }),
    ];
    const runner = createFakeRunner({ config: { stopIds } });
    const { tokensOf, lastFrameOf } = await served(requests, { runner });
    expect(lastFrameOf("ends")).toMatchObject({ finishReason: "stop", completionTokens: 0 });
    expect(lastFrameOf("waits")).toMatchObject({ finishReason: "stop", completionTokens: 3 });
    expect(tokensOf("waits").filter((token) => stopIds.includes(token))).toEqual([]);
    expect(tokensOf("ignores")).toEqual(Array(6).fill(stopId));
    expect(lastFrameOf("ignores")).toMatchObject({ finishReason: "length" });
  }
});

test("a sequence does not end before min_tokens: ids that would end it cannot come, stop strings are text", async () => {
  const biasOf = (...ids: number[]) => ids.map((id): [number, number] => [id, 100]);
  const [endOfTextId] = fakeConfig.stopIds;
  const letters = greedy(prompt(9), 12, neverEnds.logit_bias).map(letterOf);
  const stop = letters.slice(2, 4).join("");
  const drawn = { temperature: 2, seed: 3, logprobs: 20 };
  const ends = { min_tokens: 7, logit_bias: biasOf(endOfTextId) };
  const stops = (min_tokens: number) => ({ maxTokens: 12, sampling: { ...neverEnds, min_tokens, stop: [stop] } });
  const either = { ...drawn, min_tokens: 7, stop_token_ids: [4], logit_bias: biasOf(endOfTextId, 4) };
  const { tokensOf, lastFrameOf } = await served([
    sequenceRequest("end", prompt(5), { maxTokens: 20, sampling: either }),
    sequenceRequest("string", prompt(9), stops(5)),
    sequenceRequest("just", prompt(9), stops(4)),
    sequenceRequest("most", prompt(5), { maxTokens: 6, sampling: { ...ends, min_tokens: 6 } }),
    sequenceRequest("rest", prompt(5), { maxTokens: 20, continuedIds: [1, 2, 3], sampling: ends }),
  ]);
  expect(lastFrameOf("end")).toMatchObject({ finishReason: "stop", completionTokens: 7 });
  expect(letters.slice(4).join("").includes(stop)).toBe(false);
  expect(tokensOf("string").length).toBe(12);
  expect(tokensOf("just").length).toBe(4);
  expect(lastFrameOf("most")).toMatchObject({ finishReason: "length", completionTokens: 6 });
  expect(lastFrameOf("rest")).toMatchObject({ finishReason: "stop", completionTokens: 7 });
});

test("a sequence ends where the context does, with its last token in it", async () => {
  const requests = [
    sequenceRequest("a", prompt(39), { maxTokens: 10, sampling: neverEnds }),
    sequenceRequest("b", prompt(30), { maxTokens: 100, sampling: neverEnds }),
  ];
  const runner = createFakeRunner({ config: { contextTokens: 40 } });
  const { tokensOf, lastFrameOf } = await served(requests, { runner });
  expect(tokensOf("a").length).toBe(1);
  expect(tokensOf("b").length).toBe(10);
  expect(lastFrameOf("b")).toMatchObject({ finishReason: "length", completionTokens: 10 });
});

test("a sequence stops at a stop string across token boundaries, with the token that completes it", async () => {
  const letters = greedy(prompt(9), 12, neverEnds.logit_bias).map(letterOf);
  const stop = letters.slice(6, 9).join("");
  const sampling = { ...neverEnds, stop: ["#", stop] };
  const { tokensOf, lastFrameOf } = await served([sequenceRequest("a", prompt(9), { sampling })]);
  const end = letters.join("").indexOf(stop) + stop.length;
  expect(tokensOf("a").length).toBe(end);
  expect(lastFrameOf("a")).toMatchObject({ finishReason: "stop", completionTokens: end });
});

test("a sequence resumed from the tokens already sent goes on with the same ones, sampled and penalised alike", async () => {
  const penalties = { frequency_penalty: 0.7, presence_penalty: 0.3, repetition_penalty: 1.2 };
  const sampling = { ...neverEnds, ...penalties, temperature: 1, top_p: 0.9, seed: 5 };
  const { engine, finish, tokensOf, tokenFramesOf, lastFrameOf } = await served([
    sequenceRequest("whole", prompt(20), { maxTokens: 40, sampling }),
  ]);
  const continuedIds = tokensOf("whole").slice(0, 13);
  await engine.submit(null, [sequenceRequest("rest", prompt(20), { maxTokens: 40, continuedIds, sampling })]);
  await finish();
  expect(tokensOf("rest")).toEqual(tokensOf("whole").slice(13));
  expect(tokenFramesOf("rest")[0].index).toBe(13);
  expect(lastFrameOf("rest")).toMatchObject({ completionTokens: 40 });
});

test("a sequence that was complete when it broke off ends at once, for the same reason", async () => {
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

test("logit bias and penalties change the logits from which tokens, logprobs and alternatives come", async () => {
  const sampling = { temperature: 0, presence_penalty: 1.5, frequency_penalty: 0.5, repetition_penalty: 1.5 };
  const logit_bias: [number, number][] = [...neverEnds.logit_bias, [3, 2.5]];
  const { tokensOf, tokenFramesOf } = await served([
    sequenceRequest("a", prompt(4), { maxTokens: 60, sampling: { ...sampling, logit_bias, logprobs: 2 } }),
  ]);
  const ids = prompt(4);
  const counts = new Map<number, number>();
  for (const frame of tokenFramesOf("a")) {
    const logits = fakeLogits(V, ids);
    for (const id of new Set(ids)) logits[id] = logits[id] > 0 ? logits[id] / 1.5 : logits[id] * 1.5;
    for (const [id, value] of logit_bias) logits[id] += value;
    for (const [id, count] of counts) logits[id] -= 1.5 + 0.5 * count;
    const ranked = rankedIds(logits);
    expect(frame.tokenId).toBe(ranked[0]);
    expect(frame.logprob).toBeCloseTo(logits[ranked[0]] - logSumExp(logits), 4);
    expect(frame.alternatives!.map(([id]) => id)).toEqual(ranked.slice(0, 2));
    ids.push(frame.tokenId);
    counts.set(frame.tokenId, (counts.get(frame.tokenId) ?? 0) + 1);
  }
  expect(new Set(tokensOf("a")).size).toBeGreaterThan(30);
});

test("sampling draws with (seed, position) from the inverse distribution function, beyond the top K too", async () => {
  const sampling = { temperature: 2, seed: 11, logprobs: 0 };
  const { tokenFramesOf } = await served([sequenceRequest("a", prompt(6), { maxTokens: 40, sampling })], {
    runner: createFakeRunner({ topCount: 4 }),
  });
  const ids = prompt(6);
  let beyond = 0;
  for (const { index, tokenId, logprob } of tokenFramesOf("a")) {
    const logits = fakeLogits(V, ids);
    const ranked = rankedIds(logits);
    const weights = ranked.map((id) => Math.exp(logits[id] / 2));
    const total = weights.reduce((a, b) => a + b);
    let sum = 0;
    const rank = weights.findIndex((weight) => {
      sum += weight;
      return sum > uniformAt(11, index) * total;
    });
    expect(tokenId).toBe(ranked[rank]);
    expect(logprob).toBeCloseTo(logits[tokenId] - logSumExp(logits), 4);
    if (rank >= 4) beyond++;
    ids.push(tokenId);
  }
  expect(beyond).toBeGreaterThan(5);
});

test.each([64, 16, 5])("prompt logprobs come in one frame first, right across chunks of %d", async (chunkTokens) => {
  for (const length of [1, 2, 64, 65, 130]) {
    const ids = prompt(length);
    const request = { maxTokens: 2, promptLogprobs: true, sampling: { ...neverEnds, logprobs: 3 } };
    const frames = (await served([sequenceRequest("a", ids, request)], { limits: { chunkTokens } })).framesOf("a");
    expect(frames.map(({ type }) => type)).toEqual(["prompt", "token", "token", "done"]);
    const [frame] = frames;
    if (frame.type !== "prompt") throw new Error("no prompt frame");
    expect(frame.logprobs.length).toBe(length);
    expect([frame.logprobs[0], frame.alternatives[0]]).toEqual([null, []]);
    for (let i = 1; i < length; i++) {
      const logits = fakeLogits(V, ids.slice(0, i));
      expect(frame.logprobs[i]).toBeCloseTo(logits[ids[i]] - logSumExp(logits), 4);
      expect(frame.alternatives[i][0][0]).toBe(rankedIds(logits)[0]);
    }
  }
});

test("prompt logprobs are served without a completion, too", async () => {
  const scored = { maxTokens: 0, promptLogprobs: true };
  const requests = [sequenceRequest("long", prompt(100), scored), sequenceRequest("one", prompt(1), scored)];
  const { framesOf } = await served(requests);
  expect(framesOf("long").map(({ type }) => type)).toEqual(["prompt", "done"]);
  expect(framesOf("one")).toMatchObject([{ type: "prompt", logprobs: [null] }, { finishReason: "length" }]);
});

test("compare gives each token's logprob without the adapter, of the same context and bias", async () => {
  const ids = prompt(70);
  const sampling = { logit_bias: [[5, 3]] as [number, number][], temperature: 1.5, seed: 2 };
  const compared = sequenceRequest("a", ids, { maxTokens: 20, compare: true, promptLogprobs: true, sampling });
  const plain = sequenceRequest("b", prompt(3), { maxTokens: 20, sampling: { temperature: 1 } });
  const { framesOf, tokenFramesOf } = await served([compared, plain], { centroid: "c1" });
  const [promptFrame] = framesOf("a");
  if (promptFrame.type !== "prompt") throw new Error("no prompt frame");
  const baseLogprob = (history: number[], id: number, bias: number) => {
    const logits = fakeLogits(V, history);
    logits[5] += bias;
    return logits[id] - logSumExp(logits);
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

test.each([null, "off"])("compare with centroid %s gives equal logprobs from one head row", async (id) => {
  const runner = createFakeRunner();
  const request = sequenceRequest("a", prompt(3), { compare: true });
  const { tokenFramesOf, lastFrameOf } = await served([request], { runner, centroid: id ?? undefined });
  for (const frame of tokenFramesOf("a")) expect(frame.baseLogprob).toBe(frame.logprob);
  expect(Math.max(...runner.steps.map((step) => step.headRows))).toBe(1);
  expect(lastFrameOf("a")).toMatchObject({ adapter: id && { hash: "hash-off", scale: 0, cache: "generated" } });
});

const refused: [string, Parameters<typeof sequenceRequest>[1], object, ErrorKind, RegExp][] = [
  ["a prompt as long as the context", prompt(512), {}, "context_length_exceeded", /512 tokens.*512/],
  ["a token id out of the vocabulary", [1, 100], {}, "invalid_request", /100.*99/],
  ["such an id among the continued", [1], { continuedIds: [200] }, "invalid_request", /200.*99/],
  ["a stop token of such an id", [1], { sampling: { stop_token_ids: [5, 100] } }, "invalid_request", /100.*99/],
  ["more tokens at least than at most", [1], { sampling: { min_tokens: 17 } }, "invalid_request", /17.*16/],
  ["a bias on such an id", [1], { sampling: { logit_bias: [[150, 1]] } }, "invalid_request", /150.*99/],
];
test.each(refused)("what cannot be served ends in one explicit error: %s", async (_, ids, rest, kind, message) => {
  const requests = [sequenceRequest("bad", ids, rest), sequenceRequest("good", [1], { sampling: neverEnds })];
  const { framesOf, tokensOf } = await served(requests, { centroid: "c0" });
  const error = { type: "error", id: "bad", kind, retryAfterSeconds: null };
  expect(framesOf("bad")).toEqual([{ ...error, message: expect.stringMatching(message) }]);
  expect(tokensOf("good").length).toBe(16);
});

test("what cannot be served ends in one explicit error: a deadline that passes before there is a slot; one that has a slot by then is served", async () => {
  const deadlineMs = 30; // the harness's clock advances by one whenever it is read
  const requests = [
    sequenceRequest("running", [1], { deadlineMs, maxTokens: 100, sampling: neverEnds }),
    sequenceRequest("waiting", [1], { deadlineMs }),
    sequenceRequest("patient", [1]),
  ];
  const { lastFrameOf, framesOf } = await served(requests, { limits: { maxSequences: 1 } });
  expect(lastFrameOf("running")).toMatchObject({ type: "done", completionTokens: 100 });
  const error = { type: "error", id: "waiting", kind: "deadline_exceeded", retryAfterSeconds: null };
  expect(framesOf("waiting")).toEqual([{ ...error, message: expect.stringMatching(/30 ms/) }]);
  expect(lastFrameOf("patient")?.type).toBe("done");
});

test("what cannot be served ends in one explicit error: an adapter that cannot be generated", async () => {
  const { engine, lastFrameOf } = await served([sequenceRequest("a", [1])], { centroid: "nowhere" });
  expect(lastFrameOf("a")).toMatchObject({ type: "error", kind: "internal" });
  expect(engine.busy).toBe(false);
});

test("cancelling frees the slot within one step, in every state", async () => {
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

test("cancelling while the adapter is being made leaves nothing behind", async () => {
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

test("a sequence that is parked for another tenant can be cancelled while it waits, and leaves no memory behind", async () => {
  const limits = { maxSequences: 2 };
  const { engine, finish, lastFrameOf } = createEngineHarness({ runner: createFakeRunner(), limits });
  const greedy = { tenant: "greedy", maxTokens: 60, sampling: neverEnds };
  await engine.submit("c0", [sequenceRequest("a", prompt(5), greedy), sequenceRequest("b", prompt(5), greedy)]);
  await engine.step();
  await engine.submit("c1", [sequenceRequest("m", prompt(9), { tenant: "modest", maxTokens: 5 })]);
  await engine.step();
  expect(engine.stats.parked).toBe(1);
  engine.cancel(["a", "b"]);
  await finish();
  expect(["a", "b", "m"].map((id) => lastFrameOf(id)?.type)).toEqual(["error", "error", "done"]);
  expect(engine.stats).toMatchObject({ parked: 0, kvUsedBytes: 0 });
});

const config = { contextTokens: 1024 };
const shorts = (maxTokens: number) =>
  Array.from({ length: 31 }, (_, i) => sequenceRequest(`s${i}`, prompt(20, i), { maxTokens, sampling: neverEnds }));
const long = sequenceRequest("long", prompt(900, 7), { maxTokens: 25, sampling: neverEnds });
/** Positions that each decode pass reads. */
const decodedPositions = (steps: FakeRunner["steps"], from: number) =>
  steps.slice(from).flatMap(({ tokens, readPositions }) => (tokens === 1 ? [readPositions] : []));

// For GPT-2 124M a second length class costs a pass as much as attention over some 300 positions.
const classBytes = 300 * positionBytes;

test("a long row does not lengthen the attention of short rows beside it; all get the tokens that they get alone", async () => {
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
    const alone = await served([request], { runner: createFakeRunner({ config }) });
    expect(tokensOf(request.id)).toEqual(alone.tokensOf(request.id));
  }
});
