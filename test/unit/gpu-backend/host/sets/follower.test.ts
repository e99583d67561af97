/** How a backend follows the pointer: sets without engines, a bucket in memory, real folders, and the test's own clock. */
import { mkdir, readdir, readFile, utimes, writeFile } from "node:fs/promises";
import path from "node:path";
import { beforeAll, beforeEach, expect, test } from "vitest";
import type { EngineInfo } from "../../../../../gpu-backend/engine/messages.ts";
import { Follower, failedMs, refusedMs } from "../../../../../gpu-backend/host/sets/follower.ts";
import { type ServingSet, ServingSets } from "../../../../../gpu-backend/host/sets/serving-sets.ts";
import { setDownloads } from "../../../../../gpu-backend/host/sets/set-folder.ts";
import { type ArtifactSet, readArtifactSet } from "../../../../../infra/publish/artifact-set.ts";
import { objectName, pointerName } from "../../../../../shared/artifacts/bucket.ts";
import { type Manifest, parseManifest } from "../../../../../shared/artifacts/manifest.ts";
import { sha256Hex } from "../../../../../shared/bytes.ts";
import { MemoryBucket, publishTo } from "../../../../support/memory-bucket.ts";
import { temporaryFolder } from "../../../../support/temporary-folder.ts";
import { variantOf, writeTinyModel } from "../../../../support/tiny-model.ts";

const graceMs = 1000;
const folder = temporaryFolder();
let published: ArtifactSet[];
let otherModel: ArtifactSet;
/** A set for the same weights that shares no file with the others. */
let otherSame: ArtifactSet;
beforeAll(async () => {
  const model = path.join(folder, "model");
  await writeTinyModel(model);
  const folders = await Promise.all(["one", "two"].map((name) => variantOf(model, path.join(folder, name), name)));
  published = await Promise.all([path.join(model, "artifacts"), ...folders].map(readArtifactSet));
  otherSame = await readArtifactSet(await variantOf(model, path.join(folder, "same"), "same", { everyFile: true }));
  await writeTinyModel(path.join(folder, "other"), 8);
  otherModel = await readArtifactSet(path.join(folder, "other", "artifacts"));
});

let store: MemoryBucket;
let sets: ServingSets;
let follower: Follower;
let nowMs: number;
let told: [string, string | null, string?][];
let closed: string[];
let dropped: string[];
let busy: Set<string>;
/** Hashes of the sets whose engine restarts. */
let down: Set<string>;
let startFault: Error | null;
let cache: string;
let reads: string[];

beforeEach(async () => {
  [store, nowMs, told, closed, reads] = [new MemoryBucket(), 0, [], [], []];
  dropped = [];
  [busy, down, startFault] = [new Set(), new Set(), null];
  cache = temporaryFolder();
  sets = new ServingSets(() => nowMs);
  follower = new Follower({
    read,
    download: setDownloads(cache, read, () => new Date(nowMs)),
    sets,
    start: async (directory) => {
      if (startFault) throw startFault;
      return fakeSet(path.basename(directory), await readFile(path.join(directory, "manifest.json"), "utf8"));
    },
    limits: { sets: 2, graceMs },
    now: () => nowMs,
    observer: {
      adopted: (manifest) => told.push(["adopted", manifest]),
      refused: (manifest, cause) => told.push(["refused", manifest, String(cause)]),
      retired: (manifest) => told.push(["retired", manifest]),
    },
  });
});

async function read(name: string, mostBytes: number) {
  reads.push(name);
  return (await store.read(name))?.slice(0, mostBytes + 1) ?? null;
}

function fakeSet(manifestHash: string, manifest: string): ServingSet {
  const info = { manifestHash, manifest: parseManifest(manifest) } as EngineInfo;
  const never = () => Promise.reject(new Error("not asked for"));
  return {
    info,
    engine: {
      info,
      submit() {},
      cancel: (ids) => ids.filter((id) => id.startsWith(manifestHash.slice(0, 4))),
      hiddenStates: never,
      keysOf: never,
      dropMemory: (tenant, hash) => void dropped.push(`${manifestHash.slice(0, 4)} ${tenant} ${hash}`),
      requireServing() {
        if (down.has(manifestHash)) throw new Error(`${manifestHash} is restarting`);
        return info;
      },
      stats: null,
      get isServing() {
        return !down.has(manifestHash);
      },
      get openSequences() {
        return busy.has(manifestHash) ? 1 : 0;
      },
    },
    ...{ fitter: { fit: never }, excerpts: never },
    tokenizer: never,
    close: async () => void closed.push(manifestHash),
  };
}
const publish = (set: ArtifactSet) => publishTo(store, set, true);
/** Publishes sets one after another. After each the backend looks at the pointer. */
async function follow(...sets: ArtifactSet[]) {
  for (const set of sets) {
    await publish(set);
    await follower.applyPointer();
  }
}
const hashes = () => published.map(({ manifestHash }) => manifestHash);

test("before anything is published nothing is served; then the published set is, and its successor beside it", async () => {
  await follower.applyPointer();
  expect([sets.info, sets.manifests, told]).toEqual([null, [], []]);
  expect(() => sets.of(hashes()[0])).toThrow(/starting/);
  const [a, b] = hashes();
  await follow(published[0], published[1]);
  expect(told.map(String)).toEqual([`adopted,${a}`, `adopted,${b}`]);
  expect([sets.manifests, sets.info?.manifestHash]).toEqual([[a, b], b]);
  for (const hash of [a, b]) expect(sets.of(hash).info.manifestHash).toBe(hash);
  // A call with an unknown hash goes to the preferred set, which then refuses it.
  expect(sets.of("f".repeat(64)).info.manifestHash).toBe(b);
  expect(sets.cancel([`${a.slice(0, 4)}-1`, `${b.slice(0, 4)}-2`, "none"])).toHaveLength(2);
  sets.dropMemory("acme", null);
  expect(dropped).toEqual([a, b].map((manifest) => `${manifest.slice(0, 4)} acme null`));
});

test("the old set ends when it is idle and was not asked for during the grace; a rollback before that starts nothing", async () => {
  const [a, b] = hashes();
  await follow(...published.slice(0, 2));
  nowMs += graceMs - 1;
  sets.of(a);
  await follower.applyPointer();
  nowMs += graceMs - 1;
  await follower.applyPointer();
  expect(closed).toEqual([]);
  await follow(published[0]);
  expect([sets.info?.manifestHash, sets.manifests]).toEqual([a, [a, b]]);
  nowMs += graceMs;
  busy.add(b);
  await follower.applyPointer();
  expect(closed).toEqual([]);
  busy.delete(b);
  // The old set stays for the grace period: sequences that ran until now may be resumed in it.
  nowMs += graceMs - 1;
  await follower.applyPointer();
  expect(closed).toEqual([]);
  nowMs += 1;
  await follower.applyPointer();
  expect([closed, sets.manifests]).toEqual([[b], [a]]);
  expect(told.map(String)).toEqual([`adopted,${a}`, `adopted,${b}`, `retired,${b}`]);
});

test("while the engine of the new set restarts, the old one is served first and does not end", async () => {
  const [a, b, c] = hashes();
  await follow(...published.slice(0, 2));
  down.add(b);
  expect([sets.requireServing().manifestHash, sets.serving, sets.manifests]).toEqual([a, [a], [a, b]]);
  nowMs += 2 * graceMs;
  await follower.applyPointer();
  expect(closed).toEqual([]);
  // The third set replaces the one whose engine restarts, not the one that serves.
  await follow(published[2]);
  expect([closed, sets.serving, sets.requireServing().manifestHash]).toEqual([[b], [a, c], c]);
  // If no set serves, the error names the preferred set.
  for (const hash of [a, c]) down.add(hash);
  expect(() => sets.requireServing()).toThrow(`${c} is restarting`);
  down.clear();
  nowMs += graceMs;
  await follower.applyPointer();
  expect([closed, sets.serving]).toEqual([[b, a], [c]]);
});

type Harm = (files: ArtifactSet) => unknown;
const nameOf = (set: ArtifactSet, name: string) => objectName(set.files.get(name)!.sha256);
const harms: [string, Harm, RegExp][] = [
  ["a truncated hyper-network", (s) => truncate(nameOf(s, "hyper-network.safetensors")), /hyper-network.*SHA-256/],
  ["a truncated table of edges", (s) => truncate(nameOf(s, "edge-table.safetensors")), /edge-table.*SHA-256/],
  ["an altered tokenizer", (s) => alter(nameOf(s, "tokenizer.safetensors")), /tokenizer.*SHA-256/],
  ["a manifest that is not what its name says", (s) => alter(nameOf(s, "manifest.json")), /manifest\.json.*SHA-256/],
  ["a missing file", (s) => store.objects.delete(nameOf(s, "tokenizer.safetensors")), /not in the store/],
];
function truncate(name: string): void {
  store.objects.set(name, store.objects.get(name)!.slice(0, -1));
}
function alter(name: string): void {
  store.objects.get(name)![40] ^= 1;
}

test.each(harms)("%s is refused, what is served goes on; mended, it is taken up", async (_, harm, message) => {
  await follow(published[0]);
  await publish(otherSame);
  harm(otherSame);
  for (let i = 0; i < 3; i++) await follower.applyPointer();
  expect(told.slice(1)).toEqual([["refused", otherSame.manifestHash, expect.stringMatching(message)]]);
  expect([sets.manifests, closed]).toEqual([[published[0].manifestHash], []]);
  for (const { sha256, bytes } of otherSame.files.values())
    store.objects.set(objectName(sha256), Uint8Array.from(bytes));
  nowMs += refusedMs;
  await follower.applyPointer();
  expect(sets.info?.manifestHash).toBe(otherSame.manifestHash);
});

/** Publishes the manifest of `otherSame`, changed, with its files; returns its hash. */
async function publishChanged(change: (manifest: Manifest) => unknown): Promise<string> {
  const manifest = structuredClone(otherSame.manifest);
  change(manifest);
  const bytes = new TextEncoder().encode(JSON.stringify(manifest)) as Uint8Array<ArrayBuffer>;
  const hash = await sha256Hex(bytes);
  for (const file of otherSame.files.values()) await store.write(objectName(file.sha256), file.bytes);
  await store.write(objectName(hash), bytes);
  pointTo(hash);
  return hash;
}

test("many bad sets leave the served set's folder, and few of their own", async () => {
  await follow(published[0]);
  // The first sets have a damaged file. The next ones are whole, but their engine does not start.
  for (let i = 0; i < 24; i++) {
    if (i === 12) startFault = new Error("no memory");
    nowMs += failedMs;
    await publishChanged((manifest) => {
      manifest.centroids[0].label = [`bad ${i}`];
      manifest.files["hyper-network.safetensors"].bytes += i < 12 ? 1 : 0;
    });
    await follower.applyPointer();
  }
  expect(told.slice(1).map(([event]) => event)).toEqual(Array(24).fill("refused"));
  const folders = await readdir(cache);
  expect(folders).toContain(published[0].manifestHash);
  expect(folders.length).toBeLessThanOrEqual(10);
});

test("a set that does not start is refused for long, and started again only then", async () => {
  await follow(published[0]);
  await publish(published[1]);
  startFault = new Error("no memory");
  await follower.applyPointer();
  startFault = null;
  nowMs += failedMs - 1;
  await follower.applyPointer();
  expect(sets.manifests).toEqual([published[0].manifestHash]);
  nowMs += 1;
  await follower.applyPointer();
  expect(sets.info?.manifestHash).toBe(published[1].manifestHash);
});

test.each([
  ["that is cut off", () => truncate(pointerName), () => null, /JSON/],
  ["that names nothing there", () => pointTo("e".repeat(64)), () => "e".repeat(64), /not in the store/],
  ["to artifacts for other weights", () => publish(otherModel), () => otherModel.manifestHash, /other|weights/],
])("a pointer %s changes nothing", async (_, harm, refused, message) => {
  await follow(published[0]);
  await harm();
  await follower.applyPointer();
  expect(told.slice(1)).toEqual([["refused", refused(), expect.stringMatching(message)]]);
  expect(sets.info?.manifestHash).toBe(published[0].manifestHash);
});
function pointTo(manifest: string): void {
  const pointer = { format: 1, switches: [{ manifest, at: "2026-11-25T00:00:00.000Z" }] };
  store.objects.set(pointerName, new TextEncoder().encode(JSON.stringify(pointer)) as Uint8Array<ArrayBuffer>);
}

test("whole files in a set's folder are not read again, damaged ones are", async () => {
  await follow(published[0]);
  const { manifestHash } = published[0];
  const objects = () => reads.filter((name) => name !== pointerName);
  expect(objects()).toHaveLength(4);
  const again = setDownloads(cache, read, () => new Date(nowMs));
  reads = [];
  await again(manifestHash, []);
  expect(objects()).toEqual([]);
  await writeFile(path.join(cache, manifestHash, "tokenizer.safetensors"), "half");
  await again(manifestHash, []);
  expect(objects()).toEqual([nameOf(published[0], "tokenizer.safetensors")]);
});

test("the folders that were used last stay", async () => {
  const download = setDownloads(cache, read, () => new Date(nowMs));
  const [first, second] = published;
  await publish(first);
  await publish(second);
  const strangers = Array.from({ length: 8 }, (_, i) => String(i).repeat(64));
  for (const name of strangers) {
    await mkdir(path.join(cache, name));
    await writeFile(path.join(cache, name, "manifest.json"), "whole");
    await utimes(path.join(cache, name), new Date(nowMs), new Date(nowMs));
    nowMs += 1000;
  }
  await download(first.manifestHash, []);
  nowMs += 1000;
  await download(second.manifestHash, []);
  const left = [...strangers.slice(2), first.manifestHash, second.manifestHash];
  expect((await readdir(cache)).sort()).toEqual(left.sort());
});
