/** `POST /v1/responses`: answers, events and refusals. The backend is scripted. */
import { describe, expect, test } from "vitest";
import { errorFrame, type Frame, type SequenceRequest } from "../../shared/contracts/inference.ts";
import {
  type ResponseEvent,
  type ResponseObject,
  responseEventSchema,
  responseSchema,
} from "../../shared/contracts/response-object.ts";
import { ServiceError } from "../../shared/errors.ts";
import { edgeModel } from "../support/edge-model.ts";
import { doneFrame, tokenFrame } from "../support/frames.ts";
import { expectError, jsonOf } from "./answers.ts";
import { backendAnswers, saying } from "./backend.ts";
import { testApp } from "./harness.ts";
import { artifactsWith, turnsTemplate } from "./model.ts";
import { reportedByCells } from "./objects.ts";
import { passage, sayingWithPassages, useTenant } from "./tenant.ts";

const path = "/v1/responses";
const artifacts = artifactsWith(false, { chatTemplate: turnsTemplate });
const own = useTenant("responses", () => ({ artifacts }));
const responsesApp = (overrides: Parameters<typeof testApp>[0] = {}) => testApp({ artifacts, ...overrides });

async function responded(body: object, app = responsesApp()): Promise<ResponseObject> {
  const answer = await jsonOf<ResponseObject>(app.post(path, body));
  expect(responseSchema.parse(answer)).toEqual(answer);
  return answer;
}

/** Checks that each event is named by its type and numbered in order. */
async function eventsIn(answer: Response | Promise<Response>): Promise<(ResponseEvent & { error?: unknown })[]> {
  const events = (await (await answer).text()).split("\n\n").filter((event) => !/^$|^:/.test(event));
  expect(events.pop()).toBe("data: [DONE]");
  return events.map((event, i) => {
    const [name, data] = event.split("\n");
    const parsed = JSON.parse(data.slice("data: ".length)) as ResponseEvent;
    expect([name, parsed.sequence_number]).toEqual([`event: ${parsed.type}`, i]);
    return parsed;
  });
}

async function streamed(body: object, app = responsesApp()): Promise<ResponseEvent[]> {
  const events = await eventsIn(app.post(path, { ...body, stream: true }));
  for (const event of events) expect(responseEventSchema.parse(event)).toEqual(event);
  return events;
}

const bytesOf = (text: string) => [...new TextEncoder().encode(text)];
const turnsOf = (...turns: string[]) => turns.flatMap((turn) => [...bytesOf(turn), edgeModel.endOfTextId]);
/** JSON without ids, times and timings, which differ between requests. */
const comparable = (value: unknown) =>
  JSON.stringify(value).replaceAll(/(resp|msg|fs)_[0-9a-f]+|"created_at":\d+|"timings":\{[^}]*\}/g, "");

describe("a response", () => {
  test("has OpenAI's shape, and reports the experts only if asked", async () => {
    backendAnswers(({ id }) => saying(id, "bc", { finish: "stop" }));
    const app = responsesApp();
    const asked = { input: "aaa", instructions: "x", metadata: { a: "b" }, chameleon: {} };
    const response = await app.post(path, asked);
    const digits = response.headers.get("x-request-id")!.slice("req_".length);
    const content = [{ type: "output_text", text: "bc", annotations: [], logprobs: [] }];
    expect(await response.json()).toEqual({
      ...{ id: `resp_${digits}`, object: "response", created_at: expect.any(Number), status: "completed" },
      ...{ access_programs: null, background: false, error: null, incomplete_details: null, instructions: "x" },
      ...{ metadata: { a: "b" }, model: "gpt2:auto", parallel_tool_calls: false, previous_response_id: null },
      output: [{ type: "message", id: `msg_${digits}`, status: "completed", role: "assistant", content }],
      ...{ max_output_tokens: null, store: false, system_fingerprint: expect.stringMatching(/^fp_/) },
      ...{ temperature: 1, text: { format: { type: "text" } }, tool_choice: "auto", tools: [], top_logprobs: 0 },
      reasoning: { effort: null, summary: null },
      ...{ top_p: 1, truncation: "disabled" },
      usage: {
        ...{ input_tokens: 8, input_tokens_details: { cached_tokens: 0, cache_write_tokens: 0 } },
        ...{ output_tokens: 2, output_tokens_details: { reasoning_tokens: 0 }, total_tokens: 10 },
      },
      chameleon: expect.objectContaining({ centroid: "c0", mode: "evidence" }),
    });
    expect(await responded({ input: "aaa" }, app)).not.toHaveProperty("chameleon");
  });

  test("reads the conversation as a chat does: messages, and items of earlier answers", async () => {
    const seen = backendAnswers(({ id }) => saying(id, "b"));
    const app = responsesApp();
    const first = await responded({ input: "a" }, app);
    const parts = ["a", "e"].map((text) => ({ type: "input_text", text }));
    const input = [
      { role: "developer", content: "d" },
      { type: "message", role: "user", content: parts },
      { type: "file_search_call", id: "fs_1", status: "completed", queries: ["a"] },
      ...first.output,
      ...[
        { role: "assistant", content: "c" },
        { role: "user", content: "z" },
      ],
    ];
    await responded({ instructions: "i", input }, app);
    const [{ sequences }] = seen.batches.slice(-1);
    expect(sequences[0].promptIds).toEqual(turnsOf("si", "sd", "uae", "ab", "ac", "uz"));
  });

  test("is incomplete at its most tokens, is sampled as asked, and counts like a chat", async () => {
    const reported = await reportedByCells();
    const seen = backendAnswers(({ id }) => saying(id, "bcd", { finish: "length" }));
    const body = { input: "aaa", max_output_tokens: 3, temperature: 0.5, top_p: 0.9, seed: 3, top_k: 5, stop: "zz" };
    const answer = await responded(body);
    expect(answer).toMatchObject({
      ...{ status: "incomplete", incomplete_details: { reason: "max_output_tokens" }, max_output_tokens: 3 },
      ...{ temperature: 0.5, top_p: 0.9, output: [{ status: "incomplete" }] },
    });
    const [{ maxTokens, sampling }] = seen.batches[0].sequences;
    expect(sampling).toMatchObject({ temperature: 0.5, top_p: 0.9, top_k: 5, stop: ["zz"] });
    expect(maxTokens).toBe(3);
    const used = expect.objectContaining({ promptTokens: 5, completionTokens: 3, requests: 1 });
    await expect.poll(reported).toEqual([["local", used]]);
  });

  test("is held to the requested format, and names it", async () => {
    const seen = backendAnswers(({ id }) => saying(id, "{}", { finish: "stop" }));
    const schema = { type: "object", properties: { a: { type: "boolean" } } };
    const given = { type: "json_schema", name: "answer", schema, strict: false, description: "d" };
    const told = [
      { type: "json_schema", name: "answer", schema, strict: true },
      { type: "json_object" },
      { type: "text" },
    ];
    for (const [i, format] of [given, { type: "json_object" }, { type: "text" }].entries()) {
      expect((await responded({ input: "a", text: { format } })).text).toEqual({ format: told[i] });
    }
    const forms = seen.batches.map(({ sequences }) => sequences[0].sampling.text_form);
    expect(forms).toEqual([expect.stringContaining('"boolean"'), expect.stringContaining('"object"'), undefined]);
  });

  test("has logprobs where they are asked for, by either field", async () => {
    const alternatives: [number, number][] = [[99, -1]];
    backendAnswers(({ id }) => [{ ...tokenFrame(id, 0, 98), logprob: -0.5, alternatives }, doneFrame(id)]);
    const token = { token: "b", logprob: -0.5, bytes: [98] };
    const top = [{ token: "c", logprob: -1, bytes: [99] }];
    const tokensOf = ({ output }: ResponseObject) =>
      output[0].type === "message" ? output[0].content[0].logprobs : null;
    const include = ["message.output_text.logprobs"];
    expect(tokensOf(await responded({ input: "a", top_logprobs: 1 }))).toEqual([{ ...token, top_logprobs: top }]);
    expect(tokensOf(await responded({ input: "a", include }))).toEqual([{ ...token, top_logprobs: [] }]);
    const events = await streamed({ input: "a", top_logprobs: 1, include });
    const deltas = events.filter((event) => event.type === "response.output_text.delta");
    expect(deltas.map(({ logprobs }) => logprobs)).toEqual([[{ ...token, top_logprobs: top }]]);
  });
});

describe("a stream", () => {
  test("has every event once, in order, and ends in what the whole answer would be", async () => {
    backendAnswers(({ id }) => saying(id, "bcd", { finish: "stop" }));
    const body = { input: "aaa", instructions: "x", chameleon: {} };
    const events = await streamed(body);
    const text = "response.output_text.delta";
    expect(events.map(({ type }) => type)).toEqual([
      ...["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"],
      ...[text, text, text, "response.output_text.done", "response.content_part.done"],
      ...["response.output_item.done", "response.completed"],
    ]);
    const deltas = events.flatMap((event) => (event.type === text ? [event.delta] : []));
    expect(deltas).toEqual(["b", "c", "d"]);
    const [created, , , , , , , done, part, item, last] = events as (ResponseEvent & Record<string, unknown>)[];
    expect(created.response).toMatchObject({ status: "in_progress", output: [], usage: null, instructions: "x" });
    const whole = await responded(body);
    expect(comparable(last.response)).toEqual(comparable(whole));
    expect(done.text).toBe("bcd");
    expect(comparable(item.item)).toEqual(comparable(whole.output[0]));
    expect([part.part]).toEqual((item.item as { content: unknown[] }).content);
  });

  test("that fails ends in an error and in response.failed", async () => {
    const error = new ServiceError("generation_failed", "It cannot be computed.");
    backendAnswers(({ id }) => [...saying(id, "bc").slice(0, 2), errorFrame(id, error)]);
    const events = await eventsIn(responsesApp().post(path, { input: "aaa", stream: true }));
    const told = { type: "server_error", code: "generation_failed", message: "It cannot be computed.", param: null };
    expect(events.at(-2)).toEqual({ ...told, type: "error", sequence_number: 6, error: told });
    const failed = events.at(-1)!;
    expect(responseEventSchema.parse(failed)).toEqual(failed);
    const response = { status: "failed", error: { code: "server_error", message: "It cannot be computed." } };
    expect(failed).toMatchObject({ type: "response.failed", response });
  });
});

describe("a search of documents", () => {
  const passages = [passage, { ...passage, start: 10, end: 12, tokens: 2, similarity: 0.5 }];
  const answering = (sequence: SequenceRequest): Frame[] => sayingWithPassages(sequence, passages);
  const remember = () => {
    own.backendMakes();
    return own.created({ documents: ["aaab aaab"] });
  };

  test("puts passages into the prompt, is an item before the message, and is cited", async () => {
    await remember();
    const seen = backendAnswers(answering);
    const tools = [{ type: "file_search", vector_store_ids: ["notes"], max_num_results: 9 }];
    const body = { input: [{ role: "user", content: "aaab" }], tools, max_output_tokens: 2 };
    const whole = await responded(body, own.app());
    const citation = { type: "file_citation", file_id: "notes/text-1", filename: "text-1", index: 2 };
    expect(whole.output).toMatchObject([
      { type: "file_search_call", status: "completed", queries: ["aaab"], results: null },
      { type: "message", content: [{ text: "ok", annotations: [citation] }] },
    ]);
    expect(whole).toMatchObject({ tools, usage: { input_tokens: 6 + 9 } });
    const [{ retrieval, memories }] = seen.batches[0].sequences;
    expect([retrieval?.passages, memories?.length]).toEqual([4, 1]);
    const events = await streamed(body, own.app());
    expect(events.map(({ type }) => type.replace("response.", ""))).toEqual([
      ...["created", "in_progress", "output_item.added", "file_search_call.in_progress", "file_search_call.searching"],
      ...["file_search_call.completed", "output_item.done", "output_item.added", "content_part.added"],
      ...["output_text.delta", "output_text.delta", "output_text.annotation.added", "output_text.done"],
      ...["content_part.done", "output_item.done", "incomplete"],
    ]);
    const last = events.at(-1) as ResponseEvent & { response: unknown };
    expect(comparable(last.response)).toEqual(comparable(whole));
  });

  test("uses the nearest adapters if it names none, and is turned off by tool_choice", async () => {
    await remember();
    const seen = backendAnswers(answering);
    const body = { input: "aaab", tools: [{ type: "file_search", vector_store_ids: [] }] };
    await responded(body, own.app());
    expect(seen.batches[0].sequences[0].retrieval?.passages).toBe(2);
    // The prompt chooses among several stores; `chameleon.retrieve` overrides the number of passages.
    const several = [{ type: "file_search", vector_store_ids: ["notes", "notes"] }];
    await responded({ ...body, tools: several, chameleon: { retrieve: 1 } }, own.app());
    expect(seen.batches[1].sequences[0].retrieval?.passages).toBe(1);
    backendAnswers(({ id }) => saying(id, "ok"));
    expect((await responded({ ...body, tool_choice: "none" }, own.app())).output).toHaveLength(1);
  });
});

describe("what is not built is refused by name", () => {
  const file_search = { type: "file_search", vector_store_ids: ["notes"] };
  const searching = (change: object) => ({ tools: [{ ...file_search, ...change }] });
  const format = (more: object) => ({ text: { format: { type: "json_schema", name: "a", ...more } } });
  const user = (content: unknown) => ({ role: "user", content });
  test.each<[string, object, RegExp]>([
    ["previous_response_id", { previous_response_id: "resp_1" }, /nothing is stored here.*whole conversation/],
    ["conversation", { conversation: { id: "conv_1" } }, /nothing is stored here/],
    ["prompt", { prompt: { id: "pmpt_1" } }, /no prompt is stored/],
    ["context_management", { context_management: [] }, /not built/],
    ["background", { background: true }, /background is true; it must be false/],
    ["truncation", { truncation: "auto" }, /it must be "disabled"/],
    ["text.format", format({ type: "grammar" }), /text.format.type is "grammar"/],
    ["text.format", format({}), /text.format.schema is null/],
    ["text.format", format({ schema: { multipleOf: 2 } }), /text.format.schema at "\/multipleOf" is a keyword/],
    ["min_tokens", { text: { format: { type: "json_object" } }, min_tokens: 2 }, /beside/],
    ["response_format", { response_format: { type: "json_object" } }, /it is text.format/],
    ["include", { include: ["file_search_call.results"] }, /annotations name the passages/],
    [
      "tools[0].type",
      { tools: [{ type: "web_search" }, { type: "mcp" }] },
      /"web_search"; only function and file_search/,
    ],
    ["tools", { tools: [file_search, file_search] }, /the maximum is 1/],
    ["tools[0].filters", searching({ filters: {} }), /not built/],
    ["tools[0].ranking_options", searching({ ranking_options: {} }), /not built/],
    ["tools[0].max_num_results", searching({ max_num_results: 51 }), /the maximum is 50/],
    ["tools[0].vector_store_ids", searching({ vector_store_ids: ["a", "b", "c", "d", "e"] }), /4/],
    ["chameleon.adapter", { tools: [file_search] }, /"notes"/],
    ["input", { input: undefined }, /input is null/],
    ["input", { input: [] }, /at least one/],
    ["input[0]", { input: [{ type: "item_reference", id: "msg_1" }] }, /store: false/],
    ["input[1]", { input: [user("a"), { type: "reasoning" }] }, /"reasoning"/],
    ["input[0]", { input: [user([{ type: "input_image" }])] }, /content\[0\].*"input_image"/],
    ["input[0]", { input: [user([{ type: "input_file" }])] }, /"input_file"/],
    ["input[0]", { input: [user([{ type: "input_audio" }])] }, /"input_audio"/],
    ["input", { input: "a".repeat(5000) }, /context/],
    ["min_tokens", { max_output_tokens: 2, min_tokens: 3 }, /max_output_tokens: 2/],
    ["model", { model: "gpt5" }, /gpt2:auto/],
  ])("%s", async (param, more, message) => {
    const response = responsesApp().post(path, { input: "aaa", ...more });
    await expectError(response, { status: param === "model" ? 404 : 400, param, mentions: message });
  });

  test("and fields that change nothing pass", async () => {
    backendAnswers(({ id }) => saying(id, "b"));
    const passing = {
      ...{ store: true, user: "u", service_tier: "auto", parallel_tool_calls: true, reasoning: { effort: "low" } },
      ...{ previous_response_id: null, include: ["reasoning.encrypted_content"], tools: [], safety_identifier: "s" },
      ...{ text: { format: { type: "text" }, verbosity: "low" }, stream_options: { include_obfuscation: false } },
    };
    expect(await responded({ input: "aaa", ...passing })).toMatchObject({ store: false, tools: [] });
  });
});
