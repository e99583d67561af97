/** Streams of the openai SDK whose connections break or whose edge is killed: one unbroken text, charged once. */
import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import { join } from "node:path";
import OpenAI from "openai";
import { expect, test, vi } from "vitest";
import { resumableFetch } from "../../edge/client/resumable.ts";
import type { UsageReport } from "../../shared/contracts/responses.ts";
import { atEnd } from "../support/at-end.ts";
import { smallBase } from "../support/small-base.ts";
import { startStack } from "../support/stack.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const request = { model: "gpt2:auto", prompt: "The house on the hill", max_tokens: 160, temperature: 1, seed: 9 };

const folder = temporaryFolder();
const start = () =>
  startStack({ MODEL_DIR: smallBase, STATE_DIR: join(folder, "state"), DATA_DIR: join(folder, "data") });
let stack = await start();
atEnd(() => stack.stop());
/** Connection i breaks after `cuts[i]` bytes of its answer; further connections do not break. */
let cuts: number[] = [];
let connections = 0;
const proxy = createServer((client) => {
  connections++;
  const cut = cuts.shift() ?? Number.POSITIVE_INFINITY;
  let bytes = 0;
  const upstream = connect(Number(new URL(stack.edge).port), "127.0.0.1");
  upstream.on("data", (chunk) => {
    bytes += chunk.length;
    client.write(chunk);
    if (bytes > cut) client.destroy();
  });
  client.pipe(upstream);
  client.on("error", () => {}).on("close", () => upstream.destroy());
  upstream.on("error", () => {}).on("close", () => client.destroy());
}).listen(0, "127.0.0.1");
await once(proxy, "listening");
atEnd(() => proxy.close());

const client = new OpenAI({
  baseURL: `http://localhost:${(proxy.address() as AddressInfo).port}/v1`,
  apiKey: stack.key,
  maxRetries: 0,
  fetch: resumableFetch({ delayMs: 50, attempts: 9 }),
});

async function streamed(onToken: (tokens: number) => void = () => {}): Promise<string> {
  let text = "";
  let tokens = 0;
  const headers = { connection: "close" };
  for await (const chunk of await client.completions.create({ ...request, stream: true }, { headers })) {
    text += chunk.choices[0].text;
    onToken(++tokens);
  }
  return text;
}

/** The key's requests and generated tokens up to now. */
async function used(): Promise<[requests: number, tokens: number]> {
  const { data } = await stack.ask<UsageReport>("/v1/usage");
  const sum = (of: (row: UsageReport["data"][number]) => number) => data.reduce((total, row) => total + of(row), 0);
  return [sum((row) => row.requests), sum((row) => row.completion_tokens)];
}
/** Waits until this many requests and tokens were added. */
const expectAdded = ([requests, tokens]: [number, number], added: [requests: number, tokens: number]) =>
  vi.waitFor(async () => expect(await used()).toEqual([requests + added[0], tokens + added[1]]));

test("a text over connections that break is the text over one that does not, and is charged once", async () => {
  const whole = await streamed();
  // `npm start` has generated one token to check itself.
  await vi.waitFor(async () => expect((await used())[1]).toBe(request.max_tokens + 1));
  const before = await used();
  connections = 0;
  cuts = [900, 2500, 700, 4000];
  expect(await streamed()).toBe(whole);
  expect(connections).toBe(5);
  await expectAdded(before, [1, request.max_tokens]);
});

test("a text whose edge and backend are killed in its middle continues when they are back", async () => {
  const whole = await streamed();
  await vi.waitFor(async () => expect((await used())[1] % request.max_tokens).toBe(1));
  const before = await used();
  let killed: Promise<void> | null = null;
  const text = streamed((tokens) => {
    if (tokens !== 20) return;
    killed = stack.kill().then(async () => {
      stack = await start();
    });
  });
  expect(await text).toBe(whole);
  await killed;
  // The second `npm start` has generated one token, too.
  await expectAdded(before, [2, request.max_tokens + 1]);
});
