/** A sequence that has tokens is continued only with the same bits, tested with two backends of equal or different fingerprints. */
import { expect, test } from "vitest";
import { roundPausesMs } from "../../../edge/dispatch/routing-limits.ts";
import type { SequenceRequest } from "../../../shared/contracts/inference.ts";
import { sequenceRequest } from "../../support/frames.ts";
import { backendAt, callFailure, framesFor, runBatch, scriptedRouting } from "../../support/scripted-backends.ts";

const sequence = (id: string): SequenceRequest => ({ ...sequenceRequest(id), maxTokens: 6 });

/** Starts a batch. In the result, `first` is the backend that has these `numerics` and sent two tokens, `second` is another one. */
async function begun(numerics: string | null, sequences = [sequence("a")]) {
  const routing = scriptedRouting(2);
  const batch = runBatch(routing, sequences);
  const [first, second] = routing.backends.toSorted((a, b) => b.calls.length - a.calls.length);
  await first.last.accept(numerics);
  await first.last.send(...framesFor(sequences[0]).slice(0, 2));
  return { ...batch, routing, first, second };
}

const numericsError = (id: string) => ({ type: "error", id, kind: "numerics_mismatch" });

test.each([
  ["the same", "cpu-fp32-1", "cpu-fp32-1"],
  ["unknown there", "cpu-fp32-1", null],
  ["unknown here", null, "cpu-fp32-1"],
])("a sequence with tokens continues at a backend whose numerics are %s", async (_, from, to) => {
  const { of, ended, first, second } = await begun(from);
  expect(first.last.wantedNumerics).toBeNull();
  await first.last.fail("failing");
  expect(second.last.wantedNumerics).toBe(from);
  await second.last.accept(to);
  await second.last.send(...framesFor(second.last.batch.sequences[0]));
  await ended;
  expect(of("a")).toEqual(framesFor(sequence("a")));
});

test.each(["its refusal", "its answer"])(
  "a sequence with tokens ends in a counted error if the only other backend has different numerics: by %s",
  async (told) => {
    const { routing, received, ended, first, second } = await begun("cpu-fp32-1");
    await first.last.fail("failing");
    const { sequences } = second.last.batch;
    if (told === "its refusal") await second.last.refuse(callFailure("diverging"));
    else {
      await second.last.accept("cpu-int8-1");
      expect(second.last.signal.aborted).toBe(true);
      // Frames that the second backend sends nevertheless are dropped.
      await second.last.send(...framesFor(sequences[0]));
    }
    await ended;
    expect(received).toMatchObject([...framesFor(sequence("a")).slice(0, 2), numericsError("a")]);
    const name = routing.names[routing.backends.indexOf(first)];
    expect(routing.events).toContain(`not resumed ${name} 1`);
    expect(routing.events.filter((event) => event.startsWith("ejected"))).toEqual([]);
    await routing.settled();
    expect(routing.names.map((name) => routing.router.shareOf(backendAt(routing.router, name), 0))).toEqual([0, 0]);
  },
);

test("a sequence with tokens waits for the backend that began it, and continues there", async () => {
  const { routing, of, ended, first, second } = await begun("cpu-fp32-1");
  second.answer = (call) => void call.accept("cpu-int8-1");
  first.answer = (call) => void call.refuse(callFailure("unreachable"));
  await first.last.fail("broken");
  await routing.pass(roundPausesMs[0]);
  first.answer = (call) => void call.accept("cpu-fp32-1");
  await routing.pass(roundPausesMs[1]);
  expect(first.last.wantedNumerics).toBe("cpu-fp32-1");
  await first.last.send(...framesFor(first.last.batch.sequences[0]));
  await ended;
  expect(of("a")).toEqual(framesFor(sequence("a")));
});

test("sequences without tokens may go to any backend, even if their batch has sequences with tokens", async () => {
  const { of, ended, first, second } = await begun("cpu-fp32-1", [sequence("a"), sequence("b")]);
  second.answer = (call) => {
    void call.accept("cpu-int8-1");
    for (const one of call.batch.sequences) void call.send(...framesFor(one));
  };
  await first.last.fail("failing");
  await ended;
  expect(second.calls.map(({ ids, wantedNumerics }) => [ids, wantedNumerics])).toEqual([
    [["a_1"], "cpu-fp32-1"],
    [["b_1"], null],
  ]);
  expect(of("a").at(-1)).toMatchObject(numericsError("a"));
  expect(of("b")).toEqual(framesFor(sequence("b")));
});
