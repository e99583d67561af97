/** Batches that wait for the same backend share a call, and each is answered as if it were alone. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Backends } from "../../../edge/backend/backends.ts";
import type { BackendCalls, BatchCall } from "../../../edge/backend/client.ts";
import { JoinedCalls } from "../../../edge/backend/joined-calls.ts";
import { routingLimits } from "../../../edge/backend/routing-limits.ts";
import { type WaitingCall, WaitingCalls } from "../../../edge/backend/waiting-calls.ts";
import { type BatchRequest, type Frame, isLast, type SequenceRequest } from "../../../shared/contracts/inference.ts";
import { sequenceRequest } from "../../support/frames.ts";
import {
  callFailure,
  firstCall,
  framesFor,
  ScriptedBackend,
  scriptedRouting,
  turn,
} from "../../support/scripted-backends.ts";

const hash = "a".repeat(64);
const mixed = (id: string, adapter: { centroidId: string } | { adapterHash: string } = { centroidId: "c0" }) => ({
  ...sequenceRequest(id),
  mixture: { base: 0.5, adapters: [{ ...adapter, weight: 0.5 }] },
});
const batchOf = (...sequences: SequenceRequest[]): BatchRequest => ({
  version: 1,
  manifestHash: hash,
  centroidId: "c0",
  sequences,
});

/** One connection, and the backends at its other end. */
function oneConnection(backends: number) {
  const joined = new JoinedCalls(1, 4);
  return Array.from({ length: backends }, () => {
    const backend = new ScriptedBackend();
    return { backend, client: joined.over(backend) };
  });
}

/** Opens a batch, and collects what comes of it up to its last frame. */
function open(client: BackendCalls, batch: BatchRequest, more: Partial<BatchCall> = {}) {
  const abort = new AbortController();
  const received: Frame[] = [];
  const call = { ...firstCall(abort.signal), ...more };
  const ended = client.openBatch(batch, call).then(async ({ frames }) => {
    for await (const group of frames) {
      received.push(...group);
      if (received.filter(isLast).length === batch.sequences.length) return;
    }
  });
  ended.catch(() => {});
  return { abort, received, ended };
}

test("opens every call once, on no more connections than there are, one of them for first calls, in turns with repeated ones", () => {
  const callSchema = fc.record({
    kind: fc.constantFrom(
      ...[
        { key: "a", isRepeated: false },
        { key: "b", isRepeated: false },
        { key: "c", isRepeated: true },
      ],
      ...[false, true].map((isRepeated) => ({ key: null, isRepeated })),
    ),
    sequences: fc.integer({ min: 1, max: 4 }),
    releases: fc.nat(3),
  });
  const property = fc.property(
    fc.integer({ min: 1, max: 3 }),
    fc.array(callSchema, { maxLength: 40 }),
    (connections, calls) => {
      const waiting = new WaitingCalls<WaitingCall & { id: number }>(connections, 6);
      const left = calls.map(({ kind, sequences }, id) => ({ ...kind, sequences, id }));
      const opened: number[] = [];
      const open: (WaitingCall & { id: number })[][] = [];
      const mostRepeated = Math.max(1, connections - 1);
      const mayOpen = ({ isRepeated }: WaitingCall) =>
        open.length < connections && (!isRepeated || open.filter(([one]) => one.isRepeated).length < mostRepeated);
      let wasRepeated = true;
      const check = (together: (WaitingCall & { id: number })[], added: number) => {
        const queue = left.slice(0, added).filter((one) => !opened.includes(one.id) && mayOpen(one));
        expect(together.length > 0).toBe(queue.length > 0);
        if (together.length === 0) return;
        const { isRepeated } = together[0];
        expect(together[0]).toEqual(queue.find((one) => one.isRepeated === isRepeated));
        const isMixed = new Set(queue.map((one) => one.isRepeated)).size === 2;
        if (isMixed) expect(isRepeated).toBe(!wasRepeated);
        wasRepeated = isRepeated;
        expect(new Set(together.map(({ key }) => key))).toEqual(new Set([together[0].key]));
        if (together[0].key === null) expect(together).toHaveLength(1);
        else expect(together.reduce((sum, { sequences }) => sum + sequences, 0)).toBeLessThanOrEqual(6);
        opened.push(...together.map(({ id }) => id));
        open.push(together);
      };
      const release = (added: number) => check(waiting.release(open.shift()!), added);
      for (const [id, { releases }] of calls.entries()) {
        check(waiting.add(left[id]), id + 1);
        for (let i = 0; i < releases && open.length > 0; i++) release(id + 1);
      }
      while (open.length > 0) release(calls.length);
      expect(opened.toSorted((a, b) => a - b)).toEqual(left.map(({ id }) => id));
    },
  );
  fc.assert(property, { numRuns: 300 });
});

describe("batches that wait for the same backend", () => {
  test("share the next call, and get their own frames", async () => {
    const [{ backend, client }, other] = oneConnection(2);
    open(client, batchOf(mixed("first")));
    const waiting = [["a"], ["b1", "b2"]].map((ids) => open(client, batchOf(...ids.map((id) => mixed(id)))));
    const elsewhere = open(other.client, batchOf(mixed("x")));
    await turn();
    expect(backend.calls.map(({ ids }) => ids)).toEqual([["first"]]);
    await backend.last.accept();
    expect(backend.calls.map(({ ids }) => ids)).toEqual([["first"], ["a", "b1", "b2"]]);
    expect(other.backend.calls).toHaveLength(0);
    await backend.last.accept();
    const frames = new Map(backend.last.batch.sequences.map((one) => [one.id, framesFor(one)]));
    await backend.last.send(...[...frames.values()].flat());
    await backend.last.fail(null);
    await Promise.all(waiting.map(({ ended }) => ended));
    expect(waiting.map(({ received }) => received)).toEqual([
      frames.get("a"),
      [...frames.get("b1")!, ...frames.get("b2")!],
    ]);
    expect(other.backend.calls.map(({ ids }) => ids)).toEqual([["x"]]);
    expect(elsewhere.received).toEqual([]);
  });

  test("go alone where numerics, adapters or the bound forbid a common call", async () => {
    const [{ backend, client }] = oneConnection(1);
    backend.answer = (call) => void call.accept();
    open(client, batchOf(mixed("first")));
    open(client, batchOf(mixed("a"), mixed("b"), mixed("c")));
    open(client, batchOf(mixed("too"), mixed("many")));
    open(client, batchOf(sequenceRequest("plain")));
    open(client, batchOf(mixed("own", { adapterHash: "b".repeat(64) })));
    const { base, adapters } = mixed("both").mixture;
    const both = { base, adapters: [...adapters, { adapterHash: "b".repeat(64), weight: 0 }] };
    open(client, batchOf({ ...mixed("both"), mixture: both }));
    open(client, batchOf(mixed("half"), sequenceRequest("half plain")));
    open(client, { ...batchOf(mixed("its own")), adapterHash: "b".repeat(64) });
    open(client, { ...batchOf(mixed("other manifest")), manifestHash: "c".repeat(64) });
    open(client, batchOf(mixed("only process")), { isOnlyProcess: true });
    open(client, batchOf(mixed("continued")), { numerics: "n1" });
    for (const id of ["alone1", "alone2"]) open(client, batchOf(mixed(id)), { isAlone: true });
    for (let i = 0; i < 20; i++) await turn();
    const expected = [
      ["first"],
      ["a", "b", "c"],
      ["too", "many"],
      ["plain"],
      ["own"],
      ["both"],
      ["half", "half plain"],
      ["its own"],
      ["other manifest"],
      ["only process"],
      ["continued"],
      ["alone1"],
      ["alone2"],
    ];
    expect(backend.calls.map(({ ids }) => ids)).toEqual(expected);
  });

  test("go in turns where some are repeated, which share no call with the others", async () => {
    const [{ backend, client }] = oneConnection(1);
    backend.answer = (call) => void call.accept();
    for (const id of ["first", "a", "b"]) open(client, batchOf(mixed(id)));
    for (const id of ["lost1", "lost2"]) open(client, batchOf(mixed(id)), { isRepeated: true });
    for (let i = 0; i < 20; i++) await turn();
    expect(backend.calls.map(({ ids }) => ids)).toEqual([["first"], ["lost1", "lost2"], ["a", "b"]]);
  });

  test("all fail where the backend sends a frame of a sequence that is in none of them", async () => {
    const [{ backend, client }] = oneConnection(1);
    open(client, batchOf(mixed("first")));
    const waiting = ["a", "b"].map((id) => open(client, batchOf(mixed(id))));
    await backend.last.accept();
    await backend.last.accept();
    await backend.last.send(...framesFor(mixed("first")));
    for (const { ended, received } of waiting) {
      await expect(ended).rejects.toMatchObject({ kind: "broken" });
      expect(received).toEqual([]);
    }
  });

  test("fail together with their call, before and after it is accepted", async () => {
    for (const isAccepted of [false, true]) {
      const [{ backend, client }] = oneConnection(1);
      open(client, batchOf(mixed("first")));
      const waiting = ["a", "b"].map((id) => open(client, batchOf(mixed(id))));
      await backend.last.accept();
      if (isAccepted) {
        await backend.last.accept();
        await backend.last.fail("broken");
      } else await backend.last.refuse(callFailure("unavailable"));
      for (const { ended } of waiting)
        await expect(ended).rejects.toMatchObject({ kind: isAccepted ? "broken" : "unavailable" });
    }
  });

  test("leave alone: one that is given up is cancelled at the backend, and the others go on", async () => {
    for (const isAccepted of [false, true]) {
      const [{ backend, client }] = oneConnection(1);
      open(client, batchOf(mixed("first")));
      const [a, b] = ["a", "b"].map((id) => open(client, batchOf(mixed(id))));
      await backend.last.accept();
      if (isAccepted) await backend.last.accept();
      a.abort.abort();
      if (!isAccepted) await backend.last.accept();
      await turn();
      expect(backend.cancelled).toEqual(["a"]);
      const [first, second] = backend.last.batch.sequences;
      // The backend had not noticed yet.
      await backend.last.send(...framesFor(first));
      await backend.last.send(...framesFor(second));
      await backend.last.fail(null);
      await b.ended;
      expect(b.received).toEqual(framesFor(second));
      await expect(a.ended).rejects.toBe(a.abort.signal.reason);
      expect(a.received).toEqual([]);
    }
  });

  test("end their call when all are given up; those that still wait are not sent at all", async () => {
    const [{ backend, client }] = oneConnection(1);
    open(client, batchOf(mixed("first")));
    const waiting = ["a", "b", "c"].map((id) => open(client, batchOf(mixed(id))));
    waiting[2].abort.abort();
    await backend.last.accept();
    expect(backend.last.ids).toEqual(["a", "b"]);
    for (const { abort } of waiting) abort.abort();
    expect(backend.last.signal.aborted).toBe(true);
    for (const { abort, ended } of waiting) await expect(ended).rejects.toBe(abort.signal.reason);
    await turn();
    open(client, batchOf(mixed("later")));
    await turn();
    expect(backend.last.ids).toEqual(["later"]);
  });
});

test("a first call goes at once beside repeated ones that try for long to reach their processes", async () => {
  const joined = new JoinedCalls(3, 4);
  const backend = new ScriptedBackend();
  const client = joined.over(backend);
  for (const id of ["p1", "p2", "p3", "p4"])
    open(client, batchOf(mixed(id)), { process: id, isOnlyProcess: true, isRepeated: true });
  open(client, batchOf(mixed("first")));
  expect(backend.calls.map(({ ids }) => ids)).toEqual([["p1"], ["p2"], ["first"]]);
  await backend.last.accept();
  await turn();
  expect(backend.calls).toHaveLength(3);
  await backend.calls[0].accept();
  await turn();
  expect(backend.last.ids).toEqual(["p3"]);
});

/** Backends over one connection, and batches that wait for it behind another. All are for the same backend. */
async function joinedRuns(ids: readonly string[]) {
  const routing = scriptedRouting(1);
  const joined = new JoinedCalls(1, 128);
  const events: string[] = [];
  const backends = new Backends({
    ...routing,
    clientOf: (address) => joined.over(routing.clientOf(address)),
    observe: ({ event }) => void events.push(event),
  });
  const [backend] = routing.backends;
  const run = (id: string) => {
    const opened = backends.openBatch(batchOf(mixed(id)));
    const ended = opened.then((frames) => Array.fromAsync(frames)).then((groups) => groups.flat());
    ended.catch(() => {});
    return { cancel: () => backends.cancel([id]), ended };
  };
  run("first");
  const runs = ids.map(run);
  await backend.last.accept();
  expect(backend.last.ids).toEqual(ids);
  return { routing, events, runs, first: backend.calls[0], joint: backend.last };
}

test.each([false, true])(
  "nothing is kept alive for a batch that is given up (its call accepted before: %s)",
  async (isAccepted) => {
    const { routing, runs, first, joint } = await joinedRuns(["a", "b"]);
    const sequence = joint.batch.sequences[1];
    if (isAccepted) await joint.accept();
    runs[0].cancel();
    await turn();
    if (!isAccepted) await joint.accept();
    await joint.send(...framesFor(sequence));
    await first.send(...framesFor(first.batch.sequences[0]));
    await runs[1].ended;
    let isSettled = false;
    void routing.settled().then(() => {
      isSettled = true;
    });
    await turn();
    expect(isSettled).toBe(true);
    expect(routing.timers()).toBe(0);
  },
);

test.each(["unreachable", "broken", null] as const)(
  "one joined call that fails (%s) counts as one failure of its backend",
  async (kind) => {
    const { events, joint } = await joinedRuns(["a", "b", "c"]);
    if (kind === "unreachable") await joint.refuse(callFailure(kind));
    else {
      await joint.accept();
      await joint.fail(kind);
    }
    await turn();
    expect(events.filter((event) => event !== "retried")).toEqual(["call_failed"]);
  },
);

test("an answer to a joined call counts once for its process, so that its address may still lead to others", async () => {
  const ids = Array.from({ length: routingLimits.answersOfOne }, (_, i) => `s${i}`);
  const { routing, joint } = await joinedRuns(ids);
  await joint.accept(null, "p0");
  await joint.fail("broken");
  await turn();
  // Counted once for each batch, the answers would say that the address has one process, which would be called again.
  expect(routing.backends[0].last).toMatchObject({ process: null, isOnlyProcess: true });
});

test("what a lost backend had in many calls goes on in few", async () => {
  const routing = scriptedRouting(2);
  const joined = new JoinedCalls(6, 128);
  const backends = new Backends({ ...routing, clientOf: (address) => joined.over(routing.clientOf(address)) });
  for (const backend of routing.backends) backend.answer = (call) => void call.accept();
  const ids = Array.from({ length: 60 }, (_, i) => `s${i}`);
  const received: Frame[] = [];
  const streams = ids.map(async (id) => {
    const frames = await backends.openBatch(batchOf(mixed(id)));
    for await (const group of frames) received.push(...group);
  });
  for (let i = 0; i < 60; i++) await turn();
  const [lost, left] = routing.backends.toSorted((a, b) => b.calls.length - a.calls.length);
  const before = left.calls.length;
  const had = lost.calls.flatMap((call) => call.ids);
  expect(had.length).toBeGreaterThan(20);
  left.answer = () => undefined;
  for (const call of lost.calls) void call.fail("broken");
  for (let i = 0; i < 60; i++) await turn();
  const again = () => left.calls.slice(before);
  expect(again()).toHaveLength(5);
  // With the answers to the first five, all others are sent.
  for (const call of again()) void call.accept();
  for (let i = 0; i < 60; i++) await turn();
  expect(again().flatMap((call) => call.ids)).toHaveLength(had.length);
  for (const call of again()) void call.accept();
  for (const call of left.calls) {
    await call.send(...call.batch.sequences.flatMap(framesFor));
    await call.fail(null);
  }
  await Promise.all(streams);
  for (const id of ids) {
    const whole = framesFor(mixed(id));
    expect(received.filter((frame) => frame.id === id)).toEqual(whole);
  }
});

test("one at fault in a joined call that is refused ends alone: each batch goes once more, in a call of its own", async () => {
  const { routing, events, runs, joint } = await joinedRuns(["a", "bad", "b"]);
  const [backend] = routing.backends;
  backend.answer = (call) =>
    void (call.ids.some((id) => id.startsWith("bad")) ? call.refuse(callFailure("refused")) : call.accept());
  await joint.refuse(callFailure("refused"));
  for (let i = 0; i < 20; i++) await turn();
  const again = backend.calls.slice(backend.calls.indexOf(joint) + 1);
  expect(again.map(({ ids, isRepeated }) => [...ids, isRepeated])).toEqual([
    ["a_1", true],
    ["bad_1", true],
    ["b_1", true],
  ]);
  await expect(runs[1].ended).rejects.toMatchObject({ kind: "internal" });
  for (const call of [again[0], again[2]]) await call.send(...call.batch.sequences.flatMap(framesFor));
  for (const run of [runs[0], runs[2]]) expect((await run.ended).at(-1)).toMatchObject({ type: "done" });
  // The joint call and that of "bad".
  expect(events.filter((event) => event === "call_failed")).toHaveLength(2);
});
