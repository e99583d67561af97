/** Reads published artifacts from R2. R2 is strongly consistent, so a switch is visible immediately. */
import { objectName, type Pointer, parsePointer, pointerName } from "../../shared/artifacts/bucket.ts";
import { setLimits } from "../../shared/artifacts/limits.ts";
import { manifestFile } from "../../shared/artifacts/manifest.ts";
import { requireManifest } from "../../shared/artifacts/set-file.ts";
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
  text(): Promise<string>;
  arrayBuffer(): Promise<ArrayBuffer>;
}

/** Source of sets and of the pointer. Methods reject with an Error that names the object and the fault. */
export interface ArtifactSource {
  /** The pointer; null if nothing was published. */
  pointer(): Promise<Pointer | null>;
  /** Loads a set by its manifest's hash. Rejects unless all of it is valid. */
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
    // No body: the known version is current.
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
      // Other files are checked against this manifest.
      if (name === manifestFile) await requireManifest(bytes, manifestHash);
      return bytes;
    });
  }
}

/** Checks the size before the object is read into memory. */
function requireSize(what: string, { size }: Found, mostBytes: number): void {
  if (size > mostBytes) throw new Error(`${what} has ${size} bytes, the maximum is ${mostBytes}`);
}

function isWithBody(found: Found | Unchanged): found is Found {
  return "body" in found;
}
