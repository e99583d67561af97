/**
 * Attack: requests that make a real backend compute more than they are charged: unstreamed answers that miss the caller's own deadline, and
 * many choices of a prompt echoed with logprobs. Judged by the work that the backend counts, and by the charge.
 */
import { expect, test } from "vitest";
import { startAttacked } from "./edge.ts";

const patience = { timeout: 30_000, interval: 20 };

test("a whole answer that misses the caller's own deadline is charged what was computed", async () => {
  const { backend, edge } = await startAttacked({ caller: {} });
  const usage = () => edge.usage("caller");
  const made = () => backend.metric("vllm:generation_tokens_total");
  const before = await made();
  const prompt = Array.from({ length: 8 }, (_, i) => `Once ${i}`);
  const body = { prompt, n: 16, max_tokens: 400 };
  const response = await edge.post("/v1/completions", "caller", body, { "x-deadline-ms": "1500" });
  expect([response.status, await response.text()]).toEqual([504, expect.stringContaining("deadline_exceeded")]);
  await expect.poll(async () => (await usage()).requests, patience).toBeGreaterThan(0);
  const computed = (await made()) - before;
  const charged = (await usage()).completion_tokens;
  console.log(`computed ${computed} tokens, charged ${charged}`);
  // Backends send tokens in groups of 250 ms; tokens that were not sent when the answer ended are not charged.
  expect(charged).toBeGreaterThan(computed / 2);
});

test.each([false, true])("choices of an echoed prompt compute it once (stream: %s)", async (stream) => {
  const { backend, edge } = await startAttacked({ caller: {} });
  const usage = () => edge.usage("caller");
  const prefilled = () => backend.metric("chameleon_prefill_tokens_total");
  const before = await prefilled();
  const prompt = Array.from({ length: 8 }, (_, i) => `${i} once upon a time`.repeat(40));
  const body = { prompt, n: 16, max_tokens: 1, echo: true, logprobs: 0, stream };
  const response = await edge.post("/v1/completions", "caller", body);
  const text = await response.text();
  expect(response.status, text.slice(0, 200)).toBe(200);
  await expect.poll(async () => (await usage()).requests, patience).toBeGreaterThan(0);
  const computed = (await prefilled()) - before;
  const charged = (await usage()).prompt_tokens;
  console.log(`computed ${computed} prompt tokens, charged ${charged}`);
  // Each choice may also compute the last tokens of its prompt, which are fewer than a block of 16 tokens.
  expect(computed).toBeLessThan(charged + 8 * 16 * 16);
});
