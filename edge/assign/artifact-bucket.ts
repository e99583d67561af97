/** Published artifacts as the edge reads them from R2. R2 reads its own writes, so what is switched is seen at once. */
import { objectName, type Pointer, parsePointer, pointerName } from "../../shared/artifacts/bucket.ts";
import { setLimits } from "../../shared/artifacts/limits.ts";
import { manifestFile } from "../../shared/artifacts/manifest.ts";
import { requireManifest } from "../../shared/artifacts/set-file.ts";
import { type Artifacts, loadArtifacts } from "./artifacts.ts";

/** What is read of the platform's R2Bucket. */
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
  text(): Promise<string>;
  arrayBuffer(): Promise<ArrayBuffer>;
}

/** Where sets come from, and which is to be served. Everything rejects with an Error that names object and fault. */
export interface ArtifactSource {
  /** null where nothing was published. */
  pointer(): Promise<Pointer | null>;
  /** By the manifest's hash; whole and checked, or not at all. */
  load(manifestHash: string): Promise<Artifacts>;
}

export class ArtifactBucket implements ArtifactSource {
  readonly #bucket: Bucket;
  #known: { pointer: Pointer; etag: string } | null = null;

  constructor(bucket: Bucket) {
    this.#bucket = bucket;
  }

  async pointer(): Promise<Pointer | null> {
    const known = this.#known;
    const found = known
      ? await this.#bucket.get(pointerName, { onlyIf: { etagDoesNotMatch: known.etag } })
      : await this.#bucket.get(pointerName);
    if (!found) return null;
    // Without a body it is the version that is known.
    if (!isWithBody(found)) return known?.pointer ?? null;
    requireSize(pointerName, found, setLimits.pointerBytes);
    const pointer = parsePointer(await found.text());
    this.#known = { pointer, etag: found.etag };
    return pointer;
  }

  load(manifestHash: string): Promise<Artifacts> {
    return loadArtifacts(async (name, mostBytes, sha256 = manifestHash) => {
      const what = `${objectName(sha256)} (${name} of the manifest ${manifestHash})`;
      const found = await this.#bucket.get(objectName(sha256));
      if (!found) throw new Error(`${what} is not in the bucket`);
      requireSize(what, found, mostBytes);
      const bytes = new Uint8Array(await found.arrayBuffer());
      // The others are held against what this one says.
      if (name === manifestFile) await requireManifest(bytes, manifestHash);
      return bytes;
    });
  }
}

/** Before it takes memory. */
function requireSize(what: string, { size }: Found, mostBytes: number): void {
  if (size > mostBytes) throw new Error(`${what} has ${size} bytes, the maximum is ${mostBytes}`);
}

function isWithBody(found: Found | Unchanged): found is Found {
  return "body" in found;
}
