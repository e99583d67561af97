/** What the admin API does to a bucket in memory, with real artifacts of a tiny model. */
import path from "node:path";
import { beforeEach, expect, test } from "vitest";
import { storedBytes, switchesIn, switchTo } from "../../../edge/artifacts/publish.ts";
import { readArtifactSet } from "../../../infra/publish/artifact-set.ts";
import { edgeFilesOf, objectName, parsePointer, pointerName } from "../../../shared/artifacts/bucket.ts";
import { edgeTableFile, manifestFile, tokenizerFile } from "../../../shared/artifacts/manifest.ts";
import { MemoryBucket, publishTo, rollBackIn } from "../../support/memory-bucket.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";
import { variantOf, writeTinyModel } from "../../support/tiny-model.ts";

const folder = temporaryFolder();
const [model, other] = [path.join(folder, "model"), path.join(folder, "other")];
await writeTinyModel(model);
await writeTinyModel(other, 8);
const first = await readArtifactSet(path.join(model, "artifacts"));
const second = await readArtifactSet(await variantOf(model, path.join(folder, "second"), "second"));
const otherModel = await readArtifactSet(path.join(other, "artifacts"));

let bucket: MemoryBucket;
beforeEach(() => {
  bucket = new MemoryBucket();
});

test("a publication stores each file under the hash of its bytes, the manifest after the others, the pointer last", async () => {
  expect(await publishTo(bucket, first)).toEqual({ manifest: first.manifestHash, before: null, switched: true });
  const hashes = [...first.files.values()].map(({ sha256 }) => objectName(sha256));
  expect(bucket.written).toEqual([...hashes, pointerName]);
  expect(bucket.written.at(-2)).toBe(objectName(first.manifestHash));
  for (const { sha256, bytes } of first.files.values()) {
    expect(bucket.objects.get(objectName(sha256))).toEqual(bytes);
    expect(await storedBytes(bucket, sha256)).toBe(bytes.byteLength);
  }
  const switches = [{ manifest: first.manifestHash, at: "1970-01-01T00:00:00.000Z" }];
  const pointer = parsePointer(new TextDecoder().decode(bucket.objects.get(pointerName)));
  expect(pointer).toEqual({ format: 1, switches });
});

test("the pointer's metadata names what the edge reads of the set, after a rollback too", async () => {
  const filesOf = (set: typeof first) =>
    [manifestFile, edgeTableFile, tokenizerFile].map((name) => set.files.get(name)!.sha256);
  for (const set of [first, second]) await publishTo(bucket, set);
  expect(edgeFilesOf(bucket.metadata)).toEqual(filesOf(second));
  await rollBackIn(bucket);
  expect(edgeFilesOf(bucket.metadata)).toEqual(filesOf(first));
  expect(edgeFilesOf({})).toBeNull();
});

test("a publication that is cut off at any write leaves the old set served", async () => {
  await publishTo(bucket, first);
  const before = bucket.objects.get(pointerName);
  for (let writes = 0; writes < 5; writes++) {
    let left = writes;
    bucket.onWrite = (_, bytes) => {
      if (left-- === 0) throw new Error("connection lost");
      return bytes;
    };
    const failed = publishTo(bucket, otherModel, true);
    await expect(failed).rejects.toMatchObject({ kind: "backend_unavailable", retryAfterSeconds: 1 });
    expect(bucket.objects.get(pointerName)).toEqual(before);
  }
  bucket.onWrite = (_, bytes) => bytes;
  expect(await publishTo(bucket, otherModel, true)).toMatchObject({ switched: true });
});

test("an invalid manifest, or one whose files are missing, is not served", async () => {
  const { sha256, bytes } = first.files.get(tokenizerFile)!;
  const serve = (manifest: string) => switchTo(bucket, { manifest, otherModel: false }, 0);
  await expect(serve(first.manifestHash)).rejects.toThrow(/is not stored; publish its folder/);
  await bucket.write(objectName(sha256), bytes);
  await expect(serve(sha256)).rejects.toThrow(/is no manifest/);
  await bucket.write(objectName(first.manifestHash), first.files.get(manifestFile)!.bytes);
  await expect(serve(first.manifestHash)).rejects.toThrow(/edge-table.*is not whole in the bucket/);
  await bucket.write(objectName(first.manifestHash), new Uint8Array(3_000_000));
  await expect(serve(first.manifestHash)).rejects.toThrow(/is not stored/);
  expect(bucket.objects.has(pointerName)).toBe(false);
});

test("a rollback serves the set before, and a second one goes back again", async () => {
  await expect(rollBackIn(bucket)).rejects.toThrow(/nothing was published/);
  await publishTo(bucket, first);
  await expect(rollBackIn(bucket)).rejects.toThrow(/the first that was published.*publish those with --artifacts/);
  await publishTo(bucket, second);
  expect(await rollBackIn(bucket)).toMatchObject({ manifest: first.manifestHash, switched: true });
  expect(await rollBackIn(bucket)).toMatchObject({ manifest: second.manifestHash, switched: true });
  expect(await switchesIn(bucket)).toHaveLength(4);
});
