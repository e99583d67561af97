/** Tenants' files on disk: sealed, bounded, their tenant's alone, and gone for good when they are erased. */
import { createHash } from "node:crypto";
import * as fs from "node:fs/promises";
import { copyFile, mkdir, readdir, readFile, rm, stat, truncate, utimes, writeFile } from "node:fs/promises";
import path, { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import type { WriteSystem } from "../../../../gpu-backend/files.ts";
import type { FilePlan } from "../../../../gpu-backend/tenant-files/partial-file.ts";
import { sealedBytes } from "../../../../gpu-backend/tenant-files/sealed-records.ts";
import { TenantFiles } from "../../../../gpu-backend/tenant-files/tenant-files.ts";
import {
  fileBytes,
  leftoverMs,
  TenantStore,
  type TenantStoreSettings,
} from "../../../../gpu-backend/tenant-files/tenant-store.ts";
import { centroidTenant } from "../../../../shared/contracts/tenant-name.ts";
import { temporaryFolder } from "../../../support/temporary-folder.ts";

const text = "The harbour master keeps his ledger under the third stair.";
const content = Buffer.from(text);
const size = fileBytes(content);
const hashOf = (name: string) => createHash("sha256").update(name).digest("hex");
const [one, two, three] = ["one", "two", "three"].map(hashOf);

let directory: string;
beforeEach(() => {
  directory = temporaryFolder();
});
const storeOf = (rest: Partial<TenantStoreSettings> = {}) =>
  new TenantStore({ directory, tenantBytes: 10_000, totalBytes: 1_000_000, now: () => new Date(), ...rest });
/** The content of a file as the engine gets it: from the store's own copy if the disk refused it, else from disk. */
const contentIn = async (store: TenantStore, tenant: string, hash: string) =>
  store.unwritten(tenant, hash) ?? store.files.read(tenant, hash);
const folderOf = (tenant: string) => join(directory, hashOf(tenant));
/** Names in a tenant's folder without its key. */
const filesOf = async (tenant: string) => (await readdir(folderOf(tenant))).filter((name) => name !== "key").sort();
const allBytes = async () => {
  const names = await readdir(directory, { recursive: true });
  const paths = names.map((name) => join(directory, name));
  const isFile = await Promise.all(paths.map(async (one) => (await stat(one)).isFile()));
  return Promise.all(paths.filter((_, i) => isFile[i]).map((one) => readFile(one)));
};

test("a file is there after a restart and for another process, for its tenant alone, and gone when it is removed", async () => {
  await storeOf().keep("eu:acme", one, content);
  const store = storeOf();
  expect(await contentIn(store, "eu:acme", one)).toEqual(content);
  expect(await new TenantFiles({ directory, tenantBytes: 10_000 }).read("eu:acme", one)).toEqual(content);
  expect(await contentIn(store, "other", one)).toBe(null);
  expect([await store.has("eu:acme", one), await store.has("other", one)]).toEqual([true, false]);
  for (let i = 0; i < 2; i++) await store.remove("eu:acme", one);
  expect(await contentIn(store, "eu:acme", one)).toBe(null);
  await store.keep("other", one, content);
  for (let i = 0; i < 2; i++) await store.removeAll("other");
  expect(await readdir(directory)).toEqual([path.basename(folderOf("eu:acme"))]);
});

test("tenants may be named as anything, or as another but for its case", async () => {
  const store = storeOf();
  const tenants = ["artifacts", "tenants", "__proto__", "CON", "acme", "Acme", one];
  for (const tenant of tenants) {
    await store.keep(tenant, one, content);
    expect(await contentIn(store, tenant, one)).toEqual(content);
  }
  expect(new Set((await readdir(directory)).map((name) => name.toLowerCase())).size).toBe(tenants.length);
});

test("nothing that a tenant's file says is on the disk, and nobody else may read its key", async () => {
  await storeOf().keep("acme", one, content);
  const { mode } = await stat(join(folderOf("acme"), "key"));
  expect(mode & 0o777).toBe(0o600);
  for (const bytes of await allBytes()) {
    for (let at = 0; at + 8 <= content.length; at++) {
      expect(bytes.includes(content.subarray(at, at + 8)), text.slice(at, at + 8)).toBe(false);
    }
  }
});

test("equal files of two tenants, or of one tenant under two names, have no bytes in common", async () => {
  const store = storeOf();
  await store.keep("acme", one, content);
  await store.keep("acme", two, content);
  await store.keep("other", one, content);
  const files = [join(folderOf("acme"), one), join(folderOf("acme"), two), join(folderOf("other"), one)];
  const bodies = await Promise.all(files.map(async (file) => (await readFile(file)).subarray(-60).toString("hex")));
  expect(new Set(bodies).size).toBe(3);
});

test("erasing a tenant overwrites its key before anything else, and then nothing can be decrypted", async () => {
  const store = storeOf();
  await store.keep("acme", one, content);
  const copies = temporaryFolder();
  // A hard link to the key's file shows what is left in the blocks of the disk.
  await fs.link(join(folderOf("acme"), "key"), join(copies, "key"));
  await copyFile(join(folderOf("acme"), one), join(copies, one));
  const key = await readFile(join(copies, "key"));
  await store.removeAll("acme");
  expect(await readdir(directory)).toEqual([]);
  expect(await readFile(join(copies, "key"))).toEqual(Buffer.alloc(key.length));
  await mkdir(folderOf("acme"));
  for (const name of ["key", one]) await copyFile(join(copies, name), join(folderOf("acme"), name));
  expect(await contentIn(storeOf(), "acme", one)).toBe(null);
  await store.keep("acme", one, content);
  expect(await contentIn(store, "acme", one)).toEqual(content);
  expect(await readFile(join(folderOf("acme"), "key"))).not.toEqual(key);
});

test("a tenant that is erased while a file is kept has either all of it or nothing", async () => {
  const store = storeOf();
  await Promise.all([store.keep("acme", one, content), store.removeAll("acme"), store.keep("acme", two, content)]);
  expect(await store.has("acme", one)).toBe(false);
  expect(await contentIn(store, "acme", two)).toEqual(content);
  expect(store.disk).toMatchObject({ fault: null, unwrittenBytes: 0 });
});

const withBitFlipped = (bytes: Buffer) => bytes.map((byte, i) => byte ^ +(i === 50));
test.each<[string, (file: string) => Promise<unknown>]>([
  ["is torn", (file) => writeFile(file, "torn")],
  ["is cut by a byte", (file) => truncate(file, size - 1)],
  ["is cut between two records", (file) => truncate(file, size - sealedBytes([]))],
  ["has one bit changed", (file) => readFile(file).then((bytes) => writeFile(file, withBitFlipped(bytes)))],
  ["has more at its end", (file) => fs.appendFile(file, "more")],
  ["was renamed", (file) => copyFile(join(folderOf("acme"), two), file)],
  ["is another tenant's", (file) => copyFile(join(folderOf("other"), one), file)],
  ["is larger than a tenant's share", (file) => truncate(file, 2 ** 40)],
  ["is not encrypted", (file) => writeFile(file, content)],
  ["is a folder", (file) => rm(file).then(() => mkdir(file))],
])("a file that %s counts as missing, and can be kept again", async (_, harm) => {
  const before = storeOf();
  await before.keep("acme", one, content);
  await before.keep("acme", two, content);
  await before.keep("other", one, content);
  await harm(join(folderOf("acme"), one));
  const store = storeOf();
  expect(await contentIn(store, "acme", one)).toBe(null);
  expect([await store.has("acme", one), await store.has("acme", two)]).toEqual([false, true]);
  await store.keep("acme", one, content);
  expect(await contentIn(store, "acme", one)).toEqual(content);
});

test("files whose key is lost or cut off count as missing, also while the process runs, and are made anew under another key", async () => {
  const store = storeOf();
  const cutTo = (bytes: number) => (key: string) => truncate(key, bytes);
  for (const damage of [(key: string) => rm(key), cutTo(7), cutTo(16)]) {
    for (const hash of [one, two]) await store.keep("acme", hash, content);
    await damage(join(folderOf("acme"), "key"));
    for (const reader of [store, storeOf()]) {
      expect([await reader.has("acme", one), await contentIn(reader, "acme", one)]).toEqual([false, null]);
    }
    await store.keep("acme", one, content);
    expect(await contentIn(store, "acme", one)).toEqual(content);
    expect(await store.has("acme", two)).toBe(false);
    expect(await filesOf("acme")).toEqual([one]);
  }
});

test("names that are no ids never become paths", async () => {
  const store = storeOf();
  await expect(contentIn(store, "../acme", one)).rejects.toThrow("not a tenant's id");
  await expect(contentIn(store, "acme", "../x")).rejects.toThrow("not a hash");
  await expect(store.keep("acme", "key", content)).rejects.toThrow("not a hash");
});

test("a tenant's share is kept: the file used longest ago is removed", async () => {
  const store = storeOf({ tenantBytes: 2 * size });
  for (const hash of [one, two]) await store.keep("acme", hash, content);
  await store.keep("other", one, content);
  expect(await store.has("acme", one)).toBe(true);
  await store.keep("acme", one, content);
  expect(await filesOf("acme"), "kept again in its own place").toEqual([one, two].sort());
  await store.keep("acme", three, content);
  expect(await filesOf("acme")).toEqual([one, three].sort());
  expect(await filesOf("other")).toEqual([one]);
  expect(store.disk).toMatchObject({ files: 3, bytes: 3 * size });
});

test("all tenants together have a bound, also after a restart, which centroids' memories neither use nor enforce", async () => {
  const totalBytes = 3 * size;
  const earlier = storeOf({ totalBytes });
  for (const [at, tenant] of ["a", "b", "c"].entries()) {
    await earlier.keep(tenant, one, content);
    await utimes(join(folderOf(tenant), one), at + 1, at + 1);
  }
  const store = storeOf({ totalBytes });
  expect(await store.has("a", one)).toBe(true);
  for (const tenant of [centroidTenant, "d"]) await store.keep(tenant, one, content);
  const left = await Promise.all(["a", "b", "c", "d", centroidTenant].map((tenant) => store.has(tenant, one)));
  expect(left).toEqual([true, false, true, true, true]);
});

const full = () => Promise.reject(Object.assign(new Error("no space left on device"), { code: "ENOSPC" }));
/** Writes a few bytes and then fails, like a disk that becomes full meanwhile. */
const fillsUp: WriteSystem["open"] = async (...given) => {
  const file = await fs.open(...given);
  async function begin() {
    await file.write("begun");
    return full();
  }
  return Object.assign(file, { writeFile: begin, appendFile: begin });
};
let isFull: boolean;
const broken = (parts: Partial<WriteSystem>): WriteSystem =>
  new Proxy(fs, { get: (real, name: keyof WriteSystem) => (isFull && parts[name]) || real[name] });
beforeEach(() => {
  isFull = true;
});
const refusals: [string, Partial<WriteSystem>][] = [
  ["folder", { mkdir: full as WriteSystem["mkdir"] }],
  ["write", { open: fillsUp }],
  ["rename", { rename: full }],
];

test.each(refusals)("a disk that refuses the %s leaves nothing; the file is served from memory", async (_, parts) => {
  const store = storeOf({ system: broken(parts) });
  await store.keep("acme", one, content);
  expect(await readdir(folderOf("acme")).catch(() => [])).toEqual([]);
  expect(store.disk).toMatchObject({ fault: "ENOSPC", failures: 1, unwrittenBytes: content.length, files: 0 });
  expect([await contentIn(store, "acme", one), store.unwritten("acme", one)]).toEqual([content, content]);
  expect([await store.has("acme", one), await store.has("other", one)]).toEqual([true, false]);
  isFull = false;
  await store.keep("acme", one, content);
  expect([store.disk.fault, store.disk.unwrittenBytes, store.unwritten("acme", one)]).toEqual([null, 0, null]);
  expect(await contentIn(storeOf(), "acme", one)).toEqual(content);
  await store.remove("acme", one);
  expect(await store.has("acme", one)).toBe(false);
});

test("a file that is kept twice at once while the disk refuses writes is kept in memory once", async () => {
  const store = storeOf({ system: broken({ mkdir: full as WriteSystem["mkdir"] }) });
  await Promise.all([store.keep("acme", one, content), store.keep("acme", one, content)]);
  expect(store.disk).toMatchObject({ fault: "ENOSPC", failures: 2, unwrittenBytes: content.length });
  expect(await contentIn(store, "acme", one)).toEqual(content);
});

test("what a killed process left of a write is removed at the next start, and a disk that refuses that still serves files", async () => {
  await storeOf().keep("acme", one, content);
  await mkdir(join(folderOf("acme"), ".unfinished-a"));
  await writeFile(join(folderOf("acme"), ".unfinished-a", "half"), "half");
  const readOnly = () => Promise.reject(Object.assign(new Error("read-only file system"), { code: "EROFS" }));
  const store = storeOf({ system: { ...fs, mkdir: readOnly as WriteSystem["mkdir"], rm: readOnly } });
  expect(await store.has("acme", one)).toBe(true);
  await store.keep("acme", two, content);
  expect(await contentIn(store, "acme", two)).toEqual(content);
  expect(await filesOf("acme")).toContain(".unfinished-a");
  await storeOf().load();
  expect(await filesOf("acme")).toEqual([one, two].sort());
});

describe("a file that is written record by record", () => {
  const bytes = (fill: number, length: number) => new Uint8Array(length).fill(fill);
  const records = [bytes(3, 100), bytes(4, 50), bytes(5, 70)];
  const plan: FilePlan = {
    ...{ label: bytes(1, 10), head: bytes(2, 20) },
    recordBytes: records.map(({ length }) => length),
  };
  const whole = Buffer.concat([plan.head, ...records]);
  /** A plan whose file is too large to be kept in memory. */
  const large = { ...plan, recordBytes: [...plan.recordBytes, 2 ** 27] };
  const bounds = { tenantBytes: 2 ** 28, totalBytes: 2 ** 28 };
  const partial = `${one}.partial`;

  /** Writes the records `some`. Leaves the file unfinished if they are not all records of the plan. */
  async function write(store: TenantStore, hash = one, some = records, of: FilePlan = plan) {
    const file = await store.begin("acme", hash, of);
    await file.append(some);
    if (some.length === of.recordBytes.length) await file.finish();
    await file.close();
  }

  test("is there once it is finished", async () => {
    const store = storeOf();
    const file = await store.begin("acme", one, plan);
    await file.append(records.slice(0, 1));
    expect([await store.has("acme", one), await filesOf("acme")]).toEqual([false, [partial]]);
    await file.append(records.slice(1));
    const written = await file.finish();
    await file.close();
    expect(await filesOf("acme")).toEqual([one]);
    expect((await stat(join(folderOf("acme"), one))).size).toBe(written);
    expect(await contentIn(storeOf(), "acme", one)).toEqual(whole);
    expect(await store.files.label("acme", one)).toEqual(Buffer.from(plan.label));
    expect(store.disk).toMatchObject({ files: 1, bytes: written, unwrittenBytes: 0 });
  });

  test.each<[string, (file: string) => Promise<unknown>, number]>([
    ["between two records", async () => {}, 2],
    ["in a record", async (file) => truncate(file, (await stat(file)).size - 1), 1],
    ["before its head was whole", (file) => truncate(file, 40), 0],
    ["and its key was lost", (file) => rm(join(path.dirname(file), "key")), 0],
    ["and a record was changed", async (file) => writeFile(file, (await readFile(file)).fill(0, 100, 140)), 0],
  ])("is continued when its process ended %s", async (_, harm, left) => {
    const file = await storeOf().begin("acme", one, plan);
    await file.append(records.slice(0, 2));
    // The file is not closed, as when its process is killed.
    await harm(join(folderOf("acme"), partial));
    const store = storeOf();
    const again = await store.begin("acme", one, plan);
    expect(again.length).toBe(left);
    await again.append(records.slice(left));
    await again.finish();
    await again.close();
    expect(await contentIn(storeOf(), "acme", one)).toEqual(whole);
  });

  test.each(["swapped", "of another file"])("counts as missing where its records are %s", async (how) => {
    const equal = { ...plan, recordBytes: [40, 40] };
    for (const hash of [one, two]) await write(storeOf(), hash, [bytes(6, 40), bytes(7, 40)], equal);
    const [own, other] = await Promise.all([one, two].map((hash) => readFile(join(folderOf("acme"), hash))));
    // Label and head come before the two records. A record has the same size in each file.
    const start = sealedBytes([10, 20]) - sealedBytes([]);
    const size = sealedBytes([40]) - sealedBytes([]);
    const [first, second] = [start, start + size].map((at) => own.subarray(at, at + size));
    const records = how === "swapped" ? [second, first] : [other.subarray(start, start + size), second];
    const changed = Buffer.concat([own.subarray(0, start), ...records, own.subarray(start + 2 * size)]);
    await writeFile(join(folderOf("acme"), one), changed);
    expect(changed.length).toBe(own.length);
    expect([await contentIn(storeOf(), "acme", one), await storeOf().has("acme", two)]).toEqual([null, true]);
  });

  test("is begun anew where another head or another label is wanted", async () => {
    for (const change of [{ head: bytes(9, 20) }, { label: bytes(9, 10) }]) {
      await write(storeOf(), one, records.slice(0, 2));
      const again = await storeOf().begin("acme", one, { ...plan, ...change });
      expect(again.length).toBe(0);
      await again.close();
    }
  });

  test("is removed a day after it was left, with its tenant, or with its hash", async () => {
    let nowMs = Date.now();
    const store = storeOf({ now: () => new Date(nowMs) });
    const leave = () => write(store, one, records.slice(0, 1));
    const open = await store.begin("acme", two, plan);
    nowMs += 2 * leftoverMs;
    await store.removeLeftovers();
    expect(await filesOf("acme")).toEqual([`${two}.partial`]);
    await open.close();
    await store.remove("acme", two);
    nowMs = Date.now();
    await leave();
    nowMs += leftoverMs - 60_000;
    await store.removeLeftovers();
    expect(await filesOf("acme")).toEqual([partial]);
    nowMs += 120_000;
    await store.removeLeftovers();
    expect([await filesOf("acme"), store.disk.files]).toEqual([[], 0]);
    nowMs = Date.now();
    await leave();
    await store.remove("acme", one);
    expect(await filesOf("acme")).toEqual([]);
    await leave();
    await store.removeAll("acme");
    expect(await readdir(directory)).toEqual([]);
  });

  test("counts with all of its bytes from the start, and is not removed for room while it is written", async () => {
    const total = sealedBytes([10, 20, 100, 50, 70]);
    const store = storeOf({ totalBytes: total + size });
    for (const hash of [two, three]) await store.keep("acme", hash, content);
    const file = await store.begin("acme", one, plan);
    expect(await filesOf("acme")).toEqual([partial, three].sort());
    await store.keep("other", two, Buffer.concat([content, content]));
    expect([await filesOf("acme"), await filesOf("other")]).toEqual([[partial], [two]]);
    await file.close();
  });

  test.each(refusals)("is finished in memory where the disk refuses the %s", async (_, parts) => {
    const store = storeOf({ system: broken(parts) });
    await write(store);
    expect(await store.has("acme", one)).toBe(true);
    expect(store.unwritten("acme", one)).toEqual(whole);
    expect(store.disk).toMatchObject({ fault: "ENOSPC", unwrittenBytes: whole.length });
  });

  test("is not counted as being written where its beginning was refused", async () => {
    const store = storeOf({ system: broken({ open: full as WriteSystem["open"] }), ...bounds });
    await expect(store.begin("acme", one, large)).rejects.toMatchObject({ kind: "backend_unavailable" });
    expect(store.disk).toMatchObject({ fault: "ENOSPC", files: 0, bytes: 0 });
  });

  test("is refused by a full disk if it is too large for memory; what was written is continued later", async () => {
    isFull = false;
    const store = storeOf({ system: broken({ open: fillsUp }), ...bounds });
    await write(store, one, records.slice(0, 2), large);
    isFull = true;
    const full = await store.begin("acme", one, large);
    await expect(full.append(records.slice(2))).rejects.toMatchObject({ kind: "backend_unavailable" });
    await full.close();
    expect([store.disk.fault, await store.has("acme", one)]).toEqual(["ENOSPC", false]);
    isFull = false;
    const again = await store.begin("acme", one, large);
    expect(again.length).toBe(2);
    await again.close();
  });
});
