/** Reads published artifacts from R2, which is strongly consistent. An object is named by its hash, so caches may keep it for ever. */
import { edgeFilesOf, objectName, type Pointer, parsePointer, pointerName } from "../../shared/artifacts/bucket.ts";
import { setLimits } from "../../shared/artifacts/limits.ts";
import { manifestFile } from "../../shared/artifacts/manifest.ts";
import { readAtMost, requireManifest } from "../../shared/artifacts/set-file.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import { type Artifacts, loadArtifacts } from "./artifacts.ts";

export interface Bucket {
  get(name: string, options: { onlyIf: { etagDoesNotMatch: string } }): Promise<Found | Unchanged | null>;
  get(name: string): Promise<Found | null>;
}

interface Unchanged {
  etag: string;
}

interface Found extends Unchanged {
  size: number;
  body: unknown;
  customMetadata?: Record<string, string>;
  text(): Promise<string>;
  arrayBuffer(): Promise<ArrayBuffer>;
}

export interface ObjectCache {
  match(url: string): Promise<Response | undefined>;
  put(url: string, response: Response): Promise<void>;
  delete(url: string): Promise<boolean>;
}

export interface CacheParts {
  cache: ObjectCache;
  /** Keeps the Worker alive until `work` settles (waitUntil). */
  background(work: Promise<void>): void;
}

export type ArtifactSource = Pick<ArtifactBucket, "pointer" | "load">;

interface Opened {
  isCached: boolean;
  bytes(what: string, maxBytes: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** No real host has a name in `.invalid`. */
export const cacheUrl = (sha256: string) => `https://artifacts.invalid/${objectName(sha256)}`;
/** Number of a set's files that the edge reads. */
const maxHintedFiles = 3;
const cacheHeaders = { "cache-control": "public, max-age=31536000, immutable" };

/** Methods reject with an Error that names the object and the fault. */
export class ArtifactBucket {
  readonly #bucket: Bucket;
  readonly #caching: CacheParts | null;
  #known: { pointer: Pointer; etag: string } | null = null;
  /** Hashes of the newest set's objects. Only a hint: loaded objects are checked against the manifest. */
  #edgeFiles: ReturnType<typeof edgeFilesOf> = null;

  constructor(bucket: Bucket, caching: CacheParts | null = null) {
    this.#bucket = bucket;
    this.#caching = caching;
  }

  /** null if nothing was published. */
  async pointer(): Promise<Pointer | null> {
    const known = this.#known;
    const found = known
      ? await this.#bucket.get(pointerName, { onlyIf: { etagDoesNotMatch: known.etag } })
      : await this.#bucket.get(pointerName);
    if (!found) return null;
    // A result without a body means that the known version is current.
    if (!isWithBody(found)) return known?.pointer ?? null;
    requireSize(pointerName, found, setLimits.pointerBytes);
    const pointer = parsePointer(await found.text());
    this.#known = { pointer, etag: found.etag };
    this.#edgeFiles = edgeFilesOf(found.customMetadata ?? {});
    return pointer;
  }

  /**
   * Rejects unless the whole set is valid. `files`: hashes of the set's files, if known. `damaged`: hashes whose cached copies are invalid.
   */
  async load(manifestHash: string, files: readonly string[] = [], damaged: readonly string[] = []): Promise<Artifacts> {
    const opened = new Map<string, Promise<Opened | null>>();
    const open = (sha256: string) => {
      const one = opened.get(sha256) ?? (damaged.includes(sha256) ? this.#openInBucket(sha256) : this.#open(sha256));
      opened.set(sha256, one);
      return one;
    };
    const hinted = this.#edgeFiles?.[0] === manifestHash ? this.#edgeFiles : files;
    // A failure is handled below, where the object is read.
    for (const sha256 of hinted.slice(0, maxHintedFiles)) open(sha256).catch(() => undefined);
    const read = new Map<string, { isCached: boolean; bytes: Uint8Array<ArrayBuffer> }>();
    try {
      const set = await loadArtifacts(async (name, maxBytes, sha256 = manifestHash) => {
        const what = `${objectName(sha256)} (${name} of the manifest ${manifestHash})`;
        const object = await open(sha256);
        if (!object) throw new Error(`${what} is not in the bucket`);
        const bytes = await object.bytes(what, maxBytes);
        read.set(sha256, { isCached: object.isCached, bytes });
        // `loadArtifacts` checks the other files against the manifest.
        if (name === manifestFile) await requireManifest(bytes, manifestHash);
        return bytes;
      });
      for (const [sha256, { isCached, bytes }] of read) if (!isCached) this.#cache(sha256, bytes);
      return set;
    } catch (error) {
      const corrupt: string[] = [];
      for (const [sha256, { isCached, bytes }] of read) {
        if (isCached && (await sha256Hex(bytes)) !== sha256) corrupt.push(sha256);
      }
      if (corrupt.length === 0) throw error;
      for (const sha256 of corrupt) await this.#caching?.cache.delete(cacheUrl(sha256)).catch(() => undefined);
      // The recursion ends, because each further call reads at least one more object from the bucket.
      return await this.load(manifestHash, files, [...damaged, ...corrupt]);
    }
  }

  /** Returns null if neither cache nor bucket has the object. */
  async #open(sha256: string): Promise<Opened | null> {
    const cached = await this.#caching?.cache.match(cacheUrl(sha256)).catch(() => undefined);
    if (!cached?.body) return this.#openInBucket(sha256);
    const { body } = cached;
    // An incomplete body is read as an empty body, which fails its check.
    const bytes = (_: string, maxBytes: number) => readAtMost(body, maxBytes).catch(() => new Uint8Array());
    return { isCached: true, bytes };
  }

  async #openInBucket(sha256: string): Promise<Opened | null> {
    const found = await this.#bucket.get(objectName(sha256));
    if (!found) return null;
    return {
      isCached: false,
      async bytes(what, maxBytes) {
        requireSize(what, found, maxBytes);
        return new Uint8Array(await found.arrayBuffer());
      },
    };
  }

  #cache(sha256: string, bytes: Uint8Array<ArrayBuffer>): void {
    if (!this.#caching) return;
    const { cache, background } = this.#caching;
    const cached = cache.put(cacheUrl(sha256), new Response(bytes, { headers: cacheHeaders }));
    background(cached.catch(() => undefined));
  }
}

function requireSize(what: string, { size }: Found, maxBytes: number): void {
  if (size > maxBytes) throw new Error(`${what} has ${size} bytes, the maximum is ${maxBytes}`);
}

function isWithBody(found: Found | Unchanged): found is Found {
  return "body" in found;
}
