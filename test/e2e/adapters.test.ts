/** Adapters made of examples, end to end: `npm start` as it is, twice, the second time with a backend that lost its disk. */
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import OpenAI from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Stack, startStack } from "../support/stack.ts";
import { seededRandom } from "../support/steps.ts";

/** A language that the embedded model has never seen. */
const words =
  "el mar la noche una casa del río que viene con las manos vacías para nunca volver y luz entre los árboles sobre tierra fría donde duerme niño bajo cielo gris".split(
    " ",
  );
const seed = 12;
const random = seededRandom(seed);
const text = (length: number) => Array.from({ length }, () => words[Math.floor(random() * words.length)]).join(" ");

let folder: string;
let stack: Stack;
const start = (data: string) => startStack({ STATE_DIR: join(folder, "state"), DATA_DIR: join(folder, data) });
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "adapters-"));
  stack = await start("one");
});
afterAll(async () => {
  await stack?.stop();
  await rm(folder, { recursive: true, force: true });
});

test("20 texts become a model within seconds that predicts such text better, and outlives a restart", async () => {
  const examples = Array.from({ length: 20 }, () => text(60));
  const made = await stack.post("/v1/adapters", { name: "poema", examples });
  expect(made.status, await made.clone().text()).toBe(201);
  const { gain, hash } = (await made.json()) as { gain: { nats: number }; hash: string };

  const prompt = text(40);
  const gainOn = async () => {
    const openai = new OpenAI({ baseURL: `${stack.edge}/v1`, apiKey: stack.key, maxRetries: 0 });
    const echoed = { prompt, max_tokens: 0, echo: true, logprobs: 0, temperature: 0 };
    const logprobOf = async (model: string) => {
      const { choices } = await openai.completions.create({ ...echoed, model });
      const known = choices[0].logprobs!.token_logprobs!.slice(1);
      return known.reduce((sum, logprob) => sum + logprob, 0) / known.length;
    };
    return (await logprobOf("gpt2:poema")) - (await logprobOf("gpt2"));
  };
  const found = await gainOn();
  expect(found).toBeGreaterThan(0.7 * gain.nats);
  expect(found).toBeLessThan(1.3 * gain.nats);

  await stack.stop();
  stack = await start("two");
  expect(await gainOn()).toBe(found);
  const listed = await fetch(`${stack.edge}/v1/adapters`, { headers: { authorization: `Bearer ${stack.key}` } });
  expect(await listed.json()).toMatchObject({ data: [{ name: "poema", hash, adapts: true, outdated: false }] });
});

test("the command makes, lists, shows and deletes one, and passes on what the API says", async () => {
  const adapters = async (...args: string[]) => {
    const cli = join(import.meta.dirname, "../../infra/api/adapters.ts");
    const place = ["--url", stack.edge, "--key", stack.key];
    return promisify(execFile)(process.execPath, [cli, ...args, ...place]);
  };
  const file = join(folder, "examples.jsonl");
  await writeFile(file, Array.from({ length: 8 }, () => JSON.stringify({ text: text(40) })).join("\n"));
  const made = JSON.parse((await adapters("create", "verso", file, "--examples", "--json")).stdout);
  expect(made).toMatchObject({ model: "gpt2:verso", examples: 8, adapts: true });
  expect((await adapters("list")).stdout).toMatch(/^gpt2:verso {2}8 examples {2}perplexity \d+% lower/m);
  expect(JSON.parse((await adapters("show", "verso", "--json")).stdout).hash).toBe(made.hash);
  await expect(adapters("create", "verso", file, "--examples")).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^chameleon adapters: You have an adapter verso already[^\n]*\n$/),
  });
  await writeFile(file, '"a text"\n""\n');
  await expect(adapters("create", "empty", file, "--examples")).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringContaining(`${file}:2 is empty`),
  });
  expect((await adapters("delete", "verso", "--yes")).stdout).toBe("deleted verso\n");
  await expect(adapters("show", "verso")).rejects.toMatchObject({ stderr: expect.stringContaining("no adapter") });
});
