/**
 * Publishes sets of artifacts that must be refused, one after another while requests come, into a folder that a backend reads as its
 * bucket. test/fuzz/artifact-sets.test.ts tests all kinds of bad sets.
 */
import { createHash } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { objectName, pointerName, switchedTo } from "../../../shared/artifacts/bucket.ts";
import { hyperNetworkFile, type Manifest, manifestFile, setFiles } from "../../../shared/artifacts/manifest.ts";

const betweenMs = 1000;

type Change = (manifest: Manifest) => unknown;
const record = { sha256: "0".repeat(64), bytes: 1, tensors: {} };
const changes: Change[] = [
  ({ hyperNetwork }) => Object.assign(hyperNetwork, { rank: 1e9 }),
  ({ model }) => Object.assign(model, { vocabularySize: 1e9 }),
  ({ embedding }) => Object.assign(embedding, { dimensions: 2 ** 40 }),
  (manifest) => Object.assign(manifest, { centroids: Array(500_000).fill(1) }),
  (manifest) => Object.assign(manifest.centroids[0], { label: ["x".repeat(1_000_000)] }),
  ({ files }) => Object.assign(files, { "..": record }),
  ({ files }) => Object.assign(files, { [manifestFile]: record }),
  ({ files }) => Object.assign(files[hyperNetworkFile], { bytes: 6e8 }),
  ({ files }) => Object.assign(files[hyperNetworkFile], { bytes: 7 }),
  // No file has this hash, so the bucket lacks the object.
  ({ files }) => Object.assign(files[hyperNetworkFile], { sha256: "f".repeat(64) }),
];
const pointers = ["", "{", "[".repeat(100_000), "x".repeat(10_000_000), '{"format":1,"switches":[]}'];

/** Publishes until `signal` aborts. */
export async function publishBadSets(artifacts: string, bucket: string, signal: AbortSignal): Promise<void> {
  const put = async (name: string, bytes: string | Uint8Array) => {
    const target = path.join(bucket, name);
    await mkdir(path.dirname(target), { recursive: true });
    await writeFile(`${target}.new`, bytes);
    await rename(`${target}.new`, target);
  };
  const hashOf = (bytes: string | Uint8Array) => createHash("sha256").update(bytes).digest("hex");
  for (const name of setFiles) {
    const bytes = await readFile(path.join(artifacts, name));
    await put(objectName(hashOf(bytes)), bytes);
  }
  const manifest = await readFile(path.join(artifacts, manifestFile), "utf8");
  for (let turn = 0; !signal.aborted; turn++) {
    const changed: Manifest = JSON.parse(manifest);
    changes[turn % changes.length](changed);
    const json = JSON.stringify(changed);
    await put(objectName(hashOf(json)), json);
    await put(pointerName, JSON.stringify(switchedTo(hashOf(json), new Date(0), null)));
    await sleep(betweenMs, undefined, { signal }).catch(() => undefined);
    await put(pointerName, pointers[turn % pointers.length]);
    await sleep(betweenMs, undefined, { signal }).catch(() => undefined);
  }
}
