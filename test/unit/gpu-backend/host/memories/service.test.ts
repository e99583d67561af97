/** Memories that are built from documents, with an engine that the test plays: reused, bounded, deleted. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { windowsOf } from "../../../../../gpu-backend/host/memories/document-windows.ts";
import { idleMaking } from "../../../../../gpu-backend/host/memories/idle-making.ts";
import { MemoryService, type RunningBuild } from "../../../../../gpu-backend/host/memories/service.ts";
import { unpackMemory } from "../../../../../gpu-backend/memory/memory.ts";
import { TenantStore, type TenantStoreSettings } from "../../../../../gpu-backend/tenant-files/tenant-store.ts";
import type { Documents, SequenceRequest } from "../../../../../shared/contracts/inference.ts";
import { limits } from "../../../../../shared/contracts/limits.ts";
import { memoryHash } from "../../../../../shared/contracts/memory-hash.ts";
import { temporaryFolder } from "../../../../support/temporary-folder.ts";

const manifestHash = "ab".repeat(32);
const [D, contextTokens, vocabularySize] = [8, 1024, 256];
const source = { manifestHash, numerics: "cpu-fp32" };

let [directory, isIdle] = ["", true];
let service: MemoryService;
/** Prompts that the engine computed. */
let computed: number[][];
/** Called before the engine answers. */
let before: (prompts: readonly number[][], signal: AbortSignal) => Promise<void>;
let dropped: (string | null)[][];

beforeEach(async () => {
  directory = temporaryFolder();
  [computed, dropped] = [[], []];
  before = async () => {};
  service = serviceOf();
});

/** A key holds the token at its position and the one before, so a window without its context has another key. */
const keyOf = (ids: readonly number[], t: number) =>
  new Int8Array(D).fill(ids[t] % 100).fill((ids[t - 1] ?? 0) % 100, 4);

function serviceOf(rest: Partial<TenantStoreSettings> = {}): MemoryService {
  const centroids = ["c0", "c1", "c2"].map((id) => ({ id, memory: { tokens: 9, gain: null } }));
  const info = { ...source, manifest: { centroids, model: { contextTokens, hiddenSize: D } } };
  const excerpts = async () => centroids.map(({ id }, k) => [{ name: id, offset: 0, ids: Int32Array.of(k, 2, 3, 4) }]);
  const keysOf = async (sequences: SequenceRequest[], signal: AbortSignal) => {
    const prompts = sequences.map(({ promptIds }) => promptIds);
    await before(prompts, signal);
    computed.push(...prompts);
    return prompts.map((ids) => Int8Array.from(ids.flatMap((_, t) => [...keyOf(ids, t)])));
  };
  const tokenizer = {
    textStart: [],
    encode: (text: string) => [...Buffer.from(text)],
    textPieceOf: () => new Uint8Array(1),
  };
  const settings = { directory, tenantBytes: 10_000_000, totalBytes: 100_000_000, now: () => new Date(), ...rest };
  let ids = 0;
  return new MemoryService({
    setOf: () => ({ engine: { keysOf, info }, tokenizer: async () => tokenizer, excerpts }) as never,
    store: new TenantStore(settings),
    dropMemory: (...which) => void dropped.push(which),
    ...{ newId: () => `${ids++}`, isIdle: () => isIdle },
  });
}
const documentsOf = (...texts: string[]): Documents => texts.map((text, i) => ({ name: `d${i}`, text }));
const textOf = (length: number, seed: number) =>
  Array.from({ length }, (_, i) => String.fromCharCode(32 + ((i * 7 + seed * 13 + i * i) % 90))).join("");
const hashOf = (documents: Documents, tenant = "acme") => memoryHash(tenant, manifestHash, documents);
async function begin(
  documents: Documents,
  signal = new AbortController().signal,
  tenant = "acme",
): Promise<RunningBuild> {
  const hash = await hashOf(documents, tenant);
  return service.begin(tenant, hash, { version: 4, manifestHash, documents }, signal);
}
async function make(documents: Documents, tenant = "acme"): Promise<RunningBuild["build"]> {
  const { build, ready } = await begin(documents, undefined, tenant);
  await ready;
  return build;
}
async function memoryOf(documents: Documents, tenant = "acme") {
  const bytes = await service.store.files.read(tenant, await hashOf(documents, tenant));
  return bytes && unpackMemory(bytes, { manifestHash, hiddenSize: D, vocabularySize });
}

test("a memory has the key of each token that another follows, and that token, document by document", async () => {
  const documents = documentsOf(textOf(1500, 1), "x", textOf(40, 2), textOf(513, 3));
  const build = await make(documents);
  const memory = (await memoryOf(documents))!;
  const ids = documents.map(({ text }) => [...Buffer.from(text)]);
  expect([...memory.nextIds]).toEqual(ids.flatMap((own) => own.slice(1)));
  const keys = ids.flatMap((own) => own.slice(0, -1).flatMap((_, t) => [...keyOf(own, t)]));
  expect(Buffer.from(memory.keys).equals(Buffer.from(Int8Array.from(keys)))).toBe(true);
  const endOf = (i: number) => ids.slice(0, i + 1).reduce((sum, own) => sum + own.length - 1, 0);
  expect(memory.documents).toEqual(documents.map(({ name }, i) => ({ name, firstId: ids[i][0], end: endOf(i) })));
  expect([...memory.starts.subarray(0, 3)]).toEqual([1, 2, 3]);
  expect(build).toMatchObject({ totalTokens: 2054, tokens: 2054, computedTokens: 2053 });
});

test("no window has more than 512 tokens; each but a document's first begins with 64 tokens of the one before", () => {
  const windows = windowsOf([1500, 1, 513, 514], 1024);
  expect(windows.filter(({ document }) => document === 0)).toEqual([
    { document: 0, part: 0, start: 0, from: 0, end: 512 },
    { document: 0, part: 1, start: 448, from: 512, end: 960 },
    { document: 0, part: 2, start: 896, from: 960, end: 1408 },
    { document: 0, part: 3, start: 1344, from: 1408, end: 1499 },
  ]);
  expect(windows.slice(4).map(({ document, end }) => `${document} ${end}`)).toEqual(["2 512", "3 512", "3 513"]);
  for (const { start, end } of windowsOf([100], 16)) expect(end - start).toBeLessThan(16);
});

test("two builds of one memory at once compute it once, a later one nothing; equal documents of another tenant make a memory of its own", async () => {
  const documents = documentsOf(textOf(100, 1));
  const both = await Promise.all([make(documents), make(documents)]);
  expect(both.map(({ computedTokens }) => computedTokens).sort()).toEqual([0, 100]);
  const prompts = computed.length;
  service = serviceOf();
  expect(await make(documents)).toMatchObject({ tokens: 100, computedTokens: 0 });
  expect(computed.length).toBe(prompts);
  expect(await make(documents, "other")).toMatchObject({ computedTokens: 100 });
});

test("a document that another memory has costs nothing, wherever it stands and whatever its name", async () => {
  const [long, short, fresh] = [textOf(1200, 1), textOf(30, 2), textOf(77, 3)];
  await make(documentsOf(textOf(50, 9), long, short));
  service = serviceOf();
  const before = computed.length;
  const grown = documentsOf(short, fresh, long);
  expect(await make(grown)).toMatchObject({ totalTokens: 1307, computedTokens: 77 });
  expect(computed.length - before).toBe(1);
  const alone = serviceOf({ directory: join(directory, "alone") });
  [service] = [alone];
  await make(grown);
  const built = await alone.store.files.read("acme", await hashOf(grown));
  service = serviceOf();
  expect(Buffer.compare(built!, (await service.store.files.read("acme", await hashOf(grown)))!)).toBe(0);
});

test("other hashes, other manifests, too many tokens and too many bytes are refused, and nothing is written", async () => {
  const documents = documentsOf(textOf(100, 1));
  const signal = new AbortController().signal;
  const hash = await hashOf(documents);
  const request = { version: 4 as const, manifestHash, documents };
  const other = "cd".repeat(32);
  const long = documentsOf(..."ab".split("").map((letter) => letter.repeat(limits.memoryTokens / 2 + 1)));
  const refused = async (begun: Promise<RunningBuild>, message: string | RegExp, kind = "invalid_request") =>
    expect(begun).rejects.toMatchObject({ kind, message: expect.stringMatching(message) });
  await refused(service.begin("acme", other, request, signal), hash);
  await refused(service.begin("other", hash, request, signal), "");
  const ofOther = { ...request, manifestHash: other };
  await refused(service.begin("acme", other, ofOther, signal), manifestHash, "manifest_mismatch");
  await refused(begin(long), `${limits.memoryTokens}`);
  await refused(begin(documentsOf("a", "b")), "two tokens");
  service = serviceOf({ tenantBytes: 900 });
  await refused(begin(documents), /\d+ bytes; .* 900 bytes/);
  expect(await readdir(directory)).toEqual([]);
});

test("a memory is gone once it is removed, from the disk first and then from the engines; builds of it end", async () => {
  const [one, other] = [documentsOf(textOf(100, 1)), documentsOf(textOf(100, 2))];
  await make(one);
  before = (_, signal) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const builds = [await begin(other), await begin(other)];
  const isDeleted = ({ ready }: RunningBuild) => expect(ready).rejects.toMatchObject({ kind: "memory_deleted" });
  const ended = Promise.all(builds.map(isDeleted));
  await service.remove("acme", await hashOf(other));
  await ended;
  expect(dropped).toEqual([["acme", await hashOf(other)]]);
  expect(await service.store.has("acme", await hashOf(one))).toBe(true);
  await service.remove("acme", null);
  expect(dropped.at(-1)).toEqual(["acme", null]);
  expect(await readdir(directory)).toEqual([]);
});

test("an idle backend makes one memory at a time, after those that sequences wait for, and stops after a failure", async () => {
  const set = { ...source, manifest: { centroids: [0, 1, 9].map((k) => ({ id: `c${k}`, memory: { gain: null } })) } };
  const failures: unknown[] = [];
  const make = idleMaking({ sets: { info: set as never }, memories: service, failed: (error) => failures.push(error) });
  isIdle = false;
  await make();
  isIdle = true;
  before = async (_, signal) => {
    before = async () => {};
    await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
    signal.throwIfAborted();
  };
  const interrupted = Promise.all([make(), make()]);
  await expect.poll(() => before.length).toBe(0);
  await service.bringOfCentroid(source, "c2");
  await interrupted;
  expect(computed.map(([first]) => first)).toEqual([2]);
  for (let i = 0; i < 4; i++) await make();
  expect(computed.map(([first]) => first)).toEqual([2, 0, 1]);
  expect(failures).toMatchObject([{ kind: "memory_not_found" }]);
  await service.bringOfCentroid(source, "c1");
  expect(computed).toHaveLength(3);
});
