/** The way of the data, end to end, as a caller sees it: plain HTTP against `npm start`. */
import { beforeAll, describe, expect, test } from "vitest";
import { sharedStack } from "../support/shared-stack.ts";
import type { RunningStack } from "../support/stack.ts";

let stack: RunningStack;
beforeAll(async () => {
  stack = await sharedStack("slice");
}, 60_000);

interface Block {
  centroid: string;
  similarity: number;
  adapter: { hash: string; cache: "hit" | "generated" } | null;
}
interface Completion {
  choices: {
    index: number;
    text: string;
    finish_reason: string;
    logprobs: { tokens: string[]; token_logprobs: (number | null)[] } | null;
    chameleon: Block;
  }[];
}

const austen = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be";
const perl =
  "=head1 NAME\n\nperlfunc - Perl builtin functions\n\n=head1 DESCRIPTION\n\nThe functions in this section can serve as terms";

async function complete(body: object): Promise<Completion> {
  const response = await stack.post("/v1/completions", body);
  expect(response.status, await response.clone().text()).toBe(200);
  return (await response.json()) as Completion;
}

async function adaptedCentroids(): Promise<string[]> {
  const response = await fetch(`${stack.edge}/v1/centroids`, { headers: { authorization: `Bearer ${stack.key}` } });
  const { data } = (await response.json()) as { data: { id: string; scale: number }[] };
  return data.filter((c) => c.scale > 0).map((c) => c.id);
}

describe("a completion", () => {
  test("names its centroid, similarity and adapter: asked again, a hit, with the same hash", async () => {
    const [centroid] = (await adaptedCentroids()).slice(-1);
    const body = { model: `gpt2:${centroid}`, prompt: austen, max_tokens: 4, temperature: 0, chameleon: {} };
    const [first] = (await complete(body)).choices;
    const [second] = (await complete(body)).choices;
    expect(first.chameleon.centroid).toBe(centroid);
    expect(Math.abs(first.chameleon.similarity)).toBeLessThanOrEqual(1);
    expect(first.chameleon.adapter?.hash).toMatch(/^[0-9a-f]{64}$/);
    expect(second.chameleon.adapter?.cache).toBe("hit");
    expect(second.chameleon.adapter?.hash).toBe(first.chameleon.adapter?.hash);
    expect(second.text).toBe(first.text);
  });

  test("two centroids give different logprobs for the same text, and `gpt2` gives the base", async () => {
    const [one, two] = await adaptedCentroids();
    const score = async (model: string, chameleon?: object) => {
      const { choices } = await complete({ model, prompt: perl, max_tokens: 0, echo: true, logprobs: 0, chameleon });
      return choices[0].logprobs!.token_logprobs;
    };
    const base = await score("gpt2");
    const first = await score(`gpt2:${one}`);
    expect(base[0]).toBeNull();
    expect(base.length).toBe(first.length);
    expect(first).not.toEqual(base);
    expect(await score(`gpt2:${two}`)).not.toEqual(first);
    expect(await score("gpt2:auto", { adapter: "off" })).toEqual(base);
  });

  test("a greedy completion is the same token for token alone and among 32 of mixed centroids", async () => {
    const centroids = ["gpt2", "gpt2:auto", ...(await adaptedCentroids()).map((id) => `gpt2:${id}`)];
    const bodies = Array.from({ length: 33 }, (_, i) => ({
      model: centroids[i % centroids.length],
      prompt: [austen, perl, "The", "To install the package, run"][i % 4] + " again".repeat(i % 7),
      max_tokens: 8 + (i % 5) * 8,
      temperature: 0,
      logprobs: 0,
    }));
    const alone: Completion[] = [];
    for (const body of bodies.slice(0, 3)) alone.push(await complete(body));
    const together = await Promise.all(bodies.map(complete));
    alone.forEach((completion, i) => {
      expect(together[i].choices[0].text).toBe(completion.choices[0].text);
      expect(together[i].choices[0].logprobs).toEqual(completion.choices[0].logprobs);
    });
  });

  test("is found by subject: the page's two texts fall to different centroids", async () => {
    const response = await stack.post("/v1/assign", { input: [austen.repeat(3), perl.repeat(3)] });
    const { data } = (await response.json()) as { data: { centroid: string }[] };
    expect(data[0].centroid).not.toBe(data[1].centroid);
  });
});

test("the backend takes no call but the edge's", async () => {
  const response = await fetch(`${stack.backends[0].url}/v1/batches`, { method: "POST", body: "{}" });
  expect(response.status).toBe(401);
  expect(await response.json()).toMatchObject({ error: { code: "bad_signature" } });
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
  const { choices } = await complete({ model: "gpt2", prompt: "After all that", max_tokens: 3, temperature: 0 });
  expect(choices[0].finish_reason).toBe("length");
  const running = async () => {
    const metrics = await (await fetch(`${stack.backends[0].url}/metrics`)).text();
    return Number(/^vllm:num_requests_running(?:\{.*\})? (\d+)/m.exec(metrics)?.[1]);
  };
  await expect.poll(running, { timeout: 10_000 }).toBe(0);
}, 60_000);
