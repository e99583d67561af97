/**
 * Faults in the engine of a real backend with the small base: each fault ends no more sequences than it must, the backend stays alive, and
 * later answers equal those before.
 */
import { afterAll, expect, test } from "vitest";
import type { Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import type { ErrorEnvelope } from "../../shared/errors.ts";
import { framesOf, isRunning, startBackend } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { smallBase } from "../support/small-base.ts";

const patience = { timeout: 30_000, interval: 20 };
const NODE_OPTIONS = `--import=${new URL("../support/engine-faults.ts", import.meta.url).href}`;
const backend = await startBackend({ MODEL_DIR: smallBase, THREADS: "1", STALL_MS: "2000", NODE_OPTIONS });
/** Frames of each sequence in a run without faults. */
const expected = await answered(sequences());
afterAll(async () => {
  expect(await backend.stop("SIGTERM")).toBe(0);
  expect(backend.enginePids()).toHaveLength(4);
  expect(backend.enginePids().filter(isRunning)).toEqual([]);
});

/** Sequences of several kinds, long enough for a fault to hit them. */
function sequences(): SequenceRequest[] {
  return Array.from({ length: 5 }, (_, i) => {
    const promptIds = Array.from({ length: 5 + 17 * i }, (_, t) => (97 * i + 31 * t) % 4000);
    const sampling = {
      temperature: i % 2,
      seed: i,
      logit_bias: [[4095, -100]] as [number, number][],
    };
    return sequenceRequest(`s${i}`, promptIds, { maxTokens: 120, sampling: { ...sampling, logprobs: i % 3 } });
  });
}

/** Frames by sequence, without what differs between runs: times and cache hits in the last frame. */
function bySequence(frames: readonly Frame[]): Map<string, object[]> {
  const lasting = frames.map((frame) => {
    if (frame.type !== "done") return frame;
    const { type, id, finishReason, completionTokens } = frame;
    return { type, id, finishReason, completionTokens };
  });
  return Map.groupBy(lasting, ({ id }) => id);
}
async function answered(requests: SequenceRequest[]): Promise<Map<string, object[]>> {
  return bySequence(await backend.frames("c0", requests));
}
const tokenIds = (frames: readonly object[]) =>
  (frames as Frame[]).flatMap((frame) => (frame.type === "token" ? [frame.tokenId] : []));
const statusOf = async (route: string) => (await fetch(backend.url + route)).status;

test.each<[string, NodeJS.Signals, RegExp]>([
  ["a throw", "SIGUSR2", /ended in an error/],
  ["a native fault", "SIGSEGV", /ended by SIGSEGV/],
  // A stopped process stands for one that hangs in native code.
  ["a hang", "SIGSTOP", /finished no pass for 2000 ms/],
])("%s fails those running, and they can be resumed; then all is as before", async (_, signal, why) => {
  const engines = backend.enginePids();
  const restarts = await backend.metric("chameleon_engine_restarts_total");
  const frames: Frame[] = [];
  const response = await backend.post("/v1/batches", backend.batch("c0", sequences()));
  for await (const frame of framesOf(response)) {
    if (frames.push(frame) === 1) process.kill(engines.at(-1)!, signal);
  }
  const [health, readiness] = await Promise.all(["/healthz", "/readyz"].map((route) => fetch(backend.url + route)));
  expect([health.status, readiness.status]).toEqual([200, 503]);
  expect(((await readiness.json()) as ErrorEnvelope).error.message).toMatch(why);
  expect(await statusOf("/metrics")).toBe(200);
  const struck = bySequence(frames);
  for (const { id } of sequences()) {
    expect(struck.get(id)!.at(-1)).toMatchObject({ type: "error", kind: "backend_unavailable" });
    expect(struck.get(id)!.slice(0, -1)).toEqual(expected.get(id)!.slice(0, struck.get(id)!.length - 1));
  }

  await expect.poll(() => statusOf("/readyz"), patience).toBe(200);
  expect(await backend.metric("chameleon_engine_restarts_total")).toBe(restarts + 1);
  expect(backend.enginePids()).toHaveLength(engines.length + 1);
  const resumed = await answered(
    sequences().map((sequence) => ({ ...sequence, continuedIds: tokenIds(struck.get(sequence.id)!) })),
  );
  for (const { id } of sequences()) {
    const [first, rest] = [struck.get(id)!.slice(0, -1), resumed.get(id)!];
    expect([...first, ...rest].slice(0, -1)).toEqual(expected.get(id)!.slice(0, -1));
    expect(rest.at(-1)).toMatchObject({ type: "done", finishReason: "length" });
  }
  expect(await answered(sequences())).toEqual(expected);
});
