/** The bytes of tenants' adapters, and where they are kept. */
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path, { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  type InstantParts,
  instantHash,
  packInstant,
  unpackInstant,
} from "../../../../../gpu-backend/adapters/instant/artifact.ts";
import { InstantStore } from "../../../../../gpu-backend/adapters/instant/store.ts";
import {
  type Tensor,
  type TensorFile,
  tensorFrom,
  writeTensorFile,
} from "../../../../../shared/artifacts/tensor-file.ts";

const manifestHash = "ab".repeat(32);
const shape = { manifestHash, gates: 2, rank: 1, hiddenSize: 3, vocabularySize: 4 };
const parts: InstantParts = {
  gates: Float32Array.of(0.5, -1),
  bias: { ids: Int32Array.of(0, 3), values: Float32Array.of(0.25, -0.5) },
  directions: { rank: 1, a: Float32Array.of(1, 2, 3), b: Float32Array.of(4, 5, 6, 7) },
};

const now = () => new Date();
let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "instant-store-"));
});
const folderOf = (tenant: string) => join(directory, "tenants", createHash("sha256").update(tenant).digest("hex"));
afterEach(() => rm(directory, { recursive: true }));

test("parts come back as they were, the missing ones as missing", () => {
  expect(unpackInstant(packInstant(parts, manifestHash), shape)).toEqual(parts);
  const base = { gates: null, bias: null, directions: null };
  expect(unpackInstant(packInstant(base, manifestHash), shape)).toEqual(base);
});

test.each<[string, InstantParts, string]>([
  ["gates of another bank", { ...parts, gates: new Float32Array(3) }, "gates is F32 [3], expected F32 [2]"],
  [
    "a token out of the vocabulary",
    { ...parts, bias: { ids: Int32Array.of(1, 4), values: new Float32Array(2) } },
    "below 4",
  ],
  ["a token twice", { ...parts, bias: { ids: Int32Array.of(1, 1), values: new Float32Array(2) } }, "rising"],
  ["a value that is none", { ...parts, gates: Float32Array.of(0, Number.NaN) }, "value 1 is NaN"],
  [
    "another hidden size",
    { ...parts, directions: { ...parts.directions!, a: new Float32Array(2) } },
    "a is F32 [1,2], expected F32 [any,3]",
  ],
])("%s is refused", (_, bad, message) => {
  expect(() => unpackInstant(packInstant(bad, manifestHash), shape)).toThrow(message);
});

test.each([0, 1])("a pair of a higher rank than the pool's %d is outdated, and both are named", (rank) => {
  const directions = { rank: rank + 1, a: new Float32Array(3 * (rank + 1)), b: new Float32Array(4 * (rank + 1)) };
  const bytes = packInstant({ ...parts, directions }, manifestHash);
  expect(() => unpackInstant(bytes, { ...shape, rank })).toThrow(
    expect.objectContaining({
      kind: "adapter_outdated",
      message: expect.stringMatching(`rank ${rank + 1}.* rank ${rank}`),
    }),
  );
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
  ["half a pair", [["a", tensorFrom(new Float32Array(3), [1, 3])]], /no tensor b/],
  [
    "a pair of rank 10⁹ without a byte",
    [["a", tensorFrom(new Float32Array(0), [1e9, 0])]],
    /a is F32 \[1000000000,0\]/,
  ],
  ["a manifest hash of another length", [["manifest", tensorFrom(new Uint8Array(31), [31])]], /manifest is U8 \[31\]/],
  ["an infinite gate", [["gates", floats(Number.POSITIVE_INFINITY, 0)]], /gates: value 0 is Infinity/],
])("%s: refused by name", (_, changed, message) => {
  const file: TensorFile = new Map([["manifest", tensorFrom(Buffer.from(manifestHash, "hex"), [32])], ...changed]);
  expect(() => unpackInstant(writeTensorFile(file), shape)).toThrow(message);
});

test.each([
  ["cut off", (bytes: Uint8Array) => bytes.subarray(0, -1)],
  ["empty", () => new Uint8Array(0)],
  ["noise", (bytes: Uint8Array) => bytes.map((byte, i) => byte ^ (i * 37))],
])("a file that is %s is refused by name", (_, harm) => {
  expect(() => unpackInstant(harm(packInstant(parts, manifestHash)), shape)).toThrow(/^instant adapter: /);
});

test("an adapter of another manifest is outdated, and both are named", () => {
  const other = "cd".repeat(32);
  expect(() => unpackInstant(packInstant(parts, other), shape)).toThrow(
    expect.objectContaining({ kind: "adapter_outdated", message: expect.stringMatching(`${other}.*${manifestHash}`) }),
  );
});

test("is there after a restart, for its tenant alone, and gone when it is removed", async () => {
  const bytes = packInstant(parts, manifestHash);
  const hash = await new InstantStore(directory, 10_000, now).keep("eu:acme", bytes);
  const store = new InstantStore(directory, 10_000, now);
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
  const bytes = packInstant(parts, manifestHash);
  const store = new InstantStore(directory, bytes.length, now);
  await mkdir(join(directory, "artifacts", manifestHash), { recursive: true });
  for (const tenant of ["artifacts", "tenants", "__proto__", "CON", "acme", "Acme", manifestHash]) {
    expect(await store.read(tenant, await store.keep(tenant, bytes))).toEqual(bytes);
  }
  expect(await readdir(join(directory, "artifacts"))).toEqual([manifestHash]);
  const folders = await readdir(join(directory, "tenants"));
  expect(new Set(folders.map((name) => name.toLowerCase())).size).toBe(7);
});

test("a file larger than a tenant's share counts as missing, and is not read", async () => {
  const store = new InstantStore(directory, 10_000, now);
  const hash = await store.keep("acme", packInstant(parts, manifestHash));
  await truncate(join(folderOf("acme"), hash), 2 ** 40);
  expect(await store.read("acme", hash)).toBe(null);
});

test("a file that is not what its name says counts as missing; names that are no ids never become paths", async () => {
  const store = new InstantStore(directory, 10_000, now);
  const hash = await store.keep("acme", packInstant(parts, manifestHash));
  await writeFile(join(folderOf("acme"), hash), "torn");
  expect(await store.read("acme", hash)).toBe(null);
  await expect(store.read("../acme", hash)).rejects.toThrow("not a tenant's id");
  await expect(store.read("acme", "../x")).rejects.toThrow("not a hash");
});

test("a tenant's share holds: what was used longest ago goes, what alone exceeds it is refused with both sizes", async () => {
  const file = (n: number) => packInstant({ ...parts, gates: Float32Array.of(n, n) }, manifestHash);
  const size = file(0).length;
  const store = new InstantStore(directory, 2 * size, now);
  const first = await store.keep("acme", file(1));
  const second = await store.keep("acme", file(2));
  await store.keep("other", file(1));
  for (const [hash, at] of [
    [first, 1000],
    [second, 2000],
  ] as const)
    await utimes(join(folderOf("acme"), hash), at, at);
  expect(await store.read("acme", first)).not.toBe(null);
  const third = await store.keep("acme", file(3));
  expect((await readdir(folderOf("acme"))).sort()).toEqual([first, third].sort());
  expect(await readdir(folderOf("other"))).toEqual([instantHash("other", file(1))]);
  await expect(new InstantStore(directory, size - 1, now).keep("acme", file(4))).rejects.toThrow(
    expect.objectContaining({
      kind: "adapter_quota_exceeded",
      message: expect.stringMatching(`${size} .* ${size - 1} `),
    }),
  );
});
