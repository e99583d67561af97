/** `chameleon.retrieve`: what the edge asks a backend for, what it charges and cites, and what it refuses. The backend is scripted. */
import { beforeEach, describe, expect, test } from "vitest";
import type { Consumption } from "../../edge/tenants/consumption.ts";
import type { DoneFrame, Frame, SequenceRequest, TokenFrame } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { edgeModel } from "../support/edge-model.ts";
import { loadOnce } from "../support/load-once.ts";
import {
  backendAnswers,
  backendStreams,
  byteStream,
  cellsWith,
  edgeArtifacts,
  edgeArtifactsWith,
  errorOf,
  saying,
  useNetwork,
} from "./harness.ts";
import { useTenant } from "./tenant.ts";

useNetwork();

const own = useTenant("retrieval");
const { app } = own;
beforeEach(() => void own.backendMakes());

const remember = async ({ post } = app()) => {
  const made = await post("/v1/adapters", { name: "notes", documents: ["aaab aaab aaab"] });
  expect(made.status).toBe(201);
};
const passage = { memory: 0, document: "text-1", start: 2, end: 9, tokens: 7, similarity: 0.87654 };

/** Frames that say "ok", with one passage, which adds 9 tokens to the prompt. */
function answering({ id, promptIds }: SequenceRequest): Frame[] {
  const [first, second, done] = saying(id, "ok");
  return [
    { ...first, retrievedTokens: 9 } as TokenFrame,
    second,
    { ...done, retrieved: [passage], promptTokens: promptIds.length + 9 } as DoneFrame,
  ];
}

describe("a prompt with passages", () => {
  test("of a completion has them before it, told, counted and cited, in a body and in a stream", async () => {
    await remember();
    const seen = backendAnswers(answering);
    const asked = { model: "gpt2:notes", prompt: "aaab", max_tokens: 2, chameleon: { retrieve: 2 } };
    const answered = await app().complete(asked);
    expect(answered.status, await answered.clone().text()).toBe(200);
    const { choices, usage } = (await answered.json()) as CompletionResponse;
    const { memory, similarity, ...cited } = passage;
    const retrieved = [{ adapter: "notes", ...cited, similarity: 0.8765 }];
    expect(choices[0]).toMatchObject({ text: "ok", chameleon: { retrieved } });
    expect(usage).toEqual({ prompt_tokens: 4 + 9, completion_tokens: 2, total_tokens: 15 });
    const { tokenizer } = await edgeArtifacts();
    const [{ sequences }] = seen.batches;
    expect(sequences[0]).toMatchObject({
      maxTokens: 2,
      retrieval: {
        ...{ passages: 2, tokens: edgeModel.contextTokens - 4 - 2, query: [0, 4], at: 0 },
        ...{ prefixIds: [], separatorIds: tokenizer.encode("\n\n") },
      },
    });
    const options = { ...asked, stream: true, stream_options: { include_usage: true } };
    const text = await (await app().complete(options)).text();
    const events = text.split("\n\n").filter((event) => event.startsWith("data: {"));
    const chunks = events.map((event) => JSON.parse(event.slice(6)) as CompletionResponse);
    expect(chunks.at(-2)!.choices[0].chameleon).toMatchObject({ retrieved });
    expect(chunks.at(-1)!.usage).toEqual(usage);
  });

  test("of a chat has them before the user's last message, and leaves an answer without a limit half of the room", async () => {
    const chatTemplate =
      "{% for message in messages %}{{ message.role[0] }}{{ message.content }}{{ eos_token }}{% endfor %}";
    const chatApp = app({ artifacts: loadOnce(() => edgeArtifactsWith(false, { chatTemplate })) });
    await remember(chatApp);
    const seen = backendAnswers(answering);
    const messages = ["aa", "bb"].map((content) => ({ role: "user", content }));
    const answered = await chatApp.post("/v1/chat/completions", { messages, chameleon: { retrieve: 1 } });
    expect(answered.status, await answered.clone().text()).toBe(200);
    const { promptIds, retrieval, maxTokens } = seen.batches[0].sequences[0];
    const { tokenizer } = await edgeArtifacts();
    const left = edgeModel.contextTokens - promptIds.length;
    const [start, end] = retrieval!.query;
    expect(promptIds.slice(start, end)).toEqual(tokenizer.encode("bb"));
    expect(retrieval).toMatchObject({ at: start, tokens: Math.floor(left / 2) });
    expect(tokenizer.decode(retrieval!.prefixIds)).toMatch(/text/);
    expect(maxTokens).toBe(left - retrieval!.tokens);
  });

  test("is charged with what was put in, once for all of its choices", async () => {
    await remember();
    const consumed: Consumption[] = [];
    const admission = {
      request: null as never,
      renew() {},
      settle: async (all: Consumption[]) => void consumed.push(...all),
    };
    backendAnswers(answering);
    const asked = { prompt: "aaab", max_tokens: 2, n: 3, chameleon: { adapter: "notes", retrieve: 1 } };
    const { complete } = app({ cells: cellsWith({}, { admission }) });
    const { usage } = (await (await complete(asked)).json()) as CompletionResponse;
    expect(usage).toMatchObject({ prompt_tokens: 4 + 9, completion_tokens: 6 });
    expect(consumed).toMatchObject([{ requests: 1, promptTokens: 4 + 9, completionTokens: 6 }]);
  });

  test("is asked for again where a backend breaks off, and the passages are charged once", async () => {
    await remember();
    const seen = backendStreams(({ sequences: [sequence] }) => {
      const frames = answering(sequence);
      const isFirst = sequence.continuedIds.length === 0;
      return byteStream((isFirst ? frames.slice(0, 1) : frames.slice(1)).map(frameLine));
    });
    const asked = { model: "gpt2:notes", prompt: "aaab", max_tokens: 2, chameleon: { retrieve: 1 } };
    const answered = await app().complete(asked);
    expect(answered.status, await answered.clone().text()).toBe(200);
    const { choices, usage } = (await answered.json()) as CompletionResponse;
    expect(choices[0]).toMatchObject({ text: "ok", chameleon: { retrieved: [{ document: "text-1" }] } });
    expect(usage).toMatchObject({ prompt_tokens: 4 + 9, completion_tokens: 2 });
    const [first, second] = seen.batches.map(({ sequences }) => sequences[0]);
    expect(second.continuedIds).toHaveLength(1);
    expect(second.retrieval).toEqual(first.retrieval);
  });

  test("ends in an error where a backend puts in more than it may", async () => {
    await remember();
    backendAnswers(({ id }) => {
      const [first, ...others] = saying(id, "ok");
      return [{ ...first, retrievedTokens: 43 } as TokenFrame, ...others];
    });
    const asked = { model: "gpt2:notes", prompt: "aaab", max_tokens: 2, chameleon: { retrieve: 1 } };
    expect((await errorOf(await app().complete(asked))).status).toBe(503);
  });
});

test("retrieve without a memory, with scores of the prompt, or of too many passages is refused by name", async () => {
  const refused = async (body: object) => errorOf(await app().complete({ prompt: "aaab", ...body }));
  const without = await refused({ chameleon: { retrieve: 1 } });
  expect(without).toMatchObject({ status: 400, param: "chameleon.retrieve" });
  expect(without.message).toMatch(/no adapter of your own with documents/);
  await remember();
  for (const adapter of ["off", "nearest"]) {
    expect((await refused({ chameleon: { retrieve: 1, adapter } })).message).toMatch(/no adapter of your own/);
  }
  const scored = await refused({ echo: true, logprobs: 1, chameleon: { retrieve: 1, adapter: "notes" } });
  expect(scored).toMatchObject({ status: 400, param: "chameleon.retrieve" });
  const labelled = { input: "aa", labels: ["a", "b"], model: "gpt2:notes", chameleon: { retrieve: 1 } };
  const classified = await errorOf(await app().post("/v1/classify", labelled));
  expect(classified).toMatchObject({ status: 400, param: "chameleon.retrieve" });
  for (const retrieve of [0, limits.retrievedPassages + 1, 1.5, "2"]) {
    expect(await refused({ chameleon: { retrieve } })).toMatchObject({ status: 400 });
  }
});
