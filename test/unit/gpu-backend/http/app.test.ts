import { tmpdir } from "node:os";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import type { EngineClient, FrameSink } from "../../../../gpu-backend/host/client.ts";
import { createApp } from "../../../../gpu-backend/http/app.ts";
import { jsonLog } from "../../../../gpu-backend/http/log.ts";
import { createMetrics } from "../../../../gpu-backend/http/metrics.ts";
import { callVerifier, type VerifyCall } from "../../../../gpu-backend/http/middleware.ts";
import { cpuReport } from "../../../../gpu-backend/runtime/device.ts";
import { TenantStore } from "../../../../gpu-backend/tenant-files/tenant-store.ts";
import { loadHeader, nameHeader } from "../../../../shared/contracts/backend-headers.ts";
import { createSigner } from "../../../../shared/contracts/call-signature.ts";
import { type BatchRequest, type Frame, heartbeatMs, numericsHeader } from "../../../../shared/contracts/inference.ts";
import { type ErrorEnvelope, ServiceError } from "../../../../shared/errors.ts";
import { sequenceRequest } from "../../../support/engine-harness.ts";
import { batchRequest, doneFrame, tokenFrame } from "../../../support/frames.ts";
import { noEngine } from "../../../support/metrics-view.ts";

/** Through this function the test sends frames in place of an engine. */
let sink: FrameSink;
let cancelled: string[];
let refusal: Error | null;
let info: EngineClient["info"];
let logged: string[];
let app: ReturnType<typeof createApp>;
let openSequences: number;
let appWith: (verifyCall: VerifyCall | null) => ReturnType<typeof createApp>;

const secret = 31_337;
const two = [sequenceRequest("s1", [secret, secret]), sequenceRequest("s2", [secret])];
const batch = (change: object = {}) => batchRequest(two, { centroidId: "c0", ...change });
const token = (id: string): Frame => tokenFrame(id, 0, secret);
const post = (path: string, body: unknown, type = "application/json") =>
  app.request(path, {
    method: "POST",
    headers: { "content-type": type },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

/** A body that records whether it was read. */
function watched(text = "") {
  let isRead = false;
  const pull = (controller: ReadableStreamDefaultController<Uint8Array>) => {
    isRead = true;
    controller.enqueue(new TextEncoder().encode(text));
    controller.close();
  };
  return { body: new ReadableStream({ pull }, { highWaterMark: 0 }), isRead: () => isRead };
}

const errorOf = async (response: Response) => ((await response.json()) as ErrorEnvelope).error;

beforeEach(() => {
  cancelled = [];
  logged = [];
  refusal = null;
  info = null;
  openSequences = 0;
  const metrics = createMetrics(noEngine);
  const now = () => new Date(0);
  const log = jsonLog((line) => logged.push(line), now);
  const engine = {
    get info() {
      return info;
    },
    submit({ sequences }: BatchRequest, given: FrameSink) {
      if (refusal) throw refusal;
      sink = given;
      openSequences += sequences.length;
    },
    cancel(ids: readonly string[]) {
      cancelled.push(...ids);
      return ids.filter((id) => id.startsWith("s"));
    },
  };
  const sets = {
    of: () => ({ engine }),
    cancel: engine.cancel,
    get info() {
      return info;
    },
    requireServing() {
      if (!info || refusal) throw refusal ?? new ServiceError("backend_unavailable", "starting");
      return info;
    },
    get serving() {
      return info ? [info.manifestHash, "b".repeat(64)] : [];
    },
  };
  const adapters = {
    begin: async () => Promise.reject(new Error("not asked for")),
    upload: async () => {},
    store: new TenantStore({ directory: tmpdir(), tenantBytes: 1, totalBytes: 1, now }),
  };
  const memories = { begin: adapters.begin, remove: async () => {}, store: adapters.store };
  const load = () => ({ sequences: openSequences, slots: 32 });
  const parts = { sets, adapters, memories, metrics, log };
  appWith = (verifyCall) =>
    createApp({ ...{ name: "b-0", device: { ...cpuReport }, load, now: () => 0 }, ...parts, verifyCall });
  app = appWith(null);
});

test("POST /v1/batches answers at once, passes frames on as they come, and ends with the last sequence", async () => {
  const response = await post("/v1/batches", batch());
  expect(response.status).toBe(200);
  expect(response.headers.get("content-type")).toBe("application/x-ndjson");
  // cloudflared passes a body on at once only if it has no length.
  expect(response.headers.get("content-length")).toBeNull();
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  sink([token("s1"), token("s2")]);
  const first = (await reader.read()).value!;
  expect(first).toBe([token("s1"), token("s2")].map((frame) => `${JSON.stringify(frame)}\n`).join(""));
  sink([doneFrame("s2")]);
  await reader.read();
  sink([doneFrame("s1")]);
  expect(JSON.parse((await reader.read()).value!)).toEqual(doneFrame("s1"));
  expect((await reader.read()).done).toBe(true);
  expect(cancelled).toEqual([]);
  expect(logged.map((line) => JSON.parse(line))).toMatchObject([
    { event: "batch", centroids: "c0", sequences: 2, tokens: 2, done: 2, failed: 0, clientGone: false },
  ]);
});

test("POST /v1/batches sends a blank line in each silent interval, and no timer outlives the answer, a client or a refusal", async () => {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  const response = await post("/v1/batches", batch());
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  const lines: string[] = [];
  const reading = (async () => {
    for (let next = await reader.read(); !next.done; next = await reader.read()) lines.push(next.value);
  })();
  await vi.advanceTimersByTimeAsync(2 * heartbeatMs);
  expect(lines).toEqual(["\n", "\n"]);
  sink([token("s1")]);
  await vi.advanceTimersByTimeAsync(heartbeatMs);
  expect(lines.slice(2)).toEqual([`${JSON.stringify(token("s1"))}\n`]);
  sink([doneFrame("s1"), doneFrame("s2")]);
  await reading;
  expect(vi.getTimerCount()).toBe(0);
  await (await post("/v1/batches", batch())).body!.cancel();
  refusal = new ServiceError("backend_unavailable", "Draining.");
  await post("/v1/batches", batch());
  expect(vi.getTimerCount()).toBe(0);
});

test("POST /v1/batches cancels what is open when the client goes, and survives the frames that still come", async () => {
  const response = await post("/v1/batches", batch());
  sink([doneFrame("s1")]);
  await response.body!.cancel();
  expect(cancelled).toEqual(["s2"]);
  sink([{ type: "error", id: "s2", kind: "cancelled", message: "cancelled", retryAfterSeconds: null }]);
  expect(JSON.parse(logged[0])).toMatchObject({ done: 1, failed: 1, clientGone: true });
});

test("POST /v1/batches logs no token of a request, served or refused", async () => {
  await post("/v1/batches", batch());
  sink([token("s1"), doneFrame("s1"), doneFrame("s2")]);
  await post("/v1/batches", batch({ sequences: [sequenceRequest("s1", [-secret])] }));
  await post("/v1/batches", `{"promptIds": [${secret}`);
  expect(logged.length).toBe(3);
  expect(logged.join("")).not.toContain(String(secret));
});

test.each([
  ["not JSON", "{", "application/json", 400, null, /JSON/],
  ["another content type", "{}", "text/plain", 415, null, /text\/plain/],
  ["no version", batch({ version: undefined }), "application/json", 400, "version", /version/],
  ["no sequence", batch({ sequences: [] }), "application/json", 400, "sequences", /sequences/],
  ["an unknown field", batch({ extra: 1 }), "application/json", 400, null, /extra/],
  ["a bad id", batch({ sequences: [sequenceRequest("a/b", [1])] }), "application/json", 400, "sequences.0.id", /id/],
])("POST /v1/batches refuses %s", async (_, body, type, status, param, message) => {
  const response = await post("/v1/batches", body, type);
  expect(response.status).toBe(status);
  const error = await errorOf(response);
  expect(error).toMatchObject({ type: "invalid_request_error", param });
  expect(error.message).toMatch(message);
});

test("POST /v1/batches refuses a call of another version of the contract, so that the edge asks another backend", async () => {
  for (const path of ["/v1/batches", "/v1/cancellations"]) {
    const response = await post(path, batch({ version: 3 }));
    expect(response.status).toBe(409);
    const message = expect.stringMatching(/3.*4/);
    expect(await errorOf(response)).toMatchObject({ code: "version_mismatch", message });
  }
});

test("POST /v1/batches refuses a body over the bound", async () => {
  const response = await post("/v1/batches", `"${"a".repeat(9 * 2 ** 20)}"`);
  expect(response.status).toBe(413);
  expect((await errorOf(response)).message).toMatch(/8388608/);
});

test("POST /v1/batches tells the engine's refusal in the envelope, with when to come back", async () => {
  refusal = new ServiceError("backend_unavailable", "Draining.", { retryAfterSeconds: 7 });
  const response = await post("/v1/batches", batch());
  expect(response.status).toBe(503);
  expect(response.headers.get("retry-after")).toBe("7");
  expect(await errorOf(response)).toMatchObject({ code: "backend_unavailable", message: "Draining." });
});

test("POST /v1/batches keeps what is wrong inside to the log", async () => {
  refusal = new Error("a secret path");
  const response = await post("/v1/batches", batch());
  expect(response.status).toBe(500);
  expect(await response.text()).not.toContain("secret");
  expect(logged[0]).toContain("a secret path");
});

test("a batch goes on with another backend's tokens only where the numerics are the same, and is told them", async () => {
  const numerics = "cpu-fp32-0123456789abcdef";
  info = { manifest: { centroids: [] }, manifestHash: "a".repeat(64), numerics } as unknown as EngineClient["info"];
  const sequences = [sequenceRequest("s1", [secret]), sequenceRequest("s2", [secret], { continuedIds: [1] })];
  const begun = batch({ sequences });
  const send = (body: BatchRequest, header?: string) =>
    app.request("/v1/batches", {
      method: "POST",
      headers: { "content-type": "application/json", ...(header && { [numericsHeader]: header }) },
      body: JSON.stringify(body),
    });
  // Without the header, or with one that is no fingerprint, it is unknown which numerics began the sequence.
  for (const header of [numerics, undefined, "no fingerprint"]) {
    const response = await send(begun, header);
    expect([response.status, response.headers.get(numericsHeader)]).toEqual([200, numerics]);
  }
  const refused = await send(begun, "cpu-int8-0");
  const error = await errorOf(refused);
  expect([refused.status, error.code]).toEqual([409, "numerics_mismatch"]);
  expect(error.message).toMatch(/cpu-int8-0.*cpu-fp32-0123456789abcdef/);
  expect((await send(batch(), "cpu-int8-0")).status).toBe(200);
  // The engine refuses a set that is not served here.
  refusal = new ServiceError("manifest_mismatch", "another manifest");
  const other = await send({ ...begun, manifestHash: "b".repeat(64) }, "cpu-int8-0");
  expect((await errorOf(other)).code).toBe("manifest_mismatch");
});

describe("the name and the load of the process", () => {
  const paths = [
    ["GET", "/readyz"],
    ["POST", "/v1/batches"],
    ["POST", "/v1/cancellations"],
    ["PUT", `/v1/adapters/acme/${"a".repeat(64)}`],
    ["GET", "/v2"],
  ];

  test.each(paths)("are on the answer to %s %s, whatever it is", async (method, path) => {
    openSequences = 7;
    const response = await app.request(path, { method, headers: { "content-type": "application/json" } });
    expect([response.headers.get(nameHeader), response.headers.get(loadHeader)]).toEqual(["b-0", "7/32"]);
  });

  test.each(paths.slice(0, 4))("the name refuses %s %s for another before its body is read", async (method, path) => {
    const call = (name: string) => {
      const { body, isRead } = watched(" ");
      const headers = { "content-type": "application/json", [nameHeader]: name };
      const init = method === "GET" ? { method, headers } : { method, headers, body, duplex: "half" };
      return { response: app.request(path, init as RequestInit), isRead };
    };
    const other = call("b-1");
    const refused = await other.response;
    expect([refused.status, (await errorOf(refused)).code, other.isRead()]).toEqual([421, "misdirected", false]);
    expect(refused.headers.get(nameHeader)).toBe("b-0");
    expect((await call("b-0").response).status).not.toBe(421);
  });
});

describe("where a secret is set", () => {
  const url = "http://backend";
  const bytesOf = (body: unknown) => new TextEncoder().encode(JSON.stringify(body));
  const signOf = (secret: string) => createSigner([secret], () => 0);
  const sign = signOf("s".repeat(32));
  const json = { "content-type": "application/json" };
  const hash = "a".repeat(64);
  beforeEach(() => {
    app = appWith(callVerifier(["s".repeat(32)], () => 0));
  });

  test.each([
    ["POST", "/v1/batches"],
    ["POST", "/v1/cancellations"],
    ["POST", "/v1/adapters"],
    ["PUT", `/v1/adapters/eu:acme/${hash}`],
    ["DELETE", `/v1/adapters/eu:acme/${hash}`],
    ["GET", "/v1/whatever"],
  ])("an unsigned %s of %s is refused before its body is read", async (method, path) => {
    const { body, isRead } = watched(JSON.stringify(batch()));
    const init = method === "GET" ? { method } : { method, body, duplex: "half", headers: json };
    const response = await app.request(`${url}${path}`, init as RequestInit);
    expect(response.status).toBe(401);
    expect((await errorOf(response)).code).toBe("bad_signature");
    expect(isRead()).toBe(false);
  });

  test("the name is a part of what is signed: it can be neither taken away, nor added, nor altered", async () => {
    const body = bytesOf({ version: 4, ids: ["s1"] });
    const cancel = async (signed: string | null, sent: string | null) => {
      const headers = { ...json, ...(await sign("POST", "/v1/cancellations", body, signed)) };
      const named = sent === null ? headers : { ...headers, [nameHeader]: sent };
      return (await app.request(`${url}/v1/cancellations`, { method: "POST", headers: named, body })).status;
    };
    const altered = [await cancel("b-1", null), await cancel(null, "b-0"), await cancel("b-1", "b-0")];
    expect(altered).toEqual([401, 401, 401]);
    expect(await cancel("b-1", "b-1")).toBe(421);
    expect(cancelled).toEqual([]);
    expect([await cancel("b-0", "b-0"), await cancel(null, null)]).toEqual([200, 200]);
  });

  test("another body under a right signature reaches nobody", async () => {
    sink = () => expect.unreachable();
    const headers = { ...json, ...(await sign("POST", "/v1/cancellations", bytesOf({ version: 4, ids: ["s1"] }))) };
    const body = bytesOf({ version: 4, ids: ["s2"] });
    const response = await app.request(`${url}/v1/cancellations`, { method: "POST", headers, body });
    expect(response.status).toBe(401);
    expect((await errorOf(response)).message).toContain("body");
    expect(cancelled).toEqual([]);
  });

  test("probes need no signature, but a wrong one is told", async () => {
    info = { manifest: { model: { name: "tiny", servedAs: "gpt2" } }, manifestHash: hash } as EngineClient["info"];
    const probe = async (headers: Record<string, string>) => (await app.request(`${url}/readyz`, { headers })).status;
    const nothing = new Uint8Array();
    expect(await probe({})).toBe(200);
    expect(await probe(await sign("GET", "/readyz", nothing))).toBe(200);
    expect(await probe(await signOf("t".repeat(32))("GET", "/readyz", nothing))).toBe(401);
    expect((await app.request(`${url}/healthz`)).status).toBe(200);
    expect((await app.request(`${url}/metrics`)).status).toBe(200);
  });
});

test("a wrong method and an unknown path are errors in the envelope", async () => {
  const wrongMethod = await app.request("/v1/batches");
  expect([wrongMethod.status, wrongMethod.headers.get("allow")]).toEqual([405, "POST"]);
  expect((await errorOf(wrongMethod)).message).toMatch(/POST.*GET/);
  const unknown = await app.request("/v2");
  expect(unknown.status).toBe(404);
  expect((await errorOf(unknown)).code).toBe("not_found");
});
