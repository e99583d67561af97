/**
 * Reads published artifacts from R2. R2 is strongly consistent, so a switch is visible immediately. Objects are named by the
 * hash of their bytes, so each city keeps those it has read in its cache, and the pointer's metadata says which ones a set
 * needs: a set is loaded in two sequential reads, the pointer and everything else.
 */
import { edgeFilesOf, objectName, type Pointer, parsePointer, pointerName } from "../../shared/artifacts/bucket.ts";
import { setLimits } from "../../shared/artifacts/limits.ts";
import { manifestFile } from "../../shared/artifacts/manifest.ts";
import { readAtMost, requireManifest } from "../../shared/artifacts/set-file.ts";
import { sha256Hex } from "../../shared/sha256.ts";
import { type Artifacts, loadArtifacts } from "./artifacts.ts";

/** The methods of R2Bucket in use. */
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

/** A cache of responses by URL, as the platform's `caches.default`. */
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

/** Source of sets and of the pointer. Methods reject with an Error that names the object and the fault. */
export interface ArtifactSource {
  /** The pointer; null if nothing was published. */
  pointer(): Promise<Pointer | null>;
  /**
   * Loads a set by its manifest's hash. Rejects unless all of it is valid. `files`: hashes of what it needs, if known, which
   * are then read at once.
   */
  load(manifestHash: string, files?: readonly string[]): Promise<Artifacts>;
}

/** An object whose bytes are not read yet. */
interface Opened {
  isCached: boolean;
  bytes(what: string, mostBytes: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** Cache keys; `.invalid` is never resolved. */
export const cacheUrl = (sha256: string) => `https://artifacts.invalid/${objectName(sha256)}`;
/** Files that the edge reads of a set. Further hints are ignored. */
const mostHinted = 3;
const cacheHeaders = { "cache-control": "public, max-age=31536000, immutable" };

export class ArtifactBucket implements ArtifactSource {
  readonly #bucket: Bucket;
  readonly #caching: CacheParts | null;
  #known: { pointer: Pointer; etag: string } | null = null;
  /** Which objects the newest set needs. A hint: what is loaded is checked against the manifest. */
  #edgeFiles: ReturnType<typeof edgeFilesOf> = null;

  constructor(bucket: Bucket, caching: CacheParts | null = null) {
    this.#bucket = bucket;
    this.#caching = caching;
  }

  async pointer(): Promise<Pointer | null> {
    const known = this.#known;
    const found = known
      ? await this.#bucket.get(pointerName, { onlyIf: { etagDoesNotMatch: known.etag } })
      : await this.#bucket.get(pointerName);
    if (!found) return null;
    // No body: the known version is current.
    if (!isWithBody(found)) return known?.pointer ?? null;
    requireSize(pointerName, found, setLimits.pointerBytes);
    const pointer = parsePointer(await found.text());
    this.#known = { pointer, etag: found.etag };
    this.#edgeFiles = edgeFilesOf(found.customMetadata ?? {});
    return pointer;
  }

  /** `damaged`: those that the cache is not asked for. */
  async load(manifestHash: string, files: readonly string[] = [], damaged: readonly string[] = []): Promise<Artifacts> {
    const opened = new Map<string, Promise<Opened | null>>();
    const open = (sha256: string) => {
      const one = opened.get(sha256) ?? this.#open(sha256, damaged);
      opened.set(sha256, one);
      return one;
    };
    const hinted = this.#edgeFiles?.manifest === manifestHash ? this.#edgeFiles.files : files;
    // Whoever reads it gets the failure.
    for (const sha256 of hinted.slice(0, mostHinted)) open(sha256).catch(() => undefined);
    const read = new Map<string, { isCached: boolean; bytes: Uint8Array<ArrayBuffer> }>();
    try {
      const set = await loadArtifacts(async (name, mostBytes, sha256 = manifestHash) => {
        const what = `${objectName(sha256)} (${name} of the manifest ${manifestHash})`;
        const object = await open(sha256);
        if (!object) throw new Error(`${what} is not in the bucket`);
        const bytes = await object.bytes(what, mostBytes);
        read.set(sha256, { isCached: object.isCached, bytes });
        // Other files are checked against this manifest.
        if (name === manifestFile) await requireManifest(bytes, manifestHash);
        return bytes;
      });
      for (const [sha256, { isCached, bytes }] of read) if (!isCached) this.#keep(sha256, bytes);
      return set;
    } catch (error) {
      const found: string[] = [];
      for (const [sha256, { isCached, bytes }] of read) {
        if (isCached && (await sha256Hex(bytes)) !== sha256) found.push(sha256);
      }
      if (found.length === 0) throw error;
      for (const sha256 of found) await this.#caching?.cache.delete(cacheUrl(sha256)).catch(() => undefined);
      // Each time at least one is read of the bucket in place of the cache.
      return await this.load(manifestHash, files, [...damaged, ...found]);
    }
  }

  /** null where the object is nowhere. */
  async #open(sha256: string, damaged: readonly string[]): Promise<Opened | null> {
    if (damaged.includes(sha256)) return this.#openInBucket(sha256);
    const cached = await this.#caching?.cache.match(cacheUrl(sha256)).catch(() => undefined);
    if (!cached?.body) return this.#openInBucket(sha256);
    const { body } = cached;
    // One that breaks off is damaged, too.
    const bytes = (_: string, mostBytes: number) => readAtMost(body, mostBytes).catch(() => new Uint8Array());
    return { isCached: true, bytes };
  }

  async #openInBucket(sha256: string): Promise<Opened | null> {
    const found = await this.#bucket.get(objectName(sha256));
    if (!found) return null;
    return {
      isCached: false,
      async bytes(what, mostBytes) {
        requireSize(what, found, mostBytes);
        return new Uint8Array(await found.arrayBuffer());
      },
    };
  }

  /** Keeps checked bytes in this city's cache, behind the request. */
  #keep(sha256: string, bytes: Uint8Array<ArrayBuffer>): void {
    if (!this.#caching) return;
    const { cache, background } = this.#caching;
    const kept = cache.put(cacheUrl(sha256), new Response(bytes, { headers: cacheHeaders }));
    background(kept.catch(() => undefined));
  }
}

/** Checks the size before the object is read into memory. */
function requireSize(what: string, { size }: Found, mostBytes: number): void {
  if (size > mostBytes) throw new Error(`${what} has ${size} bytes, the maximum is ${mostBytes}`);
}

function isWithBody(found: Found | Unchanged): found is Found {
  return "body" in found;
}
