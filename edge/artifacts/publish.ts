/** Publishes sets: first the files, named by their hashes, then the pointer. An interrupted publication can be started again. */
import {
  currentOf,
  edgeFilesOfSet,
  metadataOf,
  objectName,
  type Pointer,
  parsePointer,
  pointerName,
  previousOf,
  switchedTo,
} from "../../shared/artifacts/bucket.ts";
import { setLimits } from "../../shared/artifacts/limits.ts";
import { filesOf, type Manifest, parseManifest } from "../../shared/artifacts/manifest.ts";
import { requireManifest } from "../../shared/artifacts/set-file.ts";
import { hexOf } from "../../shared/bytes.ts";
import type { SwitchReport } from "../../shared/contracts/admin.ts";
import { invalidRequest, ServiceError, unavailable } from "../../shared/errors.ts";

const bucketAway = unavailable("The bucket of artifacts cannot be read or written now");

export interface PublishBucket {
  head(name: string): Promise<StoredObject | null>;
  get(name: string): Promise<(StoredObject & { etag: string; arrayBuffer(): Promise<ArrayBuffer> }) | null>;
  /** Resolves to null if the condition does not hold. Rejects, and writes nothing, if the bytes do not have the hash `sha256`. */
  put(name: string, value: ReadableStream<Uint8Array> | string, options: PutOptions): Promise<unknown>;
}

interface StoredObject {
  size: number;
  checksums: { sha256?: ArrayBuffer };
}

interface PutOptions {
  sha256?: string;
  /** `If-Match` with a quoted etag, or `If-None-Match: *`. */
  onlyIf?: Headers;
  customMetadata?: Record<string, string>;
}

/** Message of `put`'s error for bytes with another hash. R2's own error has the same code. */
export const wrongHash = "the bytes have another SHA-256 (10037)";

export async function storedBytes(bucket: PublishBucket, sha256: string): Promise<number | null> {
  const found = await bucket.head(objectName(sha256)).catch(bucketAway);
  const checksum = found?.checksums.sha256;
  return found && checksum && hexOf(checksum) === sha256 ? found.size : null;
}

/** Throws invalid_request, and stores nothing, if the bytes have another hash. */
export async function putFile(bucket: PublishBucket, sha256: string, body: ReadableStream<Uint8Array>): Promise<void> {
  await bucket.put(objectName(sha256), body, { sha256 }).catch((cause) => {
    if (!/\(10037\)/.test(String(cause))) bucketAway(cause);
    throw invalidRequest(`the body's SHA-256 is not ${sha256}`, null, cause);
  });
}

/** All switches, newest first. The first switch names the served set. */
export async function switchesIn(bucket: PublishBucket): Promise<Pointer["switches"]> {
  return (await readPointer(bucket)).pointer?.switches ?? [];
}

/**
 * Switches to the set that `manifest` names: a hash, the first digits of an earlier set's hash, or "previous". Throws a ServiceError, and
 * switches nothing, if a file is missing, another publisher has switched meanwhile, or the set has other weights and `otherModel` is false.
 */
export async function switchTo(
  bucket: PublishBucket,
  { manifest: named, otherModel }: { manifest: string; otherModel: boolean },
  nowMs: number,
): Promise<Omit<SwitchReport, "object">> {
  const { pointer, etag } = await readPointer(bucket);
  const manifest = named.length === 64 ? named : servedBefore(pointer, named);
  const before = pointer && currentOf(pointer);
  const set = await requireWhole(bucket, manifest);
  if (before === manifest) return { manifest, before, switched: false };
  if (before !== null && !otherModel) await requireSameModel(bucket, set, before);
  const put = await bucket
    .put(pointerName, JSON.stringify(switchedTo(manifest, new Date(nowMs), pointer), null, 2), {
      onlyIf: new Headers(etag === null ? { "if-none-match": "*" } : { "if-match": `"${etag}"` }),
      customMetadata: metadataOf(edgeFilesOfSet(manifest, set)),
    })
    .catch(bucketAway);
  if (put !== null) return { manifest, before, switched: true };
  const other = (await readPointer(bucket)).pointer;
  const message = `Another publisher switched to ${other ? currentOf(other) : "nothing"} meanwhile, so nothing was switched; look at it, then send this again.`;
  throw new ServiceError("switch_conflict", message);
}

async function readPointer(bucket: PublishBucket): Promise<{ pointer: Pointer | null; etag: string | null }> {
  const found = await bucket.get(pointerName).catch(bucketAway);
  if (!found) return { pointer: null, etag: null };
  return { pointer: parsePointer(new TextDecoder().decode(await found.arrayBuffer())), etag: found.etag };
}

function servedBefore(pointer: Pointer | null, named: string): string {
  if (!pointer) throw invalidRequest("nothing was published yet", "manifest");
  if (named === "previous") {
    const previous = previousOf(pointer);
    if (previous !== null) return previous;
    const message =
      "what is served is the first that was published; before it, artifacts of the model's own folder were";
    throw invalidRequest(`${message}: publish those with --artifacts MODEL_DIR/artifacts`, "manifest");
  }
  const known = [...new Set(pointer.switches.map(({ manifest }) => manifest))].filter((one) => one.startsWith(named));
  if (known.length === 1) return known[0];
  throw invalidRequest(`${known.length} of the manifests that were served begin with ${named}`, "manifest");
}

async function requireSameModel(bucket: PublishBucket, { model }: Manifest, served: string): Promise<void> {
  const { model: now } = await storedManifest(bucket, served);
  if (now.weights === model.weights) return;
  const message = `these artifacts are for ${model.name}, weights ${model.weights}; served now is ${now.name}, weights ${now.weights}. --other-model (other_model) publishes them all the same: backends of the old weights keep the old artifacts`;
  throw invalidRequest(message, "other_model");
}

async function storedManifest(bucket: PublishBucket, hash: string): Promise<Manifest> {
  const found = await bucket.get(objectName(hash)).catch(bucketAway);
  if (!found || found.size > setLimits.manifestBytes) {
    throw invalidRequest(`the manifest ${hash} is not stored; publish its folder`, "manifest");
  }
  const bytes = new Uint8Array(await found.arrayBuffer());
  try {
    await requireManifest(bytes, hash);
    return parseManifest(new TextDecoder().decode(bytes));
  } catch (cause) {
    throw invalidRequest(`the manifest ${hash} is no manifest: ${(cause as Error).message}`, "manifest", cause);
  }
}

async function requireWhole(bucket: PublishBucket, hash: string): Promise<Manifest> {
  const manifest = await storedManifest(bucket, hash);
  for (const [name, { sha256, bytes }] of filesOf(manifest)) {
    if ((await storedBytes(bucket, sha256)) === bytes) continue;
    const message = `${name} of the manifest ${hash} is not whole in the bucket; publish its folder again`;
    throw invalidRequest(message, "manifest");
  }
  return manifest;
}
