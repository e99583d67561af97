/**
 * Attack: requests with bodies of a megabyte that are refused, on 64 connections, and bodies that never end. Judged by another tenant's
 * median latency, compared with its median latency without the attack in the same run, and by the edge's resident memory.
 */
import { expect, test } from "vitest";
import { postBytes, sendAndNeverRead } from "./clients.ts";
import { startAttacked } from "./edge.ts";
import { megabytes, mostGrowthBytes, mostSlowdown, residentBytes, slowdownBeside } from "./measurements.ts";

const connections = 64;
const words = "again and ".repeat(100_000);

const overlong: Record<string, object> = {
  "/v1/completions": { prompt: words },
  "/v1/chat/completions": { messages: [{ role: "user", content: words }] },
  "/v1/assign": { input: words },
  "/v1/embeddings": { model: "gpt2", input: words },
};
const routes = Object.keys(overlong);
/** Allowed statuses. /v1/assign may answer 200, because it reads only the beginning of a text. */
const answered: Record<string, RegExp> = { "/v1/assign": /^(200|400|413|429|closed)$/ };
const refused = /^(400|413|429|closed)$/;

const tenants = {
  quiet: {},
  unlimited: {},
  limited: { requestsPerMinute: 600 },
  spent: { tokensPerMonth: 0 },
  slow: {},
};
const { edge } = await startAttacked(tenants);
const shortCompletion = () => edge.ask("/v1/completions", "quiet", { prompt: "Once", max_tokens: 4, temperature: 0 });

const floods: [route: string, tenant: string][] = [
  ...routes.map((route): [string, string] => [route, "unlimited"]),
  ["/v1/completions", "limited"],
  ["/v1/completions", "spent"],
  ["/v1/embeddings", "spent"],
];

test.each(floods)("refused megabytes to %s by a %s tenant slow others at most fourfold", async (route, tenant) => {
  const bytesBase64 = postBytes(route, tenant, overlong[route]).toString("base64");
  const found = await slowdownBeside({ port: edge.port, bytesBase64, connections }, shortCompletion);
  console.log(
    `${route} ${tenant}: another caller's p50 ${found.aloneMs.toFixed(1)} ms alone, ${found.besideMs.toFixed(1)} ms beside: ${found.ratio.toFixed(1)}x; ${JSON.stringify(found.statuses)}`,
  );
  const other = Object.keys(found.statuses).filter((status) => !(answered[route] ?? refused).test(status));
  expect(other).toEqual([]);
  expect(found.ratio).toBeLessThanOrEqual(mostSlowdown);
});

test("400 bodies that never end, of one key, hold little memory, and others are served meanwhile", async () => {
  const unended = 400;
  const body = "x".repeat(1_000_000);
  await shortCompletion();
  const beforeBytes = residentBytes(edge.pid);
  const bytes = postBytes("/v1/completions", "slow", body, body.length + 1);
  await Promise.all(Array.from({ length: unended }, () => sendAndNeverRead(edge.port, bytes)));
  let peak = 0;
  for (let i = 0; i < 20; i++) {
    await shortCompletion();
    peak = Math.max(peak, residentBytes(edge.pid));
  }
  console.log(`${unended} bodies of a megabyte that lack a byte: edge ${megabytes(beforeBytes)} → ${megabytes(peak)}`);
  expect(peak - beforeBytes).toBeLessThanOrEqual(mostGrowthBytes);
});
