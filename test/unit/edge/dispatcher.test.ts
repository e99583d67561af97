/** Which sequences share a call, which frames each request receives, and what a call costs the other requests. */
import { expect, test } from "vitest";
import { routingLimits } from "../../../edge/dispatch/routing-limits.ts";
import type { BatchRequest, Frame, SequenceRequest } from "../../../shared/contracts/inference.ts";
import { batchRequest, doneFrame, sequenceRequest, tokenFrame } from "../../support/frames.ts";
import {
  callFailure,
  framesFor,
  type ScriptedRouting,
  scriptedRouting,
  turn,
} from "../../support/scripted-backends.ts";

const mixtureOf = (adapter: { centroidId: string } | { adapterHash: string }) => ({
  mixture: { base: 0.5, adapters: [{ ...adapter, weight: 0.5 }] },
});
const mixture = mixtureOf({ centroidId: "c1" });
const own = mixtureOf({ adapterHash: "b".repeat(64) });
const both = { mixture: { ...own.mixture, adapters: [...mixture.mixture.adapters, ...own.mixture.adapters] } };

/** Submits sequences that generate no tokens, as one request. */
function submit(
  { client }: ScriptedRouting,
  ids: string[],
  centroidId: string | null = "c0",
  also: Partial<SequenceRequest> = {},
  model: Partial<BatchRequest> = {},
) {
  const received: Frame[] = [];
  /** Type and id of each frame, for each group of frames that came together. */
  const groups: string[][] = [];
  /** An entry for each time that sequences of this request were accepted: how many frames had come before. */
  const accepted: number[] = [];
  const sequences = ids.map((id) => ({ ...sequenceRequest(id), ...also }));
  const cancel = client.submit(batchRequest(sequences, { centroidId, ...model }), {
    accepted: () => void accepted.push(received.length),
    receive: (frames) => {
      received.push(...frames);
      groups.push(frames.map(({ type, id }) => `${type} ${id}`));
    },
  });
  return { received, groups, accepted, cancel };
}

/** Backends with a limit of one call for each group, so that later sequences wait behind that call. */
function oneCall(backends = 1) {
  const routing = scriptedRouting(backends);
  routing.limits.callsPerGroup = 1;
  return { ...routing, backend: routing.backends[0] };
}

const done = (id: string, tokens = 0): Frame => ({ ...doneFrame(id), completionTokens: tokens });
const idsOf = ({ backends: [{ calls }] }: ScriptedRouting) => calls.map(({ ids }) => ids);

test("sequences for the same backend share a call if they are mixtures without own adapters, or have the same adapter", async () => {
  const routing = oneCall();
  submit(routing, ["first"], "c1", mixture);
  submit(routing, ["second"], "c2", mixture);
  submit(routing, ["third"], "c3", mixture);
  submit(routing, ["alone"], "c1");
  submit(routing, ["base"], null);
  expect(idsOf(routing)).toEqual([["first"], ["alone"], ["base"]]);
  await routing.backends[0].calls[0].accept();
  expect(idsOf(routing).slice(3)).toEqual([["second", "third"]]);
  // The call names the centroid of its first sequence, by which it was routed.
  expect(routing.backends[0].last.batch.centroidId).toBe("c2");
});

test.each<[string, Partial<SequenceRequest>, Partial<BatchRequest>]>([
  ["other manifests", mixture, { manifestHash: "c".repeat(64) }],
  ["own adapters", own, {}],
  ["mixtures of both kinds", both, {}],
  ["an own adapter alone", {}, { adapterHash: "b".repeat(64) }],
])("sequences for the same backend share no call with %s", (_, also, model) => {
  const routing = oneCall();
  submit(routing, ["first"], "c0", mixture);
  submit(routing, ["gathers"], "c0", mixture);
  submit(routing, ["other"], "c0", also, model);
  expect(idsOf(routing)).toEqual([["first"], ["other"]]);
});

test("own adapters of two tenants, and sequences for two backends, never share a call", async () => {
  const ofTenants = oneCall();
  for (const tenant of ["one", "two"]) submit(ofTenants, [tenant], "c0", { ...own, tenant });
  expect(idsOf(ofTenants)).toEqual([["one"], ["two"]]);
  const routing = oneCall(2);
  for (let i = 0; i < 40; i++) submit(routing, [`s${i}`], `c${i}`, mixture);
  expect(routing.backends.map(({ calls }) => calls.map(({ ids }) => ids.length))).toEqual([[1], [1]]);
  for (const { last } of routing.backends) await last.accept();
  const sent = routing.backends.flatMap(({ calls }) => calls.map(({ ids }) => ids.length));
  expect(sent.reduce((a, b) => a + b)).toBe(40);
  expect(sent).toHaveLength(4);
});

test("a request is told of each accepted sequence once, before its frames, and of no refused call", async () => {
  const routing = oneCall();
  const { backend } = routing;
  const first = submit(routing, ["a-0", "a-1"]);
  await turn();
  expect(first.accepted).toEqual([]);
  await backend.last.accept();
  await backend.last.send(done("a-0"), done("a-1"));
  expect([first.accepted, first.received.length]).toEqual([[0, 0], 2]);
  const refused = submit(routing, ["b-0", "b-1"]);
  await backend.last.refuse(callFailure("overloaded", 3));
  expect(refused.accepted).toEqual([]);
  const error = { type: "error", kind: "overloaded", retryAfterSeconds: 3 };
  expect(refused.received).toMatchObject(["b-0", "b-1"].map((id) => ({ ...error, id })));
  expect(refused.groups).toHaveLength(1);
  expect(routing.client.idle).toBe(true);
});

test("a request receives its frames of one message together, and none of another request", async () => {
  const routing = oneCall();
  const { backend } = routing;
  const first = submit(routing, ["x"]);
  const a = submit(routing, ["a-0", "a-1"], "c0", { maxTokens: 1 });
  const b = submit(routing, ["b-0"], "c0", { maxTokens: 1 });
  await backend.last.accept();
  await backend.last.accept();
  await backend.last.send(tokenFrame("a-0", 0, 1), tokenFrame("b-0", 0, 1), tokenFrame("a-1", 0, 1), done("a-0", 1));
  expect(a.groups).toEqual([["token a-0", "token a-1", "done a-0"]]);
  expect(b.groups).toEqual([["token b-0"]]);
  expect(first.received).toEqual([]);
});

test("a request passes the rest of its deadline to the backend, and its queue time includes the edge's", async () => {
  const routing = oneCall();
  const { backend } = routing;
  submit(routing, ["a"]);
  await routing.pass(10);
  const waiting = submit(routing, ["b"], "c0", { deadlineMs: 80 });
  await routing.pass(60);
  await backend.last.accept();
  expect(backend.last.batch.sequences).toMatchObject([{ id: "b", deadlineMs: 20 }]);
  await backend.last.accept();
  await backend.last.send({ ...doneFrame("b", { queueMs: 2 }), completionTokens: 0 });
  expect(waiting.received).toMatchObject([{ type: "done", timings: { queueMs: 62 } }]);
});

test("a request that does not fit into the queue is refused as a whole", () => {
  const routing = oneCall();
  submit(routing, ["a-0"]);
  const ids = (i: number) => Array.from({ length: 128 }, (_, s) => `q${i}-${s}`);
  for (let i = 0; i < 8; i++) submit(routing, ids(i));
  expect(() => submit(routing, ["z-0"])).toThrow(expect.objectContaining({ kind: "overloaded", retryAfterSeconds: 1 }));
  expect(idsOf(routing)).toHaveLength(1);
});

test("the sequences of a lost backend's many calls are sent again in few calls, in turn with new requests", async () => {
  const routing = scriptedRouting(2);
  for (const backend of routing.backends) backend.answer = (call) => void call.accept();
  const sent: ReturnType<typeof submit>[] = [];
  for (let i = 0; i < 60; i++) {
    sent.push(submit(routing, [`s${i}`], `c${i}`, { ...mixture, maxTokens: 4 }));
    await turn();
  }
  const [lost, left] = routing.backends.toSorted((a, b) => b.calls.length - a.calls.length);
  const before = left.calls.length;
  const had = lost.calls.flatMap(({ ids }) => ids);
  expect(lost.calls.length).toBeGreaterThan(20);
  left.answer = () => undefined;
  for (const call of lost.calls) void call.fail("broken");
  for (let i = 0; i < 10; i++) await turn();
  const again = () => left.calls.slice(before);
  expect(again()).toHaveLength(3);
  const fresh = submit(routing, ["new"], "c0", { ...mixture, tenant: "new", maxTokens: 4 });
  // Once the first three calls are answered, all other sequences are sent, the new one among them.
  for (const call of again()) await call.accept();
  expect(again().flatMap(({ ids }) => ids)).toHaveLength(had.length + 1);
  expect(again().length).toBeLessThanOrEqual(4);
  for (const call of again().slice(3)) await call.accept();
  for (const call of left.calls) await call.send(...call.batch.sequences.flatMap(framesFor));
  for (const [i, { received }] of sent.entries()) {
    expect(received).toEqual(framesFor({ ...sequenceRequest(`s${i}`), maxTokens: 4 }));
  }
  expect(fresh.received.at(-1)).toMatchObject({ type: "done" });
  expect(routing.client.idle).toBe(true);
});

test.each(["unreachable", "broken", null] as const)(
  "a call of many sequences that fails (%s) counts as one failure of its backend",
  async (kind) => {
    const routing = oneCall();
    const { backend } = routing;
    submit(routing, ["first"]);
    for (let i = 0; i < 2 * routingLimits.consecutiveErrors; i++) submit(routing, [`s${i}`]);
    await backend.last.accept();
    if (kind === "unreachable") await backend.last.refuse(callFailure(kind));
    else {
      await backend.last.accept();
      await backend.last.fail(kind);
    }
    expect(routing.failures).toHaveLength(1);
    expect(routing.events.filter((event) => event.startsWith("ejected"))).toEqual([]);
  },
);

test("sequences that wait for a backend are sent to another one if it is ejected", async () => {
  const routing = scriptedRouting(2);
  const sent = Array.from({ length: 9 }, (_, i) => submit(routing, [`s${i}`], "c0", { maxTokens: 2 }));
  const [hangs, other] = routing.backends.toSorted((a, b) => b.calls.length - a.calls.length);
  expect(hangs.calls).toHaveLength(3);
  await hangs.calls[0].refuse(callFailure("silent"));
  expect(other.calls.flatMap(({ ids }) => ids).length).toBeGreaterThan(6);
  for (const call of hangs.calls.slice(1)) await call.refuse(callFailure("silent"));
  for (let i = 0; i < other.calls.length; i++) {
    await other.calls[i].accept();
    await other.calls[i].send(...other.calls[i].batch.sequences.flatMap(framesFor));
  }
  expect(hangs.calls).toHaveLength(3);
  for (const { received } of sent) expect(received.at(-1)).toMatchObject({ type: "done" });
});
