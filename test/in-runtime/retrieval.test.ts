/** `chameleon.retrieve`: the backend's request, charges, citations and refusals. The backend is scripted. */
import { beforeEach, describe, expect, test } from "vitest";
import type { TokenFrame } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { edgeModel } from "../support/edge-model.ts";
import { eventsOf, expectError, jsonOf } from "./answers.ts";
import { backendAnswers, backendStreams, framesStream, saying } from "./backend.ts";
import { cellsWith, recordedAdmissions } from "./harness.ts";
import { artifactsWith, edgeArtifacts, turnsTemplate } from "./model.ts";
import { passage, sayingWithPassages, useTenant } from "./tenant.ts";

const own = useTenant("retrieval");
const { app } = own;
beforeEach(() => void own.backendMakes());

const remember = async ({ post } = app()) =>
  jsonOf(post("/v1/adapters", { name: "notes", documents: ["aaab aaab aaab"] }), 201);
const asked = { model: "gpt2:notes", prompt: "aaab", max_tokens: 2, chameleon: { retrieve: 1 } };
const completed = (body: object, { complete } = app()) => jsonOf<CompletionResponse>(complete(body));

describe("a prompt with passages", () => {
  test("of a completion begins with them, and the answer reports, counts and cites them, streamed or not", async () => {
    await remember();
    const seen = backendAnswers((sequence) => sayingWithPassages(sequence));
    const body = { ...asked, chameleon: { retrieve: 2 } };
    const { choices, usage } = await completed(body);
    const { memory, similarity, ...cited } = passage;
    const retrieved = [{ adapter: "notes", ...cited, similarity: 0.8765 }];
    expect(choices[0]).toMatchObject({ text: "ok", chameleon: { retrieved } });
    expect(usage).toEqual({ prompt_tokens: 4 + 9, completion_tokens: 2, total_tokens: 15 });
    const { tokenizer } = await edgeArtifacts();
    const [{ maxTokens, retrieval }] = seen.batches[0].sequences;
    expect(maxTokens).toBe(2);
    expect(retrieval).toMatchObject({
      ...{ passages: 2, tokens: edgeModel.contextTokens - 4 - 2, query: [0, 4], at: 0 },
      ...{ prefixIds: [], separatorIds: tokenizer.encode("\n\n") },
    });
    const stream = app().complete({ ...body, stream: true, stream_options: { include_usage: true } });
    const chunks = (await eventsOf<CompletionResponse>(stream)).slice(0, -1);
    expect(chunks.at(-2)!.choices[0].chameleon).toMatchObject({ retrieved });
    expect(chunks.at(-1)!.usage).toEqual(usage);
  });

  test("of a chat has them before the user's last message, and leaves half of the room to an answer without a limit", async () => {
    const chatApp = app({ artifacts: artifactsWith(false, { chatTemplate: turnsTemplate }) });
    await remember(chatApp);
    const seen = backendAnswers((sequence) => sayingWithPassages(sequence));
    const messages = ["aa", "bb"].map((content) => ({ role: "user", content }));
    await jsonOf(chatApp.post("/v1/chat/completions", { messages, chameleon: { retrieve: 1 } }));
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
    const { settled, admission } = recordedAdmissions();
    backendAnswers((sequence) => sayingWithPassages(sequence));
    const { usage } = await completed({ ...asked, n: 3 }, app({ cells: cellsWith({}, { admission }) }));
    expect(usage).toMatchObject({ prompt_tokens: 4 + 9, completion_tokens: 6 });
    expect(settled).toMatchObject([[{ requests: 1, promptTokens: 4 + 9, completionTokens: 6 }]]);
  });

  test("is asked for again where a backend breaks off, and the passages are charged once", async () => {
    await remember();
    const seen = backendStreams(({ sequences: [sequence] }) => {
      const frames = sayingWithPassages(sequence);
      const isFirst = sequence.continuedIds.length === 0;
      return framesStream(isFirst ? frames.slice(0, 1) : frames.slice(1));
    });
    const { choices, usage } = await completed(asked);
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
    await expectError(app().complete(asked), { status: 503 });
  });
});

test("retrieve without a memory, with scores of the prompt, or of too many passages is refused by name", async () => {
  const refused = (body: object, mentions: string | RegExp = "") =>
    expectError(app().complete({ prompt: "aaab", ...body }), { status: 400, param: "chameleon.retrieve", mentions });
  await refused({ chameleon: { retrieve: 1 } }, /no adapter of your own with documents/);
  await remember();
  for (const adapter of ["off", "nearest"]) {
    await refused({ chameleon: { retrieve: 1, adapter } }, "no adapter of your own");
  }
  await refused({ echo: true, logprobs: 1, chameleon: { retrieve: 1, adapter: "notes" } });
  const labelled = { input: "aa", labels: ["a", "b"], model: "gpt2:notes", chameleon: { retrieve: 1 } };
  await expectError(app().post("/v1/classify", labelled), { status: 400, param: "chameleon.retrieve" });
  for (const retrieve of [0, limits.retrievedPassages + 1, 1.5, "2"]) await refused({ chameleon: { retrieve } });
});
