/** A sequence that has tokens is continued only with the same bits: two backends with equal or different fingerprints. */
import { expect, test } from "vitest";
import { roundPausesMs } from "../../../edge/dispatch/routing-limits.ts";
import type { SequenceRequest } from "../../../shared/contracts/inference.ts";
import { sequenceRequest } from "../../support/frames.ts";
import {
  backendAt,
  callFailure,
  framesFor,
  runBatch,
  type ScriptedBackend,
  type ScriptedRouting,
  scriptedRouting,
} from "../../support/scripted-backends.ts";

const sequence = (id: string): SequenceRequest => ({ ...sequenceRequest(id), maxTokens: 6 });

/** The backend that was called first, and the other one. */
function inOrder(routing: ScriptedRouting): [ScriptedBackend, ScriptedBackend] {
  const [one, two] = routing.backends;
  return one.calls.length > 0 ? [one, two] : [two, one];
}
const nameOf = (routing: ScriptedRouting, backend: ScriptedBackend) => routing.names[routing.backends.indexOf(backend)];

/** A run whose first backend, with these `numerics`, has sent two tokens. */
async function begun(numerics: string | null, sequences = [sequence("a")]) {
  const routing = scriptedRouting(2);
  const trip = runBatch(routing, sequences);
  const [first, second] = inOrder(routing);
  await first.last.accept(numerics);
  await first.last.send(...framesFor(sequences[0]).slice(0, 2));
  return { ...trip, routing, first, second };
}

const numericsError = (id: string) => ({ type: "error", id, kind: "numerics_mismatch" });

test.each([
  ["the same", "cpu-fp32-1", "cpu-fp32-1"],
  ["unknown there", "cpu-fp32-1", null],
  ["unknown here", null, "cpu-fp32-1"],
])("a sequence with tokens goes on where numerics are %s", async (_, from, to) => {
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
  "a sequence with tokens ends in an error, counted, where the only other has different ones: by %s",
  async (told) => {
    const { routing, received, ended, first, second } = await begun("cpu-fp32-1");
    await first.last.fail("failing");
    const { sequences } = second.last.batch;
    if (told === "its refusal") await second.last.refuse(callFailure("diverging"));
    else {
      await second.last.accept("cpu-int8-1");
      expect(second.last.signal.aborted).toBe(true);
      // The frames that it sends nevertheless reach nobody.
      await second.last.send(...framesFor(sequences[0]));
    }
    await ended;
    expect(received).toMatchObject([...framesFor(sequence("a")).slice(0, 2), numericsError("a")]);
    expect(routing.events).toContain(`not resumed ${nameOf(routing, first)} 1`);
    expect(routing.events.filter((event) => event.startsWith("ejected"))).toEqual([]);
    await routing.settled();
    expect(routing.names.map((name) => routing.router.shareOf(backendAt(routing.router, name), 0))).toEqual([0, 0]);
  },
);

test("a sequence with tokens waits for the backend that began it, and goes on there", async () => {
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

test("a sequence with tokens does not bind the sequences of its batch that have none: these may go anywhere", async () => {
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
