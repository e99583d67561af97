/**
 * Attack: clients that request the largest allowed answers and never read them, or disconnect early. Judged by: the bytes that the edge
 * holds, another tenant's answers meanwhile, the tokens generated for unread answers, and their charge. The fake backend sends tokens at
 * fixed intervals, so the machine's speed does not matter.
 */
import { expect, test } from "vitest";
import { limits } from "../../shared/contracts/limits.ts";
import { stopAtEnd } from "../support/at-end.ts";
import { longestTokens, startFakeBackend } from "../support/fake-backend.ts";
import { postBytes, sendAndNeverRead } from "./clients.ts";
import { startAttackedEdge } from "./edge.ts";
import { megabytes, mostGrowthBytes, residentBytes } from "./measurements.ts";

const patience = { timeout: 60_000, interval: 50 };
const choices = 16;
const message = { role: "user", content: "Once" };
/** The request whose answer has the most bytes per token. */
const largest = {
  messages: [message],
  n: choices,
  logprobs: true,
  top_logprobs: 20,
  chameleon: { compare: true },
  stream: true,
};

async function start(stepMs: number) {
  const backend = stopAtEnd(await startFakeBackend({ stepMs, tokenIds: await longestTokens(20) }));
  return { backend, edge: await startAttackedEdge([backend.url], { attacker: {}, quiet: {} }) };
}

/** The longest unstreamed answer that is allowed with this number of logprobs. */
const whole = {
  ...largest,
  stream: false,
  max_tokens: Math.floor(limits.wholeLogprobs / choices / (largest.top_logprobs + 2)),
};

test.each([
  ["streams", 100, largest],
  ["whole answers", 24, whole],
])("the edge holds little for unread %s (%i clients), and serves others", async (_, clients, body) => {
  const { edge, backend } = await start(20);
  const short = () => edge.ask("/v1/completions", "quiet", { prompt: "Once", max_tokens: 2 });
  // Resident memory would include garbage and depend on when it is collected.
  const heldBytes = await edge.watchHeap(short);
  await short();
  const [beforeBytes, residentBefore] = [await heldBytes(), residentBytes(edge.pid)];
  const bytes = postBytes("/v1/chat/completions", "attacker", body);
  await Promise.all(Array.from({ length: clients }, () => sendAndNeverRead(edge.port, bytes)));
  const begun = async () => (await backend.counts()).sequences;
  await expect.poll(begun, patience).toBeGreaterThan((clients * choices) / 2);
  let [peak, served] = [0, 0];
  do {
    await short();
    served++;
    peak = Math.max(peak, await heldBytes());
  } while ((await backend.counts()).running > 0 && peak - beforeBytes <= mostGrowthBytes);
  console.log(
    `${clients} clients that never read: the edge holds ${megabytes(beforeBytes)} → ${megabytes(peak)} (resident ${megabytes(residentBefore)} → ${megabytes(residentBytes(edge.pid))}), ${served} requests of another tenant answered meanwhile, ${JSON.stringify(await backend.counts())}`,
  );
  expect(peak - beforeBytes).toBeLessThanOrEqual(mostGrowthBytes);
});

test("an unread stream is cancelled, and no other", async () => {
  // 60 ms a token, so that the reader keeps up on a busy machine: the reader's stream, too, would be cancelled if it had 512 KiB unread.
  const { edge, backend } = await start(60);
  const body = { ...largest, max_tokens: 300 };
  const reading = edge.post("/v1/chat/completions", "attacker", body).then((response) => response.text());
  await expect.poll(async () => (await backend.counts()).sequences, patience).toBe(choices);
  await sendAndNeverRead(edge.port, postBytes("/v1/chat/completions", "attacker", body));
  await expect.poll(async () => (await backend.counts()).sequences, patience).toBe(2 * choices);
  const whole = await reading;
  await expect.poll(async () => (await backend.counts()).running, patience).toBe(0);
  const read = whole.split("\n\n").filter((event) => event.includes('"delta":{"content":')).length;
  const { tokens } = await backend.counts();
  console.log(
    `a reader got ${read} tokens, ${megabytes(whole.length)}; for who does not read ${tokens - read} were made`,
  );
  expect(whole.endsWith("data: [DONE]\n\n")).toBe(true);
  expect(read).toBeGreaterThanOrEqual(choices * (body.max_tokens - 1));
  // The tokens of the unread stream fill 512 KiB in the edge, and the kernel's buffers.
  expect(tokens - read).toBeLessThan(read * 0.75);
});

test.each(["destroy", "resetAndDestroy"] as const)(
  "a disconnect (%s) stops the work of a whole answer; ungenerated tokens are free",
  async (leave) => {
    const [stepMs, maxTokens] = [40, 400];
    const { edge, backend } = await start(stepMs);
    const bytes = postBytes("/v1/completions", "attacker", { prompt: "Once", n: choices, max_tokens: maxTokens });
    const socket = await sendAndNeverRead(edge.port, bytes);
    await expect.poll(async () => (await backend.counts()).sequences, patience).toBe(choices);
    await expect.poll(async () => (await backend.counts()).tokens, patience).toBeGreaterThan(0);
    socket[leave]();

    const half = (choices * maxTokens) / 2;
    const stopped = async () => {
      const { running, tokens } = await backend.counts();
      return running === 0 || tokens > half;
    };
    await expect.poll(stopped, patience).toBe(true);
    const { tokens } = await backend.counts();
    console.log(`left after the first tokens: ${tokens} of ${choices * maxTokens} tokens made`);
    expect(tokens).toBeLessThan(half);
    await expect.poll(async () => (await edge.usage("attacker")).requests, patience).toBe(1);
    const { completion_tokens } = await edge.usage("attacker");
    console.log(`${completion_tokens} tokens charged`);
    expect(completion_tokens).toBeLessThanOrEqual(tokens);
  },
);
