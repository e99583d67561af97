/** Which set an isolate serves, over a source in memory: when it looks for a new one, which it adopts, and which it refuses. */
import { beforeEach, expect, test } from "vitest";
import type { ArtifactSource } from "../../../edge/artifacts/artifact-bucket.ts";
import { ArtifactSets, artifactLimits } from "../../../edge/artifacts/artifact-sets.ts";
import type { Artifacts } from "../../../edge/artifacts/artifacts.ts";
import type { Holding } from "../../../edge/dispatch/routing.ts";
import { type Pointer, switchedTo } from "../../../shared/artifacts/bucket.ts";

const hashOf = (digit: string) => digit.repeat(64);
const [a, b, c, embedded] = ["a", "b", "c", "0"].map(hashOf);
const setOf = (manifestHash: string) => ({ manifestHash }) as Artifacts;

let nowMs: number;
let pointer: Pointer | null;
let broken: Set<string>;
let holding: Map<string, Holding>;
let calls: string[];
let told: unknown[][];
let works: Promise<void>[];
let fault: Error | null;

beforeEach(() => {
  [nowMs, pointer, fault] = [1000, null, null];
  [broken, holding] = [new Set(), new Map()];
  [calls, told, works] = [[], [], []];
});

const source: ArtifactSource = {
  async pointer() {
    calls.push("pointer");
    if (fault) throw fault;
    return pointer;
  },
  async load(hash) {
    calls.push(`load ${hash[0]}`);
    if (broken.has(hash)) throw new Error(`${hash[0]} is broken`);
    return setOf(hash);
  },
};

function sets(assets: () => Promise<Artifacts> = async () => setOf(embedded), from: ArtifactSource | null = source) {
  const made = new ArtifactSets({
    source: from,
    assets,
    holding: async (hash) => {
      calls.push(`held ${hash[0]}`);
      return holding.get(hash) ?? "all";
    },
    now: () => nowMs,
    background: (work) => void works.push(work),
    observe({ event, manifest, from, cause }) {
      const before = from === undefined ? [] : [from?.[0] ?? null];
      const why = cause === undefined ? [] : [String(cause)];
      told.push([event.replace("artifacts_", ""), ...before, manifest?.[0] ?? null, ...why]);
    },
  });
  return {
    current: async () => (await made.current()).manifestHash,
    of: async (hash: string) => (await made.of(hash))?.manifestHash ?? null,
  };
}
/** Publishes a set, and returns an isolate that serves it. */
async function serving(manifest: string) {
  publish(manifest);
  const isolate = sets();
  await isolate.current();
  return isolate;
}
const publish = (manifest: string) => {
  pointer = switchedTo(manifest, new Date(0), pointer);
};
/** Advances the clock, sends a request, and waits for the background work that the request started. Returns the set that was served. */
async function later({ current }: { current: () => Promise<string> }, ms: number = artifactLimits.refreshMs) {
  nowMs += ms;
  const served = await current();
  await Promise.all(works);
  return served;
}

test("if nothing is published the assets are served, and no backend is asked", async () => {
  expect(await sets().current()).toBe(embedded);
  expect(calls).toEqual(["pointer"]);
  expect(await sets(undefined, null).current()).toBe(embedded);
});

test("many first requests load once; later ones look for a new set in the background, every few seconds at most", async () => {
  publish(a);
  const isolate = sets();
  expect(await Promise.all([isolate.current(), isolate.current(), isolate.current()])).toEqual([a, a, a]);
  expect(calls).toEqual(["pointer", "load a", "held a"]);
  calls = [];
  nowMs += artifactLimits.refreshMs - 1;
  await isolate.current();
  expect(calls).toEqual([]);
  nowMs += 1;
  for (let i = 0; i < 5; i++) await isolate.current();
  expect(calls).toEqual(["pointer"]);
});

test("a new set is served from the request after the one that found it, and to the first request after 40 s", async () => {
  const isolate = await serving(a);
  publish(b);
  expect(await later(isolate)).toBe(a);
  expect(await isolate.current()).toBe(b);
  publish(c);
  nowMs += 40_000;
  expect(await isolate.current()).toBe(c);
  expect(told).toEqual([
    ["switched", null, "a"],
    ["switched", "a", "b"],
    ["switched", "b", "c"],
  ]);
});

test("while no ready backend, or only some, have the new set the old one is served, and the new one is loaded once only", async () => {
  const isolate = await serving(a);
  publish(b);
  holding.set(b, "none");
  for (let i = 0; i < 3; i++) expect(await later(isolate)).toBe(a);
  expect(await isolate.current()).toBe(a);
  expect(told.filter(([what]) => what === "awaited")).toHaveLength(3);
  holding.delete(b);
  await later(isolate);
  expect(await isolate.current()).toBe(b);
  expect(calls.filter((call) => call === "load b")).toHaveLength(1);
  // While only some backends hold a new set, the old set is served for some time, so that those backends are not overloaded.
  publish(c);
  holding.set(c, "some");
  const looks = artifactLimits.spreadMs / artifactLimits.refreshMs;
  for (let i = 0; i < looks; i++) await later(isolate);
  expect(await isolate.current()).toBe(b);
  await later(isolate);
  expect(await isolate.current()).toBe(c);
});

test("a set that cannot be loaded is refused and reported; the old one stays, and the new one is tried again later", async () => {
  const isolate = await serving(a);
  publish(b);
  broken.add(b);
  for (let i = 0; i < 3; i++) expect(await later(isolate)).toBe(a);
  expect(told.slice(1)).toEqual([["refused", "b", "Error: b is broken"]]);
  broken.delete(b);
  await later(isolate, artifactLimits.refusedMs);
  expect(await isolate.current()).toBe(b);
  // A pointer that cannot be read, or is gone, changes nothing.
  fault = new Error("away");
  expect(await later(isolate)).toBe(b);
  expect(told.slice(3)).toEqual([["refused", null, "Error: away"]]);
  [fault, pointer] = [null, null];
  await later(isolate);
  expect(await isolate.current()).toBe(b);
});

test("a new isolate serves the set before if the new one is broken or no backend has it", async () => {
  for (const hash of [a, b]) publish(hash);
  broken.add(b);
  expect(await sets().current()).toBe(a);
  broken.delete(b);
  holding.set(b, "some");
  expect(await sets().current()).toBe(a);
  holding.set(b, "none");
  expect(await sets().current()).toBe(a);
  holding.set(a, "none");
  expect(await sets().current()).toBe(embedded);
  holding.set(a, "some").set(embedded, "some");
  expect(await sets().current()).toBe(a);
  // If no backend holds any set, the published one is served.
  for (const hash of [a, embedded]) holding.set(hash, "none");
  expect(await sets().current()).toBe(b);
});

test("a new isolate that cannot read the pointer serves the assets; without them the next request tries again", async () => {
  publish(a);
  fault = new Error("away");
  expect(await sets().current()).toBe(embedded);
  const isolate = sets(() => Promise.reject(new Error("no assets")));
  await expect(isolate.current()).rejects.toThrow("no assets");
  fault = null;
  expect(await isolate.current()).toBe(a);
});

test("a look-up that never ends does not stop later ones", async () => {
  publish(a);
  let isStuck = false;
  const sticky = { ...source, pointer: () => (isStuck ? new Promise<never>(() => {}) : source.pointer()) };
  const isolate = sets(undefined, sticky);
  await isolate.current();
  isStuck = true;
  nowMs += artifactLimits.refreshMs;
  await isolate.current();
  isStuck = false;
  works = [];
  publish(b);
  nowMs += artifactLimits.checkMs;
  await isolate.current();
  await Promise.all(works);
  expect(await isolate.current()).toBe(b);
});

test("sets that are found by their manifest: held ones, the published one, the one before, and until then the deployed one", async () => {
  const isolate = await serving(a);
  expect([await isolate.of(a), await isolate.of(embedded), await isolate.of(b)]).toEqual([a, embedded, null]);
  publish(b);
  expect(await later(isolate)).toBe(a);
  expect(await later(isolate)).toBe(b);
  calls = [];
  expect([await isolate.of(a), await isolate.of(b)]).toEqual([a, b]);
  expect(calls).toEqual([]);
  // A new isolate can read only the published set and the one before it.
  expect([await sets().of(a), await sets().of(c), await sets().of(embedded)]).toEqual([a, null, null]);
  broken.add(a);
  expect(await sets().of(a)).toBeNull();
});
