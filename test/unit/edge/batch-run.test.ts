import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import type { FailureKind } from "../../../edge/dispatch/call-failure.ts";
import { Budget } from "../../../edge/dispatch/retries.ts";
import { maxLosses, roundPausesMs } from "../../../edge/dispatch/routing-limits.ts";
import { errorFrame, type Frame, type SequenceRequest } from "../../../shared/contracts/inference.ts";
import { type ErrorKind, ServiceError } from "../../../shared/errors.ts";
import { doneFrame, sequenceRequest, tokenFrame } from "../../support/frames.ts";
import {
  backendAt,
  callFailure,
  framesFor,
  runBatch,
  type ScriptedBackend,
  type ScriptedCall,
  type ScriptedRouting,
  type ScriptedRoutingOptions,
  scriptedRouting,
  turn,
} from "../../support/scripted-backends.ts";

const sequence = (id: string, rest: Partial<SequenceRequest> = {}): SequenceRequest => ({
  ...sequenceRequest(id),
  maxTokens: 6,
  ...rest,
});

/** Runs the event loop until `work` is done. Advances the clock by 2 s every 20 turns. */
async function passUntil(work: Promise<unknown>, routing: ScriptedRouting) {
  let isDone = false;
  const mark = () => {
    isDone = true;
  };
  void work.then(mark, mark);
  for (let i = 1; !isDone; i++) await (i % 20 === 0 ? routing.pass(2000) : turn());
  await work;
}

/** Expects that no timer runs and that no load is counted. */
async function expectIdle(routing: ScriptedRouting) {
  await routing.settled();
  expect(routing.timers()).toBe(0);
  const shares = routing.names.map((name) => routing.router.shareOf(backendAt(routing.router, name), 0));
  expect(shares).toEqual(shares.map(() => 0));
}

const routings: ScriptedRouting[] = [];
afterEach(async () => {
  for (const routing of routings.splice(0)) await expectIdle(routing);
});

interface SentOptions {
  isWaiting?: boolean;
  backends?: number;
  urls?: string[];
}

/** Scripted backends, which must be idle after the test. */
function routed(count: number, options: ScriptedRoutingOptions = {}): ScriptedRouting {
  const routing = scriptedRouting(count, options);
  routings.push(routing);
  return routing;
}

/** Sends a batch. In the result, `first` is the backend that got it and accepts it unless `isWaiting`, and `second` is another one. */
async function sent(sequences: SequenceRequest[], { isWaiting = false, backends = 2, urls }: SentOptions = {}) {
  const routing = routed(backends, { urls });
  const batch = runBatch(routing, sequences);
  const first = routing.backends.find(({ calls }) => calls.length > 0)!;
  const second = routing.backends.find((one) => one !== first)!;
  if (!isWaiting) await first.last.accept();
  return { ...batch, routing, first, second };
}

function answerAll({ backends }: ScriptedRouting, answer: (call: ScriptedCall) => unknown) {
  for (const backend of backends) backend.answer = (call) => void answer(call);
}

/** Accepts a call and answers it whole. */
async function serve(call: ScriptedCall, process?: string) {
  await call.accept(null, process);
  for (const one of call.batch.sequences) await call.send(...framesFor(one));
}
const nameOf = (routing: ScriptedRouting, backend: ScriptedBackend) => routing.names[routing.backends.indexOf(backend)];
const gaveUp = (id: string, kind: ErrorKind, retryAfterSeconds?: number) =>
  errorFrame(id, new ServiceError(kind, kind, { retryAfterSeconds }));

const kinds = "unreachable silent failing unavailable mismatched diverging lacking overloaded".split(" ");
test.each(kinds as FailureKind[])(
  "a backend that fails to accept (%s): the same sequences are sent to another one",
  async (kind) => {
    const { routing, first, second, begun, ended, received } = await sent([sequence("a"), sequence("b")], {
      isWaiting: true,
    });
    await first.last.refuse(callFailure(kind));
    expect(second.last.ids).toEqual(["a_1", "b_1"]);
    await serve(second.last);
    await begun;
    await ended;
    expect(received).toEqual([...framesFor(sequence("a")), ...framesFor(sequence("b"))]);
    expect(routing.events).toContain(`retried ${nameOf(routing, first)} 2`);
  },
);

test.each<FailureKind | null>(["broken", "silent", null])(
  "a backend that fails mid-stream (%s): another one continues each sequence after the tokens that its client has",
  async (kind) => {
    const sequences = [sequence("a", { promptLogprobs: true }), sequence("b"), sequence("c", { maxTokens: 2 })];
    const { routing, first, second, received, ended, of } = await sent(sequences);
    await first.last.send(...framesFor(sequences[0]).slice(0, 4), ...framesFor(sequences[2]));
    await first.last.fail(kind);
    expect(second.last.batch.sequences).toMatchObject([
      { id: "a_1", continuedIds: { length: 3 }, promptLogprobs: false },
      { id: "b_1", continuedIds: [], promptLogprobs: false },
    ]);
    await serve(second.last);
    await ended;
    for (const one of sequences) expect(of(one.id)).toEqual(framesFor(one));
    expect(received).toHaveLength(8 + 7 + 3);
    const name = nameOf(routing, first);
    const moves = routing.events.filter((event) => !event.startsWith("ejected"));
    expect(moves).toEqual([`retried ${name} 1`, `resumed ${name} 1`]);
  },
);

test.each<[string, (call: ScriptedCall) => Frame[]]>([
  ["a token twice", ({ batch }) => [framesFor(batch.sequences[0])[0]]],
  ["a frame of an unknown sequence", () => framesFor(sequence("x"))],
  ["a prompt frame out of place", () => [{ type: "prompt", id: "a", logprobs: [], alternatives: [] }]],
])("a backend that fails by sending %s: the client receives none of these frames", async (_, wrong) => {
  const { first, second, ended, received } = await sent([sequence("a")]);
  await first.last.send(...framesFor(sequence("a")).slice(0, 2));
  await first.last.send(...wrong(first.last));
  expect(second.last.batch.sequences[0].continuedIds).toHaveLength(2);
  await serve(second.last);
  await ended;
  expect(received).toEqual(framesFor(sequence("a")));
});

test.each<[string, (id: string) => Frame]>([
  ["a token beyond the most", (id) => tokenFrame(id, 6, 1)],
  ["a count below what it sent", (id) => ({ ...doneFrame(id), completionTokens: 5 })],
  ["a count of no kind", (id) => ({ ...doneFrame(id), completionTokens: -1_000_000 })],
  ["a count above what it sent", (id) => ({ ...doneFrame(id), completionTokens: 7 })],
])("a backend that fails by sending %s: only that sequence moves to another backend", async (_, wrong) => {
  const { first, second, ended, of } = await sent([sequence("a"), sequence("b")]);
  const tokens = framesFor(sequence("a")).slice(0, -1);
  await first.last.send(...tokens, wrong("a"), framesFor(sequence("b"))[0]);
  expect(first.cancelled).toEqual(["a"]);
  // The backend sends this token before it learns of the cancellation.
  await first.last.send(tokenFrame("a", 7, 1));
  expect(second.last.batch.sequences).toMatchObject([{ id: "a_1", continuedIds: { length: 6 } }]);
  await serve(second.last);
  await first.last.send(...framesFor(sequence("b")).slice(1));
  await ended;
  for (const id of ["a", "b"]) expect(of(id)).toEqual(framesFor(sequence(id)));
});

test("a backend that fails some sequences of a batch: another one continues these at once in one call, the others stay", async () => {
  const ids = ["a", "b", "c", "d"];
  const { routing, first, second, ended, of } = await sent(ids.map((id) => sequence(id)));
  await first.last.send(framesFor(sequence("a"))[0], framesFor(sequence("b"))[0]);
  await first.last.send(gaveUp("b", "overloaded"), gaveUp("c", "overloaded"), framesFor(sequence("a"))[1]);
  expect(second.calls.map((call) => call.ids)).toEqual([["b_1", "c_1"]]);
  await serve(second.last);
  await first.last.send(...framesFor(sequence("a")).slice(2), ...framesFor(sequence("d")));
  await ended;
  for (const id of ids) expect(of(id)).toEqual(framesFor(sequence(id)));
  // An overloaded backend is not ejected.
  expect(routing.events.filter((event) => event.startsWith("ejected"))).toEqual([]);
});

test("a backend that fails and is the only one: it is called again at once, then after longer and longer pauses; then the client gets an error", async () => {
  const { routing, first: backend, ended, received } = await sent([sequence("a")], { backends: 1 });
  await backend.last.send(framesFor(sequence("a"))[0]);
  await backend.last.fail("broken");
  expect(backend.calls).toHaveLength(2);
  await backend.last.refuse(callFailure("unreachable"));
  for (const [i, pauseMs] of roundPausesMs.entries()) {
    await routing.pass(pauseMs - 1);
    expect(backend.calls).toHaveLength(2 + i);
    await routing.pass(1);
    expect(backend.calls).toHaveLength(3 + i);
    await backend.last.refuse(callFailure("unreachable"));
  }
  await ended;
  const error = expect.objectContaining({ type: "error", kind: "backend_unavailable" });
  expect(received).toEqual([framesFor(sequence("a"))[0], error]);
});

test.each<FailureKind>(["unreachable", "silent", "unavailable"])(
  "a backend that fails while no other accepts (%s): the sequence continues once one is back",
  async (kind) => {
    const { routing, first, second, ended, received } = await sent([sequence("a")], { isWaiting: true });
    let isBack = false;
    answerAll(routing, (call) => (isBack ? serve(call) : call.refuse(callFailure(kind))));
    await first.last.accept();
    await first.last.send(framesFor(sequence("a"))[0]);
    await first.last.fail("broken");
    await routing.pass(roundPausesMs[0]);
    await routing.pass(roundPausesMs[1]);
    expect(received).toHaveLength(1);
    const calls = first.calls.length + second.calls.length;
    isBack = true;
    await routing.pass(roundPausesMs[2]);
    await ended;
    expect(received).toEqual(framesFor(sequence("a")));
    expect(first.calls.length + second.calls.length).toBe(calls + 1);
  },
);

test("backends that only fail, or serve something else, are not waited for", async () => {
  const { first, second, ended, received } = await sent([sequence("a")], { isWaiting: true });
  second.answer = (call) => void call.refuse(callFailure("mismatched"));
  await first.last.accept();
  await first.last.fail("failing");
  await ended;
  expect(received).toMatchObject([{ type: "error" }]);
});

test("no backend is called again for a client that has left", async () => {
  const { routing, first: backend, run, ended } = await sent([sequence("a")], { backends: 1 });
  await backend.last.fail("broken");
  await backend.last.refuse(callFailure("unreachable"));
  run.stop();
  await ended;
  await routing.pass(roundPausesMs[0]);
  expect(backend.calls).toHaveLength(2);
});

test("a sequence that is at fault itself is sent to no backend again", async () => {
  const { routing, first, second, begun } = await sent([sequence("a"), sequence("b")], { isWaiting: true });
  await first.last.refuse(callFailure("refused"));
  await expect(begun).rejects.toMatchObject({ kind: "internal" });
  expect([first.calls.length, second.calls.length]).toEqual([1, 0]);
  const later = runBatch(routing, [sequence("c")]);
  await first.last.accept();
  await first.last.send(gaveUp("c", "deadline_exceeded"));
  await later.ended;
  expect(later.received).toEqual([gaveUp("c", "deadline_exceeded")]);
});

describe("a backend that refuses a call", () => {
  const ofTenant = (tenant: string, id: string) => sequence(id, { tenant });

  /** Two sequences that the first backend began and lost, and that were then sent to the second one. */
  async function begunElsewhere() {
    const batch = await sent([ofTenant("x", "a"), ofTenant("bad", "b")]);
    await batch.first.last.send(framesFor(sequence("a"))[0], framesFor(sequence("b"))[0]);
    await batch.first.last.fail("broken");
    return batch;
  }

  test("of several tenants gets each tenant's sequences once more, in a call of their own, and only those at fault end", async () => {
    const tenants = { a: "x", b: "bad", c: "y", d: "x", e: "slow" };
    const sequences = Object.entries(tenants).map(([id, tenant]) => ofTenant(tenant, id));
    const { routing, first, second, begun, ended, of } = await sent(sequences, { isWaiting: true });
    answerAll(routing, (call) => {
      const [{ tenant }] = call.batch.sequences;
      return tenant === "bad" ? call.refuse(callFailure("refused")) : tenant !== "slow" && call.accept();
    });
    await first.last.refuse(callFailure("refused"));
    // The other tenants' sequences do not wait for the slow tenant's call, which is not answered yet.
    await begun;
    expect(first.calls.slice(1).map(({ ids }) => ids)).toEqual([["a_1", "d_1"], ["b_1"], ["c_1"], ["e_1"]]);
    await first.calls[4].accept();
    for (const call of first.calls.slice(1)) await call.send(...call.batch.sequences.flatMap(framesFor));
    await ended;
    expect(of("b")).toMatchObject([{ type: "error", kind: "internal" }]);
    for (const id of ["a", "c", "d", "e"]) expect(of(id)).toEqual(framesFor(sequence(id)));
    expect(second.calls).toEqual([]);
  });

  test("gets no more parts of the call than the retry budget allows; if it accepts none all sequences end", async () => {
    const routing = routed(1, { retries: new Budget({ capacity: 4, earned: 0 }) });
    const [backend] = routing.backends;
    backend.answer = (call) => void call.refuse(callFailure("refused"));
    for (const calls of [1 + 3, 1 + 1, 1]) {
      const before = backend.calls.length;
      const { begun } = runBatch(routing, [ofTenant("x", "a"), ofTenant("y", "b"), ofTenant("z", "c")]);
      await expect(begun).rejects.toMatchObject({ kind: "internal" });
      expect(backend.calls.length - before).toBe(calls);
    }
  });

  test.each([
    [callFailure("refused"), { kind: "internal" }],
    [callFailure("overloaded", 7), { kind: "overloaded", retryAfterSeconds: 7 }],
  ])(
    "and then every part of it: clients get the temporary error, if any (%s), and no error of a cancelled sequence",
    async (failure, error) => {
      const sequences = [ofTenant("x", "a"), ofTenant("bad", "b"), ofTenant("y", "c")];
      const { first: backend, run, begun } = await sent(sequences, { backends: 1, isWaiting: true });
      await backend.last.refuse(callFailure("refused"));
      run.cancel(["a"]);
      await backend.calls[2].refuse(callFailure("refused"));
      await backend.calls[3].refuse(failure);
      await expect(begun).rejects.toMatchObject(error);
    },
  );

  test("that another backend had begun: an accepted part continues after the tokens that its client has", async () => {
    const { routing, first, second, ended, of } = await begunElsewhere();
    await second.last.refuse(callFailure("refused"));
    await serve(second.calls[1]);
    await second.calls[2].refuse(callFailure("refused"));
    await ended;
    expect(of("a")).toEqual(framesFor(sequence("a")));
    const moves = routing.events.filter((event) => !event.startsWith("ejected"));
    expect(moves).toEqual([`resumed ${nameOf(routing, first)} 1`]);
  });
});

test.each<ErrorKind>(["generation_failed", "adapter_outdated"])(
  "a sequence that ends in %s mid-stream is sent to no other backend; the rest of its batch continues",
  async (kind) => {
    const { routing, first, begun, ended, of } = await sent([sequence("a"), sequence("b")], { backends: 3 });
    await begun;
    const [token] = framesFor(sequence("a"));
    await first.last.send(token, gaveUp("a", kind));
    await first.last.send(...framesFor(sequence("b")));
    await ended;
    expect(of("a")).toEqual([token, gaveUp("a", kind)]);
    expect(of("b")).toEqual(framesFor(sequence("b")));
    for (const backend of routing.backends) if (backend !== first) expect(backend.calls).toEqual([]);
    // The backend is not blamed for the sequence's error.
    expect(routing.events).toEqual([]);
  },
);

test("if both of two backends are unavailable the first is called again: in a rolling restart it is back by then", async () => {
  const { first, second, begun, ended, received } = await sent([sequence("a")], { isWaiting: true });
  await first.last.refuse(callFailure("unavailable"));
  await second.last.refuse(callFailure("unavailable"));
  expect(first.calls).toHaveLength(2);
  await serve(first.last);
  await begun;
  await ended;
  expect(received).toEqual(framesFor(sequence("a")));
});

test("where no backend is left the client gets `overloaded` with the shortest wait, even if other backends are down", async () => {
  const { routing, first, begun } = await sent([sequence("a")], { backends: 3, isWaiting: true });
  const rest = [callFailure("unreachable"), callFailure("overloaded", 9), callFailure("unreachable")];
  answerAll(routing, (call) => call.refuse(rest.pop()!));
  await first.last.refuse(callFailure("overloaded", 4));
  await expect(begun).rejects.toMatchObject({ kind: "overloaded", retryAfterSeconds: 4 });
  // The unreachable backend was asked once more, the overloaded ones were not.
  expect(routing.backends.map(({ calls }) => calls.length).sort()).toEqual([1, 1, 2]);
});

test("where no backend is left: a sequence that ends every backend fails after a number of them, though each sent a token", async () => {
  const routing = routed(9);
  answerAll(routing, async (call) => {
    await call.accept();
    await call.send(framesFor(call.batch.sequences[0])[0]);
    await call.fail("broken");
  });
  const { ended, received } = runBatch(routing, [sequence("a", { maxTokens: 99 })]);
  await ended;
  expect(received.slice(0, -1)).toEqual(framesFor(sequence("a", { maxTokens: 99 })).slice(0, maxLosses));
  expect(received.at(-1)).toMatchObject({ type: "error", kind: "backend_unavailable" });
});

test("where no backend is left: with a used-up retry budget nothing is sent again", async () => {
  const retries = new Budget({ capacity: 3, earned: 0 });
  const routing = routed(2, { retries });
  answerAll(routing, (call) => call.refuse(callFailure("failing")));
  for (let i = 0; i < 10; i++)
    await expect(runBatch(routing, [sequence("a")]).begun).rejects.toMatchObject({ kind: "backend_unavailable" });
  expect(routing.backends.reduce((sum, { calls }) => sum + calls.length, 0)).toBe(10 + 3);
});

const several = "http://{name}.b";

/** One address whose processes `p0` and `p1` have each answered. */
async function twoProcesses() {
  const routing = routed(1, { urls: [several] });
  const [backend] = routing.backends;
  for (const [i, name] of ["p0", "p1"].entries()) {
    const { ended } = runBatch(routing, [sequence(`w${i}`)]);
    expect(backend.last.process).toBeNull();
    await serve(backend.last, name);
    await ended;
  }
  const { run, ended, of } = runBatch(routing, [sequence("a"), sequence("b")]);
  const first = backend.last;
  await first.accept(null, first.process);
  const second = first.process === "p0" ? "p1" : "p0";
  return { routing, backend, run, ended, of, first, second };
}

test("an address of which one process is known is not called twice while another address is fit", async () => {
  const urls = [several, "http://{name}.c"];
  const { run, first, second } = await sent([sequence("a")], { urls, isWaiting: true });
  await first.last.accept(null, "p0");
  await first.last.fail("broken");
  expect(second.calls).toHaveLength(1);
  run.stop();
});

test("at an address of several processes a lost sequence resumes at the other process by name, and is cancelled there", async () => {
  const { backend, run, ended, of, first, second } = await twoProcesses();
  await first.send(framesFor(sequence("a"))[0], framesFor(sequence("b"))[0]);
  await first.fail("broken");
  expect(backend.last).toMatchObject({ ids: ["a_1", "b_1"], process: second });
  await backend.last.accept(null, second);
  run.cancel(["b"]);
  expect([backend.cancelled, backend.cancelledAt]).toEqual([["b_1"], [second]]);
  await backend.last.send(...framesFor(backend.last.batch.sequences[0]));
  await ended;
  expect(of("a")).toEqual(framesFor(sequence("a")));
});

test("at an address of several processes a refusal counts against the process that gave it, though the call named none", async () => {
  const { routing, first: backend, ended } = await sent([sequence("a")], { urls: [several], isWaiting: true });
  await backend.last.refuse(callFailure("unavailable", 2, "p0"));
  expect(routing.events).toEqual([`ejected ${several}#p0`, `retried ${several}#p0 1`]);
  await serve(backend.last, "p1");
  await ended;
});

test("a client that leaves has its sequence cancelled at the backend; the last one ends the call", async () => {
  const { first, second, run, ended, received } = await sent([sequence("a"), sequence("b")], { isWaiting: true });
  run.cancel(["a"]);
  expect(first.cancelled).toEqual([]);
  await first.last.accept();
  // The cancellation was held back until now: a backend can cancel only what it has accepted.
  expect(first.cancelled).toEqual(["a"]);
  await first.last.send(gaveUp("a", "cancelled"), framesFor(sequence("b"))[0]);
  run.cancel(["b"]);
  await ended;
  expect(first.last.signal.aborted).toBe(true);
  expect(received).toEqual([framesFor(sequence("b"))[0]]);
  expect(second.calls).toEqual([]);
});

test("whatever backends do, each client gets its own frames in order, whole or ended by one error", async () => {
  const step = fc.record({
    /** Rounds of frames that all sequences of the call get before `what` happens. */
    after: fc.nat(8),
    what: fc.constantFrom(
      ...(["go on", "go on", "broken", "silent", "end", "give up", "refuse", "overload", "repeat", "pass"] as const),
    ),
    pick: fc.nat(9),
  } as const);
  let moved = 0;
  const property = fc.asyncProperty(
    fc.integer({ min: 1, max: 4 }),
    fc.integer({ min: 1, max: 6 }),
    fc.array(step, { maxLength: 12 }),
    fc.option(fc.nat(5)),
    async (backends, count, script, refused) => {
      const routing = scriptedRouting(backends);
      const isRefusedCall = ({ ids }: ScriptedCall) => ids.some((id) => id.split("_")[0] === `s${refused}`);
      const steps = [...script];
      const answer = async (call: ScriptedCall) => {
        const rows = call.batch.sequences.map(framesFor);
        let current = steps.shift();
        if (isRefusedCall(call)) return call.refuse(callFailure("refused"));
        if (current?.what === "refuse") return call.refuse(callFailure(current.pick < 5 ? "unavailable" : "failing"));
        if (current?.what === "overload") return call.refuse(callFailure("overloaded"));
        await call.accept();
        for (let sent = 0; rows.some((row) => row.length > 0) && !call.signal.aborted; sent++) {
          if (current && sent >= current.after) {
            const { what, pick } = current;
            current = steps.shift();
            if (what === "broken" || what === "silent") return call.fail(what);
            if (what === "end") return call.fail(null);
            if (what === "pass") await routing.pass(1000);
            const row = rows[pick % rows.length];
            if (what === "give up" && row.length > 0) {
              await call.send(gaveUp(row.splice(0)[0].id, "backend_unavailable"));
            } else if (what === "repeat") {
              await call.send(framesFor(call.batch.sequences[0])[0]);
              return call.fail("broken");
            }
          }
          await call.send(...rows.flatMap((row) => row.splice(0, 1)));
        }
      };
      answerAll(routing, answer);
      const sequences = Array.from({ length: count }, (_, i) =>
        sequence(`s${i}`, {
          maxTokens: i * 2,
          tenant: `t${i % 3}`,
          promptLogprobs: i % 2 === 0,
          sampling: { ...sequenceRequest("").sampling, seed: i },
        }),
      );
      const { begun, ended, of } = runBatch(routing, sequences);
      const isRefused = await begun.then(
        () => false,
        () => true,
      );
      if (!isRefused) {
        await passUntil(ended, routing);
        for (const one of sequences) {
          const whole = framesFor(one);
          const got = of(one.id);
          const last = got[got.length - 1];
          if (last.type === "error") expect(got.slice(0, -1)).toEqual(whole.slice(0, got.length - 1));
          else expect(got).toEqual(whole);
        }
      }
      moved += routing.events.filter((event) => event.startsWith("resumed")).length;
      await expectIdle(routing);
    },
  );
  await fc.assert(property, { numRuns: 300 }); // a failure prints its seed
  expect(moved).toBeGreaterThan(50);
});
