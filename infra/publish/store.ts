/** Where artifacts are published: a bucket over the S3 API, or the folder of a local edge. */
import { createHash } from "node:crypto";
import { open, readFile, rm, stat } from "node:fs/promises";
import path from "node:path";
import { AwsClient } from "aws4fetch";
import { nullIfMissing, writeWhole } from "../../gpu-backend/files.ts";
import { currentOf, parsePointer, pointerName } from "../../shared/artifacts/bucket.ts";
import { readAtMost } from "../../shared/artifacts/set-file.ts";

export interface StoredObject {
  bytes: Uint8Array<ArrayBuffer>;
  /** Identifies this version of the object. */
  etag: string;
}

/** Every method rejects with an Error that names the object where it fails. */
export interface ObjectStore {
  /** Reads at most `maxBytes + 1` bytes; null if there is no such object. */
  get(name: string, maxBytes: number): Promise<StoredObject | null>;
  put(name: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /**
   * Writes the object and its metadata if its version still is `etag` (null: it does not exist). Otherwise writes nothing and
   * returns false.
   */
  replace(
    name: string,
    bytes: Uint8Array<ArrayBuffer>,
    etag: string | null,
    metadata: Record<string, string>,
  ): Promise<boolean>;
}

export interface S3Place {
  /** `https://ACCOUNT.r2.cloudflarestorage.com` */
  endpoint: string;
  bucket: string;
  accessKeyId: string;
  secretAccessKey: string;
}

/** A bucket of R2 by the variables of `environment`; an `endpoint` goes before the account's. Throws an Error that names what is missing. */
export function remoteStore(
  environment: NodeJS.ProcessEnv,
  bucket: string | undefined,
  endpoint?: string,
): ObjectStore {
  const { CLOUDFLARE_ACCOUNT_ID: account, AWS_ACCESS_KEY_ID: keyId, AWS_SECRET_ACCESS_KEY: secret } = environment;
  const place = endpoint ?? (account && `https://${account}.r2.cloudflarestorage.com`);
  if (!bucket) throw new Error("wrangler.toml has no bucket ARTIFACTS");
  if (!place) throw new Error("publishing to R2 needs CLOUDFLARE_ACCOUNT_ID, or --endpoint");
  if (!keyId || !secret) throw new Error("publishing to R2 needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
  return s3Store({ endpoint: place, bucket, accessKeyId: keyId, secretAccessKey: secret });
}

export function s3Store({ endpoint, bucket, accessKeyId, secretAccessKey }: S3Place): ObjectStore {
  const client = new AwsClient({ accessKeyId, secretAccessKey, service: "s3", region: "auto", retries: 4 });
  const call = async (name: string, allowed: readonly number[], init: RequestInit = {}) => {
    const url = `${endpoint.replace(/\/+$/, "")}/${bucket}/${name}`;
    const response = await client.fetch(url, init).catch((cause) => {
      throw new Error(`${url} cannot be reached`, { cause });
    });
    if (response.ok || allowed.includes(response.status)) return response;
    const reason = /<Message>([^<]*)/.exec(await response.text())?.[1] ?? "no reason given";
    throw new Error(`${init.method ?? "GET"} ${url} was answered ${response.status}: ${reason}`);
  };
  const put = (name: string, body: Uint8Array<ArrayBuffer>, allowed: readonly number[], headers = {}) =>
    call(name, allowed, { method: "PUT", body, headers });
  return {
    async get(name, maxBytes) {
      const response = await call(name, [404]);
      if (response.status === 404) return null;
      const etag = response.headers.get("etag");
      if (!etag) throw new Error(`${name} has no etag`);
      return { bytes: await readAtMost(response.body ?? [], maxBytes), etag };
    },
    async put(name, bytes) {
      await put(name, bytes, []);
    },
    async replace(name, bytes, etag, metadata) {
      const condition: Record<string, string> = etag === null ? { "if-none-match": "*" } : { "if-match": etag };
      const named = Object.entries(metadata).map(([key, value]) => [`x-amz-meta-${key}`, value]);
      const response = await put(name, bytes, [409, 412], { ...condition, ...Object.fromEntries(named) });
      return response.ok;
    },
  };
}

/** A switch takes milliseconds: an older lock was left by a process that was killed. */
const staleLockMs = 10_000;

/** Hash of the manifest that was published locally; null where nothing was, or what is there cannot be read. */
export async function publishedManifest(folder: string): Promise<string | null> {
  try {
    return currentOf(parsePointer(await readFile(path.join(folder, pointerName), "utf8")));
  } catch {
    return null;
  }
}

/** Objects as files; an object's etag is the SHA-256 of its bytes. Metadata, which are hints, are not kept. */
export function folderStore(folder: string): ObjectStore {
  const get = async (name: string) => {
    const bytes = await readFile(path.join(folder, name)).catch(nullIfMissing);
    return bytes && { bytes: new Uint8Array(bytes), etag: createHash("sha256").update(bytes).digest("hex") };
  };
  return {
    get,
    async put(name, bytes) {
      await writeWhole(path.join(folder, name), bytes);
    },
    async replace(name, bytes, etag) {
      const file = path.join(folder, name);
      return locked(`${file}.lock`, async () => {
        if (((await get(name))?.etag ?? null) !== etag) return false;
        await writeWhole(file, bytes);
        return true;
      });
    },
  };
}

/** Runs `work` while no other process has the lock; false where another has it. */
async function locked(lock: string, work: () => Promise<boolean>): Promise<boolean> {
  const held = await stat(lock).catch(nullIfMissing);
  if (held && Date.now() - held.mtimeMs > staleLockMs) await rm(lock, { force: true });
  const handle = await open(lock, "wx").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "EEXIST") return null;
    throw error;
  });
  if (!handle) return false;
  try {
    return await work();
  } finally {
    await handle.close();
    await rm(lock, { force: true });
  }
}
