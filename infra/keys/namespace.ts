/**
 * The KV namespace of keys and tenants: a deployment's through wrangler's own client, a local edge's as a folder that the edge reads
 * (edge/local-storage.ts). Not here: what is in it.
 */
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { nullIfMissing, writeWhole } from "../../gpu-backend/files.ts";
import type { KeyEnd, KeyRecord, Revocation, TenantRecord } from "../../shared/contracts/tenants.ts";
import { jsonIn, runWrangler } from "../wrangler.ts";

export type StoredRecord = KeyEnd | KeyRecord | Revocation | TenantRecord;

/** Records by name. */
export interface Namespace {
  /** Names, each with its tenant; null if only the record itself names it. */
  names(prefix: string): Promise<{ name: string; tenant: string | null }[]>;
  /** The records that exist, parsed from JSON. */
  get(names: readonly string[]): Promise<Map<string, unknown>>;
  /** Writes all records; if it is interrupted, only the first ones. */
  put(records: ReadonlyMap<string, StoredRecord>): Promise<void>;
  /** Deletes the records that exist. */
  remove(names: readonly string[]): Promise<void>;
}

/** The file of a record in a folder. No name has a dot, as files that are being written have. */
export function recordFile(folder: string, name: string): string {
  return path.join(folder, encodeURIComponent(name));
}

export function folderNamespace(folder: string): Namespace {
  return {
    async names(prefix) {
      const files = await readdir(folder).catch(nullIfMissing);
      const names = (files ?? []).filter((file) => !file.includes(".")).map(decodeURIComponent);
      return names.filter((name) => name.startsWith(prefix)).map((name) => ({ name, tenant: null }));
    },
    async get(names) {
      const found = new Map<string, unknown>();
      for (const name of names) {
        const text = await readFile(recordFile(folder, name), "utf8").catch(nullIfMissing);
        if (text !== null) found.set(name, JSON.parse(text));
      }
      return found;
    },
    async put(records) {
      for (const [name, record] of records) {
        await writeWhole(recordFile(folder, name), Buffer.from(JSON.stringify(record)), { mode: 0o600 });
      }
    },
    async remove(names) {
      for (const name of names) await rm(recordFile(folder, name), { force: true });
    },
  };
}

/** KV's limit on one bulk read. */
const namesPerRead = 100;

/**
 * `place` are wrangler's options that say which namespace. A key's record is put with its tenant in the metadata. Every method
 * rejects with wrangler's own words where it fails.
 */
export function wranglerNamespace(root: string, place: readonly string[]): Namespace {
  const kv = (...args: string[]) => runWrangler(root, ["kv", ...args, ...place]);
  return {
    async names(prefix) {
      type Listed = { name: string; metadata?: { tenant?: string } | null };
      const listed = JSON.parse(jsonIn(await kv("key", "list", "--prefix", prefix))) as Listed[];
      return listed.map(({ name, metadata }) => ({ name, tenant: metadata?.tenant ?? null }));
    },
    async get(names) {
      const found = new Map<string, unknown>();
      for (let i = 0; i < names.length; i += namesPerRead) {
        const asked = names.slice(i, i + namesPerRead);
        const output = await withFile(asked, (file) => kv("bulk", "get", file));
        const read = JSON.parse(jsonIn(output)) as Record<string, { value: string | null } | null>;
        for (const [name, entry] of Object.entries(read)) {
          if (entry && entry.value !== null) found.set(name, JSON.parse(entry.value));
        }
      }
      return found;
    },
    async put(records) {
      const entries = [...records].map(([key, record]) => ({
        key,
        value: JSON.stringify(record),
        ...("tenant" in record && { metadata: { tenant: record.tenant } }),
      }));
      await withFile(entries, (file) => kv("bulk", "put", file));
    },
    async remove(names) {
      await withFile(names, (file) => kv("bulk", "delete", file, "--force"));
    },
  };
}

/** wrangler takes lists from files; these hold hashes, never keys. */
async function withFile<T>(content: unknown, use: (file: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(path.join(tmpdir(), "chameleon-keys-"));
  try {
    const file = path.join(folder, "list.json");
    await writeFile(file, JSON.stringify(content), { mode: 0o600 });
    return await use(file);
  } finally {
    await rm(folder, { recursive: true });
  }
}
