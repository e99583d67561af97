/** `POST /v1/responses`: its answers, its events, and what it refuses. The backend is scripted. */
import { HttpResponse, http } from "msw";
import { describe, expect, test } from "vitest";
import { loadArtifacts } from "../../edge/artifacts/artifacts.ts";
import type { DoneFrame, Frame, SequenceRequest, TokenFrame } from "../../shared/contracts/inference.ts";
import {
  type ResponseEvent,
  type ResponseObject,
  responseEventSchema,
  responseSchema,
} from "../../shared/contracts/response-object.ts";
import { edgeModel, edgeModelFiles } from "../support/edge-model.ts";
import { doneFrame } from "../support/frames.ts";
import { loadOnce } from "../support/load-once.ts";
import {
  backendAnswers,
  backendUrl,
  byteStream,
  errorOf,
  keysOf,
  network,
  reportedByCells,
  saying,
  testApp,
  useNetwork,
} from "./harness.ts";

useNetwork();

const chatTemplate =
  "{% for message in messages %}{{ message.role[0] }}{{ message.content }}{{ eos_token }}{% endfor %}";
const artifacts = loadOnce(async () => {
  const files = await edgeModelFiles(false, { chatTemplate });
  return loadArtifacts(async (name) => files.get(name)!);
});
const responsesApp = (overrides: Parameters<typeof testApp>[0] = {}) => {
  const app = testApp({ artifacts, ...overrides });
  return { ...app, respond: (body: object, init?: RequestInit) => app.post("/v1/responses", body, init) };
};

/** The answer's body, which must have no field that the schema lacks. */
async function responded(body: object, app = responsesApp(), init?: RequestInit): Promise<ResponseObject> {
  const response = await app.respond(body, init);
  expect(response.status, await response.clone().text()).toBe(200);
  const answer = (await response.json()) as ResponseObject;
  expect(responseSchema.parse(answer)).toEqual(answer);
  return answer;
}

/** The data of a stream's events. Checks that each event is named by its type and numbered in order. */
function eventsIn(text: string): (ResponseEvent & { error?: unknown })[] {
  const events = text
    .split("\n\n")
    .slice(0, -1)
    .filter((event) => !event.startsWith(":"));
  expect(events.pop()).toBe("data: [DONE]");
  return events.map((event, i) => {
    const [name, data] = event.split("\n");
    const parsed = JSON.parse(data.slice("data: ".length)) as ResponseEvent;
    expect([name, parsed.sequence_number]).toEqual([`event: ${parsed.type}`, i]);
    return parsed;
  });
}

async function streamed(body: object, app = responsesApp(), init?: RequestInit): Promise<ResponseEvent[]> {
  const response = await app.respond({ ...body, stream: true }, init);
  expect(response.status, await response.clone().text()).toBe(200);
  const events = eventsIn(await response.text());
  for (const event of events) expect(responseEventSchema.parse(event)).toEqual(event);
  return events;
}

const bytesOf = (text: string) => [...new TextEncoder().encode(text)];
const turnsOf = (...turns: string[]) => turns.flatMap((turn) => [...bytesOf(turn), edgeModel.endOfTextId]);
/** The value as JSON, without ids, creation times and timings, which differ between requests. */
const comparable = (value: unknown) =>
  JSON.stringify(value).replaceAll(/(resp|msg|fs)_[0-9a-f]+|"created_at":\d+|"timings":\{[^}]*\}/g, "");

describe("a response", () => {
  test("has OpenAI's shape, and what answered where that is asked", async () => {
    backendAnswers(({ id }) => saying(id, "bc", { finish: "stop" }));
    const app = responsesApp();
    const response = await app.respond({ input: "aaa", instructions: "x", metadata: { a: "b" }, chameleon: {} });
    const digits = response.headers.get("x-request-id")!.slice("req_".length);
    expect(await response.json()).toEqual({
      ...{ id: `resp_${digits}`, object: "response", created_at: expect.any(Number), status: "completed" },
      ...{
        access_programs: null,
        background: false,
        error: null,
        incomplete_details: null,
        instructions: "x",
        max_output_tokens: null,
      },
      ...{ metadata: { a: "b" }, model: "gpt2:auto", parallel_tool_calls: false, previous_response_id: null },
      output: [
        {
          ...{ type: "message", id: `msg_${digits}`, status: "completed", role: "assistant" },
          content: [{ type: "output_text", text: "bc", annotations: [], logprobs: [] }],
        },
      ],
      ...{
        reasoning: { effort: null, summary: null },
        store: false,
        system_fingerprint: expect.stringMatching(/^fp_/),
      },
      ...{ temperature: 1, text: { format: { type: "text" } }, tool_choice: "auto", tools: [], top_logprobs: 0 },
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
    const input = [
      { role: "developer", content: "d" },
      {
        type: "message",
        role: "user",
        content: [
          { type: "input_text", text: "a" },
          { type: "input_text", text: "e" },
        ],
      },
      { type: "file_search_call", id: "fs_1", status: "completed", queries: ["a"] },
      ...first.output,
      { role: "assistant", content: "c" },
      { role: "user", content: "z" },
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
    expect([maxTokens, sampling]).toEqual([
      3,
      expect.objectContaining({ temperature: 0.5, top_p: 0.9, top_k: 5, stop: ["zz"] }),
    ]);
    await expect
      .poll(() => reported())
      .toEqual([["local", expect.objectContaining({ promptTokens: 5, completionTokens: 3, requests: 1 })]]);
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
    const scored = ({ id }: SequenceRequest): Frame[] => [
      { type: "token", id, index: 0, tokenId: 98, logprob: -0.5, alternatives: [[99, -1]] } as TokenFrame,
      doneFrame(id),
    ];
    backendAnswers(scored);
    const token = { token: "b", logprob: -0.5, bytes: [98] };
    const top = [{ token: "c", logprob: -1, bytes: [99] }];
    const tokensOf = ({ output }: ResponseObject) =>
      output[0].type === "message" ? output[0].content[0].logprobs : null;
    const include = ["message.output_text.logprobs"];
    expect(tokensOf(await responded({ input: "a", top_logprobs: 1 }))).toEqual([{ ...token, top_logprobs: top }]);
    expect(tokensOf(await responded({ input: "a", include }))).toEqual([{ ...token, top_logprobs: [] }]);
    const deltas = (await streamed({ input: "a", top_logprobs: 1, include })).filter(
      (event) => event.type === "response.output_text.delta",
    );
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

  test("is incomplete at its most tokens, and has all events where there is no text", async () => {
    backendAnswers(({ id }) => saying(id, "bc", { finish: "length" }));
    const last = (await streamed({ input: "aaa", max_output_tokens: 2 })).at(-1);
    expect(last).toMatchObject({
      type: "response.incomplete",
      response: { incomplete_details: { reason: "max_output_tokens" } },
    });
    backendAnswers(({ id }) => saying(id, "", { finish: "stop" }));
    const types = (await streamed({ input: "aaa" })).map(({ type }) => type);
    expect(types).toHaveLength(8);
    expect(types).not.toContain("response.output_text.delta");
  });

  test("under an Idempotency-Key is resumed after any of its events", async () => {
    backendAnswers(({ id }) => saying(id, "bcd", { finish: "stop" }));
    const { keys, headers } = await keysOf("resuming");
    const app = responsesApp({ keys, newId: () => crypto.randomUUID().replaceAll("-", "") });
    const ask = async (more: object) => {
      const init = { headers: { ...headers[0], "idempotency-key": "one", ...more } };
      const response = await app.respond({ input: "aaa", stream: true }, init);
      expect(response.status, await response.clone().text()).toBe(200);
      return (await response.text()).split("\n\n").slice(0, -1);
    };
    const whole = await ask({});
    expect(whole).toHaveLength(12);
    for (const [i, event] of whole.slice(0, -1).entries()) {
      const id = /^id: (.*)$/m.exec(event)![1];
      expect(comparable(await ask({ "last-event-id": id }))).toBe(comparable(whole.slice(i + 1)));
    }
  });

  test("that fails ends in an error and in response.failed", async () => {
    backendAnswers(({ id }) => [
      ...saying(id, "bc").slice(0, 2),
      { type: "error", id, kind: "generation_failed", message: "It cannot be computed.", retryAfterSeconds: null },
    ]);
    const response = await responsesApp().respond({ input: "aaa", stream: true });
    const events = eventsIn(await response.text());
    const told = { type: "server_error", code: "generation_failed", message: "It cannot be computed.", param: null };
    expect(events.at(-2)).toEqual({ ...told, type: "error", sequence_number: 6, error: told });
    const failed = events.at(-1)!;
    expect(responseEventSchema.parse(failed)).toEqual(failed);
    expect(failed).toMatchObject({
      type: "response.failed",
      response: { status: "failed", error: { code: "server_error", message: "It cannot be computed." } },
    });
  });
});

describe("a search of documents", () => {
  const passages = [
    { memory: 0, document: "text-1", start: 2, end: 9, tokens: 7, similarity: 0.87654 },
    { memory: 0, document: "text-1", start: 10, end: 12, tokens: 2, similarity: 0.5 },
  ];
  const answering = ({ id, promptIds }: SequenceRequest): Frame[] => {
    const [first, second, done] = saying(id, "ok");
    const counted = { retrieved: passages, promptTokens: promptIds.length + 9 };
    return [{ ...first, retrievedTokens: 9 } as TokenFrame, second, { ...done, ...counted } as DoneFrame];
  };

  async function appWithNotes(tenant: string) {
    const { keys, headers } = await keysOf(tenant);
    const app = responsesApp({ keys });
    network.use(
      http.put(`${backendUrl}/v1/memories/*`, () => {
        const ready = { type: "ready", tokens: 14, bytes: 100, computedTokens: 14 };
        return new HttpResponse(byteStream([`${JSON.stringify(ready)}\n`]));
      }),
    );
    const made = await app.post("/v1/adapters", { name: "notes", documents: ["aaab aaab"] }, { headers: headers[0] });
    expect(made.status, await made.clone().text()).toBe(201);
    return { app, init: { headers: headers[0] } };
  }

  test("puts passages into the prompt, is an item before the message, and is cited", async () => {
    const { app, init } = await appWithNotes("searches");
    const seen = backendAnswers(answering);
    const tools = [{ type: "file_search", vector_store_ids: ["notes"], max_num_results: 9 }];
    const body = { input: [{ role: "user", content: "aaab" }], tools, max_output_tokens: 2 };
    const whole = await responded(body, app, init);
    const citation = { type: "file_citation", file_id: "notes/text-1", filename: "text-1", index: 2 };
    expect(whole.output).toMatchObject([
      { type: "file_search_call", status: "completed", queries: ["aaab"], results: null },
      { type: "message", content: [{ text: "ok", annotations: [citation] }] },
    ]);
    expect(whole).toMatchObject({ tools, usage: { input_tokens: 6 + 9 } });
    const [{ retrieval, memories }] = seen.batches[0].sequences;
    expect([retrieval?.passages, memories?.length]).toEqual([4, 1]);
    const events = await streamed(body, app, init);
    expect(events.map(({ type }) => type.replace("response.", ""))).toEqual([
      ...["created", "in_progress", "output_item.added", "file_search_call.in_progress", "file_search_call.searching"],
      ...["file_search_call.completed", "output_item.done", "output_item.added", "content_part.added"],
      ...["output_text.delta", "output_text.delta", "output_text.annotation.added", "output_text.done"],
      ...["content_part.done", "output_item.done", "incomplete"],
    ]);
    const last = events.at(-1) as ResponseEvent & { response: unknown };
    expect(comparable(last.response)).toEqual(comparable(whole));
  });

  test("is over the nearest adapters where it names none, and off by tool_choice", async () => {
    const { app, init } = await appWithNotes("searches-all");
    const seen = backendAnswers(answering);
    const body = { input: "aaab", tools: [{ type: "file_search", vector_store_ids: [] }] };
    await responded(body, app, init);
    expect(seen.batches[0].sequences[0].retrieval?.passages).toBe(2);
    // Of several stores the prompt chooses; `chameleon.retrieve` overrides the number of passages.
    const several = [{ type: "file_search", vector_store_ids: ["notes", "notes"] }];
    await responded({ ...body, tools: several, chameleon: { retrieve: 1 } }, app, init);
    expect(seen.batches[1].sequences[0].retrieval?.passages).toBe(1);
    backendAnswers(({ id }) => saying(id, "ok"));
    expect((await responded({ ...body, tool_choice: "none" }, app, init)).output).toHaveLength(1);
  });
});

describe("what is not built is refused by name", () => {
  const file_search = { type: "file_search", vector_store_ids: ["notes"] };
  test.each<[string, object, RegExp]>([
    ["previous_response_id", { previous_response_id: "resp_1" }, /nothing is stored here.*whole conversation/],
    ["conversation", { conversation: { id: "conv_1" } }, /nothing is stored here/],
    ["prompt", { prompt: { id: "pmpt_1" } }, /no prompt is stored/],
    ["context_management", { context_management: [] }, /not built/],
    ["background", { background: true }, /background is true; it must be false/],
    ["truncation", { truncation: "auto" }, /it must be "disabled"/],
    ["text.format", { text: { format: { type: "grammar" } } }, /text.format.type is "grammar"/],
    ["text.format", { text: { format: { type: "json_schema", name: "a" } } }, /text.format.schema is null/],
    [
      "text.format",
      { text: { format: { type: "json_schema", name: "a", schema: { multipleOf: 2 } } } },
      /text.format.schema at "\/multipleOf" is a keyword/,
    ],
    ["min_tokens", { text: { format: { type: "json_object" } }, min_tokens: 2 }, /beside/],
    ["response_format", { response_format: { type: "json_object" } }, /it is text.format/],
    ["include", { include: ["file_search_call.results"] }, /annotations name the passages/],
    [
      "tools[0].type",
      { tools: [{ type: "web_search" }, { type: "mcp" }] },
      /"web_search"; only function and file_search/,
    ],
    ["tools", { tools: [file_search, file_search] }, /the maximum is 1/],
    ["tools[0].filters", { tools: [{ ...file_search, filters: {} }] }, /not built/],
    ["tools[0].ranking_options", { tools: [{ ...file_search, ranking_options: {} }] }, /not built/],
    ["tools[0].max_num_results", { tools: [{ ...file_search, max_num_results: 51 }] }, /the maximum is 50/],
    ["tools[0].vector_store_ids", { tools: [{ ...file_search, vector_store_ids: ["a", "b", "c", "d", "e"] }] }, /4/],
    ["chameleon.adapter", { tools: [file_search] }, /"notes"/],
    ["input", { input: undefined }, /input is null/],
    ["input", { input: [] }, /at least one/],
    ["input[0]", { input: [{ type: "item_reference", id: "msg_1" }] }, /store: false/],
    ["input[1]", { input: [{ role: "user", content: "a" }, { type: "reasoning" }] }, /"reasoning"/],
    ["input[0]", { input: [{ role: "user", content: [{ type: "input_image" }] }] }, /content\[0\].*"input_image"/],
    ["input[0]", { input: [{ role: "user", content: [{ type: "input_file" }] }] }, /"input_file"/],
    ["input[0]", { input: [{ role: "user", content: [{ type: "input_audio" }] }] }, /"input_audio"/],
    ["input", { input: "a".repeat(5000) }, /context/],
    ["min_tokens", { max_output_tokens: 2, min_tokens: 3 }, /max_output_tokens: 2/],
    ["model", { model: "gpt5" }, /gpt2:auto/],
  ])("%s", async (param, more, message) => {
    const response = await responsesApp().respond({ input: "aaa", ...more });
    const error = await errorOf(response);
    expect(error).toMatchObject({ status: param === "model" ? 404 : 400, message: expect.stringMatching(message) });
    expect(error.param).toBe(param);
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
