import { describe, expect, test } from "vitest";
import { BatchClient, type BatchClientDependencies } from "../../../edge/batching/batch-client.ts";
import { batchingLimits } from "../../../edge/batching/micro-batcher.ts";
import type { BatchRequest, Frame, SequenceRequest } from "../../../shared/contracts/inference.ts";
import { ServiceError } from "../../../shared/errors.ts";
import { doneFrame, sequenceRequest, tokenFrame } from "../../support/frames.ts";

const hash = "a".repeat(64);

/** A backend whose every answer the test gives, and a batchClient in front of it. `backendOf`: where a centroid would go. */
function scripted(backendOf: (centroidId: string | null) => string | null = () => "backend") {
  const calls: ScriptedCall[] = [];
  const cancelled: string[][] = [];
  const works: Promise<void>[] = [];
  let clockMs = 0;
  const timers = new Set<{ atMs: number; work: () => void }>();
  let timersSet = 0;
  const dependencies: BatchClientDependencies = {
    openBatch: (batch) => {
      const call = new ScriptedCall(batch);
      calls.push(call);
      return call.accepted.promise;
    },
    backendOf: (route) => backendOf(route.centroidId),
    cancel: (ids) => void cancelled.push(ids),
    now: () => clockMs,
    after: (ms, work) => {
      const timer = { atMs: clockMs + ms, work };
      timers.add(timer);
      timersSet++;
      return () => timers.delete(timer);
    },
    keepAlive: (work) => void works.push(work),
  };
  const batchClient = new BatchClient(dependencies, { ...batchingLimits, callsBeforeGathering: 1 });
  const submit = (ids: string[], centroidId: string | null = "c0", also: Partial<SequenceRequest> = {}) => {
    const received: Frame[] = [];
    const sequences = ids.map((id) => ({ ...sequenceRequest(id), ...also }));
    const batch: BatchRequest = { version: 1, manifestHash: hash, centroidId, sequences };
    /** How many frames there were each time that one of its sequences was accepted. */
    const accepted: number[] = [];
    const submission = batchClient.submit(batch, {
      accepted: () => void accepted.push(received.length),
      receive: (frames) => void received.push(...frames),
    });
    return { received, accepted, cancel: submission.cancel };
  };
  return {
    batchClient,
    calls,
    cancelled,
    submit,
    settled: () => Promise.all(works),
    timersSet: () => timersSet,
    /** Runs all timers, due or not. */
    fireEarly() {
      for (const timer of [...timers]) if (timers.delete(timer)) timer.work();
    },
    /** Runs what is due, too. */
    pass(ms: number) {
      clockMs += ms;
      for (const timer of [...timers]) if (timer.atMs <= clockMs && timers.delete(timer)) timer.work();
    },
  };
}

class ScriptedCall {
  readonly accepted = Promise.withResolvers<AsyncIterable<Frame[]>>();
  readonly ids: string[];
  readonly batch: BatchRequest;

  constructor(batch: BatchRequest) {
    this.batch = batch;
    this.ids = batch.sequences.map(({ id }) => id);
  }

  /** Accepts and sends `frames`; returns when the batchClient has had its turn. */
  async answer(...frames: Frame[]): Promise<void> {
    this.accepted.resolve(stream(frames));
    await turn();
  }
}

async function* stream(frames: Frame[]): AsyncGenerator<Frame[]> {
  yield frames;
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

describe("BatchClient", () => {
  test("sends what gathers after a bounded time, though nothing else happens", async () => {
    const { calls, submit, pass } = scripted();
    submit(["a"]);
    pass(3);
    submit(["b"]);
    pass(batchingLimits.gatherMs - 4);
    expect(calls.map(({ ids }) => ids)).toEqual([["a"]]);
    pass(1);
    expect(calls.map(({ ids }) => ids)).toEqual([["a"], ["b"]]);
  });

  test("waits on where its timer fires early", () => {
    const { calls, submit, pass, fireEarly } = scripted();
    submit(["a"]);
    submit(["b"]);
    fireEarly();
    expect(calls.map(({ ids }) => ids)).toEqual([["a"]]);
    pass(batchingLimits.gatherMs);
    expect(calls.map(({ ids }) => ids)).toEqual([["a"], ["b"]]);
  });

  test("gathers mixtures that would go to the same backend, and nothing else", async () => {
    const { calls, submit } = scripted((centroidId) => (centroidId === "c9" ? "other" : "backend"));
    const mixture = { base: 0.5, adapters: [{ centroidId: "c1", weight: 0.5 }] };
    const own = { mixture: { base: 0.5, adapters: [{ adapterHash: "b".repeat(64), weight: 0.5 }] }, tenant: "owner" };
    submit(["first"], "c1", { mixture });
    submit(["second"], "c2", { mixture });
    submit(["third"], "c3", { mixture });
    submit(["elsewhere"], "c9", { mixture });
    submit(["own"], "own", own);
    submit(["alone"], "c1");
    expect(calls.map(({ ids }) => ids)).toEqual([["first"], ["elsewhere"], ["own"], ["alone"]]);
    await calls[0].answer();
    expect(calls.slice(4).map(({ ids }) => ids)).toEqual([["second", "third"]]);
    // Of the first, by which it is routed.
    expect(calls[4].batch.centroidId).toBe("c2");
  });

  test("gathers no mixture with the base, though there is no backend to gather for", async () => {
    const { calls, submit } = scripted(() => null);
    const mixture = { base: 0.5, adapters: [{ centroidId: "c1", weight: 0.5 }] };
    submit(["first"], "c1", { mixture });
    submit(["second"], "c2", { mixture });
    submit(["base"], null);
    expect(calls.map(({ ids }) => ids)).toEqual([["first"], ["base"]]);
  });

  test("lets the last free call take along mixtures of all backends, but nothing that names a tenant's own adapter", async () => {
    const { calls, submit } = scripted((centroidId) => centroidId);
    const { awaitingCalls } = batchingLimits;
    const centroids = { mixture: { base: 0.5, adapters: [{ centroidId: "c1", weight: 0.5 }] } };
    const own = { mixture: { base: 0.5, adapters: [{ adapterHash: "b".repeat(64), weight: 0.5 }] }, tenant: "owner" };
    for (let i = 1; i < awaitingCalls; i++) submit([`full-${i}`], `full-${i}`, centroids);
    // Gathers behind a call to its backend.
    for (const key of ["full-1", "full-2"]) submit([`mixed-${key}`], key, centroids);
    expect(calls).toHaveLength(awaitingCalls);
    expect(calls.at(-1)!.ids).toEqual(["mixed-full-1"]);
    await calls[0].answer();
    expect(calls.at(-1)!.ids).toEqual(["mixed-full-2"]);
    submit(["own"], "own", own);
    submit(["mixed-3"], "full-3", centroids);
    submit(["mixed-4"], "full-4", centroids);
    await calls[1].answer();
    const last = calls.at(-1)!.ids;
    expect([["own"], ["mixed-3", "mixed-4"]]).toContainEqual(last);
    await calls[2].answer();
    expect([["own"], ["mixed-3", "mixed-4"]]).toContainEqual(calls.at(-1)!.ids);
    expect(calls.at(-1)!.ids).not.toEqual(last);
  });

  test("sets a timer only where something gathers, and one for what gathers together", async () => {
    const { calls, submit, timersSet } = scripted();
    submit(["a"]);
    expect(timersSet()).toBe(0);
    for (const id of ["b", "c", "d"]) submit([id]);
    expect(timersSet()).toBe(1);
    await calls[0].answer();
    expect(calls.map(({ ids }) => ids)).toEqual([["a"], ["b", "c", "d"]]);
    await calls[1].answer();
    expect(timersSet()).toBe(1);
  });

  test("tells that a backend has accepted, once for each sequence and before its frames; of a refused call nothing", async () => {
    const { calls, submit } = scripted();
    const first = submit(["a-0", "a-1"]);
    await turn();
    expect(first.accepted).toEqual([]);
    await calls[0].answer(doneFrame("a-0"), doneFrame("a-1"));
    expect(first.accepted).toEqual([0, 0]);
    const refused = submit(["b-0"]);
    calls[1].accepted.reject(new ServiceError("overloaded", "full"));
    await turn();
    expect(refused.accepted).toEqual([]);
    expect(refused.received).toMatchObject([{ type: "error", kind: "overloaded" }]);
  });

  test("leaves the backend the rest of a deadline", async () => {
    const { batchClient, calls, pass } = scripted();
    const due = (id: string, deadlineMs: number) => ({
      version: 1 as const,
      manifestHash: hash,
      centroidId: "c0",
      sequences: [{ ...sequenceRequest(id), deadlineMs }],
    });
    for (const batch of [due("a-0", 100), due("c-0", 80)])
      batchClient.submit(batch, { accepted: () => undefined, receive: () => undefined });
    pass(60);
    await calls[0].answer(doneFrame("a-0"));
    expect(calls[1].batch.sequences).toMatchObject([{ id: "c-0", deadlineMs: 20 }]);
  });

  test("gives a request all of its frames that came together at once, those of its other sequences too", async () => {
    const { batchClient, calls } = scripted();
    const groups: string[][] = [];
    const submit = (name: string, ids: string[]) =>
      batchClient.submit(
        { version: 1, manifestHash: hash, centroidId: "c0", sequences: ids.map(sequenceRequest) },
        {
          accepted: () => undefined,
          receive: (frames) => void groups.push([name, ...frames.map(({ type, id }) => `${type} ${id}`)]),
        },
      );
    submit("first", ["x"]);
    submit("a", ["a-0", "a-1"]);
    submit("b", ["b-0"]);
    await calls[0].answer(doneFrame("x"));
    const together = [tokenFrame("a-0", 0, 1), tokenFrame("b-0", 0, 1), tokenFrame("a-1", 0, 1), doneFrame("a-0")];
    await calls[1].answer(...together);
    expect(groups.slice(1, 3)).toEqual([
      ["a", "token a-0", "token a-1", "done a-0"],
      ["b", "token b-0"],
    ]);
  });

  test("gathers requests of one adapter into one call, and gives each its own frames", async () => {
    const { calls, submit, batchClient, settled } = scripted();
    const first = submit(["a-0"]);
    const second = submit(["b-0", "b-1"]);
    const third = submit(["c-0"]);
    const other = submit(["d-0"], "c1");
    expect(calls.map(({ ids }) => ids)).toEqual([["a-0"], ["d-0"]]);
    await calls[0].answer(tokenFrame("a-0", 0, 5), doneFrame("a-0"));
    expect(calls[2].ids).toEqual(["b-0", "b-1", "c-0"]);
    expect(calls[2].batch).toMatchObject({ manifestHash: hash, centroidId: "c0" });
    await calls[2].answer(
      tokenFrame("c-0", 0, 1),
      tokenFrame("b-1", 0, 2),
      doneFrame("c-0"),
      doneFrame("b-1"),
      doneFrame("b-0"),
    );
    await calls[1].answer(doneFrame("d-0"));
    await settled();
    expect(first.received.map(({ type }) => type)).toEqual(["token", "done"]);
    expect(second.received.map(({ id }) => id)).toEqual(["b-1", "b-1", "b-0"]);
    expect(third.received.map(({ type, id }) => `${type} ${id}`)).toEqual(["token c-0", "done c-0"]);
    expect(other.received).toHaveLength(1);
    expect(batchClient.idle).toBe(true);
  });

  test("adds the time in its queue to the backend's", async () => {
    const { calls, submit, pass } = scripted();
    submit(["a-0"]);
    pass(3);
    const waiting = submit(["b-0"]);
    pass(7);
    await calls[0].answer(doneFrame("a-0"));
    await calls[1].answer(doneFrame("b-0", { queueMs: 2 }));
    expect(waiting.received[0]).toMatchObject({ type: "done", timings: { queueMs: 9 } });
  });

  test("a refused call ends in an error for each of its sequences, and its queue goes on", async () => {
    const { calls, submit, settled } = scripted();
    const first = submit(["a-0", "a-1"]);
    const second = submit(["b-0"]);
    calls[0].accepted.reject(new ServiceError("overloaded", "full", { retryAfterSeconds: 3 }));
    await turn();
    const error = { type: "error", kind: "overloaded", message: "full", retryAfterSeconds: 3 };
    expect(first.received).toEqual([
      { ...error, id: "a-0" },
      { ...error, id: "a-1" },
    ]);
    await calls[1].answer(doneFrame("b-0"));
    await settled();
    expect(second.received).toHaveLength(1);
  });

  test("refuses what does not fit its queue, whole", () => {
    const { submit, calls } = scripted();
    submit(["a-0"]);
    for (let i = 0; i < 8; i++) submit(Array.from({ length: 128 }, (_, s) => `q${i}-${s}`));
    expect(() => submit(["z-0"])).toThrow(expect.objectContaining({ kind: "overloaded", retryAfterSeconds: 1 }));
    expect(calls).toHaveLength(1);
  });

  describe("a cancelled request", () => {
    test("leaves the queue before it was sent", async () => {
      const { calls, submit } = scripted();
      submit(["a-0"]);
      const gone = submit(["b-0"]);
      submit(["c-0"]);
      gone.cancel();
      await calls[0].answer(doneFrame("a-0"));
      expect(calls[1].ids).toEqual(["c-0"]);
      expect(gone.received).toEqual([]);
    });

    test("is cancelled with all its sequences before its call is accepted", async () => {
      const { calls, cancelled, submit } = scripted();
      const gone = submit(["a-0", "a-1"]);
      gone.cancel();
      gone.cancel();
      expect(cancelled).toEqual([calls[0].ids]);
    });

    test("is cancelled at the backend where others are on the call, and gets no more frames", async () => {
      const { calls, cancelled, submit } = scripted();
      submit(["x-0"]);
      const gone = submit(["a-0", "a-1"]);
      const stays = submit(["b-0"]);
      await calls[0].answer(doneFrame("x-0"));
      const frames = new TransformStream<Frame[], Frame[]>();
      const writer = frames.writable.getWriter();
      calls[1].accepted.resolve(frames.readable);
      await writer.write([doneFrame("a-1")]);
      await turn();
      gone.cancel();
      gone.cancel();
      await writer.write([tokenFrame("a-0", 0, 1)]);
      await writer.write([doneFrame("b-0")]);
      // Nobody is left on the call: it is let go, whatever else would come.
      await expect(writer.closed).rejects.toBeUndefined();
      expect(cancelled).toEqual([["a-0"]]);
      expect(gone.received.map(({ id }) => id)).toEqual(["a-1"]);
      expect(stays.received).toHaveLength(1);
    });
  });
});
