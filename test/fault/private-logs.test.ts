/** No log, metric or span holds a request's text, tokens or answer, whether the request succeeds or fails. */
import { text } from "node:stream/consumers";
import { expect, test } from "vitest";
import { stopAtEnd } from "../support/at-end.ts";
import { serve } from "../support/loopback.ts";
import { startCluster } from "./cluster.ts";
import { shippedCentroids } from "./traffic.ts";

const marker = "Pemberley porcupine";
const tokenIds = [1801, 1802, 1803];
/** What nothing logged or exported may match: a word of `marker`, or the first two of `tokenIds` with a separator between them. */
const forbidden = [/pemberley/i, /porcupine/i, /1801\D{1,4}1802/];

const exported: string[] = [];
const collector = await serve(async (request, response) => {
  exported.push(await text(request));
  response.end("{}");
});
const cluster = stopAtEnd(await startCluster({ OTEL_EXPORTER_OTLP_ENDPOINT: collector }));
const edge = stopAtEnd(await cluster.startEdge(true));

async function send(path: string, body: unknown, headers: Record<string, string> = {}): Promise<[number, string]> {
  const response = await fetch(edge.url + path, {
    method: "POST",
    headers: { authorization: `Bearer ${edge.key}`, "content-type": "application/json", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  return [response.status, await response.text()];
}

const complete = (change: object = {}) =>
  send("/v1/completions", { prompt: marker, max_tokens: 8, seed: 1, ...change });

/** All logs and exports up to now, which must hold nothing forbidden. Spans reach the collector with a delay. */
async function privateLogs(): Promise<string> {
  const spans = () => exported.filter((body) => body.includes('"resourceSpans"')).length;
  await expect.poll(spans, { timeout: 20_000 }).toBeGreaterThan(0);
  const all = [edge.log(), ...cluster.backends.map((backend) => backend.log()), ...exported].join("\n");
  for (const pattern of forbidden) expect(all).not.toMatch(pattern);
  return all;
}

test("logs of served requests hold no prompts, examples, stops, names of users or answers", async () => {
  for (const stream of [false, true]) {
    const [status, answer] = await complete({ stream, logprobs: 2, echo: true, stop: ["porcupine!"], user: marker });
    expect(status, answer).toBe(200);
    expect((await complete({ prompt: tokenIds, stream }))[0]).toBe(200);
  }
  const [status, answer] = await complete({ max_tokens: 40, temperature: 0 });
  expect(status).toBe(200);
  const generated: string = JSON.parse(answer).choices[0].text;
  expect(generated.length).toBeGreaterThan(20);
  expect((await send("/v1/assign", { input: marker }))[0]).toBe(200);
  const examples = Array.from({ length: 4 }, (_, i) => `${marker} ${i} ${"of the park ".repeat(8)}`);
  expect((await send("/v1/adapters", { name: "park", examples }))[0]).toBe(201);
  const all = await privateLogs();
  expect(all).toContain('"event":"request"');
  expect(all).toContain('"event":"batch"');
  expect(all).toContain('"event":"adapter"');
  expect(all).not.toContain(JSON.stringify(generated).slice(1, 21));
});

test("logs of refused requests do not repeat what was wrong with them", async () => {
  const refused: [path: string, body: unknown, status: number][] = [
    ["/v1/completions", `{"prompt": "${marker}"`, 400],
    ["/v1/completions", { prompt: { [marker]: marker } }, 400],
    ["/v1/completions", { prompt: marker, max_tokens: marker }, 400],
    ["/v1/completions", { prompt: marker, stop: [marker.repeat(20)] }, 400],
    ["/v1/completions", { prompt: marker, model: `gpt2:${marker}` }, 404],
    ["/v1/completions", { prompt: marker, logit_bias: { [marker]: 1 } }, 400],
    ["/v1/completions", { prompt: [...tokenIds, 10_000_000] }, 400],
    ["/v1/completions", { prompt: `${marker} `.repeat(3000) }, 400],
    ["/v1/adapters", { name: "x", examples: [marker] }, 400],
    ["/v1/assign", { input: [marker, 1] }, 400],
  ];
  for (const [path, body, status] of refused) expect([path, (await send(path, body))[0]]).toEqual([path, status]);
  expect((await send("/v1/completions", { prompt: marker }, { "content-type": marker }))[0]).toBe(415);
  await privateLogs();
});

test("logs of requests whose backend fails, breaks off inside a frame, dies, or is missing", async () => {
  const { proxy } = cluster;
  proxy.trouble = { kind: "failing" };
  for (const model of ["gpt2", "gpt2:auto"]) expect((await complete({ model }))[0]).toBe(200);
  proxy.trouble = { kind: "torn" };
  // For a moment the edge avoids a backend that has failed, so the first requests may go to the other backend.
  let sent = 0;
  await expect
    .poll(
      async () => {
        const i = sent++;
        const model = `gpt2:${shippedCentroids[i % shippedCentroids.length]}`;
        await complete({ model, prompt: tokenIds, logprobs: 2, stream: i % 2 === 0 });
        return edge.log();
      },
      { timeout: 30_000 },
    )
    .toContain("inside a line");
  proxy.trouble = { kind: "none" };

  const streams = Array.from({ length: 12 }, (_, i) =>
    complete({ model: `gpt2:c${i}`, max_tokens: 200, stream: true }),
  );
  // The edge may still avoid the backend that failed, so the streams may run on either backend.
  const running = () => Promise.all(cluster.backends.map((one) => one.metric("vllm:num_requests_running")));
  let first = -1;
  await expect
    .poll(async () => {
      first = (await running()).findIndex((count) => count > 0);
      return first;
    })
    .not.toBe(-1);
  await cluster.end(first, "SIGKILL");
  expect((await Promise.all(streams)).map(([status]) => status)).toEqual(Array(12).fill(200));
  await cluster.end(1 - first, "SIGKILL");
  expect((await complete())[0]).toBe(503);
  expect((await send("/v1/adapters", { name: "y", examples: [marker, `${marker} again`] }))[0]).toBe(503);
  await privateLogs();
});
