import { expect, test } from "vitest";
import { ArtifactBucket, type Bucket } from "../../../edge/artifacts/artifact-bucket.ts";
import { heldSet } from "../../../edge/artifacts/artifacts.ts";
import { deployedSet, PlannedSets, publishedSets } from "../../../edge/artifacts/deployed.ts";
import { objectName } from "../../../shared/artifacts/bucket.ts";
import { sha256Hex } from "../../../shared/bytes.ts";
import { edgeModelFiles } from "../../support/edge-model.ts";

type Files = Awaited<ReturnType<typeof edgeModelFiles>>;
const hashOf = (files: Files) => sha256Hex(files.get("manifest.json")!);

function assetsOf(files: Files) {
  const asked: string[] = [];
  const fetch = async (url: string) => {
    const name = url.split("/").at(-1)!;
    asked.push(name);
    return new Response(files.get(name));
  };
  return { asked, ASSETS: { fetch } };
}

async function bucketOf(files: Files): Promise<Bucket> {
  const objects = new Map<string, Uint8Array<ArrayBuffer>>();
  for (const bytes of files.values()) objects.set(objectName(await sha256Hex(bytes)), bytes);
  const get = async (name: string) => {
    const bytes = objects.get(name);
    if (!bytes) return null;
    const text = async () => new TextDecoder().decode(bytes);
    return { etag: name, size: bytes.byteLength, body: bytes, text, arrayBuffer: async () => bytes.slice().buffer };
  };
  return { get } as Bucket;
}

const setsOf = (bindings: Parameters<typeof publishedSets>[0]) =>
  new PlannedSets(publishedSets(bindings, null), () => deployedSet(bindings));

test("a set comes from the bucket where it was published, else from the assets; once loaded it is held", async () => {
  const [deployed, published] = [await edgeModelFiles(), await edgeModelFiles(true)];
  const assets = assetsOf(deployed);
  const sets = setsOf({ ...assets, ARTIFACTS: await bucketOf(published) });
  const [ofAssets, ofBucket] = [await hashOf(deployed), await hashOf(published)];
  expect((await sets.of(ofBucket)).manifestHash).toBe(ofBucket);
  expect(assets.asked).toEqual([]);
  expect((await sets.of(ofAssets)).manifestHash).toBe(ofAssets);
  const asked = assets.asked.length;
  expect(asked).toBeGreaterThan(0);
  for (const hash of [ofAssets, ofBucket]) expect(await sets.of(hash)).toBe(heldSet(hash));
  expect(assets.asked).toHaveLength(asked);
});

test("an object or asset that is larger than declared is not read to its end", async () => {
  const files = await edgeModelFiles(true);
  const hash = await hashOf(files);
  const { get } = await bucketOf(files);
  const table = objectName(await sha256Hex(files.get("edge-table.safetensors")!));
  const large = { size: 6e8, body: "", arrayBuffer: () => Promise.reject(new Error("read")) };
  const bucket = { get: async (name: string) => (name === table ? { ...(await get(name)), ...large } : get(name)) };
  const loading = new ArtifactBucket(bucket as Bucket).load(hash);
  await expect(loading).rejects.toThrow(/ \(edge-table\S* of the manifest \w+\) has 600000000 bytes/);

  let sent = 0;
  const endless = () =>
    new ReadableStream<Uint8Array>({
      pull(controller) {
        sent += 1000;
        controller.enqueue(new Uint8Array(1000));
      },
    });
  const fetch = async (url: string) => {
    const name = url.split("/").at(-1)!;
    return new Response(name === "tokenizer.safetensors" ? endless() : files.get(name));
  };
  await expect(deployedSet({ ASSETS: { fetch } })).rejects.toThrow(
    /tokenizer\.safetensors has more than the \d+ bytes/,
  );
  expect(sent).toBeLessThan(100_000);
});

test("a pointer that is larger than it may be is not read", async () => {
  const get = async () => ({ etag: "1", size: 1e8, body: "", text: () => Promise.reject(new Error("read")) });
  const reading = new ArtifactBucket({ get } as unknown as Bucket).pointer();
  await expect(reading).rejects.toThrow(/^artifacts\/current\.json has 100000000 bytes.* 65536/);
});

test("a set that neither bucket nor assets have is an error that names both", async () => {
  const deployed = await edgeModelFiles();
  const unknown = "0".repeat(64);
  const failure = setsOf(assetsOf(deployed)).of(unknown);
  await expect(failure).rejects.toThrow(unknown);
  await expect(failure).rejects.toThrow(await hashOf(deployed));
});
