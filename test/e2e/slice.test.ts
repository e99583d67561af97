/** A request end to end as a caller sees it: plain HTTP against `npm start`. */
import { expect, test } from "vitest";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { metricAt } from "../support/backend-process.ts";
import { sharedStack } from "../support/shared-stack.ts";

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
