/**
 * The bucket of the edge that `npm start` serves, running or not: wrangler's own R2, on this machine's disk. Nothing
 * but a Worker can read that, so local backends read a copy in a folder, with the same names.
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { currentOf, parsePointer, pointerName } from "../../shared/artifacts/bucket.ts";
import { quietWrangler } from "../quiet-wrangler.ts";
import { writeWhole } from "../write-whole.ts";
import type { ObjectStore } from "./store.ts";

/** Where the local backends read what was published locally. */
export function bucketCopy(stateFolder: string): string {
  return path.join(stateFolder, "bucket");
}

/** Hash of the manifest that was published locally; null where nothing was, or what is there cannot be read. */
export async function publishedManifest(stateFolder: string): Promise<string | null> {
  try {
    return currentOf(parsePointer(await readFile(path.join(bucketCopy(stateFolder), pointerName), "utf8")));
  } catch {
    return null;
  }
}

/** Runs `use` with the bucket of a local edge whose state is in `stateFolder`. */
export async function withLocalStore<T>(
  stateFolder: string,
  bucketName: string,
  use: (store: ObjectStore) => Promise<T>,
): Promise<T> {
  Object.assign(process.env, quietWrangler);
  const { getPlatformProxy } = await import("wrangler");
  const folder = await mkdtemp(path.join(tmpdir(), "chameleon-publish-"));
  try {
    // Of our own configuration it would start everything.
    const configPath = path.join(folder, "wrangler.json");
    const binding = { binding: "BUCKET", bucket_name: bucketName };
    await writeFile(
      configPath,
      JSON.stringify({ name: "publish", compatibility_date: "2026-11-17", r2_buckets: [binding] }),
    );
    const persist = { path: path.join(stateFolder, "v3") };
    const { env, dispose } = await getPlatformProxy<{ BUCKET: Bucket }>({ configPath, persist });
    try {
      return await use(copiedTo(bucketCopy(stateFolder), r2Store(env.BUCKET)));
    } finally {
      await dispose();
    }
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** What we use of the platform's R2Bucket. */
interface Bucket {
  get(
    name: string,
    options: { range: { length: number } },
  ): Promise<{ arrayBuffer(): Promise<ArrayBuffer>; etag: string } | null>;
  put(
    name: string,
    bytes: Uint8Array<ArrayBuffer>,
    options?: {
      onlyIf: { etagMatches: string } | { etagDoesNotMatch: string };
      customMetadata: Record<string, string>;
    },
  ): Promise<object | null>;
}

function r2Store(bucket: Bucket): ObjectStore {
  return {
    async get(name, mostBytes) {
      const found = await bucket.get(name, { range: { length: mostBytes + 1 } });
      return found && { bytes: new Uint8Array(await found.arrayBuffer()), etag: await found.etag };
    },
    async put(name, bytes) {
      await bucket.put(name, bytes);
    },
    async replace(name, bytes, etag, customMetadata) {
      const onlyIf = etag === null ? { etagDoesNotMatch: "*" } : { etagMatches: etag };
      return (await bucket.put(name, bytes, { onlyIf, customMetadata })) !== null;
    },
  };
}

/** `store`, with every object that is read or written put into `folder` as well: what was cut off heals with the next run. */
export function copiedTo(folder: string, store: ObjectStore): ObjectStore {
  const copy = async (name: string, bytes: Uint8Array) => {
    await writeWhole(path.join(folder, name), bytes);
  };
  return {
    async get(name, mostBytes) {
      const found = await store.get(name, mostBytes);
      if (found && found.bytes.byteLength <= mostBytes) await copy(name, found.bytes);
      return found;
    },
    async put(name, bytes) {
      await store.put(name, bytes);
      await copy(name, bytes);
    },
    async replace(name, bytes, etag, metadata) {
      const isReplaced = await store.replace(name, bytes, etag, metadata);
      if (isReplaced) await copy(name, bytes);
      return isReplaced;
    },
  };
}
