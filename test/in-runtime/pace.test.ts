import { HttpResponse, http } from "msw";
import { expect, test } from "vitest";
import type { Dependencies } from "../../edge/api/dependencies.ts";
import { paced } from "../../edge/api/paced.ts";
import { EdgeMetrics } from "../../edge/platform/edge-metrics.ts";
import { paceLimits } from "../../edge/tenants/pace.ts";
import { ServiceError } from "../../shared/errors.ts";
import { accessWith, recordedTracing, testApp } from "./harness.ts";
import { network } from "./network.ts";

const { burst } = paceLimits;
const opensAll: Dependencies["keys"] = { accessOf: async () => accessWith() };
/** A key store that records each look-up and answers it with another key id. */
function recordedKeys() {
  const looked: string[] = [];
  return { looked, keys: { accessOf: async (key: string) => accessWith({ keyId: String(looked.push(key)) }) } };
}
/** Counts the request ids that were made. A request draws its id as soon as it may start, so the count says how many have started. */
function countedIds() {
  let made = 0;
  return { made: () => made, newId: () => String(made++).padStart(32, "0") };
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

test("a header that holds no key is refused without a look-up", async () => {
  const { looked, keys } = recordedKeys();
  const { request } = testApp({ keys });
  for (const authorization of ["Basic abc", "Bearer", "Bearer a b", "Bearer a, Bearer b", "Bearer\tkey", "key"]) {
    const response = await request("/v1/models", { headers: { authorization } });
    expect([authorization, response.status]).toEqual([authorization, 401]);
  }
  expect(looked).toEqual([]);
});

test("nothing is done for a request before its pace lets it in", async () => {
  const { made, newId } = countedIds();
  const { request } = testApp({ keys: opensAll, now: () => 0, newId });
  const all = Array.from({ length: 4 * burst }, () => request(...nothing("many")));
  const madeAtOnce = made();
  expect(madeAtOnce).toBeGreaterThan(0);
  await Promise.all(all);
  expect(made()).toBe(4 * madeAtOnce);
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

test("a body takes its key's time by the length that it declares", async () => {
  const { made, newId } = countedIds();
  let nowMs = 0;
  const { request } = testApp({ keys: opensAll, now: () => nowMs, newId });
  /** Sends a request with each body. Returns how many of the requests start at once. */
  const letIn = async (bodies: (string | ReadableStream)[]) => {
    const before = made();
    const all = bodies.map((body) => {
      const headers = new Headers({ "content-type": "application/json", authorization: "Bearer many" });
      if (typeof body === "string") headers.set("content-length", String(body.length));
      return request("/v1/assign", { method: "POST", body, headers });
    });
    const madeAtOnce = made() - before;
    expect((await Promise.all(all)).map(({ status }) => status)).toEqual(bodies.map(() => 400));
    return madeAtOnce / ((made() - before) / bodies.length);
  };
  expect(await letIn(Array(4).fill("{}"))).toBe(4);
  nowMs += 2000;
  expect(await letIn(Array(4).fill(`{"a":"${"a".repeat(2 ** 18)}"}`))).toBe(2);
  nowMs += 2000;
  // A body that declares no length takes as much of its key's time as the largest body that is allowed.
  expect(await letIn(Array.from({ length: 4 }, () => new Blob(["{}"]).stream()))).toBe(1);
});

test("a key that was told to retry later starts its requests one by one until then", async () => {
  let isFull = true;
  let looks = 0;
  const keys: Dependencies["keys"] = {
    accessOf: async () => {
      looks++;
      if (isFull) throw new ServiceError("rate_limited", "full", { retryAfterSeconds: 5 });
      return accessWith();
    },
  };
  let nowMs = 0;
  const { request } = testApp({ keys, now: () => nowMs });
  const ask = async (requests: number) => {
    const before = looks;
    const all = Array.from({ length: requests }, () => request(...nothing("many")));
    const atOnceNow = looks - before;
    await Promise.all(all);
    return atOnceNow;
  };
  expect(await ask(1)).toBe(1);
  isFull = false;
  nowMs = 4999;
  expect(await ask(8)).toBe(1);
  nowMs = 5100;
  expect(await ask(8)).toBe(8);
});

test("a key's pace does not hold its requests up after the clock was set back", async () => {
  let nowMs = 5 * 3_600_000;
  const waits: number[] = [];
  const app = paced(
    (_, { pacedMs }) => {
      waits.push(pacedMs);
      return new Response(null, { status: 429, headers: { "retry-after": "60" } });
    },
    // Each look at the clock takes 1 ms, so any delay shows.
    () => nowMs++,
  );
  const call = () => app(new Request("https://edge.test/v1/models", { headers: { authorization: "Bearer sk-a" } }));
  for (let i = 0; i < 3; i++) await call();
  nowMs = 0;
  waits.length = 0;
  for (let i = 0; i < burst; i++) await call();
  expect(waits).toEqual(Array(burst).fill(0));
});
