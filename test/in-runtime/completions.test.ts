import { describe, expect, test, vi } from "vitest";
import type { Frame } from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import type { CompletionChoice, CompletionResponse } from "../../shared/contracts/responses.ts";
import { samplingWith } from "../../shared/contracts/sampling.ts";
import { edgeModel } from "../support/edge-model.ts";
import { doneFrame, tokenFrame } from "../support/frames.ts";
import { loadOnce } from "../support/load-once.ts";
import {
  backendAnswers,
  backendStreams,
  byteStream,
  cellsWith,
  edgeArtifacts,
  edgeArtifactsWith,
  eventsOf,
  manifestHash,
  saying,
  testApp,
  useNetwork,
} from "./harness.ts";

useNetwork();

const { endOfTextId, turnEndId } = edgeModel;
const nearest = { chameleon: { adapter: "nearest" } };
const base = { id: "base", weight: 1 };

async function completed(body: object, app = testApp()): Promise<CompletionResponse> {
  const response = await app.complete(body);
  expect(response.status, await response.clone().text()).toBe(200);
  return response.json();
}

/** Reads a streamed completion and joins the chunks of each choice. */
async function streamed(body: object): Promise<{ chunks: CompletionResponse[]; choices: CompletionChoice[] }> {
  const response = await testApp().complete({ ...body, stream: true });
  expect(response.status, await response.clone().text()).toBe(200);
  const { data } = await eventsOf(response);
  expect(data.pop()).toBe("[DONE]");
  const chunks = data as CompletionResponse[];
  const choices: CompletionChoice[] = [];
  for (const part of chunks.flatMap((chunk) => chunk.choices)) {
    const choice = choices[part.index];
    if (!choice) choices[part.index] = structuredClone(part);
    else {
      choice.text += part.text;
      choice.finish_reason ??= part.finish_reason;
      if (part.logprobs) {
        choice.logprobs ??= { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
        choice.logprobs.tokens.push(...part.logprobs.tokens);
        choice.logprobs.token_logprobs.push(...part.logprobs.token_logprobs);
        choice.logprobs.top_logprobs.push(...part.logprobs.top_logprobs);
        choice.logprobs.text_offset.push(...part.logprobs.text_offset);
      }
    }
  }
  return { chunks, choices };
}

describe("a completion", () => {
  test("has OpenAI's shape, the adapter's facts, a request id and its timings", async () => {
    backendAnswers(({ id }) => saying(id, "bc"));
    const app = testApp();
    const response = await app.complete({ prompt: "aaa", max_tokens: 2, ...nearest });
    expect(response.headers.get("x-request-id")).toMatch(/^req_[0-9a-f]{32}$/);
    const phases = response.headers
      .get("server-timing")!
      .split(", ")
      .map((entry) => entry.split(";")[0]);
    expect(phases).toEqual(["tokenize", "assign", "queue", "adapter", "prefill", "decode"]);
    const block = {
      centroid: "c0",
      similarity: expect.closeTo(1, 5),
      mode: "adapted",
      experts: [{ id: "c0", weight: 1, hash: "e".repeat(64) }],
      evidence: null,
      adapter: { hash: "e".repeat(64), cache: "hit", scale: 1 },
      held_out_gain: { nats: 0.1, ci95: [0.05, 0.3], tokens: 1000 },
      seed: 7,
      timings: expect.any(Object),
    };
    expect(await response.json()).toEqual({
      id: response.headers.get("x-request-id")?.replace("req_", "cmpl-"),
      object: "text_completion",
      created: expect.any(Number),
      model: "gpt2:auto",
      system_fingerprint: `fp_${(await manifestHash()).slice(0, 12)}`,
      choices: [{ index: 0, text: "bc", logprobs: null, finish_reason: "length", chameleon: block }],
      usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 },
    });
  });

  test("says what answered only where the request has an object `chameleon`, and once for each choice", async () => {
    backendAnswers(({ id }) => saying(id, "bc"));
    const timesIn = async (body: object) => {
      const response = await testApp().complete({ prompt: "aaa", n: 2, max_tokens: 2, ...body });
      return (await response.text()).match(/"chameleon":/g)?.length ?? 0;
    };
    for (const stream of [false, true]) {
      expect(await timesIn({ stream })).toBe(0);
      expect(await timesIn({ stream, chameleon: null })).toBe(0);
      expect(await timesIn({ stream, chameleon: {} })).toBe(2);
    }
  });

  test("rounds what it says of the answer: milliseconds to tenths, other numbers to four decimals", async () => {
    const gained = { nats: 0.123456789, tokens: 2 };
    backendAnswers(({ id }) => [
      { ...tokenFrame(id, 0, 98), logprob: -1.23456789, baseLogprob: -2.3456789 },
      {
        ...doneFrame(id),
        mixture: { base: 1 / 3, adapters: [{ hash: "e".repeat(64), weight: 2 / 3 }], evidence: gained },
        timings: { queueMs: 1.23456, adapterMs: 2.34567, prefillMs: 3.45678, decodeMs: 4.56789 },
      },
    ]);
    const { choices } = await completed({ prompt: "aab", max_tokens: 1, chameleon: { compare: true } });
    const decimals = (number: string) => (number.split(".")[1] ?? "").length;
    const numbers = JSON.stringify(choices[0].chameleon).match(/-?\d+(\.\d+)?(?:e-?\d+)?(?=[,}\]])/g)!;
    expect(numbers.length).toBeGreaterThan(15);
    expect(Math.max(...numbers.map(decimals))).toBeLessThanOrEqual(4);
    const { timings } = choices[0].chameleon!;
    expect(timings).toMatchObject({ adapter: 2.3, prefill: 3.5, decode: 4.6 });
    // `queue` is the backend's 1.2 ms plus the wait at the edge in whole milliseconds, so its fraction stays .2.
    const { queue } = timings!;
    expect([queue >= 1.2, queue.toFixed(1)]).toEqual([true, `${Math.floor(queue)}.2`]);
    expect(String(queue)).toBe(queue.toFixed(1));
  });

  test("defaults are OpenAI's", async () => {
    const seen = backendAnswers(({ id }) => saying(id, "b"));
    await completed({ model: "gpt2" });
    expect(seen.batches[0]).toMatchObject({ version: 3, manifestHash: await manifestHash(), centroidId: null });
    expect(seen.batches[0].sequences).toHaveLength(1);
    expect(seen.batches[0].sequences[0]).toMatchObject({
      promptIds: [endOfTextId],
      maxTokens: 16,
      promptLogprobs: false,
      compare: false,
    });
    expect(samplingWith(seen.batches[0].sequences[0].sampling)).toMatchObject({
      ...{ temperature: 1, top_p: 1, top_k: 0, min_p: 0, logprobs: null, stop: [], logit_bias: [] },
    });
    // A batch carries only the parameters that the client set, and the seed that the edge draws.
    expect(Object.keys(seen.batches[0].sequences[0].sampling)).toEqual(["seed"]);
  });

  test("null means absent, and every field reaches the backend", async () => {
    const seen = backendAnswers(({ id }) => saying(id, "b"));
    await completed({ model: "gpt2", prompt: "a", n: null, stop: null, seed: null, logit_bias: null, suffix: null });
    await completed({
      model: "gpt2",
      prompt: "a",
      temperature: 0,
      top_p: 0,
      top_k: 40,
      min_p: 0.05,
      max_tokens: 5,
      min_tokens: 4,
      ignore_eos: true,
      stop: "\n",
      stop_token_ids: [7, 261],
      repetition_penalty: 1.2,
      presence_penalty: 0.5,
      frequency_penalty: -0.5,
      logit_bias: { 98: -100, 5: 1.5 },
      logprobs: 2,
      user: "someone",
      best_of: 1,
    });
    expect(seen.batches[1].sequences[0]).toMatchObject({
      maxTokens: 5,
      sampling: {
        temperature: 0,
        top_p: 0,
        top_k: 40,
        min_p: 0.05,
        min_tokens: 4,
        ignore_eos: true,
        stop: ["\n"],
        stop_token_ids: [7, 261],
        repetition_penalty: 1.2,
        logprobs: 2,
        presence_penalty: 0.5,
        frequency_penalty: -0.5,
        logit_bias: expect.arrayContaining([
          [98, -100],
          [5, 1.5],
        ]),
      },
    });
    await completed({ model: "gpt2", prompt: "a", top_k: -1, min_p: null, min_tokens: null, stop_token_ids: null });
    expect(samplingWith(seen.batches[2].sequences[0].sampling)).toMatchObject({
      ...{ top_k: -1, min_p: 0, min_tokens: 0, ignore_eos: false, stop_token_ids: [], repetition_penalty: 1 },
    });
  });

  test("prompt + max_tokens over the context is clipped", async () => {
    const seen = backendAnswers(({ id, maxTokens }) => saying(id, "b".repeat(Math.min(1, maxTokens))));
    await completed({ model: "gpt2", prompt: "a".repeat(40), max_tokens: 1000 });
    expect(seen.batches[0].sequences[0].maxTokens).toBe(edgeModel.contextTokens - 40);
    await completed({ model: "gpt2", prompt: "a".repeat(edgeModel.contextTokens) });
    expect(seen.batches[1].sequences[0].maxTokens).toBe(0);
    await completed({ model: "gpt2", prompt: "a".repeat(40), max_tokens: 20, min_tokens: 20 });
    const { maxTokens, sampling } = seen.batches[2].sequences[0];
    expect([maxTokens, sampling.min_tokens]).toEqual([edgeModel.contextTokens - 40, edgeModel.contextTokens - 40]);
  });

  test("an end of text that does not end the answer is a token without text; stop strings apply from min_tokens on", async () => {
    backendAnswers(({ id, sampling }) => {
      const ids = [98, endOfTextId, 99, 98, 99, 100];
      const tokens = ids.map((tokenId, i) => ({ ...tokenFrame(id, i, tokenId), logprob: 0 - i, alternatives: [] }));
      const finishReason = sampling.stop?.length ? "stop" : "length";
      return [...tokens, { ...doneFrame(id), finishReason, completionTokens: 6 }];
    });
    const request = { model: "gpt2", prompt: "a", max_tokens: 6, ignore_eos: true, logprobs: 0 };
    const { choices, usage } = await completed(request);
    expect(choices[0]).toMatchObject({ text: "bcbcd", finish_reason: "length" });
    expect(choices[0].logprobs).toMatchObject({
      token_logprobs: [0, -1, -2, -3, -4, -5],
      text_offset: [0, 1, 1, 2, 3, 4],
    });
    expect(usage).toMatchObject({ completion_tokens: 6 });
    const stopped = await completed({ ...request, stop: "bc", min_tokens: 4 });
    expect(stopped.choices[0]).toMatchObject({ text: "bc", finish_reason: "stop" });
  });

  test("choices are prompt-major, whatever order they end in", async () => {
    const seen = backendAnswers(({ id, promptIds }, { centroidId }) => {
      const choice = Number(id.split("-")[1]);
      return saying(id, `${centroidId}${String.fromCharCode(promptIds[0])}${choice}${"!".repeat(6 - choice)}`);
    });
    const prompts = ["aa", "bb", "aa", [122, 122]];
    const body = { prompt: prompts.slice(0, 3), n: 2, max_tokens: 10, chameleon: {} };
    const { choices, usage } = await completed(body);
    expect(choices.map(({ index, text }) => [index, text.slice(0, 4)])).toEqual([
      [0, "c0a0"],
      [1, "c0a1"],
      [2, "c1b2"],
      [3, "c1b3"],
      [4, "c0a4"],
      [5, "c0a5"],
    ]);
    expect(choices.map((choice) => choice.chameleon?.centroid)).toEqual(["c0", "c0", "c1", "c1", "c0", "c0"]);
    expect(seen.batches.map((batch) => batch.centroidId).sort()).toEqual(["c0", "c1"]);
    // A prompt counts once, whatever n is.
    expect(usage?.prompt_tokens).toBe(6);
  });

  test("token ids are prompts: one list, or several", async () => {
    const seen = backendAnswers(({ id }) => saying(id, "b"));
    await completed({ model: "gpt2", prompt: [97, 98] });
    await completed({ model: "gpt2", prompt: [[97], [98, 99]] });
    const prompts = seen.batches.map(({ sequences }) => sequences.map(({ promptIds }) => promptIds));
    expect(prompts).toEqual([[[97, 98]], [[97], [98, 99]]]);
  });

  test("a seed repeats its texts, also beside other prompts, and differs between choices", async () => {
    const seen = backendAnswers(({ id }) => saying(id, "b"));
    await completed({ model: "gpt2", prompt: "a", n: 3, seed: 5 });
    await completed({ model: "gpt2", prompt: ["b", "a"], n: 3, seed: 5 });
    await completed({ model: "gpt2", prompt: "a", n: 3, seed: -5 });
    const seeds = seen.batches.map(({ sequences }) => sequences.map(({ sampling }) => sampling.seed));
    expect(new Set(seeds[0]).size).toBe(3);
    expect(seeds[1]).toEqual([...seeds[0], ...seeds[0]]);
    expect(seeds[2]).not.toEqual(seeds[0]);
  });

  test("special tokens are never part of the text", async () => {
    backendAnswers(({ id }) => [
      tokenFrame(id, 0, 98),
      tokenFrame(id, 1, endOfTextId),
      tokenFrame(id, 2, turnEndId),
      { ...doneFrame(id), finishReason: "stop", completionTokens: 3 },
    ]);
    const { choices } = await completed({ model: "gpt2", prompt: "a" });
    expect(choices[0]).toMatchObject({ text: "b", finish_reason: "stop" });
  });
});

describe("which adapter serves", () => {
  const cases: [string, object, string | null, string, string][] = [
    ["by evidence, the nearest first", { model: "gpt2:auto", prompt: "bbb" }, "c1", "c1", "evidence"],
    ["the same without a model", { prompt: "bbb" }, "c1", "c1", "evidence"],
    ["none for the base", { model: "gpt2", prompt: "bbb" }, null, "c1", "off"],
    ["the model's own centroid's", { model: "gpt2:c0", prompt: "bbb" }, "c0", "c0", "adapted"],
    ["the nearest alone where the extension says so", { ...nearest, prompt: "bbb" }, "c1", "c1", "adapted"],
    ["none where the nearest did not help", { ...nearest, prompt: "zzz" }, null, "c2", "auto-off"],
    ["none where asked for off", { prompt: "bbb", chameleon: { adapter: "off" } }, null, "c1", "off"],
    ["what the extension names", { model: "gpt2", prompt: "bbb", chameleon: { adapter: "c0" } }, "c0", "c0", "adapted"],
    [
      "by evidence where the extension says so",
      { model: "gpt2", prompt: "bbb", chameleon: { adapter: "auto" } },
      "c1",
      "c1",
      "evidence",
    ],
    [
      "by the first tokens alone",
      { prompt: `${"a".repeat(edgeModel.prefixTokens)}${"b".repeat(20)}` },
      "c0",
      "c0",
      "evidence",
    ],
  ];
  test.each(cases)("%s", async (_, body, sent, centroid, mode) => {
    const seen = backendAnswers(({ id }, { centroidId }) =>
      saying(id, "x").map((frame) =>
        frame.type === "done" && centroidId === null ? { ...frame, adapter: null } : frame,
      ),
    );
    const { chameleon } = (await completed({ chameleon: {}, ...body })).choices[0];
    expect(seen.batches[0].centroidId).toBe(sent);
    expect(seen.batches[0].sequences[0].mixture !== undefined).toBe(mode === "evidence");
    expect(chameleon).toMatchObject({ centroid, mode });
    if (sent === null) expect(chameleon).toMatchObject({ adapter: null, held_out_gain: null, experts: [base] });
    else expect(chameleon?.held_out_gain).not.toBeNull();
  });

  test("compare tells each token's logprob with and without it, and the mean difference", async () => {
    const seen = backendAnswers(({ id }) => [
      { ...tokenFrame(id, 0, 98), logprob: -1, baseLogprob: -1.5 },
      { ...tokenFrame(id, 1, 99), logprob: -2, baseLogprob: -1.7 },
      { ...doneFrame(id), completionTokens: 2 },
    ]);
    const body = { prompt: "aaa", chameleon: { compare: true } };
    const { choices } = await completed(body);
    expect(seen.batches[0].sequences[0]).toMatchObject({ compare: true, sampling: { logprobs: 0 } });
    const tokens = [
      { token: "b", logprob: -1, base_logprob: -1.5 },
      { token: "c", logprob: -2, base_logprob: -1.7 },
    ];
    expect(choices[0].chameleon?.compare).toEqual({ tokens, mean_difference: expect.closeTo(0.1, 6) });
    expect(choices[0].logprobs).toBeNull();
    const { chunks } = await streamed(body);
    expect(chunks.flatMap((chunk) => chunk.choices[0].chameleon?.compare?.tokens ?? [])).toEqual(tokens);
    expect(chunks.at(-1)?.choices[0].chameleon?.compare?.mean_difference).toBeCloseTo(0.1, 6);
  });
});

describe("logprobs and echo", () => {
  const logged = (id: string, text: string) => saying(id, text, { logprob: -0.5 });

  test("have OpenAI's four lists", async () => {
    backendAnswers(({ id }) => [
      {
        ...tokenFrame(id, 0, 98),
        logprob: -0.5,
        alternatives: [
          [99, -0.25],
          [100, -0.75],
        ],
      },
      doneFrame(id),
    ]);
    const { choices } = await completed({ prompt: "aaa", logprobs: 2 });
    expect(choices[0].logprobs).toEqual({
      tokens: ["b"],
      token_logprobs: [-0.5],
      top_logprobs: [{ c: -0.25, d: -0.75, b: -0.5 }],
      text_offset: [0],
    });
    const { choices: bare } = await completed({ prompt: "aaa", logprobs: 0 });
    expect(bare[0].logprobs?.top_logprobs).toEqual([{ b: -0.5 }]);
  });

  test("echo puts the prompt first; with logprobs its tokens too, the first without one", async () => {
    const seen = backendAnswers(({ id, promptLogprobs }) => [
      ...(promptLogprobs
        ? [
            {
              type: "prompt" as const,
              id,
              logprobs: [null, -1, -2],
              alternatives: [[], [[98, -1] as [number, number]], []],
            },
          ]
        : []),
      ...logged(id, "b"),
    ]);
    const { choices } = await completed({ prompt: "aéc", echo: true, logprobs: 1 });
    expect(seen.batches[0].sequences[0].promptLogprobs).toBe(true);
    expect(choices[0].text).toBe("aécb");
    expect(choices[0].logprobs).toEqual({
      tokens: ["a", "é", "c", "b"],
      token_logprobs: [null, -1, -2, -0.5],
      top_logprobs: [{}, { b: -1, é: -1 }, { c: -2 }, { b: -0.5 }],
      text_offset: [0, 1, 2, 3],
    });
    const plain = await completed({ prompt: "aéc", echo: true });
    expect(plain.choices[0]).toMatchObject({ text: "aécb", logprobs: null });
    expect(seen.batches[1].sequences[0].promptLogprobs).toBe(false);
  });

  test("begins a prompt with the model's BOS, which echo omits; an empty prompt is the BOS alone", async () => {
    const seen = backendAnswers(({ id }) => saying(id, "b"));
    const artifacts = loadOnce(() => edgeArtifactsWith(false, {}, { bosId: edgeModel.turnStartId, addsBos: true }));
    const app = testApp({ artifacts });
    const { choices } = await completed({ prompt: "ac", echo: true, max_tokens: 1 }, app);
    expect(choices[0].text).toBe("acb");
    await completed({ max_tokens: 1 }, app);
    await completed({ prompt: [98, 99], max_tokens: 1 }, app);
    const prompts = seen.batches.map(({ sequences }) => sequences[0].promptIds);
    expect(prompts).toEqual([[edgeModel.turnStartId, 97, 99], [edgeModel.turnStartId], [98, 99]]);
    const long = await app.complete({ prompt: "x".repeat(edgeModel.contextTokens) });
    expect([long.status, await long.text()]).toEqual([400, expect.stringContaining("at least 49 tokens")]);
  });

  test("a prompt that is echoed with logprobs is scored once; each of its choices tells the scores before its tokens", async () => {
    const seen = backendStreams(({ sequences }) => {
      const frames = sequences.flatMap(({ id, promptLogprobs }, i): Frame[] => {
        const logprobs = [null, -1 - i, -2 - i];
        const prompt: Frame = { type: "prompt", id, logprobs, alternatives: [[], [], []] };
        return promptLogprobs ? [prompt, ...logged(id, "bc")] : logged(id, "bc");
      });
      // The sequences with prompt logprobs, each prompt's first choice, are answered last.
      const ids = new Set(sequences.filter(({ promptLogprobs }) => promptLogprobs).map(({ id }) => id));
      const late = frames.filter(({ id }) => ids.has(id));
      return byteStream([...frames.filter(({ id }) => !ids.has(id)), ...late].map(frameLine));
    });
    const body = { prompt: ["aaa", "aaa"], n: 3, echo: true, logprobs: 0, max_tokens: 2 };
    for (const choices of [(await completed(body)).choices, (await streamed(body)).choices]) {
      expect(choices.map(({ text }) => text)).toEqual(Array(6).fill("aaabc"));
      expect(choices.map(({ logprobs }) => logprobs?.token_logprobs)).toEqual([
        ...Array(3).fill([null, -1, -2, -0.5, -0.5]),
        ...Array(3).fill([null, -4, -5, -0.5, -0.5]),
      ]);
    }
    for (const { sequences } of seen.batches) {
      const scored = sequences.map(({ promptLogprobs }) => promptLogprobs);
      expect(scored).toEqual([true, false, false, true, false, false]);
    }
  });

  test("an echoed prompt is decoded once for all of its choices", async () => {
    backendAnswers(({ id }) => saying(id, "b"));
    const model = await edgeArtifacts();
    const decode = vi.spyOn(model.tokenizer, "decodeText");
    const parts = { tokenizer: model.tokenizer };
    const app = testApp({ cells: cellsWith({}, parts) });
    const { choices } = await completed({ prompt: ["aaa", "aéc"], n: 3, echo: true }, app);
    expect(choices.map(({ text }) => text)).toEqual([...Array(3).fill("aaab"), ...Array(3).fill("aécb")]);
    expect(decode.mock.calls).toHaveLength(2);
    decode.mockRestore();
  });

  test("offsets count characters, and a token that is half a character is spelled in bytes", async () => {
    backendAnswers(({ id }) => logged(id, "é😀b"));
    const { choices } = await completed({ prompt: "aaa", logprobs: 0 });
    expect(choices[0].logprobs?.tokens).toEqual([
      "bytes:\\xc3",
      "bytes:\\xa9",
      "bytes:\\xf0",
      "bytes:\\x9f",
      "bytes:\\x98",
      "bytes:\\x80",
      "b",
    ]);
    expect(choices[0].logprobs?.text_offset).toEqual([0, 0, 1, 1, 1, 1, 2]);
  });
});

test("tokens whose text a stop string takes away have no logprobs", async () => {
  backendAnswers(({ id }) => saying(id, "one\nuser", { logprob: -0.5, finish: "stop" }));
  const body = { prompt: "aaa", stop: ["\nuser"], logprobs: 0 };
  expect((await completed(body)).choices[0].logprobs?.tokens).toEqual(["o", "n", "e"]);
  expect((await streamed(body)).choices[0].logprobs?.tokens).toEqual(["o", "n", "e"]);
});

describe("a stream", () => {
  test.each([
    ["plain text", "hello world", "hello world"],
    ["characters of two to four bytes", "é–😀 naïve 日本", "é–😀 naïve 日本"],
    ["a stop string over token boundaries", "one two\nuser: three", "one two"],
    ["the beginning of a stop string that ends", "one\nus", "one\nus"],
    ["half a character at the end", new Uint8Array([98, 0xe6, 0x97]), "b\ufffd"],
  ])("says what an unstreamed completion says: %s", async (_, sent, text) => {
    backendAnswers(({ id }) => saying(id, sent, { logprob: -0.5 }));
    for (const logprobs of [null, 1]) {
      const body = { prompt: ["aa", "bb"], n: 2, max_tokens: 32, stop: ["\nuser:", "!!"], echo: true, logprobs };
      const whole = await completed(body);
      const { choices, chunks } = await streamed(body);
      expect(whole.choices.map((choice) => choice.text)).toEqual(["aa", "aa", "bb", "bb"].map((echo) => echo + text));
      expect(choices.map((choice) => choice.text)).toEqual(whole.choices.map((choice) => choice.text));
      expect(choices.map((choice) => choice.logprobs)).toEqual(whole.choices.map((choice) => choice.logprobs));
      const finishes = chunks.flatMap((chunk) => chunk.choices).filter((choice) => choice.finish_reason);
      expect(finishes).toHaveLength(4);
    }
  });

  test("has server-sent events of chunks, the last of a choice with its block", async () => {
    backendAnswers(({ id }) => saying(id, "bc"));
    const response = await testApp().complete({ prompt: "aaa", stream: true, chameleon: {} });
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    expect(response.headers.get("server-timing")).toMatch(/^tokenize;dur=[\d.]+, assign;dur=[\d.]+$/);
    const { data } = await eventsOf(response);
    const head = {
      id: expect.stringMatching(/^cmpl-/),
      object: "text_completion",
      created: expect.any(Number),
      model: "gpt2:auto",
      system_fingerprint: expect.stringMatching(/^fp_/),
    };
    const block = expect.objectContaining({ centroid: "c0", mode: "evidence", timings: expect.any(Object) });
    const choice = { index: 0, logprobs: null, finish_reason: null };
    expect(data).toEqual([
      { ...head, choices: [{ ...choice, text: "b" }] },
      { ...head, choices: [{ ...choice, text: "c" }] },
      { ...head, choices: [{ ...choice, text: "", finish_reason: "length", chameleon: block }] },
      "[DONE]",
    ]);
  });

  test("usage counts as cached what no choice of a prompt had to compute", async () => {
    const reusedTokens = [0, 2, 1, 1];
    backendAnswers(({ id }) =>
      saying(id, "b").map((frame) =>
        frame.type === "done" ? { ...frame, reusedTokens: reusedTokens[Number(id.split("-").at(-1))] } : frame,
      ),
    );
    const { usage } = await completed({ prompt: ["aa", "b"], n: 2 });
    expect(usage).toEqual({
      prompt_tokens: 3,
      completion_tokens: 4,
      total_tokens: 7,
      prompt_tokens_details: { cached_tokens: 1 },
    });
  });

  test("include_usage adds a last chunk without choices, and null before it", async () => {
    backendAnswers(({ id }) => saying(id, "bc"));
    const { chunks } = await streamed({ prompt: ["aa", "b"], n: 2, stream_options: { include_usage: true } });
    expect(chunks.at(-1)).toMatchObject({
      choices: [],
      usage: { prompt_tokens: 3, completion_tokens: 8, total_tokens: 11 },
    });
    for (const chunk of chunks.slice(0, -1)) expect(chunk.usage).toBeNull();
    const { chunks: without } = await streamed({ prompt: "aa" });
    for (const chunk of without) expect(chunk).not.toHaveProperty("usage");
  });

  test("an error frame midway: what was said, an error event, [DONE]", async () => {
    const seen = backendStreams(({ sequences: [{ id, continuedIds }] }) => {
      const error = { type: "error", id, kind: "backend_unavailable", message: "going down", retryAfterSeconds: 1 };
      if (continuedIds.length > 0) return new Response(null, { status: 500 });
      return byteStream([frameLine(tokenFrame(id, 0, 98)), frameLine(error as Frame)]);
    });
    const logged = vi.spyOn(console, "error").mockReturnValue();
    const { data } = await eventsOf(await testApp().complete({ prompt: "aaa", stream: true }));
    expect(seen.batches).toHaveLength(2);
    const message = "The inference backend failed on this request.";
    expect(data).toEqual([
      expect.objectContaining({ choices: [expect.objectContaining({ text: "b" })] }),
      { error: { message, type: "server_error", param: null, code: "backend_unavailable" } },
      "[DONE]",
    ]);
    expect(JSON.parse(logged.mock.lastCall![0])).toMatchObject({ kind: "backend_unavailable", message });
    logged.mockRestore();
  });
});
