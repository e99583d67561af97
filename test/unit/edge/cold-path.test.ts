/** How many sequential reads a cold isolate waits for, what it reads for a thousand requests, and what damaged cache entries cost. */
import { expect, test } from "vitest";
import { ArtifactBucket, type Bucket, cacheUrl, type ObjectCache } from "../../../edge/artifacts/artifact-bucket.ts";
import { ArtifactSets } from "../../../edge/artifacts/artifact-sets.ts";
import { PlannedSets } from "../../../edge/artifacts/deployed.ts";
import { createWaker } from "../../../edge/cell/cell-names.ts";
import { createKeyStore } from "../../../edge/tenants/keys.ts";
import { createRecords } from "../../../edge/tenants/records.ts";
import { metadataOf, objectName, pointerName, switchedTo } from "../../../shared/artifacts/bucket.ts";
import { edgeTableFile, manifestFile, tokenizerFile } from "../../../shared/artifacts/manifest.ts";
import { sha256Hex } from "../../../shared/bytes.ts";
import { keyIdOf, keyPrefix, scopes } from "../../../shared/contracts/tenants.ts";
import { edgeModelFiles } from "../../support/edge-model.ts";
import { turn } from "../../support/scripted-backends.ts";

/** A bucket that answers only when nothing else happens. Reads that wait at that time were made together: one round trip. */
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
    const metadata = customMetadata && { customMetadata };
    return { etag: name, size: bytes.byteLength, body: bytes, text, arrayBuffer, ...metadata };
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
  /** Answers that are given instead of an entry. */
  readonly damaged = new Map<string, () => Response>();
  async match(url: string) {
    return this.damaged.get(url)?.() ?? this.entries.get(url)?.clone();
  }
  async put(url: string, response: Response) {
    this.damaged.delete(url);
    this.entries.set(url, response);
  }
  async delete(url: string) {
    this.damaged.delete(url);
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
  bucket.put(pointerName, pointer, hasMetadata ? metadataOf(edgeFiles) : undefined);
  return { bucket, manifest, edgeFiles };
}

/** A cold isolate. Isolates with the same cache are in the same city. */
function isolate(bucket: SlowBucket, cache: ObjectCache, now = () => 0) {
  return new ArtifactSets({
    source: new ArtifactBucket(bucket as Bucket, { cache, background: () => undefined }),
    assets: () => Promise.reject(new Error("there are no assets")),
    holding: async () => "all",
    now,
    background: () => undefined,
    observe: () => undefined,
  });
}

test("a cold isolate loads a set in two sequential reads, in three where the pointer has no metadata", async () => {
  for (const hasMetadata of [true, false]) {
    const { bucket, manifest } = await published(hasMetadata);
    const sets = isolate(bucket, new MemoryCache());
    const [set] = await bucket.during(Promise.all([sets.current(), sets.current(), sets.current()]));
    expect(set.manifestHash).toBe(manifest);
    expect([bucket.roundTrips, bucket.reads]).toEqual([hasMetadata ? 2 : 3, 4]);
  }
});

/** A completion on a cold Worker, answered by a cold cell. `isWoken`: the Worker wakes the cell before, as the route does. */
async function coldRequest(bucket: SlowBucket, manifest: string, edgeFiles: string[], isWoken: boolean) {
  const worker = isolate(bucket, new MemoryCache());
  // The cell is in another city, and its isolate shares nothing with the Worker's.
  const source = new ArtifactBucket(bucket as Bucket, { cache: new MemoryCache(), background: () => undefined });
  const cell = new PlannedSets(
    source,
    () => Promise.reject(new Error("there are no assets")),
    () => null,
  );
  const told: string[] = [];
  const fetch = async (_: string, { method }: RequestInit) => {
    told.push(method!);
    await cell.prepare();
    return new Response(null, { status: 204 });
  };
  const wake = createWaker({ namespace: () => ({ fetch }), cellsPerRegion: 4 }, () => undefined);
  const request = async () => {
    for (let i = 0; isWoken && i < 3; i++) wake("acme", "oc");
    const set = await worker.current();
    expect((await cell.of(set.manifestHash, edgeFiles)).manifestHash).toBe(manifest);
  };
  const [tripsBefore, readsBefore] = [bucket.roundTrips, bucket.reads];
  await bucket.during(request());
  return { told, roundTrips: bucket.roundTrips - tripsBefore, reads: bucket.reads - readsBefore };
}

test("a request that finds Worker and cell cold waits for two sequential reads, not three", async () => {
  const { bucket, manifest, edgeFiles } = await published(true);
  const cold = (isWoken: boolean) => coldRequest(bucket, manifest, edgeFiles, isWoken);
  // Worker and cell read three files and a pointer each; a cell that was not woken needs no pointer.
  expect(await cold(true)).toEqual({ told: ["GET"], roundTrips: 2, reads: 8 });
  expect(await cold(false)).toEqual({ told: [], roundTrips: 3, reads: 7 });
});

test.each([
  ["harmed", () => new Response("harmed")],
  ["longer than its record", () => new Response("x".repeat(1 << 20))],
  ["broken off", () => new Response(new ReadableStream({ pull: (controller) => controller.error(new Error("cut")) }))],
])("a cache entry that is %s is deleted, and the same load reads the object from the bucket", async (_, harm) => {
  for (const which of [0, 1, 2]) {
    const { bucket, manifest, edgeFiles } = await published(true);
    const cache = new MemoryCache();
    await bucket.during(isolate(bucket, cache).current());
    cache.damaged.set(cacheUrl(edgeFiles[which]), harm);
    const readsBefore = bucket.reads;
    const source = new ArtifactBucket(bucket as Bucket, { cache, background: () => undefined });
    expect((await bucket.during(source.load(manifest, edgeFiles))).manifestHash).toBe(manifest);
    expect(bucket.reads - readsBefore).toBe(1);
    // The good bytes have replaced the entry, and the other entries are unchanged.
    expect((await bucket.during(source.load(manifest, edgeFiles))).manifestHash).toBe(manifest);
    expect(bucket.reads - readsBefore).toBe(1);
  }
});

test("an object that is damaged in cache and bucket fails the load", async () => {
  const { bucket, manifest, edgeFiles } = await published(true);
  const cache = new MemoryCache();
  cache.entries.set(cacheUrl(edgeFiles[1]), new Response("harmed"));
  bucket.put(objectName(edgeFiles[1]), new TextEncoder().encode("harmed"));
  const source = new ArtifactBucket(bucket as Bucket, { cache, background: () => undefined });
  await expect(bucket.during(source.load(manifest, edgeFiles))).rejects.toThrow(/SHA-256/);
  expect(cache.entries.has(cacheUrl(edgeFiles[1]))).toBe(false);
});

test("1,000 requests of one key in 10 seconds: reads of KV and R2", async () => {
  let nowMs = 0;
  const now = () => nowMs;
  const requests = async (read: () => Promise<unknown>) => {
    for (let i = 0; i < 1000; i++, nowMs += 10) {
      await read();
      await turn();
    }
  };
  const hash = await sha256Hex(new TextEncoder().encode("sk-one"));
  const key = {
    ...{ hash, tenant: "acme", scopes: [...scopes], tenantRecord: { plan: "standard", limits: {}, origins: [] } },
    ...{ createdAt: "2026-11-01T00:00:00.000Z", expiresAt: null },
  };
  let kvReads = 0;
  const get = async (name: string) => {
    kvReads++;
    return name === keyPrefix + keyIdOf(hash) ? key : null;
  };
  const namespace = { get, list: () => Promise.reject(new Error("not to be listed")) };
  const keys = createKeyStore(
    [],
    createRecords(namespace, now, () => undefined),
    now,
  );
  await requests(() => keys.accessOf("sk-one", ""));
  // Each time three values are read: the key's record, its end and its revocation.
  expect(kvReads).toBeLessThanOrEqual(60);

  const cache = new MemoryCache();
  const { bucket } = await published(true);
  const r2Reads = async () => {
    nowMs = 0;
    const before = bucket.reads;
    const sets = isolate(bucket, cache, now);
    await bucket.during(requests(() => sets.current()));
    return bucket.reads - before;
  };
  const [first, second] = [await r2Reads(), await r2Reads()];
  // Three files and the pointer, which is read again every 3 seconds.
  expect(first).toBeLessThanOrEqual(8);
  expect(second).toBe(first - 3);
});
