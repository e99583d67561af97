/** A request end to end as a caller sees it: plain HTTP against `npm start`. */
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { readTensorFile } from "../../shared/artifacts/tensor-file.ts";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { metricAt } from "../support/backend-process.ts";
import { sharedStack } from "../support/shared-stack.ts";
import { smallArtifacts } from "../support/small-base.ts";

const stack = await sharedStack("slice");
const austen = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be";
const perl =
  "=head1 NAME\n\nperlfunc - Perl builtin functions\n\n=head1 DESCRIPTION\n\nThe functions in this section can serve as terms";

const complete = (body: object) =>
  stack.ask<CompletionResponse>("/v1/completions", { temperature: 0, logprobs: 0, ...body });

test("texts of two subjects fall to different centroids, whose adapters give each its own logprobs", async () => {
  const input = [austen.repeat(3), perl.repeat(3)];
  const { data } = await stack.ask<{ data: { centroid: string }[] }>("/v1/assign", { input });
  expect(data[0].centroid).not.toBe(data[1].centroid);
  const models = ["gpt2", ...data.map(({ centroid }) => `gpt2:${centroid}`)];
  const scored = models.map((model) => complete({ model, prompt: perl, max_tokens: 0, echo: true }));
  const scores = (await Promise.all(scored)).map(({ choices }) => String(choices[0].logprobs!.token_logprobs));
  expect(new Set(scores).size).toBe(3);
});

test("tokens that are scored after the evidence have the logprobs with which they would be served", async () => {
  const file = await readFile(`${smallArtifacts}/tokenizer.safetensors`);
  const tokenizer = Tokenizer.fromTensors(readTensorFile(file, "tokenizer.safetensors"));
  for (const N of [8, 20]) {
    const ids = tokenizer.encode(perl).slice(0, N);
    const [served] = (await complete({ prompt: ids, max_tokens: 12, chameleon: {} })).choices;
    const said = served.logprobs!.tokens.flatMap((token) => tokenizer.encode(token));
    expect(said).toHaveLength(12);
    const whole = { prompt: [...ids, ...said], max_tokens: 0, echo: true };
    const [scored] = (await complete({ ...whole, chameleon: { evidence_tokens: N } })).choices;
    expect(scored.chameleon?.experts).toEqual(served.chameleon?.experts);
    expect(scored.chameleon?.evidence).toEqual(served.chameleon?.evidence);
    const all = scored.logprobs!.token_logprobs;
    const differences = all.slice(N).map((logprob, i) => Math.abs(logprob! - served.logprobs!.token_logprobs[i]!));
    expect(Math.max(...differences)).toBeLessThan(1e-3);
    // The evidence tokens are scored by the base.
    const base = await complete({ prompt: ids, model: "gpt2", max_tokens: 0, echo: true });
    for (let i = 1; i < N; i++) expect(all[i]).toBeCloseTo(base.choices[0].logprobs!.token_logprobs[i]!, 3);
  }
});

test("200 requests given up by their clients leave room: the next is answered, and no slot stays taken", async () => {
  await Promise.all(
    Array.from({ length: 200 }, async (_, i) => {
      const controller = new AbortController();
      const response = await fetch(`${stack.edge}/v1/completions`, {
        method: "POST",
        signal: controller.signal,
        headers: { "content-type": "application/json", authorization: `Bearer ${stack.key}` },
        body: JSON.stringify({ model: "gpt2", prompt: `Request ${i}`, max_tokens: 400, stream: true }),
      });
      await response.body?.getReader().read();
      controller.abort();
    }),
  );
  const { choices } = await complete({ model: "gpt2", prompt: "After all that", max_tokens: 3 });
  expect(choices[0].finish_reason).toBe("length");
  const running = () => metricAt(stack.backends[0].url, "vllm:num_requests_running");
  await expect.poll(running, { timeout: 10_000 }).toBe(0);
}, 60_000);

test("the backend takes no call but the edge's", async () => {
  const response = await fetch(`${stack.backends[0].url}/v1/batches`, { method: "POST", body: "{}" });
  expect(response.status).toBe(401);
  expect(await response.json()).toMatchObject({ error: { code: "bad_signature" } });
});
