import { HttpResponse, http } from "msw";
import { expect, test } from "vitest";
import type { Dependencies } from "../../edge/api/dependencies.ts";
import { EdgeMetrics } from "../../edge/platform/edge-metrics.ts";
import { paceLimits } from "../../edge/tenants/pace.ts";
import { accessWith, recordedTracing, testApp } from "./harness.ts";
import { network } from "./network.ts";

const { burst } = paceLimits;
const opensAll: Dependencies["keys"] = { accessOf: async () => accessWith() };
function recordedKeys() {
  const looked: string[] = [];
  return { looked, keys: { accessOf: async (key: string) => accessWith({ keyId: String(looked.push(key)) }) } };
}
const nothing = (key: string) => ["/v1/nothing", { headers: { authorization: `Bearer ${key}` } }] as const;

test("a key's requests start at its pace, and another key's at once", async () => {
  const { looked, keys } = recordedKeys();
  const { request } = testApp({ keys, now: () => 0 });
  const ask = (key: string) => request(...nothing(key));
  const responses = await Promise.all([...Array.from({ length: burst + 9 }, () => ask("many")), ask("one")]);
  expect(responses.map(({ status }) => status)).toEqual(Array(burst + 10).fill(404));
  expect(looked.indexOf("one")).toBe(burst);
});

test("spellings of the header do not escape the pace of their key", async () => {
  const { looked, keys } = recordedKeys();
  const { request } = testApp({ keys, now: () => 0 });
  const scheme = (i: number) => [..."bearer"].map((c, bit) => (i & (1 << bit) ? c.toUpperCase() : c)).join("");
  const all = Array.from({ length: 4 * burst }, (_, i) => {
    const authorization = `${scheme(i)}${" ".repeat(1 + (i % 7))}many`;
    return request("/v1/nothing", { headers: { authorization } });
  });
  const other = request(...nothing("one"));
  expect((await other).status).toBe(404);
  await Promise.all(all);
  expect(looked.indexOf("one")).toBe(burst);
  expect(new Set(looked)).toEqual(new Set(["many", "one"]));
});

test("a body of unknown length waits at its key's pace like the largest body", async () => {
  const { looked, keys } = recordedKeys();
  const { request } = testApp({ keys, now: () => 0 });
  const send = async (key: string, body: () => BodyInit, more: object = {}) => {
    const headers = { "content-type": "application/json", authorization: `Bearer ${key}`, ...more };
    const before = looked.length;
    const all = Array.from({ length: 4 }, () => request("/v1/assign", { method: "POST", body: body(), headers }));
    const begun = looked.length - before;
    await Promise.all(all);
    return begun;
  };
  expect(await send("declared", () => "{}", { "content-length": "2" })).toBe(4);
  expect(await send("unknown", () => new Blob(["{}"]).stream())).toBe(1);
});

test("a header that holds no key is refused without a look-up", async () => {
  const { looked, keys } = recordedKeys();
  const { request } = testApp({ keys });
  for (const authorization of ["Basic abc", "Bearer", "Bearer a b", "Bearer a, Bearer b", "Bearer\tkey", "key"]) {
    const response = await request("/v1/models", { headers: { authorization } });
    expect([authorization, response.status]).toEqual([authorization, 401]);
  }
  expect(looked).toEqual([]);
});

test("log, span, Server-Timing and metric count the wait from a request's arrival on", async () => {
  const { lines, spans, tracing } = recordedTracing(1);
  let nowMs = 1000;
  const { request } = testApp({ keys: opensAll, now: () => nowMs, tracing });
  const all = Array.from({ length: burst + 1 }, () => request(...nothing("many")));
  nowMs = 1040;
  const timings = (await Promise.all(all)).map(({ headers }) => headers.get("server-timing"));
  expect(timings[burst]).toBe("total;dur=40.00, pace;dur=40.00");
  const paced = lines.filter((line) => "chameleon.paced_ms" in line);
  expect(paced).toMatchObject([{ ms: 40, "chameleon.paced_ms": 40 }]);
  expect(spans.at(-1)).toMatchObject({ startMs: 1000, endMs: 1040, attributes: { "chameleon.paced_ms": 40 } });
  expect(timings.filter((timing) => timing?.includes("pace"))).toHaveLength(1);

  let reported = "";
  network.use(
    http.post("http://collector.example/v1/metrics", async ({ request: sent }) => {
      reported = await sent.text();
      return new HttpResponse();
    }),
  );
  const metrics = new EdgeMetrics({ endpoint: "http://collector.example", headers: {} }, () => nowMs);
  for (const line of lines) metrics.requested(line);
  await metrics.report();
  const waits = reported.slice(reported.indexOf("chameleon.edge.pace.wait"));
  expect(waits).toMatch(/^chameleon\.edge\.pace\.wait".*?"count":"1","sum":0\.04,/);
});
