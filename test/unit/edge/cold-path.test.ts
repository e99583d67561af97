/** How many sequential reads a request on a cold isolate waits for, and what an isolate reads for a thousand requests. */
import { expect, test } from "vitest";
import { ArtifactBucket, type Bucket, type ObjectCache } from "../../../edge/assign/artifact-bucket.ts";
import { ArtifactSets } from "../../../edge/assign/artifact-sets.ts";
import { createKeyStore } from "../../../edge/tenants/keys.ts";
import { createRecords } from "../../../edge/tenants/records.ts";
import { metadataOf, objectName, pointerName, switchedTo } from "../../../shared/artifacts/bucket.ts";
import { edgeTableFile, manifestFile, tokenizerFile } from "../../../shared/artifacts/manifest.ts";
import { keyIdOf, keyPrefix, scopes, tenantPrefix } from "../../../shared/contracts/tenants.ts";
import { sha256Hex } from "../../../shared/sha256.ts";
import { edgeModelFiles } from "../../support/edge-model.ts";

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Answers only when nothing else goes on: all that is asked before has been asked at once, which is one round trip. */
class SlowBucket {
  reads = 0;
  roundTrips = 0;
  readonly #objects = new Map<string, { bytes: Uint8Array<ArrayBuffer>; customMetadata?: Record<string, string> }>();
  #waiting: (() => void)[] = [];

  put(name: string, bytes: Uint8Array<ArrayBuffer>, customMetadata?: Record<string, string>) {
    this.#objects.set(name, { bytes, ...(customMetadata && { customMetadata }) });
  }

  async get(name: string, { onlyIf }: { onlyIf?: { etagDoesNotMatch: string } } = {}) {
    this.reads++;
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
    const object = this.#objects.get(name);
    if (!object) return null;
    const { bytes, customMetadata } = object;
    if (onlyIf?.etagDoesNotMatch === name) return { etag: name };
    const text = async () => new TextDecoder().decode(bytes);
    const arrayBuffer = async () => bytes.slice().buffer;
    return {
      etag: name,
      size: bytes.byteLength,
      body: bytes,
      text,
      arrayBuffer,
      ...(customMetadata && { customMetadata }),
    };
  }

  async during<T>(work: Promise<T>): Promise<T> {
    let isDone = false;
    const ends = () => {
      isDone = true;
    };
    work.then(ends, ends);
    while (!isDone) {
      for (let i = 0; i < 20; i++) await turn();
      if (this.#waiting.length > 0) this.roundTrips++;
      for (const answer of this.#waiting.splice(0)) answer();
    }
    return work;
  }
}

class MemoryCache implements ObjectCache {
  readonly entries = new Map<string, Response>();
  async match(url: string) {
    return this.entries.get(url)?.clone();
  }
  async put(url: string, response: Response) {
    this.entries.set(url, response);
  }
  async delete(url: string) {
    return this.entries.delete(url);
  }
}

async function published(hasMetadata: boolean) {
  const files = await edgeModelFiles();
  const bucket = new SlowBucket();
  const hashes = new Map<string, string>();
  for (const [name, bytes] of files) {
    hashes.set(name, await sha256Hex(bytes));
    bucket.put(objectName(hashes.get(name)!), bytes);
  }
  const manifest = hashes.get(manifestFile)!;
  const edgeFiles = [manifest, hashes.get(edgeTableFile)!, hashes.get(tokenizerFile)!];
  const pointer = new TextEncoder().encode(JSON.stringify(switchedTo(manifest, new Date(0), null)));
  bucket.put(pointerName, pointer, hasMetadata ? metadataOf({ manifest, files: edgeFiles }) : undefined);
  return { bucket, manifest, edgeFiles };
}

/** A cold isolate; those with the same cache are in one city. */
function isolate(bucket: SlowBucket, cache: ObjectCache, now = () => 0) {
  return new ArtifactSets({
    source: new ArtifactBucket(bucket as Bucket, { cache, background: () => undefined }),
    assets: () => Promise.reject(new Error("there are no assets")),
    holding: async () => "all",
    now,
    background: () => undefined,
    observer: { switched: () => undefined, refused: () => undefined, awaited: () => undefined },
  });
}

test("a cold isolate loads a set in two sequential reads, in three where the pointer has no metadata", async () => {
  for (const [hasMetadata, roundTrips] of [
    [true, 2],
    [false, 3],
  ] as const) {
    const { bucket, manifest } = await published(hasMetadata);
    const sets = isolate(bucket, new MemoryCache());
    const [set] = await bucket.during(Promise.all([sets.current(), sets.current(), sets.current()]));
    expect(set.manifestHash).toBe(manifest);
    expect([bucket.roundTrips, bucket.reads]).toEqual([roundTrips, 4]);
  }
});

test("in a city that has loaded the set, a cold isolate reads the pointer alone", async () => {
  const { bucket, manifest } = await published(true);
  const cache = new MemoryCache();
  await bucket.during(isolate(bucket, cache).current());
  const readsBefore = bucket.reads;
  const set = await bucket.during(isolate(bucket, cache).current());
  expect([set.manifestHash, bucket.reads - readsBefore]).toEqual([manifest, 1]);
});

test("an object that is told the files of a set loads them in one read", async () => {
  const { bucket, manifest, edgeFiles } = await published(false);
  const source = new ArtifactBucket(bucket as Bucket);
  const set = await bucket.during(source.load(manifest, edgeFiles));
  expect([set.manifestHash, bucket.roundTrips, bucket.reads]).toEqual([manifest, 1, 3]);
});

test("an entry of the cache that is not what its name says is deleted, and the next load reads the bucket", async () => {
  const { bucket, manifest } = await published(true);
  const cache = new MemoryCache();
  await bucket.during(isolate(bucket, cache).current());
  const table = [...cache.entries.keys()].find((url) => !url.includes(manifest))!;
  cache.entries.set(table, new Response("harmed"));
  const source = new ArtifactBucket(bucket as Bucket, { cache, background: () => undefined });
  await expect(bucket.during(source.load(manifest))).rejects.toThrow(/SHA-256/);
  expect((await bucket.during(source.load(manifest))).manifestHash).toBe(manifest);
});

test("1,000 requests of one key in 10 seconds: reads of KV and R2", async () => {
  const hash = await sha256Hex(new TextEncoder().encode("sk-one"));
  const tenantRecord = { plan: "standard", limits: {}, origins: [] };
  const key = {
    ...{ hash, tenant: "acme", scopes: [...scopes] },
    ...{ createdAt: "2026-11-01T00:00:00.000Z", expiresAt: null, revokedAt: null },
  };
  const kvReads = async (record: object) => {
    let nowMs = 0;
    let reads = 0;
    const stored = new Map<string, unknown>([
      [keyPrefix + keyIdOf(hash), record],
      [`${tenantPrefix}acme`, tenantRecord],
    ]);
    const get = async (name: string) => {
      reads++;
      return stored.get(name) ?? null;
    };
    const namespace = { get, list: () => Promise.reject(new Error("not to be listed")) };
    const keys = createKeyStore(
      [],
      createRecords(
        namespace,
        () => nowMs,
        () => undefined,
      ),
      () => nowMs,
    );
    for (let i = 0; i < 1000; i++, nowMs += 10) await keys.accessOf("sk-one", "");
    return reads;
  };
  const cache = new MemoryCache();
  const { bucket } = await published(true);
  const r2Reads = async () => {
    let nowMs = 0;
    const readsBefore = bucket.reads;
    const sets = isolate(bucket, cache, () => nowMs);
    const all = async () => {
      for (let i = 0; i < 1000; i++, nowMs += 10) {
        await sets.current();
        await turn();
      }
    };
    await bucket.during(all());
    return bucket.reads - readsBefore;
  };
  const kv = [await kvReads(key), await kvReads({ ...key, tenantRecord })];
  const r2 = [await r2Reads(), await r2Reads()];
  console.log(`reads per 1,000 requests at 100 a second. KV: ${kv[0]} with two records a key, ${kv[1]} with one`);
  console.log(`R2, a new isolate: ${r2[0]} in a city without the set, ${r2[1]} in one that has it`);
  expect(kv[0]).toBe(2 * kv[1]);
  expect(kv[1]).toBeLessThanOrEqual(20);
  // Three files and the pointer, which is looked at again every 3 seconds.
  expect(r2[0]).toBeLessThanOrEqual(8);
  expect(r2[1]).toBe(r2[0] - 3);
});
