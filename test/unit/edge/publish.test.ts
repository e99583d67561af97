/** What the admin API does to a bucket, over one in memory, with real artifacts of a tiny model. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { storedBytes, switchesIn, switchTo } from "../../../edge/artifacts/publish.ts";
import { type ArtifactSet, readArtifactSet } from "../../../infra/publish/artifact-set.ts";
import {
  currentOf,
  edgeFilesOf,
  objectName,
  parsePointer,
  pointerName,
  previousOf,
} from "../../../shared/artifacts/bucket.ts";
import { edgeTableFile, manifestFile, tokenizerFile } from "../../../shared/artifacts/manifest.ts";
import { MemoryBucket, publishTo, rollBackIn } from "../../support/memory-bucket.ts";
import { variantOf, writeTinyModel } from "../../support/tiny-model.ts";

let folder: string;
let first: ArtifactSet;
let second: ArtifactSet;
let third: ArtifactSet;
let otherModel: ArtifactSet;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "publish-"));
  const [model, other] = [path.join(folder, "model"), path.join(folder, "other")];
  await writeTinyModel(model);
  await writeTinyModel(other, 8);
  first = await readArtifactSet(path.join(model, "artifacts"));
  second = await readArtifactSet(await variantOf(model, path.join(folder, "second"), "second"));
  third = await readArtifactSet(await variantOf(model, path.join(folder, "third"), "third"));
  otherModel = await readArtifactSet(path.join(other, "artifacts"));
});
afterAll(() => rm(folder, { recursive: true }));

let bucket: MemoryBucket;
beforeEach(() => {
  bucket = new MemoryBucket();
});
const pointer = () => parsePointer(new TextDecoder().decode(bucket.objects.get(pointerName)));
const nameIn = (set: ArtifactSet, file: string) => objectName(set.files.get(file)!.sha256);

describe("publish", () => {
  test("puts each file under the hash of its bytes, the manifest behind the others, the pointer last", async () => {
    expect(await publishTo(bucket, first)).toEqual({ manifest: first.manifestHash, before: null, switched: true });
    const hashes = [...first.files.values()].map(({ sha256 }) => objectName(sha256));
    expect(bucket.written).toEqual([...hashes, pointerName]);
    expect(bucket.written.at(-2)).toBe(objectName(first.manifestHash));
    for (const { sha256, bytes } of first.files.values()) {
      expect(bucket.objects.get(objectName(sha256))).toEqual(bytes);
      expect(await storedBytes(bucket, sha256)).toBe(bytes.byteLength);
    }
    expect(pointer()).toEqual({
      format: 1,
      switches: [{ manifest: first.manifestHash, at: "1970-01-01T00:00:00.000Z" }],
    });
  });

  test("the pointer's metadata names what the edge reads of the set, after a rollback too", async () => {
    const filesOf = (set: typeof first) =>
      [manifestFile, edgeTableFile, tokenizerFile].map((name) => set.files.get(name)!.sha256);
    for (const set of [first, second]) await publishTo(bucket, set);
    expect(edgeFilesOf(bucket.metadata)).toEqual({ manifest: second.manifestHash, files: filesOf(second) });
    await rollBackIn(bucket);
    expect(edgeFilesOf(bucket.metadata)).toEqual({ manifest: first.manifestHash, files: filesOf(first) });
    expect(edgeFilesOf({})).toBeNull();
  });

  test("again it does nothing; another set remembers what was before", async () => {
    await publishTo(bucket, first);
    expect(await publishTo(bucket, first)).toMatchObject({ before: first.manifestHash, switched: false });
    expect(await publishTo(bucket, second)).toMatchObject({ before: first.manifestHash, switched: true });
    expect([currentOf(pointer()), previousOf(pointer())]).toEqual([second.manifestHash, first.manifestHash]);
  });

  test("cut off at any write it leaves the old set served", async () => {
    await publishTo(bucket, first);
    const before = bucket.objects.get(pointerName);
    for (let writes = 0; writes < 5; writes++) {
      let left = writes;
      bucket.onWrite = (_, bytes) => {
        if (left-- === 0) throw new Error("connection lost");
        return bytes;
      };
      await expect(publishTo(bucket, otherModel, true)).rejects.toMatchObject({
        ...{ kind: "backend_unavailable", retryAfterSeconds: 1 },
      });
      expect(bucket.objects.get(pointerName)).toEqual(before);
    }
    bucket.onWrite = (_, bytes) => bytes;
    expect(await publishTo(bucket, otherModel, true)).toMatchObject({ switched: true });
  });

  test.each([
    ["truncated", (bytes: Uint8Array<ArrayBuffer>) => bytes.slice(0, -1)],
    ["altered", (bytes: Uint8Array<ArrayBuffer>) => bytes.map((byte, i) => (i === 9 ? byte ^ 1 : byte))],
  ])("a file that arrives %s is not stored, and nothing switched", async (_, harm) => {
    await publishTo(bucket, first);
    bucket.onWrite = (_, bytes) => harm(bytes);
    await expect(publishTo(bucket, otherModel, true)).rejects.toThrow(/the body's SHA-256 is not [0-9a-f]{64}/);
    expect(currentOf(pointer())).toBe(first.manifestHash);
    // Those of the first, and the pointer.
    expect(bucket.objects.size).toBe(first.files.size + 1);
  });

  test("of publishers at once one switches, the others are told; afterwards all switches are in the history", async () => {
    await publishTo(bucket, first);
    const outcomes = await Promise.allSettled([publishTo(bucket, second), publishTo(bucket, third)]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    const [lost] = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [outcome.reason] : []));
    const winner = currentOf(pointer());
    expect(lost).toMatchObject({ kind: "switch_conflict", message: expect.stringContaining(`switched to ${winner}`) });
    const loser = winner === second.manifestHash ? third : second;
    await publishTo(bucket, loser);
    const manifests = (await switchesIn(bucket)).map(({ manifest }) => manifest);
    expect(manifests).toEqual([loser.manifestHash, winner, first.manifestHash]);
  });

  test("artifacts for other weights are refused unless that is meant", async () => {
    await publishTo(bucket, first);
    await expect(publishTo(bucket, otherModel)).rejects.toThrow(/weights.*--other-model/);
    expect(currentOf(pointer())).toBe(first.manifestHash);
    await publishTo(bucket, otherModel, true);
    expect(currentOf(pointer())).toBe(otherModel.manifestHash);
  });

  test("a manifest that is none, or whose files are not there, is not served", async () => {
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
});

describe("rollback", () => {
  test("goes to what was served before, and again to and fro", async () => {
    await expect(rollBackIn(bucket)).rejects.toThrow(/nothing was published/);
    await publishTo(bucket, first);
    await expect(rollBackIn(bucket)).rejects.toThrow(/the first that was published.*publish those with --artifacts/);
    await publishTo(bucket, second);
    expect(await rollBackIn(bucket)).toMatchObject({ manifest: first.manifestHash, switched: true });
    expect(await rollBackIn(bucket)).toMatchObject({ manifest: second.manifestHash, switched: true });
    expect(await switchesIn(bucket)).toHaveLength(4);
  });

  test("goes to a manifest by its first digits, where they name one that was served", async () => {
    for (const set of [first, second, third]) await publishTo(bucket, set);
    const serve = (manifest: string) => switchTo(bucket, { manifest, otherModel: true }, 0);
    expect((await serve(first.manifestHash.slice(0, 8))).manifest).toBe(first.manifestHash);
    await expect(serve("0000000")).rejects.toThrow(/0 of the manifests/);
  });

  test("a set that is not whole any more is not gone back to", async () => {
    await publishTo(bucket, first);
    await publishTo(bucket, second);
    const name = nameIn(first, "hyper-network.safetensors");
    await bucket.write(name, bucket.objects.get(name)!.slice(0, -1));
    await expect(rollBackIn(bucket)).rejects.toThrow(/hyper-network.*not whole/);
    expect(currentOf(pointer())).toBe(second.manifestHash);
  });
});
