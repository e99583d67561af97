/** What the admin API does to a bucket in memory, with real artifacts of a tiny model. */
import path from "node:path";
import { beforeEach, expect, test } from "vitest";
import { switchTo } from "../../../edge/artifacts/publish.ts";
import { readArtifactSet } from "../../../infra/publish/artifact-set.ts";
import { objectName, pointerName } from "../../../shared/artifacts/bucket.ts";
import { manifestFile, tokenizerFile } from "../../../shared/artifacts/manifest.ts";
import { MemoryBucket, publishTo } from "../../support/memory-bucket.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";
import { writeTinyModel } from "../../support/tiny-model.ts";

const folder = temporaryFolder();
const [model, other] = [path.join(folder, "model"), path.join(folder, "other")];
await writeTinyModel(model);
await writeTinyModel(other, 8);
const first = await readArtifactSet(path.join(model, "artifacts"));
const otherModel = await readArtifactSet(path.join(other, "artifacts"));

let bucket: MemoryBucket;
beforeEach(() => {
  bucket = new MemoryBucket();
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
