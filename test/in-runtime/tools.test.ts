/** Function calls in chats and responses: prompt, batch and answer. The backend is scripted. */
import { describe, expect, test } from "vitest";
import { limits } from "../../shared/contracts/limits.ts";
import { type ResponseObject, responseEventSchema, responseSchema } from "../../shared/contracts/response-object.ts";
import { type ChatChunk, chatChunkSchema, chatResponseSchema } from "../../shared/contracts/responses.ts";
import { eventsOf, expectError, jsonOf } from "./answers.ts";
import { backendAnswers, saying } from "./backend.ts";
import { testApp } from "./harness.ts";
import { artifactsWith, type edgeArtifactsWith } from "./model.ts";
import { useTenant } from "./tenant.ts";

const chatTemplate = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
const artifactsOf = (model: Parameters<typeof edgeArtifactsWith>[1]) =>
  artifactsWith(false, { contextTokens: 8000, ...model });
const plain = artifactsOf({ chatTemplate });
const own = useTenant("tools", () => ({ artifacts: plain }));
const app = (artifacts = plain) => testApp({ artifacts });

const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const weather = { name: "get_weather", description: "Weather of a city", parameters };
const inChat = (...functions: object[]) => functions.map((one) => ({ type: "function", function: one }));
const inResponse = (...functions: object[]) => functions.map((one) => ({ type: "function", ...one }));
const messages = [{ role: "user", content: "aaa" }];
const chat = "/v1/chat/completions";
const response = "/v1/responses";

const call = (json: string, name = "get_weather") =>
  `<tool_call>\n{"name": "${name}", "arguments": ${json}}\n</tool_call>`;
const paris = '{"city": "Par}is\\n"}';
const rome = '{"city": "Rome"}';

const answered = <T>(path: string, body: object) => jsonOf<T>(app().post(path, body));

async function asked(path: string, body: object, artifacts = plain) {
  const seen = backendAnswers(({ id }) => saying(id, "", { finish: "stop" }));
  await jsonOf(app(artifacts).post(path, body));
  const [{ promptIds, sampling }] = seen.batches[0].sequences;
  const { tokenizer } = await plain();
  const prompt = tokenizer.decodeText(promptIds);
  const form = sampling.text_form ? (JSON.parse(sampling.text_form) as Record<string, unknown>) : null;
  return { prompt, form, sampling, promptTokens: promptIds.length };
}

describe("a request with functions", () => {
  const shown = `<tools>\n${JSON.stringify({ type: "function", function: weather })}\n</tools>`;

  test("lists them in the system message, by either endpoint alike, and counts them", async () => {
    const system = { role: "system", content: "Be brief." };
    const tools = inChat({ ...weather, strict: true });
    const chatted = await asked(chat, { messages: [system, ...messages], tools });
    expect(chatted.prompt).toMatch(/^\[system\]Be brief\.\n\n# Tools\n/);
    expect(chatted.prompt).toContain(shown);
    expect(chatted.prompt).toMatch(/<\/tool_call>\[user\]aaa$/);
    const responded = await asked(response, { instructions: "Be brief.", input: "aaa", tools: inResponse(weather) });
    expect(responded).toEqual(chatted);
    const without = await asked(chat, { messages, tools });
    expect(without.prompt).toMatch(/^\[system\]# Tools\n/);
    backendAnswers(({ id }) => saying(id, "b"));
    const { usage } = await answered<{ usage: { prompt_tokens: number } }>(chat, { messages, tools });
    expect(usage.prompt_tokens).toBe(without.promptTokens);
  });

  test("is held to what tool_choice and parallel_tool_calls ask for", async () => {
    const tools = inChat(weather, { name: "now" });
    const ask = async (more: object) => (await asked(chat, { messages, tools, ...more })).form;
    const most = limits.toolCalls;
    const any = await ask({});
    expect(any).toEqual({ text: "any", most, calls: { get_weather: expect.any(Object), now: expect.any(Object) } });
    expect(await ask({ tool_choice: "auto" })).toEqual(any);
    expect(await ask({ parallel_tool_calls: false })).toEqual({ ...any, most: 1 });
    expect(await ask({ tool_choice: "required" })).toEqual({ ...any, text: "none" });
    const { get_weather } = any!.calls as Record<string, object>;
    const named = { type: "function", function: { name: "get_weather" } };
    expect(await ask({ tool_choice: named })).toEqual({ text: "none", most: 1, calls: { get_weather } });
    const form = await ask({ response_format: { type: "json_object" } });
    expect(form).toEqual({ ...any, text: { type: "object", additionalProperties: {} } });
    const none = await asked(chat, { messages, tools, tool_choice: "none" });
    expect([none.form, none.prompt]).toEqual([null, "[user]aaa"]);
    const responded = { input: "aaa", tools: inResponse(weather, { name: "now" }) };
    const choice = { tool_choice: { type: "function", name: "get_weather" } };
    expect((await asked(response, { ...responded, ...choice })).form).toMatchObject({ text: "none", most: 1 });
  });

  test("stops where the template's next turn begins only if the answer may be text", async () => {
    const alpaca = artifactsOf({});
    const tools = inChat(weather);
    const stops = async (more: object) => (await asked(chat, { messages, tools, ...more }, alpaca)).sampling.stop;
    expect(await stops({})).toEqual(["### Instruction:"]);
    expect(await stops({ tool_choice: "required" })).toBe(undefined);
  });

  test("assigns by its messages alone", async () => {
    backendAnswers(({ id }) => saying(id, "b"));
    const block = async (more: object) => {
      const asked = { messages, chameleon: {}, ...more };
      const { choices } = await answered<{ choices: { chameleon: { similarity: number } }[] }>(chat, asked);
      return choices[0].chameleon.similarity;
    };
    expect(await block({ tools: inChat(weather) })).toBe(await block({}));
  });

  test("has calls and their results in the conversation as they were answered", async () => {
    const made = (json: string) => ({ name: "get_weather", arguments: json });
    const called = (id: string, json: string) => ({ id, type: "function", function: made(json) });
    const turns = [
      ...messages,
      { role: "assistant", content: "Let me see.", tool_calls: [called("a", paris), called("b", rome)] },
      { role: "tool", tool_call_id: "a", content: "rain" },
      { role: "tool", tool_call_id: "b", content: [{ type: "text", text: "sun" }] },
      { role: "assistant", content: null, tool_calls: [called("c", rome)] },
      { role: "tool", tool_call_id: "c", content: "fog" },
    ];
    const results = (...texts: string[]) =>
      texts.map((text) => `<tool_response>\n${text}\n</tool_response>`).join("\n");
    const { prompt } = await asked(chat, { messages: turns });
    const before = `[user]aaa[assistant]Let me see.${call(paris)}\n${call(rome)}[user]${results("rain", "sun")}`;
    expect(prompt).toBe(`${before}[assistant]${call(rome)}[user]${results("fog")}`);
    const item = (call_id: string, json: string) => ({
      ...{ type: "function_call", id: `fc_${call_id}`, call_id, status: "completed", ...made(json) },
    });
    const output = (call_id: string, text: unknown) => ({ type: "function_call_output", call_id, output: text });
    const input = [
      ...messages,
      { type: "message", role: "assistant", content: [{ type: "output_text", text: "Let me see." }] },
      ...[item("a", paris), item("b", rome), output("a", "rain")],
      output("b", [{ type: "input_text", text: "sun" }]),
      ...[item("c", rome), output("c", "fog")],
    ];
    expect((await asked(response, { input })).prompt).toBe(prompt);
  });
});

const begun = '<tool_call>\n{"name": "get_w';
const both = `${call(paris)}\n${call(rome)}`;
/** The model's text, how it ended, and the text and calls that a client gets. */
const cases: [string, string, "stop" | "length", string | null, string[]][] = [
  ["one call", call(paris), "stop", null, [paris]],
  ["text and two calls", `Let me <see>.\n${both}`, "stop", "Let me <see>.\n", [paris, rome]],
  ["text alone", "1 < 2 <tool", "stop", "1 < 2 <tool", []],
  ["an empty text", "", "stop", "", []],
  ["a call of nothing", call("{}"), "stop", null, ["{}"]],
  ["a cut in its arguments", `${begun}eather", "arguments": {"city": "Par`, "length", null, ['{"city": "Pa']],
  ["a cut in the name", `A${begun}`, "length", "A", []],
  ["a cut before its last brace", `${begun}eather", "arguments": ${rome}}`, "length", null, [rome]],
  ["a cut between calls", `${call(rome)}\n<tool_`, "length", null, [rome]],
];

describe.each(cases)("an answer of %s", (_, text, finish, said, jsons) => {
  const ended = jsons.length > 0 ? "tool_calls" : "stop";
  const reason = finish === "length" ? "length" : ended;
  const named = jsons.map((json) => ["get_weather", json]);

  test("in a chat, whole and streamed, with the same ids", async () => {
    backendAnswers(({ id }) => saying(id, text, { finish }));
    const init = { headers: { "idempotency-key": crypto.randomUUID() } };
    const body = { messages, tools: inChat(weather) };
    const posted = async () => chatResponseSchema.parse(await jsonOf(own.app().post(chat, body, init)));
    const [whole, again] = await Promise.all([posted(), posted()]);
    expect(again).toEqual(whole);
    const [{ message, finish_reason }] = whole.choices;
    const { content, tool_calls = [] } = message;
    expect([content, finish_reason]).toEqual([said, reason]);
    expect(tool_calls.map(({ function: made }) => [made.name, made.arguments])).toEqual(named);
    const data = await eventsOf(app().post(chat, { ...body, stream: true }));
    expect(data.pop()).toBe("[DONE]");
    const chunks = (data as ChatChunk[]).map((chunk) => chatChunkSchema.parse(chunk).choices[0]);
    const joined: { id: string; name: string; json: string }[] = [];
    for (const { index, id, function: part } of chunks.flatMap(({ delta }) => delta.tool_calls ?? [])) {
      if (part.name !== undefined) joined[index] = { id: id!, name: part.name, json: "" };
      joined[index].json += part.arguments;
    }
    expect(chunks.map(({ delta }) => delta.content ?? "").join("")).toBe(said ?? "");
    expect(joined.map(({ name, json }) => [name, json])).toEqual(named);
    expect(new Set(joined.map(({ id }) => id)).size).toBe(joined.length);
    expect(chunks.at(-1)!.finish_reason).toBe(reason);
    expect(chunks.filter(({ delta }) => delta.role)).toHaveLength(1);
  });

  test("in a response, whole and streamed, resumed after any event", async () => {
    backendAnswers(({ id }) => saying(id, text, { finish }));
    const init = (key: string, more = {}) => ({ headers: { "idempotency-key": key, ...more } });
    const body = { input: "aaa", tools: inResponse(weather) };
    const key = crypto.randomUUID();
    const whole = await jsonOf<ResponseObject>(own.app().post(response, body, init(crypto.randomUUID())));
    expect(responseSchema.parse(whole)).toEqual(whole);
    const comparable = (value: unknown) =>
      JSON.stringify(value).replaceAll(/(resp|msg|fc|call)_[0-9a-f]+|"created_at":\d+/g, "");
    const calls = whole.output.filter((item) => item.type === "function_call");
    expect(calls.map((item) => [item.name, item.arguments])).toEqual(named);
    const texts = whole.output.flatMap((item) => (item.type === "message" ? [item.content[0].text] : []));
    expect(texts).toEqual(said !== null || calls.length === 0 ? [said] : []);
    const isCut = finish === "length" && !text.includes("\n</tool_call>");
    expect(whole.output.at(-1)!.status).toBe(isCut ? "incomplete" : "completed");
    const stream = async (more = {}) => {
      const answer = await own.app().post(response, { ...body, stream: true }, init(key, more));
      return (await answer.text()).split("\n\n").filter((event) => !/^$|^:/.test(event));
    };
    const streamed = await stream();
    const events = streamed.slice(0, -1).map((event) => JSON.parse(event.slice(event.indexOf("data: ") + 6)));
    for (const event of events) expect(responseEventSchema.parse(event)).toEqual(event);
    expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, i) => i));
    const last = events.at(-1) as { response: ResponseObject };
    expect(comparable(last.response)).toBe(comparable(whole));
    // Events add an item, extend its text, and end with the whole item.
    for (const [i, item] of whole.output.entries()) {
      const of = events.filter((event) => event.output_index === i);
      expect(of[0].type).toBe("response.output_item.added");
      expect(comparable(of.at(-1))).toContain(comparable({ output_index: i, item }).slice(1, -1));
      const deltas = of.filter(({ type }) => type.endsWith(".delta")).map(({ delta }) => delta);
      const text =
        item.type === "function_call" ? item.arguments : (item as { content: { text: string }[] }).content[0].text;
      expect(deltas.join("")).toBe(text);
    }
    for (const [i, event] of streamed.slice(0, -1).entries()) {
      const id = /^id: (.*)$/m.exec(event)![1];
      expect(comparable(await stream({ "last-event-id": id }))).toBe(comparable(streamed.slice(i + 1)));
    }
  });
});

test("JSON of a format that spells a call is no call", async () => {
  const text = '{"a": "<tool_call>"}';
  backendAnswers(({ id }) => saying(id, text, { finish: "stop" }));
  const body = { messages, tools: inChat(weather), response_format: { type: "json_object" } };
  const { choices } = await answered<{ choices: { message: object }[] }>(chat, body);
  expect(choices[0].message).toEqual({ role: "assistant", content: text, refusal: null });
});

test("a chat's logprobs are of every token, and a response repeats its tools", async () => {
  backendAnswers(({ id }) => saying(id, call(rome), { finish: "stop", logprob: -1 }));
  const scored = { messages, tools: inChat(weather), logprobs: true };
  const { choices } = await answered<{ choices: { logprobs: { content: { token: string }[] } }[] }>(chat, scored);
  expect(choices[0].logprobs.content.map(({ token }) => token).join("")).toBe(call(rome));
  const tools = [...inResponse(weather), { type: "file_search", vector_store_ids: ["a"], max_num_results: 3 }];
  backendAnswers(({ id }) => saying(id, "", { finish: "stop" }));
  await expectError(app().post(response, { input: "aaa", tools }), { param: "chameleon.adapter" });
  const required = { input: "aaa", tools: tools.slice(0, 1), tool_choice: "required" };
  const told = await answered<ResponseObject>(response, required);
  expect(told.tools).toEqual([{ ...tools[0], strict: true }]);
  expect([told.tool_choice, told.parallel_tool_calls]).toEqual(["required", true]);
});

const many = (count: number) => inChat(...Array.from({ length: count }, (_, i) => ({ name: `f${i}` })));
const unsupported = { name: "f", parameters: { type: "object", properties: { a: { unevaluatedItems: true } } } };
const notSupported = /parameters at "\/properties\/a\/unevaluatedItems" is a keyword that is not supported/;
const result = { role: "tool", tool_call_id: "x", content: "1" };
const calling = (...tool_calls: unknown[]) => ({
  messages: [...messages, { role: "assistant", content: null, tool_calls }],
});
test.each<[string, object, RegExp]>([
  ["tools", { tools: {} }, /tools is an object; it must be of type array/],
  ["tools", { tools: many(129) }, /129 entries, the maximum is 128/],
  ["tools", { tools: inChat({ name: "f", description: "x".repeat(40_000) }) }, /bytes, the maximum is 32768/],
  ["tools[0]", { tools: ["f"] }, /tools\[0\] is "f"; it must be of type object/],
  ["tools[0].type", { tools: [{ type: "custom", custom: { name: "f" } }] }, /"custom"; it must be "function"/],
  ["tools[1].function", { tools: [...many(1), { type: "function" }] }, /absent; it must be of type object/],
  ["tools[0].function.name", { tools: inChat({ name: "a b" }) }, /the name "a b" has other characters/],
  ["tools[0].function.name", { tools: inChat({ name: "f".repeat(65) }) }, /65 characters, the maximum is 64/],
  ["tools", { tools: inChat({ name: "f" }, { name: "f" }) }, /tools has the function "f" twice/],
  ["tools[0].function.parameters.type", { tools: inChat({ name: "f", parameters: { type: "string" } }) }, /"object"/],
  ["tools[0].function.parameters", { tools: inChat(unsupported) }, notSupported],
  ["tool_choice", { tools: many(1), tool_choice: "any" }, /tool_choice is "any"; it must be none, auto, required/],
  ["tool_choice", { tools: many(1), tool_choice: { type: "allowed_tools" } }, /"allowed_tools"/],
  ["tool_choice", { tools: many(1), tool_choice: inChat({ name: "g" })[0] }, /"g", which is not in tools/],
  ["tool_choice", { tool_choice: "required" }, /tools has no function/],
  ["min_tokens", { tools: many(1), min_tokens: 2 }, /min_tokens is set beside/],
  ["functions", { functions: [{ name: "f" }] }, /not built; tools is/],
  ["function_call", { function_call: { name: "f" } }, /not built; tool_choice is/],
  ["messages[0]", { messages: [result] }, /tool_call_id is "x"; it must be the id of a call in a message before it/],
  ["messages[1]", calling({}), /tool_calls\[0\] is no call/],
  ["messages[1]", calling({ id: "x", type: "custom" }), /is no call/],
  ["messages[1]", calling({ id: "x", type: "function", function: { name: "f" } }), /the arguments as JSON/],
  ["messages[1]", calling(...Array(17).fill({})), /17 entries, the maximum is 16/],
  ["messages[0]", { messages: [{ role: "user", content: "a", tool_calls: [] }] }, /only the assistant calls/],
])("%s is refused: %j", async (param, more, message) => {
  await expectError(app().post(chat, { messages, ...more }), { status: 400, param, mentions: message });
});

const noCalls = { role: "assistant", content: "", tool_calls: false };
test.each<[string, object, RegExp]>([
  ["tools", { include: ["message.output_text.logprobs"] }, /have no place for logprobs/],
  ["tools", { chameleon: { compare: true } }, /have no place for logprobs/],
  ["tool_choice", { tool_choice: { type: "function", name: "g" } }, /"g", which is not in tools/],
  ["input[0]", { input: [{ type: "function_call_output", call_id: "x", output: "1" }] }, /tool_call_id is "x"/],
  ["input[0]", { input: [noCalls, { type: "function_call" }] }, /false|boolean/],
  ["input[0]", { input: Array(20_000).fill({ type: "function_call" }) }, /20000 entries, the maximum is 16/],
  ["input[0]", { input: [{ type: "custom_tool_call" }] }, /"custom_tool_call"/],
])("of a response %s is refused: %j", async (param, more, message) => {
  const asked = app().post(response, { input: "aaa", tools: inResponse(weather), ...more });
  await expectError(asked, { status: 400, param, mentions: message });
});
