/** The bytes of tenants' adapters, and where they are kept. */

import { createHash } from "node:crypto";
import * as fs from "node:fs/promises";
import { mkdir, mkdtemp, readdir, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path, { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  type OwnAdapterParts,
  ownAdapterHash,
  packOwnAdapter,
  unpackOwnAdapter,
} from "../../../../../gpu-backend/adapters/own/artifact.ts";
import { OwnAdapterStore, type OwnAdapterStoreSettings } from "../../../../../gpu-backend/adapters/own/store.ts";
import type { WriteSystem } from "../../../../../gpu-backend/files.ts";
import {
  type Tensor,
  type TensorFile,
  tensorFrom,
  writeTensorFile,
} from "../../../../../shared/artifacts/tensor-file.ts";

const manifestHash = "ab".repeat(32);
const shape = { manifestHash, gates: 2, vocabularySize: 4 };
const parts: OwnAdapterParts = {
  gates: Float32Array.of(0.5, -1),
  bias: { ids: Int32Array.of(0, 3), values: Float32Array.of(0.25, -0.5) },
};

const now = () => new Date();
const storeOf = (tenantBytes: number, rest: Partial<OwnAdapterStoreSettings> = {}) =>
  new OwnAdapterStore({ directory, tenantBytes, totalBytes: 1_000_000, now, ...rest });
let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "own-adapters-store-"));
});
const folderOf = (tenant: string) => join(directory, "tenants", createHash("sha256").update(tenant).digest("hex"));
afterEach(() => rm(directory, { recursive: true }));

test("parts come back as they were, the missing ones as missing", () => {
  expect(unpackOwnAdapter(packOwnAdapter(parts, manifestHash), shape)).toEqual(parts);
  const base = { gates: null, bias: null };
  expect(unpackOwnAdapter(packOwnAdapter(base, manifestHash), shape)).toEqual(base);
});

test.each<[string, OwnAdapterParts, string]>([
  ["gates of another bank", { ...parts, gates: new Float32Array(3) }, "gates is F32 [3], expected F32 [2]"],
  [
    "a token out of the vocabulary",
    { ...parts, bias: { ids: Int32Array.of(1, 4), values: new Float32Array(2) } },
    "below 4",
  ],
  ["a token twice", { ...parts, bias: { ids: Int32Array.of(1, 1), values: new Float32Array(2) } }, "rising"],
  ["a value that is none", { ...parts, gates: Float32Array.of(0, Number.NaN) }, "value 1 is NaN"],
])("%s is refused", (_, bad, message) => {
  expect(() => unpackOwnAdapter(packOwnAdapter(bad, manifestHash), shape)).toThrow(message);
});

const floats = (...values: number[]) => tensorFrom(Float32Array.from(values), [values.length]);
test.each<[string, [string, Tensor][], RegExp]>([
  [
    "token ids that are no whole numbers of 32 bits",
    [["bias_ids", tensorFrom(new Uint8Array(3), [3])]],
    /bias_ids is U8/,
  ],
  ["token ids of two dimensions", [["bias_ids", tensorFrom(new Int32Array(2), [1, 2])]], /bias_ids is I32 \[1,2\]/],
  ["ids without values", [["bias_ids", tensorFrom(Int32Array.of(1), [1])]], /no tensor bias_values/],
  [
    "values of another number",
    [
      ["bias_ids", tensorFrom(Int32Array.of(1), [1])],
      ["bias_values", floats(1, 2)],
    ],
    /bias_values is F32 \[2\]/,
  ],
  ["a manifest hash of another length", [["manifest", tensorFrom(new Uint8Array(31), [31])]], /manifest is U8 \[31\]/],
  ["an infinite gate", [["gates", floats(Number.POSITIVE_INFINITY, 0)]], /gates: value 0 is Infinity/],
])("%s: refused by name", (_, changed, message) => {
  const file: TensorFile = new Map([["manifest", tensorFrom(Buffer.from(manifestHash, "hex"), [32])], ...changed]);
  expect(() => unpackOwnAdapter(writeTensorFile(file), shape)).toThrow(message);
});

test.each([
  ["cut off", (bytes: Uint8Array) => bytes.subarray(0, -1)],
  ["empty", () => new Uint8Array(0)],
  ["noise", (bytes: Uint8Array) => bytes.map((byte, i) => byte ^ (i * 37))],
])("a file that is %s is refused by name", (_, harm) => {
  expect(() => unpackOwnAdapter(harm(packOwnAdapter(parts, manifestHash)), shape)).toThrow(/^own adapter: /);
});

test("an adapter of another manifest is outdated, and both are named", () => {
  const other = "cd".repeat(32);
  expect(() => unpackOwnAdapter(packOwnAdapter(parts, other), shape)).toThrow(
    expect.objectContaining({ kind: "adapter_outdated", message: expect.stringMatching(`${other}.*${manifestHash}`) }),
  );
});

test("is there after a restart, for its tenant alone, and gone when it is removed", async () => {
  const bytes = packOwnAdapter(parts, manifestHash);
  const hash = await storeOf(10_000).keep("eu:acme", bytes);
  const store = storeOf(10_000);
  expect(await store.read("eu:acme", hash)).toEqual(bytes);
  expect(await store.keep("other", bytes), "equal bytes of another tenant have another name").not.toBe(hash);
  expect(await store.read("other", hash)).toBe(null);
  expect([await store.has("eu:acme", hash), await store.has("other", hash)]).toEqual([true, false]);
  for (let i = 0; i < 2; i++) await store.remove("eu:acme", hash);
  expect(await store.read("eu:acme", hash)).toBe(null);
  expect((await readdir(join(directory, "tenants"))).length).toBe(2);
  for (let i = 0; i < 2; i++) await store.removeAll("other");
  expect(await readdir(join(directory, "tenants"))).toEqual([path.basename(folderOf("eu:acme"))]);
});

test("a tenant may be named as a folder of ours, or as another but for its case", async () => {
  const bytes = packOwnAdapter(parts, manifestHash);
  const store = storeOf(bytes.length);
  await mkdir(join(directory, "artifacts", manifestHash), { recursive: true });
  for (const tenant of ["artifacts", "tenants", "__proto__", "CON", "acme", "Acme", manifestHash]) {
    expect(await store.read(tenant, await store.keep(tenant, bytes))).toEqual(bytes);
  }
  expect(await readdir(join(directory, "artifacts"))).toEqual([manifestHash]);
  const folders = await readdir(join(directory, "tenants"));
  expect(new Set(folders.map((name) => name.toLowerCase())).size).toBe(7);
});

test("a file larger than a tenant's share counts as missing, and is not read", async () => {
  const store = storeOf(10_000);
  const hash = await store.keep("acme", packOwnAdapter(parts, manifestHash));
  await truncate(join(folderOf("acme"), hash), 2 ** 40);
  expect(await store.read("acme", hash)).toBe(null);
});

test("a file that is not what its name says counts as missing; names that are no ids never become paths", async () => {
  const store = storeOf(10_000);
  const hash = await store.keep("acme", packOwnAdapter(parts, manifestHash));
  await writeFile(join(folderOf("acme"), hash), "torn");
  expect(await store.read("acme", hash)).toBe(null);
  await expect(store.read("../acme", hash)).rejects.toThrow("not a tenant's id");
  await expect(store.read("acme", "../x")).rejects.toThrow("not a hash");
});

test("a tenant's share holds: what was used longest ago goes, what alone exceeds it is refused with both sizes", async () => {
  const file = (n: number) => packOwnAdapter({ ...parts, gates: Float32Array.of(n, n) }, manifestHash);
  const size = file(0).length;
  const store = storeOf(2 * size);
  const first = await store.keep("acme", file(1));
  await store.keep("acme", file(2));
  await store.keep("other", file(1));
  expect(await store.has("acme", first)).toBe(true);
  const third = await store.keep("acme", file(3));
  expect((await readdir(folderOf("acme"))).sort()).toEqual([first, third].sort());
  expect(await readdir(folderOf("other"))).toEqual([ownAdapterHash("other", file(1))]);
  await expect(storeOf(size - 1).keep("acme", file(4))).rejects.toThrow(
    expect.objectContaining({
      kind: "adapter_quota_exceeded",
      message: expect.stringMatching(`${size} .* ${size - 1} `),
    }),
  );
});

test("all tenants together have a bound, also over a restart: what was used longest ago goes", async () => {
  const bytes = packOwnAdapter(parts, manifestHash);
  const totalBytes = 3 * bytes.length;
  const earlier = storeOf(10_000, { totalBytes });
  for (const [at, tenant] of ["a", "b", "c"].entries()) {
    const hash = await earlier.keep(tenant, bytes);
    await utimes(join(folderOf(tenant), hash), at + 1, at + 1);
  }
  const store = storeOf(10_000, { totalBytes });
  expect(await store.has("a", ownAdapterHash("a", bytes))).toBe(true);
  await store.keep("d", bytes);
  const has = (tenant: string) => store.has(tenant, ownAdapterHash(tenant, bytes));
  expect(await Promise.all(["a", "b", "c", "d"].map(has))).toEqual([true, false, true, true]);
});

const full = () => Promise.reject(Object.assign(new Error("no space left on device"), { code: "ENOSPC" }));
test.each<[string, Partial<WriteSystem>]>([
  ["folder", { mkdir: full as WriteSystem["mkdir"] }],
  [
    "write",
    {
      open: async (...given) =>
        Object.assign(await fs.open(...given), {
          async writeFile(this: fs.FileHandle) {
            // As a disk does that fills up on the way.
            await this.write("begun");
            return full();
          },
        }),
    },
  ],
  ["rename", { rename: full }],
])(
  "a disk that refuses the %s leaves nothing behind; the adapter is served from memory, and the fault is shown",
  async (_, broken) => {
    let isFull = true;
    const system: WriteSystem = new Proxy(fs, {
      get: (real, name: keyof WriteSystem) => (isFull && broken[name]) || real[name],
    });
    const bytes = packOwnAdapter(parts, manifestHash);
    const store = storeOf(10_000, { system });
    const hash = await store.keep("acme", bytes);
    const left = async () =>
      (await readdir(directory, { recursive: true })).filter((name) =>
        /unfinished|[0-9a-f]{64}.[0-9a-f]{64}/.test(name),
      );
    expect(await left()).toEqual([]);
    expect(store.disk).toEqual({ fault: "ENOSPC", failures: 1, unwrittenBytes: bytes.length });
    expect([await store.read("acme", hash), store.unwritten("acme", hash)]).toEqual([bytes, bytes]);
    expect([await store.has("acme", hash), await store.has("other", hash)]).toEqual([true, false]);
    isFull = false;
    await store.keep("acme", bytes);
    expect([store.disk.fault, store.disk.unwrittenBytes, store.unwritten("acme", hash)]).toEqual([null, 0, null]);
    expect(await storeOf(10_000).read("acme", hash)).toEqual(bytes);
    await store.remove("acme", hash);
    expect(await store.has("acme", hash)).toBe(false);
  },
);

test("an adapter that is kept twice at once while the disk refuses writes is kept in memory once", async () => {
  const bytes = packOwnAdapter(parts, manifestHash);
  const store = storeOf(10_000, { system: { ...fs, mkdir: full as WriteSystem["mkdir"] } });
  const [hash] = await Promise.all([store.keep("acme", bytes), store.keep("acme", bytes)]);
  expect(store.disk).toEqual({ fault: "ENOSPC", failures: 2, unwrittenBytes: bytes.length });
  expect(await store.read("acme", hash)).toEqual(bytes);
});

test("what a killed process left of a write is removed at the next start, however recent it is", async () => {
  const bytes = packOwnAdapter(parts, manifestHash);
  await storeOf(10_000).keep("acme", bytes);
  const unfinished = join(folderOf("acme"), ".unfinished-a");
  await mkdir(unfinished);
  await writeFile(join(unfinished, "half"), "half");
  await storeOf(10_000).keep("acme", bytes);
  expect(await readdir(folderOf("acme"))).toEqual([ownAdapterHash("acme", bytes)]);
});

test("a disk that refuses to remove what a killed process left still serves adapters", async () => {
  const bytes = packOwnAdapter(parts, manifestHash);
  const hash = await storeOf(10_000).keep("acme", bytes);
  await mkdir(join(folderOf("acme"), ".unfinished-a"));
  const readOnly = () => Promise.reject(Object.assign(new Error("read-only file system"), { code: "EROFS" }));
  const system = { ...fs, mkdir: readOnly as WriteSystem["mkdir"], rm: readOnly };
  const store = storeOf(10_000, { system });
  expect(await store.has("acme", hash)).toBe(true);
  expect(await store.read("acme", await store.keep("acme", bytes))).toEqual(bytes);
  expect(await readdir(folderOf("acme"))).toContain(".unfinished-a");
});
