import { describe, expect, test } from "vitest";
import type { Frame } from "../../shared/contracts/inference.ts";
import type { CompletionChoice, CompletionResponse } from "../../shared/contracts/responses.ts";
import { samplingWith } from "../../shared/contracts/sampling.ts";
import { edgeModel } from "../support/edge-model.ts";
import { doneFrame, tokenFrame } from "../support/frames.ts";
import { eventsOf, expectError, jsonOf } from "./answers.ts";
import { backendAnswers, backendStreams, framesStream, saying } from "./backend.ts";
import { testApp } from "./harness.ts";
import { artifactsWith, manifestHash } from "./model.ts";

const { endOfTextId, turnEndId } = edgeModel;
const nearest = { chameleon: { adapter: "nearest" } };
const base = { id: "base", weight: 1 };

async function completed(body: object, app = testApp()): Promise<CompletionResponse> {
  return jsonOf(app.complete(body));
}

async function streamed(body: object): Promise<{ chunks: CompletionResponse[]; choices: CompletionChoice[] }> {
  const data = await eventsOf<CompletionResponse | string>(testApp().complete({ ...body, stream: true }));
  expect(data.pop()).toBe("[DONE]");
  const chunks = data as CompletionResponse[];
  const choices: CompletionChoice[] = [];
  for (const part of chunks.flatMap((chunk) => chunk.choices)) {
    const choice = choices[part.index];
    if (!choice) choices[part.index] = structuredClone(part);
    else {
      choice.text += part.text;
      choice.finish_reason ??= part.finish_reason;
      if (!part.logprobs) continue;
      choice.logprobs ??= { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
      for (const list of ["tokens", "token_logprobs", "top_logprobs", "text_offset"] as const) {
        (choice.logprobs[list] as unknown[]).push(...part.logprobs[list]);
      }
    }
  }
  return { chunks, choices };
}

async function sequencesOf(...bodies: object[]) {
  const seen = backendAnswers(({ id, maxTokens }) => saying(id, "b".repeat(Math.min(1, maxTokens))));
  for (const body of bodies) await completed({ model: "gpt2", ...body });
  return seen.batches.map(({ sequences }) => sequences);
}
describe("a completion", () => {
  test("has OpenAI's shape, the adapter's facts, a request id and its timings", async () => {
    backendAnswers(({ id }) => saying(id, "bc"));
    const response = await testApp().complete({ prompt: "aaa", max_tokens: 2, ...nearest });
    expect(response.headers.get("x-request-id")).toMatch(/^req_[0-9a-f]{32}$/);
    const phases = response.headers.get("server-timing")!.matchAll(/(\w+);/g);
    expect([...phases].map(([, name]) => name).join()).toBe("tokenize,assign,queue,adapter,prefill,decode");
    const block = {
      ...{ centroid: "c0", similarity: expect.closeTo(1, 5), mode: "adapted", evidence: null, seed: 7 },
      experts: [{ id: "c0", weight: 1, hash: "e".repeat(64) }],
      adapter: { hash: "e".repeat(64), cache: "hit", scale: 1 },
      held_out_gain: { nats: 0.1, ci95: [0.05, 0.3], tokens: 1000 },
      timings: expect.any(Object),
    };
    expect(await response.json()).toEqual({
      id: response.headers.get("x-request-id")?.replace("req_", "cmpl-"),
      ...{ object: "text_completion", created: expect.any(Number), model: "gpt2:auto" },
      system_fingerprint: `fp_${(await manifestHash()).slice(0, 12)}`,
      choices: [{ index: 0, text: "bc", logprobs: null, finish_reason: "length", chameleon: block }],
      usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 },
    });
  });

  test("reports its experts only if the request has an object `chameleon`, once for each choice", async () => {
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

  test("defaults are OpenAI's", async () => {
    const seen = backendAnswers(({ id }) => saying(id, "b"));
    await completed({ model: "gpt2" });
    expect(seen.batches[0]).toMatchObject({ version: 4, manifestHash: await manifestHash(), centroidId: null });
    expect(seen.batches[0].sequences).toHaveLength(1);
    const prompt = { promptIds: [endOfTextId], maxTokens: 16, promptLogprobs: false, compare: false };
    expect(seen.batches[0].sequences[0]).toMatchObject(prompt);
    expect(samplingWith(seen.batches[0].sequences[0].sampling)).toMatchObject({
      ...{ temperature: 1, top_p: 1, top_k: 0, min_p: 0, logprobs: null, stop: [], logit_bias: [] },
    });
    expect(Object.keys(seen.batches[0].sequences[0].sampling)).toEqual(["seed"]);
  });

  test("null means absent, and every field reaches the backend", async () => {
    const fields = {
      ...{
        temperature: 0,
        top_p: 0,
        top_k: 40,
        min_p: 0.05,
        min_tokens: 4,
        ignore_eos: true,
        stop_token_ids: [7, 261],
      },
      ...{ repetition_penalty: 1.2, presence_penalty: 0.5, frequency_penalty: -0.5, logprobs: 2 },
    };
    const others = { max_tokens: 5, stop: "\n", logit_bias: { 98: -100, 5: 1.5 }, user: "someone", best_of: 1 };
    const [, [all], [none]] = await sequencesOf(
      { prompt: "a", n: null, stop: null, seed: null, logit_bias: null, suffix: null },
      { prompt: "a", ...fields, ...others },
      { prompt: "a", top_k: -1, min_p: null, min_tokens: null, stop_token_ids: null },
    );
    const biases = [98, 5].map((id) => [id, others.logit_bias[id as 5]]);
    const sampling = { ...fields, stop: ["\n"], logit_bias: expect.arrayContaining(biases) };
    expect(all).toMatchObject({ maxTokens: 5, sampling });
    expect(samplingWith(none.sampling)).toMatchObject({
      ...{ top_k: -1, min_p: 0, min_tokens: 0, ignore_eos: false, stop_token_ids: [], repetition_penalty: 1 },
    });
  });

  test("prompt + max_tokens over the context is clipped", async () => {
    const sequences = await sequencesOf(
      { prompt: "a".repeat(40), max_tokens: 1000 },
      { prompt: "a".repeat(edgeModel.contextTokens) },
      { prompt: "a".repeat(40), max_tokens: 20, min_tokens: 20 },
    );
    const left = edgeModel.contextTokens - 40;
    expect(sequences.map(([{ maxTokens }]) => maxTokens)).toEqual([left, 0, left]);
    expect(sequences[2][0].sampling.min_tokens).toBe(left);
  });

  test("a special token in an answer is a token without text; stop strings apply from min_tokens on", async () => {
    backendAnswers(({ id, sampling }) => {
      const ids = [98, endOfTextId, 99, 98, turnEndId, 99, 100];
      const tokens = ids.map((tokenId, i) => ({ ...tokenFrame(id, i, tokenId), logprob: 0 - i, alternatives: [] }));
      const finishReason = sampling.stop?.length ? "stop" : "length";
      return [...tokens, { ...doneFrame(id), finishReason, completionTokens: 7 }];
    });
    const request = { model: "gpt2", prompt: "a", max_tokens: 7, ignore_eos: true, logprobs: 0 };
    const { choices, usage } = await completed(request);
    expect(choices[0]).toMatchObject({ text: "bcbcd", finish_reason: "length" });
    expect(choices[0].logprobs?.token_logprobs).toEqual([0, -1, -2, -3, -4, -5, -6]);
    expect(choices[0].logprobs?.text_offset).toEqual([0, 1, 1, 2, 3, 3, 4]);
    expect(usage).toMatchObject({ completion_tokens: 7 });
    const stopped = await completed({ ...request, stop: "bc", min_tokens: 4 });
    expect(stopped.choices[0]).toMatchObject({ text: "bc", finish_reason: "stop" });
  });

  test("choices are prompt-major, whatever order they end in", async () => {
    const seen = backendAnswers(({ id, promptIds }, { centroidId }) => {
      const choice = Number(id.split("-")[1]);
      return saying(id, `${centroidId}${String.fromCharCode(promptIds[0])}${choice}${"!".repeat(6 - choice)}`);
    });
    const body = { prompt: ["aa", "bb", "aa"], n: 2, max_tokens: 10, chameleon: {} };
    const { choices, usage } = await completed(body);
    expect(choices.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5]);
    const begins = choices.map(({ text }) => text.slice(0, 4));
    expect(begins).toEqual(["c0a0", "c0a1", "c1b2", "c1b3", "c0a4", "c0a5"]);
    expect(choices.map((choice) => choice.chameleon?.centroid)).toEqual(["c0", "c0", "c1", "c1", "c0", "c0"]);
    expect(seen.batches.map((batch) => batch.centroidId).sort()).toEqual(["c0", "c1"]);
    // A prompt counts once for all choices.
    expect(usage?.prompt_tokens).toBe(6);
  });

  test("a seed repeats its texts, also beside other prompts, and differs between choices", async () => {
    const asked = { prompt: "a", n: 3, seed: 5 };
    const sequences = await sequencesOf(asked, { ...asked, prompt: ["b", "a"] }, { ...asked, seed: -5 });
    const seeds = sequences.map((batch) => batch.map(({ sampling }) => sampling.seed));
    expect(new Set(seeds[0]).size).toBe(3);
    expect(seeds[1]).toEqual([...seeds[0], ...seeds[0]]);
    expect(seeds[2]).not.toEqual(seeds[0]);
  });
});

describe("which adapter serves", () => {
  const adapter = (name: string) => ({ prompt: "bbb", chameleon: { adapter: name } });
  const near = "a".repeat(edgeModel.prefixTokens);
  const cases: [string, object, string | null, string, string][] = [
    ["by evidence, the nearest first", { model: "gpt2:auto", prompt: "bbb" }, "c1", "c1", "evidence"],
    ["the same without a model", { prompt: "bbb" }, "c1", "c1", "evidence"],
    ["none for the base", { model: "gpt2", prompt: "bbb" }, null, "c1", "off"],
    ["the model's own centroid's", { model: "gpt2:c0", prompt: "bbb" }, "c0", "c0", "adapted"],
    ["the nearest alone where the extension says so", adapter("nearest"), "c1", "c1", "adapted"],
    ["none where the nearest did not help", { ...nearest, prompt: "zzz" }, null, "c2", "auto-off"],
    ["none where asked for off", adapter("off"), null, "c1", "off"],
    ["what the extension names", { model: "gpt2", ...adapter("c0") }, "c0", "c0", "adapted"],
    ["by evidence where the extension says so", { model: "gpt2", ...adapter("auto") }, "c1", "c1", "evidence"],
    ["by the first tokens alone", { prompt: near + "b".repeat(20) }, "c0", "c0", "evidence"],
  ];
  test.each(cases)("%s", async (_, body, sent, centroid, mode) => {
    const seen = backendAnswers(({ id }, { centroidId }) => {
      const [token, done] = saying(id, "x");
      return [token, { ...done, ...(centroidId === null && { adapter: null }) }];
    });
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
    const alternatives: [number, number][] = [99, 100].map((other) => [other, 49.25 - other / 2]);
    backendAnswers(({ id }) => [{ ...tokenFrame(id, 0, 98), logprob: -0.5, alternatives }, doneFrame(id)]);
    const { choices } = await completed({ prompt: "aaa", logprobs: 2 });
    const top = { c: -0.25, d: -0.75, b: -0.5 };
    const lists = { tokens: ["b"], token_logprobs: [-0.5], top_logprobs: [top], text_offset: [0] };
    expect(choices[0].logprobs).toEqual(lists);
    const { choices: bare } = await completed({ prompt: "aaa", logprobs: 0 });
    expect(bare[0].logprobs?.top_logprobs).toEqual([{ b: -0.5 }]);
  });

  test("echo puts the prompt first; with logprobs its tokens too, the first without one", async () => {
    const scores = { logprobs: [null, -1, -2], alternatives: [[], [[98, -1] as [number, number]], []] };
    const seen = backendAnswers(({ id, promptLogprobs }) => {
      const prompt: Frame = { type: "prompt", id, ...scores };
      return promptLogprobs ? [prompt, ...logged(id, "b")] : logged(id, "b");
    });
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
    const app = testApp({ artifacts: artifactsWith(false, {}, { bosId: edgeModel.turnStartId, addsBos: true }) });
    const { choices } = await completed({ prompt: "ac", echo: true, max_tokens: 1 }, app);
    expect(choices[0].text).toBe("acb");
    await completed({ max_tokens: 1 }, app);
    await completed({ prompt: [98, 99], max_tokens: 1 }, app);
    const prompts = seen.batches.map(({ sequences }) => sequences[0].promptIds);
    expect(prompts).toEqual([[edgeModel.turnStartId, 97, 99], [edgeModel.turnStartId], [98, 99]]);
    const long = app.complete({ prompt: "x".repeat(edgeModel.contextTokens) });
    await expectError(long, { status: 400, mentions: "at least 49 tokens" });
  });

  test("a prompt that is echoed with logprobs is scored once; each of its choices tells the scores before its tokens", async () => {
    const seen = backendStreams(({ sequences }) => {
      const scored = sequences.flatMap(({ id, promptLogprobs }, i): Frame[] => {
        const logprobs = [null, -1 - i, -2 - i];
        return promptLogprobs
          ? [{ type: "prompt", id, logprobs, alternatives: [[], [], []] }, ...logged(id, "bc")]
          : [];
      });
      // Sequences with prompt logprobs, each prompt's first choice, are answered last.
      const others = sequences.flatMap(({ id, promptLogprobs }) => (promptLogprobs ? [] : logged(id, "bc")));
      return framesStream([...others, ...scored]);
    });
    const body = { prompt: ["aaa", "aaa"], n: 3, echo: true, logprobs: 0, max_tokens: 2 };
    for (const choices of [(await completed(body)).choices, (await streamed(body)).choices]) {
      expect(choices.map(({ text }) => text)).toEqual(Array(6).fill("aaabc"));
      const [first, second] = [-1, -4].map((score) => Array(3).fill([null, score, score - 1, -0.5, -0.5]));
      expect(choices.map(({ logprobs }) => logprobs?.token_logprobs)).toEqual([...first, ...second]);
    }
    for (const { sequences } of seen.batches) {
      const scored = sequences.map(({ promptLogprobs }) => promptLogprobs);
      expect(scored).toEqual([true, false, false, true, false, false]);
    }
  });

  test("offsets count characters, and a token that is half a character is spelled in bytes", async () => {
    backendAnswers(({ id }) => logged(id, "é😀b"));
    const { choices } = await completed({ prompt: "aaa", logprobs: 0 });
    const bytes = ["c3", "a9", "f0", "9f", "98", "80"].map((byte) => `bytes:\\x${byte}`);
    expect(choices[0].logprobs?.tokens).toEqual([...bytes, "b"]);
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

  test("usage counts as cached what no choice of a prompt had to compute", async () => {
    const reusedTokens = [0, 2, 1, 1];
    backendAnswers(({ id }) => [
      tokenFrame(id, 0, 98),
      { ...doneFrame(id), reusedTokens: reusedTokens[Number(id.split("-").at(-1))] },
    ]);
    const { usage } = await completed({ prompt: ["aa", "b"], n: 2 });
    const counted = { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 };
    expect(usage).toEqual({ ...counted, prompt_tokens_details: { cached_tokens: 1 } });
  });

  test("include_usage adds a last chunk without choices, and null before it", async () => {
    backendAnswers(({ id }) => saying(id, "bc"));
    const { chunks } = await streamed({ prompt: ["aa", "b"], n: 2, stream_options: { include_usage: true } });
    const usage = { prompt_tokens: 3, completion_tokens: 8, total_tokens: 11 };
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage });
    for (const chunk of chunks.slice(0, -1)) expect(chunk.usage).toBeNull();
    const { chunks: without } = await streamed({ prompt: "aa" });
    for (const chunk of without) expect(chunk).not.toHaveProperty("usage");
  });
});
