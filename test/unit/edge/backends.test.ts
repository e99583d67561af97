import fc from "fast-check";
import { expect, test } from "vitest";
import { holdingOf, readinessOf } from "../../../edge/dispatch/routing.ts";
import type { Region } from "../../../edge/platform/region.ts";
import type { Frame } from "../../../shared/contracts/inference.ts";
import { sequenceRequest } from "../../support/frames.ts";
import {
  callFailure,
  framesFor,
  runBatch,
  ScriptedBackend,
  type ScriptedRouting,
  scriptedRouting,
} from "../../support/scripted-backends.ts";

const hash = "a".repeat(64);
const ready = (manifestHash: string) => ({ status: "ready" as const, model: "m", servedAs: "m", manifestHash });

/** Sends a sequence; resolves to its frames. */
async function sent(routing: ScriptedRouting, id: string): Promise<Frame[]> {
  const { received, ended } = runBatch(routing, [sequenceRequest(id)]);
  await ended;
  return received;
}

/** Accepts each call and answers it whole. */
function healthy(backend: ScriptedBackend): void {
  backend.answer = (call) => {
    void call.accept().then(() => call.send(...call.batch.sequences.flatMap(framesFor)));
  };
}

test("an ejected backend is probed with traffic only, and called again once it is ready", async () => {
  const routing = scriptedRouting(2);
  for (const backend of routing.backends) healthy(backend);
  const run = async (id: string) => {
    await sent(routing, id);
    await routing.settled();
  };
  await run("a");
  const dying = routing.backends.find(({ calls }) => calls.length > 0)!;
  dying.answer = (call) => void call.refuse(callFailure("silent"));
  await run("b");
  expect(dying.calls).toHaveLength(2);
  for (const id of ["c", "d"]) await run(id);
  expect([dying.calls.length, dying.probes]).toEqual([2, 0]);
  await routing.pass(1000);
  expect(dying.probes).toBe(0);
  await run("e");
  expect([dying.calls.length, dying.probes]).toEqual([2, 1]);
  // The probe found the backend not ready, so the next probe comes after a longer pause.
  await run("f");
  await routing.pass(2000);
  dying.ready = ready(hash);
  healthy(dying);
  await run("g");
  expect([dying.calls.length, dying.probes]).toEqual([2, 2]);
  await run("h");
  expect(dying.calls).toHaveLength(3);
  const name = routing.names[routing.backends.indexOf(dying)];
  expect(routing.events).toEqual([`ejected ${name}`, `retried ${name} 1`, `returned ${name}`]);
  expect(routing.timers()).toBe(0);
});

test("a manifest is held by all, some or none of the backends that say in time that they are ready", async () => {
  const [away, hanging, starting] = [new ScriptedBackend(), new ScriptedBackend(), new ScriptedBackend()];
  away.readiness = () => Promise.reject(callFailure("unreachable"));
  hanging.readiness = () => new Promise(() => {});
  const holder = Object.assign(new ScriptedBackend(), { ready: { ...ready("c".repeat(64)), manifests: [hash] } });
  const other = Object.assign(new ScriptedBackend(), { ready: ready("b".repeat(64)) });
  const answers = (...backends: ScriptedBackend[]) => readinessOf([away, hanging, starting, ...backends], 20);
  expect(await answers()).toEqual([]);
  expect(await answers(other, holder)).toEqual([other.ready, holder.ready]);
  const share = async (...backends: ScriptedBackend[]) => holdingOf(await answers(...backends), hash);
  expect(await share()).toBe("none");
  expect(await share(other)).toBe("none");
  expect(await share(other, holder)).toBe("some");
  expect(await share(holder, holder)).toBe("all");
});

/** weur and eeur are in the EU; enam and the one without a region are not. */
function inEurope(regions: (Region | null)[] = ["weur", "eeur", "enam", null]) {
  const routing = scriptedRouting(regions.length, { regions, region: "weur", jurisdiction: "eu" });
  const open = (id: string) => sent(routing, id);
  const outside = () => routing.backends.flatMap(({ calls, probes }, i) => (i < 2 ? [] : [calls.length, probes]));
  return { ...routing, open, outside };
}

test("only backends of the jurisdiction are called, even if they are slow, fail or break off, and the error says so", async () => {
  const ends = ["unreachable", "silent", "failing", "unavailable", "mismatched", "overloaded", "broken", null] as const;
  const property = fc.asyncProperty(fc.array(fc.constantFrom(...ends), { maxLength: 12 }), async (answers) => {
    const { backends, open, outside, pass } = inEurope();
    const rest = [...answers];
    for (const backend of backends) {
      backend.answer = (call) => {
        const kind = rest.shift() ?? "unreachable";
        if (kind === null) void call.accept().then(() => call.fail("broken"));
        else void call.refuse(callFailure(kind));
      };
    }
    for (const id of ["a", "b", "c"]) {
      const ended = open(id);
      for (let i = 0; i < 6; i++) await pass(5000);
      expect(JSON.stringify((await ended).at(-1))).toContain("jurisdiction eu");
    }
    expect(outside()).toEqual([0, 0, 0, 0]);
  });
  await fc.assert(property, { numRuns: 40 }); // a failure prints its seed
});

test("a request whose jurisdiction has no backends is refused at once", async () => {
  const { open, backends } = inEurope(["enam", null]);
  const message = expect.stringContaining("configured in the jurisdiction eu");
  expect(await open("a")).toMatchObject([{ type: "error", kind: "backend_unavailable", message }]);
  expect(backends.flatMap(({ calls }) => calls)).toEqual([]);
});
