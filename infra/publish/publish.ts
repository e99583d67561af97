/**
 * What `npm run publish` does to a store: uploads under content hashes, reads back, switches the pointer. Nothing is visible before
 * the switch, so it may be interrupted anywhere and started again. Not here: which store, and the command line.
 */
import { isDeepStrictEqual } from "node:util";
import {
  currentOf,
  type EdgeFiles,
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
import { type Manifest, parseManifest, setFiles } from "../../shared/artifacts/manifest.ts";
import { requireManifest } from "../../shared/artifacts/set-file.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import type { ArtifactSet } from "./artifact-set.ts";
import type { ObjectStore } from "./store.ts";

export interface Publisher {
  store: ObjectStore;
  now(): Date;
  /** Told of each step. */
  say(line: string): void;
}

export interface Published {
  manifest: string;
  /** What was served before; null where nothing was. */
  before: string | null;
  uploaded: number;
  /** Files that were there, whole. */
  present: number;
  /** Whether the pointer changed. */
  switched: boolean;
}

interface Found {
  pointer: Pointer | null;
  etag: string | null;
}

/**
 * Publishes a set and makes it the one that is served. Throws an Error, and switches nothing, where the set is for other
 * weights than the one served now (unless `otherModel`), where an upload does not read back, or where another publisher
 * has switched meanwhile.
 */
export async function publishSet(
  publisher: Publisher,
  set: ArtifactSet,
  { otherModel = false, dryRun = false } = {},
): Promise<Published> {
  const { store, say } = publisher;
  const found = await readPointer(store);
  if (found.pointer && !otherModel) await requireSameModel(store, set.manifest, currentOf(found.pointer));
  let uploaded = 0;
  // The manifest comes last: whoever finds it finds all that it lists.
  for (const [name, { sha256: hash, bytes }] of set.files) {
    if (await isStored(store, hash, bytes.byteLength)) continue;
    uploaded++;
    say(`${dryRun ? "would upload" : "uploading"} ${name}, ${bytes.length} bytes, as ${objectName(hash)}`);
    if (dryRun) continue;
    await store.put(objectName(hash), bytes);
    if (!(await isStored(store, hash, bytes.byteLength))) {
      throw new Error(`${objectName(hash)} does not read back as it was written; nothing was switched`);
    }
  }
  const present = set.files.size - uploaded;
  const edgeFiles = edgeFilesOfSet(set.manifestHash, set.manifest);
  return { ...(await switchPointer(publisher, found, edgeFiles, dryRun)), uploaded, present };
}

/** Serves again what was served before, or `to`: a manifest's hash, or its first digits. Throws an Error as above. */
export async function rollBack(publisher: Publisher, to: string | null, dryRun = false): Promise<Published> {
  const found = await readPointer(publisher.store);
  if (!found.pointer) throw new Error("nothing was published yet");
  const target = to === null ? previousOf(found.pointer) : knownManifest(found.pointer, to);
  if (target === null) {
    throw new Error(
      "what is served is the first that was published; before it, artifacts of the model's own folder were served: publish those with --artifacts MODEL_DIR/artifacts",
    );
  }
  const manifest = await requireWhole(publisher.store, target);
  const switched = await switchPointer(publisher, found, edgeFilesOfSet(target, manifest), dryRun);
  return { ...switched, uploaded: 0, present: setFiles.length + 1 };
}

/** Every switch, newest first. */
export async function listSwitches(store: ObjectStore): Promise<Pointer["switches"]> {
  return (await readPointer(store)).pointer?.switches ?? [];
}

/** One line for each switch, newest first: the newest one's manifest is served now. */
export function switchLines(switches: Pointer["switches"]): string {
  return switches.map(({ manifest, at }, i) => `${manifest}  ${at}${i === 0 ? "  served now" : ""}\n`).join("");
}

async function switchPointer(
  { store, now, say }: Publisher,
  { pointer, etag }: Found,
  edgeFiles: EdgeFiles,
  dryRun: boolean,
): Promise<Pick<Published, "manifest" | "before" | "switched">> {
  const { manifest } = edgeFiles;
  const before = pointer && currentOf(pointer);
  if (before === manifest) return { manifest, before, switched: false };
  say(`${dryRun ? "would switch" : "switching"} ${pointerName} from ${before ?? "nothing"} to ${manifest}`);
  if (dryRun) return { manifest, before, switched: false };
  const at = now();
  const next = new TextEncoder().encode(JSON.stringify(switchedTo(manifest, at, pointer), null, 2));
  if (await store.replace(pointerName, next, etag, metadataOf(edgeFiles))) return { manifest, before, switched: true };
  const other = (await readPointer(store)).pointer;
  // The switch was ours, and only its answer was lost.
  if (other && isDeepStrictEqual(other, switchedTo(manifest, at, pointer))) return { manifest, before, switched: true };
  throw new Error(
    `another publisher switched to ${other ? currentOf(other) : "nothing"} meanwhile, so nothing was switched; look at it (--list), then run this again`,
  );
}

async function readPointer(store: ObjectStore): Promise<Found> {
  const found = await store.get(pointerName, setLimits.pointerBytes);
  if (!found) return { pointer: null, etag: null };
  return { pointer: parsePointer(new TextDecoder().decode(found.bytes)), etag: found.etag };
}

function knownManifest({ switches }: Pointer, prefix: string): string {
  const known = [...new Set(switches.map(({ manifest }) => manifest))].filter((hash) => hash.startsWith(prefix));
  if (known.length === 1) return known[0];
  throw new Error(`${known.length} of the manifests that were served begin with ${prefix}; see --list`);
}

async function requireSameModel(store: ObjectStore, { model }: Manifest, served: string): Promise<void> {
  const { model: now } = await storedManifest(store, served);
  if (now.weights === model.weights) return;
  throw new Error(
    `these artifacts are for ${model.name}, weights ${model.weights}; served now is ${now.name}, weights ${now.weights}. --other-model publishes them all the same: backends of the old weights keep the old artifacts`,
  );
}

async function storedManifest(store: ObjectStore, hash: string): Promise<Manifest> {
  const bytes = (await store.get(objectName(hash), setLimits.manifestBytes))?.bytes;
  if (!bytes) throw new Error(`the manifest ${hash} is not in the store`);
  await requireManifest(bytes, hash);
  return parseManifest(new TextDecoder().decode(bytes));
}

async function requireWhole(store: ObjectStore, manifest: string): Promise<Manifest> {
  const stored = await storedManifest(store, manifest);
  const { files } = stored;
  for (const name of setFiles) {
    if (!(await isStored(store, files[name].sha256, files[name].bytes))) {
      throw new Error(`${name} of the manifest ${manifest} is not whole in the store; publish its folder again`);
    }
  }
  return stored;
}

async function isStored(store: ObjectStore, hash: string, byteLength: number): Promise<boolean> {
  const found = await store.get(objectName(hash), byteLength);
  return found?.bytes.byteLength === byteLength && (await sha256Hex(found.bytes)) === hash;
}
