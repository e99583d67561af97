/** `chameleon verify`: other processes on another disk compute answers of every kind again, token for token. */
import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import type { ChatResponse, CompletionResponse, ModelList } from "../../shared/contracts/responses.ts";
import type { ErrorEnvelope } from "../../shared/errors.ts";
import { atEnd } from "../support/at-end.ts";
import { smallBase } from "../support/small-base.ts";
import { startStack } from "../support/stack.ts";
import { seededRandom } from "../support/steps.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const root = join(import.meta.dirname, "../..");
const seed = 3711;
const random = seededRandom(seed);
const pick = <T>(all: readonly T[]): T => all[Math.floor(random() * all.length)];
const words = "the cat of a house on hill ran to find its red ball and then slept until morning came".split(" ");
const text = (length: number) => Array.from({ length }, () => pick(words)).join(" ");
const count = 300;
const parameters = { type: "object", properties: { a: { enum: [1, 2] } }, required: ["a"] };
const tools = [{ type: "function", function: { name: "f", parameters } }];

const folder = temporaryFolder();
const start = (data: string) =>
  startStack({ MODEL_DIR: smallBase, STATE_DIR: join(folder, "state"), DATA_DIR: join(folder, data) });
let stack = await start("one");
atEnd(() => stack.stop());

/** A random request to the base, its static adapter, a mixture, or an own adapter of documents or examples. */
function randomRequest(base: string): { path: string; body: Record<string, unknown> } {
  const sampled = pick([{ temperature: 0 }, { temperature: 1 }, { temperature: 0.8, top_p: 0.9 }, {}]);
  const body = {
    model: `${base}${pick(["", ":auto", ":static", ":notes", ":task"])}`,
    max_tokens: 1 + Math.floor(random() * 12),
    n: pick([1, 1, 2]),
    ...sampled,
    // A request without a seed asks for `chameleon`, which names the seed that was drawn.
    ...(random() < 0.5 ? { seed: Math.floor(random() * 2 ** 32) } : { chameleon: pick([{}, { compare: true }]) }),
  };
  if (random() < 0.2) {
    const { max_tokens: max_output_tokens, n: _, ...rest } = body;
    const logprobs = pick([{}, { top_logprobs: 2 }]);
    return { path: "/v1/responses", body: { ...rest, input: text(12), max_output_tokens, ...logprobs } };
  }
  if (random() < 0.3) {
    const called = { tools, tool_choice: "required", max_tokens: 60 };
    const logprobs = pick([{}, { logprobs: true, top_logprobs: 2 }, { prompt_logprobs: 1 }, called]);
    const messages = [{ role: "user", content: text(3 + Math.floor(random() * 20)) }];
    return { path: "/v1/chat/completions", body: { ...body, messages, ...logprobs } };
  }
  const prompt = text(3 + Math.floor(random() * 60));
  return {
    path: "/v1/completions",
    body: { ...body, prompt, ...pick([{}, { logprobs: 2 }, { echo: true, logprobs: 1 }, { prompt_logprobs: 2 }]) },
  };
}

test(`${count} random answers are equal in other processes, and a changed one is not (seed ${seed})`, {
  timeout: 300_000,
}, async () => {
  const documents = [{ name: "one.md", text: text(300) }];
  const examples = Array.from({ length: 12 }, (_, i) => ({ prompt: `${words[i]} is`, completion: " blue" }));
  await stack.ask("/v1/adapters", { name: "notes", documents }, { status: 201 });
  await stack.ask("/v1/adapters", { name: "task", examples }, { status: 201 });
  const { data } = await stack.ask<ModelList>("/v1/models");
  const base = data[0].id.split(":")[0];

  const requests = Array.from({ length: count }, () => randomRequest(base));
  const answers: CompletionResponse[] = [];
  for (let i = 0; i < count; i += 12) {
    const asked = requests.slice(i, i + 12).map(({ path, body }) => stack.ask<CompletionResponse>(path, body));
    answers.push(...(await Promise.all(asked)));
  }
  const prompt = text(20);
  const common = { model: `${base}:notes`, max_tokens: 1, temperature: 0 };
  const scored = (rest: object) => stack.ask<CompletionResponse>("/v1/completions", { ...common, prompt, ...rest });
  const echoed = await scored({ echo: true, logprobs: 3 });
  const told = await scored({ prompt_logprobs: 3 });
  const { tokens, token_logprobs, top_logprobs } = echoed.choices[0].logprobs!;
  const { prompt_logprobs } = told.choices[0];
  expect(prompt_logprobs!.length).toBe(tokens.length - 1);
  for (const [i, position] of prompt_logprobs!.entries()) {
    const named = Object.values(position ?? {}).map(({ decoded_token, logprob }) => [decoded_token, logprob]);
    expect(position === null ? null : Object.fromEntries(named)[tokens[i]]).toBe(token_logprobs[i]);
    expect(Object.fromEntries(named)).toEqual(top_logprobs[i]);
  }
  const messages = [{ role: "user", content: prompt }];
  const chat = await stack.ask<ChatResponse>("/v1/chat/completions", { ...common, messages, prompt_logprobs: 0 });
  expect(chat.prompt_logprobs).toHaveLength(chat.usage!.prompt_tokens);
  const streamed = { prompt, prompt_logprobs: 1, stream: true };
  const { error } = await stack.ask<ErrorEnvelope>("/v1/completions", streamed, { status: 400 });
  expect(error.param).toBe("prompt_logprobs");

  // The adapters and memories are on the first stack's disk; the second stack has another.
  await stack.stop();
  stack = await start("two");

  const verify = async (answered: readonly CompletionResponse[]) => {
    const [requestFile, answerFile] = [join(folder, "requests.jsonl"), join(folder, "answers.jsonl")];
    const asked = requests.slice(0, answered.length).map(({ body }) => JSON.stringify(body));
    await writeFile(requestFile, asked.join("\n"));
    await writeFile(answerFile, answered.map((answer) => JSON.stringify(answer)).join("\n"));
    const args = [join(root, "infra/api/verify.ts"), requestFile, answerFile, "--url", stack.edge, "--key", stack.key];
    return promisify(execFile)(process.execPath, args).then(
      ({ stdout }) => ({ code: 0, stdout }),
      ({ code, stdout, stderr }) => ({ code, stdout: stdout + stderr }),
    );
  };
  const verified = await verify(answers);
  console.log(verified.stdout);
  expect(verified.code, verified.stdout).toBe(0);

  const changed = structuredClone(answers.slice(0, 2));
  changed[1].system_fingerprint += "0";
  const { code, stdout } = await verify(changed);
  expect(code).toBe(1);
  expect(stdout).toContain("line 2: system_fingerprint");
});
