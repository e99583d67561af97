/** The backend as a process: real HTTP, signals, and a crash. */

import { describe, expect, test, vi } from "vitest";
import { loadHeader, nameHeader, processNamePattern } from "../../shared/contracts/backend-headers.ts";
import { createSigner } from "../../shared/contracts/call-signature.ts";
import type { Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import { numericsHeader } from "../../shared/contracts/inference.ts";
import type { ErrorEnvelope } from "../../shared/errors.ts";
import { stopAtEnd } from "../support/at-end.ts";
import { allFrames, type Backend, framesOf, isRunning, startBackend } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinyConfig, writeTinyModel } from "../support/tiny-model.ts";

const folder = temporaryFolder();
await writeTinyModel(folder);
const start = async (env: Record<string, string> = {}) => stopAtEnd(await startBackend({ MODEL_DIR: folder, ...env }));

const neverEnds: [number, number][] = [[tinyConfig.stopIds[0], -100]];
const sampling = { logit_bias: neverEnds };
/** A request that generates until the context is full, unless it is cancelled. */
const endless = (id: string, promptIds = [1, 2, 3]) => sequenceRequest(id, promptIds, { maxTokens: 10_000, sampling });
const short = (id: string) => sequenceRequest(id, [4, 5], { maxTokens: 5, sampling });
const tokensOf = (frames: Frame[], id: string) =>
  frames.filter((frame) => frame.id === id && frame.type === "token").length;
const lastOf = (frames: Frame[], id: string) => frames.findLast((frame) => frame.id === id);
const errorOf = async (response: Response) => ((await response.json()) as ErrorEnvelope).error;

test("where a secret is set only signed calls are served; without one, an open port is a loud warning", async () => {
  const secret = "integration-0123456789abcdef0123456789";
  const BACKEND_HOST = "0.0.0.0";
  const guarded = await start({ BACKEND_HOST, BACKEND_SECRETS: secret, BACKEND_NAME: "pod-0" });
  const open = await start({ BACKEND_HOST });
  expect(open.log()).toMatch(/"level":"warn","event":"unsigned_calls".*BACKEND_SECRETS/);
  expect(guarded.log()).not.toContain("unsigned_calls");
  const batch = guarded.batch("c0", [short("a")]);
  const refused = await guarded.post("/v1/batches", batch);
  expect([refused.status, (await errorOf(refused)).code]).toEqual([401, "bad_signature"]);
  const sign = createSigner([secret], () => Date.now());
  const body = new TextEncoder().encode(JSON.stringify(batch));
  const headers = { "content-type": "application/json", ...(await sign("POST", "/v1/batches", body)) };
  const answer = await fetch(`${guarded.url}/v1/batches`, { method: "POST", headers, body });
  expect(lastOf(await allFrames(answer), "a")).toMatchObject({ type: "done" });
  expect(guarded.log()).not.toContain(secret);
  const nameOf = async ({ url }: Backend, headers = {}) => {
    const response = await fetch(`${url}/readyz`, { headers });
    return [response.status, response.headers.get(nameHeader)];
  };
  expect(await nameOf(guarded)).toEqual([200, "pod-0"]);
  expect(await nameOf(guarded, { [nameHeader]: "pod-1" })).toEqual([421, "pod-0"]);
  expect(await nameOf(open)).toEqual([200, expect.stringMatching(processNamePattern)]);
});

describe("one backend", async () => {
  const backend = await start({ MAX_SEQUENCES: "4", MAX_QUEUE: "500" });
  const idle = () => vi.waitFor(async () => expect(await backend.metric("vllm:num_requests_running")).toBe(0));

  test("is ready with its manifest, serves a micro-batch to its last frames, and tells its load", async () => {
    const ready = await fetch(`${backend.url}/readyz`);
    expect([ready.status, ready.headers.get(loadHeader)]).toEqual([200, "0/4"]);
    const status = (await ready.json()) as { numerics: string };
    expect(status).toMatchObject({
      ...{ model: "tiny", servedAs: "gpt2", manifestHash: backend.manifestHash },
      numerics: expect.stringMatching(/^cpu-fp32-[0-9a-f]{16}$/),
    });
    const response = await backend.post("/v1/batches", backend.batch("c0", [short("a"), short("b")]));
    expect([response.headers.get(loadHeader), response.headers.get(numericsHeader)]).toEqual(["2/4", status.numerics]);
    const frames = await allFrames(response);
    for (const id of ["a", "b"]) {
      expect(tokensOf(frames, id)).toBe(5);
      expect(lastOf(frames, id)).toMatchObject({ type: "done", finishReason: "length", adapter: { scale: 1 } });
    }
    expect(await backend.metric("chameleon_prefill_tokens_total")).toBeGreaterThanOrEqual(4);
  });

  test("serves the static adapter where the set has one", async () => {
    const frames = await backend.frames("static", [short("s")]);
    expect(frames.at(-1)).toMatchObject({ type: "done", adapter: { scale: 1 } });
  });

  test("refuses another manifest with both hashes, an unknown centroid, and an id that is open", async () => {
    const other = "0".repeat(64);
    const mismatch = await backend.post("/v1/batches", { ...backend.batch("c0", [short("a")]), manifestHash: other });
    const error = await errorOf(mismatch);
    expect([mismatch.status, error.code]).toEqual([409, "manifest_mismatch"]);
    expect(error.message).toContain(other);
    expect(error.message).toContain(backend.manifestHash);
    const unknown = await backend.post("/v1/batches", backend.batch("c77", [short("a")]));
    expect([unknown.status, (await errorOf(unknown)).param]).toEqual([400, "centroidId"]);
    const twice = await backend.post("/v1/batches", backend.batch(null, [short("a"), short("a")]));
    expect([twice.status, (await errorOf(twice)).param]).toEqual([400, "sequences"]);
  });

  test("a client that leaves ends its sequences", async () => {
    const gone = new AbortController();
    const response = await backend.post("/v1/batches", backend.batch("c0", [endless("a"), endless("b")]), gone.signal);
    const frames = framesOf(response);
    expect((await frames.next()).value?.type).toBe("token");
    gone.abort();
    await idle();
    await vi.waitFor(() => expect(backend.log()).toMatch(/"event":"batch".*"failed":2,"clientGone":true/));
  });

  test("a cancellation ends a sequence in an explicit error, and leaves its mates alone", async () => {
    const frames = await framesWith(backend, [endless("a"), endless("b", [9, 9])], async () => {
      const answer = await backend.post("/v1/cancellations", { version: 4, ids: ["a", "unknown"] });
      expect(await answer.json()).toEqual({ cancelled: ["a"] });
    });
    expect(lastOf(frames, "a")).toMatchObject({ type: "error", kind: "cancelled" });
    expect(lastOf(frames, "b")).toMatchObject({ type: "done", finishReason: "length" });
  });

  test("more than slots and queue hold are told when to come back", async () => {
    const sequences = Array.from({ length: 128 }, (_, i) => endless(`s${i}`));
    const others = sequences.map((sequence) => ({ ...sequence, id: `t${sequence.id}` }));
    const [first, second] = await Promise.all(
      [sequences, others].map((batch) => backend.post("/v1/batches", backend.batch(null, batch))),
    );
    const refused: Frame[] = [];
    const read = async (response: Response) => {
      for await (const frame of framesOf(response)) {
        if (frame.type !== "error" || frame.kind !== "overloaded") continue;
        refused.push(frame);
        await backend.post("/v1/cancellations", { version: 4, ids: sequences.map(({ id }) => id) });
        await backend.post("/v1/cancellations", { version: 4, ids: others.map(({ id }) => id) });
      }
    };
    await Promise.all([read(first), read(second)]);
    expect(refused.length).toBeGreaterThan(0);
    expect(refused[0]).toMatchObject({ retryAfterSeconds: 63 });
  });
});

/** The frames of a batch. `atFirst` is called when the first frame comes. */
async function framesWith(backend: Backend, sequences: SequenceRequest[], atFirst: () => unknown): Promise<Frame[]> {
  const response = await backend.post("/v1/batches", backend.batch("c0", sequences));
  const frames: Frame[] = [];
  for await (const frame of framesOf(response)) if (frames.push(frame) === 1) await atFirst();
  return frames;
}

test("SIGTERM lets what runs finish, refuses what comes, and exits 0", async () => {
  const backend = await start({ DRAIN_MS: "20000" });
  const frames = await framesWith(backend, [endless("a")], async () => {
    backend.child.kill("SIGTERM");
    await vi.waitFor(() => expect(backend.log()).toMatch(/"event":"draining"/));
    const refused = await backend.post("/v1/batches", backend.batch("c0", [short("b")]));
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "1"]);
    expect((await errorOf(refused)).message).toMatch(/shutting down/);
    // While the backend drains, /readyz answers 503, so that no new work comes, and /healthz 200, so that nothing restarts the backend.
    const probes = await Promise.all(["/readyz", "/healthz"].map((path) => fetch(backend.url + path)));
    expect(probes.map(({ status }) => status)).toEqual([503, 200]);
    expect((await errorOf(probes[0])).message).toMatch(/shutting down/);
  });
  expect(lastOf(frames, "a")).toMatchObject({ type: "done", finishReason: "length" });
  expect(await backend.exited).toBe(0);
});

test("after SIGTERM what does not finish in time ends in an explicit error, and the exit is still 0", async () => {
  const backend = await start({ DRAIN_MS: "0" });
  const frames = await framesWith(backend, [endless("a"), endless("b")], () => backend.child.kill("SIGTERM"));
  for (const id of ["a", "b"]) expect(lastOf(frames, id)).toMatchObject({ kind: "backend_unavailable" });
  expect(await backend.exited).toBe(0);
});

test("the engine ends with a backend that is killed", async () => {
  const backend = await start();
  const [engine] = backend.enginePids();
  const response = await backend.post("/v1/batches", backend.batch("c0", [endless("a")]));
  await framesOf(response).next();
  expect(isRunning(engine)).toBe(true);
  // `stop` waits for the output pipe, which the engine also holds and closes shortly before its process is gone.
  await backend.stop("SIGKILL");
  await expect.poll(() => isRunning(engine), { timeout: 20_000 }).toBe(false);
});

test("signals to the process group leave the engine to the backend, which drains", async () => {
  const backend = await start({ DRAIN_MS: "20000" });
  const frames = await framesWith(backend, [endless("a")], () => {
    for (const pid of [...backend.enginePids(), backend.child.pid!]) process.kill(pid, "SIGINT");
  });
  expect(lastOf(frames, "a")).toMatchObject({ type: "done", finishReason: "length" });
  expect(await backend.exited).toBe(0);
  for (const pid of backend.enginePids()) expect(isRunning(pid)).toBe(false);
});

test("a start on a port in use says so in one line, and exits 1", async () => {
  const backend = await start();
  const { port } = new URL(backend.url);
  await expect(start({ BACKEND_PORT: port })).rejects.toThrow(
    `exit 1: chameleon backend: cannot listen on 127.0.0.1:${port}: the port is in use\n`,
  );
  expect(await backend.stop("SIGTERM")).toBe(0);
});
