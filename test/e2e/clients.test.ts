/**
 * Unmodified third-party clients against the running API: the `openai` SDK, the Vercel AI SDK and LangChain. For one model and seed they
 * must return what plain HTTP returns.
 */
import "../../edge/client/openai.ts";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage, SystemMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI, OpenAI as OpenAICompletions, OpenAIEmbeddings } from "@langchain/openai";
import { APICallError, embedMany, generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { Ajv2020 } from "ajv/dist/2020.js";
import OpenAI, { APIUserAbortError, BadRequestError, NotFoundError } from "openai";
import { describe, expect, test } from "vitest";
import { chameleonOf, chameleonOptions, metadataExtractor } from "../../edge/client/ai-sdk.ts";
import type { ResponseObject } from "../../shared/contracts/response-object.ts";
import { metricAt } from "../support/backend-process.ts";
import { sharedStack } from "../support/shared-stack.ts";

const stack = await sharedStack("clients");
const baseURL = `${stack.edge}/v1`;
// The SDK warns of settings that a completion model lacks.
Object.assign(globalThis, { AI_SDK_LOG_WARNINGS: false });

const model = "gpt2:auto";
const prompt = "=head1 NAME\n\nperlfunc - Perl builtin functions\n\n=head1";
const system = "You are brief.";
const question = "What is a truth universally acknowledged?";
const texts = [
  "a single man in possession of a good fortune",
  "the functions in this section",
  "the eggs and the sugar",
];

async function completion(body: object): Promise<string> {
  const { choices } = await stack.ask<OpenAI.Completion>("/v1/completions", { model, prompt, ...body });
  return choices[0].text;
}
async function chat(body: object): Promise<string> {
  const messages = [
    { role: "system", content: system },
    { role: "user", content: question },
  ];
  const { choices } = await stack.ask<OpenAI.ChatCompletion>("/v1/chat/completions", { model, messages, ...body });
  return choices[0].message.content!;
}
async function vectors(): Promise<number[][]> {
  const { data } = await stack.ask<OpenAI.CreateEmbeddingResponse>("/v1/embeddings", { model, input: texts });
  return data.map(({ embedding }) => embedding);
}

/** Joins the text of a stream. `textOf` returns the text of one part. */
async function joined<T>(stream: AsyncIterable<T>, textOf: (part: T) => string | null | undefined): Promise<string> {
  let text = "";
  for await (const part of stream) text += textOf(part) ?? "";
  return text;
}

/** A schema so small that even a model that writes nonsense completes its JSON. */
const schema = {
  type: "object",
  properties: {
    kind: { enum: ["fact", "opinion", 'it\'s "both"'] },
    score: { type: "integer", minimum: -5, maximum: 10 },
    tags: { type: "array", items: { enum: ["a", "b"] }, maxItems: 3 },
    note: { anyOf: [{ type: "null" }, { type: "string", maxLength: 5 }] },
  },
  required: ["kind", "score", "tags", "note"],
  additionalProperties: false,
} as const;
const isOfSchema = new Ajv2020().compile(schema);
const expectOfSchema = (value: unknown) => expect(isOfSchema(value), JSON.stringify(value)).toBe(true);

/** A function whose arguments even a model that writes nonsense completes. */
const weather = {
  name: "get_weather",
  description: "The weather of a city",
  parameters: {
    type: "object",
    properties: { city: { enum: ["Paris", "Rome"] }, days: { type: "integer", minimum: 1, maximum: 9 } },
    required: ["city", "days"],
    additionalProperties: false,
  },
} as const;
const isOfWeather = new Ajv2020().compile(weather.parameters);
const expectOfWeather = (value: unknown) => expect(isOfWeather(value), JSON.stringify(value)).toBe(true);

/** max_tokens of answers that are aborted after their first token, so that they end with fewer. */
const long = 400;

describe("the openai SDK", () => {
  const client = new OpenAI({ baseURL, apiKey: stack.key, maxRetries: 0 });
  const sampling = { max_tokens: 24, temperature: 0.7, seed: 3 };
  const messages = [
    { role: "system" as const, content: system },
    { role: "user" as const, content: [{ type: "text" as const, text: question }] },
  ];

  test("completes, whole and streamed", async () => {
    const expected = await completion(sampling);
    const whole = await client.completions.create({ model, prompt, ...sampling });
    expect(whole.choices[0].text).toBe(expected);
    const stream = await client.completions.create({ model, prompt, ...sampling, stream: true });
    expect(await joined(stream, ({ choices }) => choices[0].text)).toBe(expected);
  });

  test("chats, whole, streamed, and through its stream helper", async () => {
    const expected = await chat(sampling);
    const request = { model, messages, ...sampling, logprobs: true, top_logprobs: 2 };
    const whole = await client.chat.completions.create(request);
    expect(whole.choices[0].message).toEqual({ role: "assistant", content: expected, refusal: null });
    expect(whole.choices[0].logprobs?.content).toHaveLength(whole.usage!.completion_tokens);
    const stream = client.chat.completions.stream({ ...request, stream_options: { include_usage: true } });
    const deltas: string[] = [];
    stream.on("content", (delta) => deltas.push(delta));
    const final = await stream.finalChatCompletion();
    expect(deltas.join("")).toBe(expected);
    expect(final.choices[0]).toMatchObject({ finish_reason: "length", message: { content: expected } });
    expect(final.choices[0].logprobs?.content).toEqual(whole.choices[0].logprobs?.content);
    expect(final.usage).toMatchObject({ completion_tokens: 24 });
  });

  test("responds, whole, streamed, and through its stream helper", async () => {
    const expected = await chat(sampling);
    const request = { model, instructions: system, input: question, max_output_tokens: 24, temperature: 0.7, seed: 3 };
    // Compile-time check: our type has every field of the SDK's type. `usage` is left out: ours may be null.
    const typed = (answer: ResponseObject): Omit<OpenAI.Responses.Response, "output_text" | "usage"> => answer;
    const whole = await client.responses.create({ ...request, stream: false });
    expect(typed(whole as unknown as ResponseObject)).toBe(whole);
    expect(whole).toMatchObject({ output_text: expected, status: "incomplete", store: false });
    expect(whole.usage).toMatchObject({ output_tokens: 24 });
    const events = await Array.fromAsync(await client.responses.create({ ...request, stream: true }));
    const deltas = events.flatMap((event) => (event.type === "response.output_text.delta" ? [event.delta] : []));
    expect(deltas.join("")).toBe(expected);
    expect(events.map((event) => event.sequence_number)).toEqual([...events.keys()]);
    const stream = client.responses.stream(request);
    expect(await stream.finalResponse()).toMatchObject({ output_text: expected, usage: whole.usage });
    // The answer's items can be sent back as input of the next turn.
    const [first, second] = [question, "Why?"].map((content) => ({ role: "user" as const, content }));
    const input = [first, ...whole.output, second] as OpenAI.Responses.ResponseInput;
    const next = await client.responses.create({ ...request, input, stream: false });
    expect(next.output_text).not.toBe(expected);
    const stored = client.responses.create({ ...request, previous_response_id: whole.id, stream: false });
    await expect(stored).rejects.toMatchObject({ status: 400, param: "previous_response_id" });
  });

  test("asks for JSON of a schema, whole, streamed and as several choices", async () => {
    const response_format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } } as const;
    const request = { model, messages, temperature: 1, seed: 5, n: 3, max_tokens: 200, response_format };
    const whole = await client.chat.completions.create({ ...request, logprobs: true, top_logprobs: 3 });
    const texts = whole.choices.map(({ message }) => message.content!);
    for (const text of texts) expectOfSchema(JSON.parse(text));
    for (const choice of whole.choices) {
      expect(choice.finish_reason).toBe("stop");
      expect(choice.logprobs!.content!.map(({ token }) => token).join("")).toBe(choice.message.content);
      for (const { logprob, top_logprobs } of choice.logprobs!.content!) {
        expect(logprob).toBeLessThanOrEqual(0);
        // Only tokens that the schema allows have a probability, so the alternatives' sum is at most 1.
        expect(top_logprobs.reduce((sum, one) => sum + Math.exp(one.logprob), 0)).toBeLessThan(1.001);
      }
    }
    const streamed = ["", "", ""];
    for await (const { choices } of await client.chat.completions.create({ ...request, stream: true })) {
      for (const { index, delta } of choices) streamed[index] += delta.content ?? "";
    }
    expect(streamed).toEqual(texts);
    const [alone] = (await client.chat.completions.create({ ...request, n: 1 })).choices;
    expect(alone.message.content).toBe(texts[0]);
    const format = { type: "json_schema", name: "answer", strict: true, schema } as const;
    const responded = await client.responses.parse({
      ...{ model, instructions: system, input: question, temperature: 1, seed: 5, max_output_tokens: 200 },
      text: { format },
    });
    expect(responded).toMatchObject({ output_text: texts[0], output_parsed: JSON.parse(texts[0]), text: { format } });
    const cut = await client.chat.completions.create({ ...request, n: 1, max_tokens: 2 });
    expect(cut.choices[0].finish_reason).toBe("length");
    expect(texts[0].startsWith(cut.choices[0].message.content!)).toBe(true);
  });

  test("calls a function, whole and streamed, and goes on with its result", async () => {
    const tools = [{ type: "function" as const, function: { ...weather, strict: true } }];
    const request = { model, messages, tools, max_tokens: 200, temperature: 1, seed: 5 };
    const forced = { ...request, tool_choice: "required" as const, parallel_tool_calls: false };
    const whole = await client.chat.completions.create(forced);
    const [{ message, finish_reason }] = whole.choices;
    expect([finish_reason, message.content]).toEqual(["tool_calls", null]);
    const [call] = message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[];
    expect(call.function.name).toBe(weather.name);
    expectOfWeather(JSON.parse(call.function.arguments));
    const final = await client.chat.completions.stream(forced).finalChatCompletion();
    const calling = { finish_reason: "tool_calls", message: { tool_calls: [{ function: call.function }] } };
    expect(final.choices[0]).toMatchObject(calling);
    // A request repeated under its key has the same call ids.
    const repeated = { headers: { "Idempotency-Key": crypto.randomUUID() } };
    const [one, other] = [0, 1].map(() => client.chat.completions.create(forced, repeated));
    expect((await one).choices).toEqual((await other).choices);
    const result = { role: "tool" as const, tool_call_id: call.id, content: "rain" };
    const continued = { ...request, messages: [...messages, message, result], max_tokens: 8 };
    const next = await client.chat.completions.create(continued);
    expect(next.choices[0].message.content).not.toBe("");
    expect(next.usage!.prompt_tokens).toBeGreaterThan(whole.usage!.prompt_tokens);
    const plain = await client.chat.completions.create({ ...request, tool_choice: "none", max_tokens: 1 });
    expect(plain.usage!.prompt_tokens).toBeLessThan(whole.usage!.prompt_tokens);
  });

  test("calls a function by a response, whole and streamed, and goes on with its result", async () => {
    const tools = [{ type: "function" as const, ...weather, strict: true }];
    const request = { model, tools, max_output_tokens: 200, temperature: 1, seed: 5 };
    const asked = { ...request, input: question, tool_choice: { type: "function" as const, name: weather.name } };
    const whole = await client.responses.create({ ...asked, stream: false });
    const [call] = whole.output as [OpenAI.Responses.ResponseFunctionToolCall];
    expect(whole).toMatchObject({ status: "completed", output: [{ type: "function_call", name: weather.name }] });
    expectOfWeather(JSON.parse(call.arguments));
    const streamed = await client.responses.stream(asked).finalResponse();
    expect(streamed.output).toMatchObject([{ type: "function_call", arguments: call.arguments }]);
    const output = { type: "function_call_output" as const, call_id: call.call_id, output: "rain" };
    const input: OpenAI.Responses.ResponseInput = [{ role: "user", content: question }, call, output];
    const next = await client.responses.create({ ...request, input, max_output_tokens: 8, stream: false });
    expect(next.output_text).not.toBe("");
  });

  test("asks for an adapter and reads what answered, typed", async () => {
    const request = { model, prompt, max_tokens: 4, temperature: 0, chameleon: { adapter: "nearest", compare: true } };
    const whole = await client.completions.create(request);
    expect(whole.choices[0].chameleon?.mode).toBe("adapted");
    expect(whole.choices[0].chameleon?.compare?.tokens.map(({ token }) => token).join("")).toBe(whole.choices[0].text);
    const stream = await client.completions.create({ ...request, stream: true });
    const compared = joined(stream, ({ choices: [{ chameleon }] }) =>
      chameleon?.compare?.tokens.map(({ token }) => token).join(""),
    );
    expect(await compared).toBe(whole.choices[0].text);
    const adapter = { adapter: "off" };
    const off = await client.chat.completions.create({ model, messages, max_tokens: 1, chameleon: adapter });
    expect(off.choices[0].chameleon?.experts?.map(({ id }) => id)).toEqual(["base"]);
  });

  test("passes what vLLM has beside OpenAI's fields, typed", async () => {
    const penalties = { top_k: 20, min_p: 0.01, repetition_penalty: 1.2 };
    const vllm = { ...penalties, stop_token_ids: [7], min_tokens: 2, ignore_eos: true };
    const ask = (extras: Partial<OpenAI.CompletionCreateParamsNonStreaming>) =>
      client.completions.create({ model, prompt, max_tokens: 4, temperature: 0, ...extras, stream: false });
    expect((await ask(vllm)).usage).toMatchObject({ completion_tokens: 4 });
    await expect(ask({ min_tokens: 25 })).rejects.toMatchObject({ status: 400, param: "min_tokens" });
  });

  test("embeds: base64, which it asks for by itself, is the same as floats", async () => {
    const expected = await vectors();
    const { data, usage } = await client.embeddings.create({ model, input: texts });
    expect(data.map(({ embedding }) => embedding)).toEqual(expected);
    expect(usage.total_tokens).toBeGreaterThan(0);
    const floats = await client.embeddings.create({ model, input: texts, encoding_format: "float" });
    expect(floats.data.map(({ embedding }) => embedding)).toEqual(expected);
  });

  test("lists models and finds one", async () => {
    const models = await Array.fromAsync(client.models.list());
    expect(models.map(({ id }) => id)).toEqual(expect.arrayContaining(["gpt2", "gpt2:auto", "gpt2:c0"]));
    expect(await client.models.retrieve("gpt2:c0")).toMatchObject({ id: "gpt2:c0", object: "model" });
  });

  test("knows our errors, and may go away in the middle", async () => {
    const tools = [{ type: "custom" as const, custom: { name: "f" } }];
    const wrong = client.chat.completions.create({ model, messages, tools });
    await expect(wrong).rejects.toThrow(BadRequestError);
    const requestID = expect.stringMatching(/^req_/);
    await expect(wrong).rejects.toMatchObject({ status: 400, param: "tools[0].type", requestID });
    await expect(client.completions.create({ model: "gpt5", prompt })).rejects.toThrow(NotFoundError);
    const stream = await client.chat.completions.create({ model: "gpt2", messages, max_tokens: long, stream: true });
    let chunks = 0;
    for await (const _ of stream) if (++chunks === 2) stream.controller.abort();
    expect(chunks).toBeLessThan(long);
    const signal = AbortSignal.timeout(1);
    const aborted = client.completions.create({ model: "gpt2", prompt, max_tokens: long }, { signal });
    await expect(aborted).rejects.toThrow(APIUserAbortError);
  });
});

describe("the Vercel AI SDK", () => {
  const access = { baseURL, apiKey: stack.key };
  const compatible = createOpenAICompatible({
    ...{ ...access, name: "chameleon", includeUsage: true, supportsStructuredOutputs: true, metadataExtractor },
  });
  const openai = createOpenAI(access);
  const sampling = { maxOutputTokens: 24, temperature: 0, maxRetries: 0 };
  const same = { max_tokens: 24, temperature: 0 };

  describe.each([
    ["chats of the compatible provider", compatible.chatModel],
    ["chats of OpenAI's provider", openai.chat],
    ["responses of OpenAI's provider", openai],
  ])("by %s", (_, modelNamed) => {
    test("answers, whole and streamed, and counts tokens", async () => {
      const request = { model: modelNamed(model), instructions: system, prompt: question, ...sampling };
      const whole = await generateText(request);
      expect(whole).toMatchObject({ text: await chat(same), finishReason: "length", usage: { outputTokens: 24 } });
      const streamed = streamText(request);
      const parts = await Array.fromAsync(streamed.textStream);
      expect(parts.join("")).toBe(whole.text);
      expect(parts.length).toBeGreaterThan(1);
      expect(await streamed.finishReason).toBe("length");
      expect(await streamed.usage).toMatchObject({ outputTokens: 24, inputTokens: whole.usage.inputTokens });
    });

    test("generates an object", async () => {
      const request = { model: modelNamed(model), schema: jsonSchema(schema), prompt: question, maxRetries: 0 };
      const options = { maxOutputTokens: 200, seed: 5, temperature: 1 };
      const { object, finishReason } = await generateObject({ ...request, ...options });
      expectOfSchema(object);
      expect(finishReason).toBe("stop");
    });

    test("runs tools and goes on with their results", async () => {
      const given: unknown[] = [];
      const get_weather = tool({
        description: weather.description,
        inputSchema: jsonSchema<{ city: string; days: number }>(weather.parameters),
        execute: async (input) => {
          given.push(input);
          return "rain";
        },
      });
      const request = {
        ...{ model: modelNamed(model), tools: { get_weather }, prompt: question, maxRetries: 0, seed: 5 },
        ...{ temperature: 1, maxOutputTokens: 100 },
        providerOptions: { openai: { store: false, parallelToolCalls: false } },
        stopWhen: stepCountIs(2),
        prepareStep: ({ stepNumber }: { stepNumber: number }) => ({
          toolChoice: stepNumber === 0 ? ({ type: "tool", toolName: "get_weather" } as const) : ("none" as const),
        }),
      };
      const { steps } = await generateText(request);
      expect(steps).toHaveLength(2);
      expect(steps[0].finishReason).toBe("tool-calls");
      expect(await streamText(request).steps).toHaveLength(2);
      expect(given).toHaveLength(2);
      for (const input of given) expectOfWeather(input);
    });

    test("knows our errors, and may go away in the middle", async () => {
      const wrong = generateText({ model: modelNamed("gpt5"), prompt: question, maxRetries: 0 });
      await expect(wrong).rejects.toSatisfy((error) => APICallError.isInstance(error) && error.statusCode === 404);
      await expect(wrong).rejects.toThrow("gpt5");
      const abort = new AbortController();
      const request = { model: modelNamed("gpt2"), prompt: question, maxOutputTokens: long };
      const streamed = streamText({ ...request, abortSignal: abort.signal, onError: () => undefined });
      let parts = 0;
      for await (const part of streamed.stream) if (part.type === "text-delta" && ++parts === 2) abort.abort();
      expect(parts).toBeLessThan(long);
    });
  });

  test("completes, whole and streamed, with the stop string that it sends along", async () => {
    // The AI SDK's completion model writes the prompt as a conversation, and stops before the user's next turn.
    for (const completionModel of [compatible.completionModel(model), openai.completion(model)]) {
      const request = { model: completionModel, prompt: question, ...sampling };
      const whole = await generateText({ ...request, include: { requestBody: true } });
      const written = whole.request.body as { prompt: string; stop: string[] };
      expect(written.stop).toEqual(["\nuser:"]);
      expect(whole.text).toBe(await completion({ ...same, prompt: written.prompt, stop: written.stop }));
      const streamed = streamText(request);
      expect(await streamed.text).toBe(whole.text);
      expect(await streamed.finishReason).toBe(whole.finishReason);
    }
  });

  test("asks for an adapter and reads what answered, typed", async () => {
    const providerOptions = chameleonOptions({ adapter: "nearest" });
    const request = { model: compatible.chatModel(model), prompt: question, ...sampling, providerOptions };
    const whole = await generateText(request);
    expect(chameleonOf(whole.providerMetadata)?.mode).toBe("adapted");
    const streamed = streamText(request);
    expect(await streamed.text).toBe(whole.text);
    expect(chameleonOf(await streamed.providerMetadata)?.experts).toEqual(chameleonOf(whole.providerMetadata)?.experts);
  });

  test("embeds", async () => {
    const expected = await vectors();
    for (const embedder of [compatible.embeddingModel(model), openai.embedding(model)]) {
      const { embeddings, usage } = await embedMany({ model: embedder, values: texts, maxRetries: 0 });
      expect(embeddings).toEqual(expected);
      expect(usage.tokens).toBeGreaterThan(0);
    }
  });

  test("continues a conversation with store: false, and else is told why it cannot", async () => {
    const first = await generateText({ model: openai(model), prompt: question, ...sampling });
    const messages = [
      { role: "user" as const, content: question },
      ...first.response.messages,
      { role: "user" as const, content: "Why?" },
    ];
    const next = { model: openai(model), messages, ...sampling };
    await expect(generateText(next)).rejects.toThrow(/item_reference.*nothing is stored/);
    const { text } = await generateText({ ...next, providerOptions: { openai: { store: false } } });
    const turns = [messages[0], { role: "assistant", content: first.text }, messages.at(-1)];
    expect(text).toBe(await chat({ messages: turns, ...same }));
  });

  test("searches documents, cited as sources", async () => {
    const documents = [{ name: "tom.md", text: "Tom has five apples in the kitchen." }];
    await stack.ask("/v1/adapters", { name: "client-notes", documents }, { status: 201 });
    const request = {
      ...{ model: openai(model), prompt: "How many apples has Tom?", ...sampling },
      tools: { file_search: openai.tools.fileSearch({ vectorStoreIds: ["client-notes"], maxNumResults: 1 }) },
    };
    const whole = await generateText(request);
    const cited = expect.objectContaining({ sourceType: "document", filename: "tom.md" });
    expect(whole.sources).toEqual([cited]);
    const streamed = streamText(request);
    expect(await streamed.text).toBe(whole.text);
    expect(await streamed.sources).toEqual([cited]);
  });
});

describe("LangChain", () => {
  const common = { apiKey: stack.key, configuration: { baseURL }, model, maxRetries: 0 };
  const sampling = { maxTokens: 24, temperature: 0.7, modelKwargs: { seed: 3 } };
  const same = { max_tokens: 24, temperature: 0.7, seed: 3 };
  const messages = [new SystemMessage(system), new HumanMessage(question)];

  test("completes, whole and streamed", async () => {
    const expected = await completion(same);
    const llm = new OpenAICompletions({ ...common, ...sampling });
    expect(await llm.invoke(prompt)).toBe(expected);
    expect(await joined(await llm.stream(prompt), (part) => part)).toBe(expected);
  });

  test.each([false, true])("chats and counts tokens; by responses: %s", async (useResponsesApi) => {
    const expected = await chat(same);
    const llm = new ChatOpenAI({ ...common, ...sampling, useResponsesApi });
    const whole = await llm.invoke(messages);
    expect(whole.text).toBe(expected);
    expect(whole.usage_metadata).toMatchObject({ output_tokens: 24 });
    const parts = await Array.fromAsync(await llm.stream(messages));
    expect(parts.map((part) => part.text).join("")).toBe(expected);
    expect(parts.reduce((sum, part) => sum + (part.usage_metadata?.output_tokens ?? 0), 0)).toBe(24);
  });

  test("answers by a schema", async () => {
    const llm = new ChatOpenAI({ ...common, maxTokens: 200, temperature: 1, modelKwargs: { seed: 5 } });
    const structured = llm.withStructuredOutput(schema, { method: "jsonSchema", name: "answer", strict: true });
    expectOfSchema(await structured.invoke(messages));
  });

  test("binds tools, whole and streamed, and goes on with a result", async () => {
    const llm = new ChatOpenAI({ ...common, maxTokens: 100, temperature: 1, modelKwargs: { seed: 5 } });
    const tools = [{ type: "function" as const, function: weather }];
    const bound = llm.bindTools(tools, { tool_choice: "get_weather" });
    const whole = await bound.invoke(messages);
    const [call] = whole.tool_calls!;
    expect(call.name).toBe(weather.name);
    expectOfWeather(call.args);
    const streamed = await Array.fromAsync(await bound.stream(messages));
    const { tool_calls } = streamed.reduce((all, part) => all.concat(part));
    expect(tool_calls).toMatchObject([{ name: call.name, args: call.args }]);
    const result = new ToolMessage({ content: "rain", tool_call_id: call.id! });
    expect((await llm.bindTools(tools).invoke([...messages, whole, result])).content).not.toBe("");
  });

  test("embeds documents and a question", async () => {
    const embeddings = new OpenAIEmbeddings(common);
    const expected = await vectors();
    expect(await embeddings.embedDocuments(texts)).toEqual(expected);
    expect(await embeddings.embedQuery(texts[1])).toEqual(expected[1]);
  });

  test("knows our errors, and may go away in the middle", async () => {
    const wrong = new ChatOpenAI({ ...common, model: "gpt5" }).invoke(messages);
    await expect(wrong).rejects.toMatchObject({ status: 404 });
    const abort = new AbortController();
    const llm = new ChatOpenAI({ ...common, model: "gpt2", maxTokens: long });
    let parts = 0;
    const reading = (async () => {
      for await (const _ of await llm.stream(messages, { signal: abort.signal })) if (++parts === 2) abort.abort();
    })();
    await reading.catch((error: Error) => expect(error.message).toMatch(/abort/i));
    expect(parts).toBeLessThan(long);
  });
});

test("clients that left hold no slot", async () => {
  const running = () => metricAt(stack.backends[0].url, "vllm:num_requests_running");
  await expect.poll(running, { timeout: 10_000 }).toBe(0);
});
