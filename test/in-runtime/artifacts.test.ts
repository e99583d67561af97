/** Artifacts from a real R2 bucket in workerd: whole sets are served, damaged ones are refused. */
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ArtifactBucket, cacheUrl } from "../../edge/artifacts/artifact-bucket.ts";
import { ArtifactSets, artifactLimits } from "../../edge/artifacts/artifact-sets.ts";
import { objectName, pointerName, switchedTo } from "../../shared/artifacts/bucket.ts";
import { edgeTableFile, manifestFile, tokenizerFile } from "../../shared/artifacts/manifest.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import type { CentroidList } from "../../shared/contracts/responses.ts";
import { edgeModelFiles } from "../support/edge-model.ts";
import { jsonOf } from "./answers.ts";
import { testApp } from "./harness.ts";

type Files = Awaited<ReturnType<typeof edgeModelFiles>>;
const bucket = env.ARTIFACTS;

const loaded: string[] = [];

async function upload(files: Files): Promise<string> {
  for (const bytes of files.values()) {
    const hash = await sha256Hex(bytes);
    loaded.push(hash);
    await bucket.put(objectName(hash), bytes);
  }
  return sha256Hex(files.get(manifestFile)!);
}
async function point(manifest: string): Promise<void> {
  const found = await bucket.get(pointerName);
  const before = found && JSON.parse(await found.text());
  await bucket.put(pointerName, JSON.stringify(switchedTo(manifest, new Date(0), before)));
}
/** The tiny model's set with another label of a centroid: another manifest over the same files. */
async function relabelled(label: string): Promise<Files> {
  const files = await edgeModelFiles();
  const manifest = JSON.parse(new TextDecoder().decode(files.get(manifestFile)));
  manifest.centroids[0].label = [label];
  files.set(manifestFile, new TextEncoder().encode(JSON.stringify(manifest)) as Uint8Array<ArrayBuffer>);
  return files;
}

let old: Files;
let next: Files;
let oldHash: string;
let nextHash: string;
beforeEach(async () => {
  [old, next] = [await edgeModelFiles(), await relabelled("next")];
  oldHash = await upload(old);
  nextHash = await upload(next);
  await point(oldHash);
});
afterEach(async () => {
  for (const { key } of (await bucket.list()).objects) await bucket.delete(key);
  for (const hash of loaded.splice(0)) await caches.default.delete(cacheUrl(hash));
});

function isolate() {
  let nowMs = 0;
  const told: { event: string; manifest: string | null; cause?: string }[] = [];
  const works: Promise<void>[] = [];
  const sets = new ArtifactSets({
    source: new ArtifactBucket(bucket, { cache: caches.default, background: (work) => void works.push(work) }),
    assets: () => Promise.reject(new Error("there are no assets")),
    holding: async () => "all",
    now: () => nowMs,
    background: (work) => void works.push(work),
    observe({ event, manifest, cause }) {
      const why = cause === undefined ? {} : { cause: String(cause) };
      told.push({ event: event.replace("artifacts_", ""), manifest, ...why });
    },
  });
  return {
    sets,
    told,
    async looked(): Promise<string> {
      nowMs += artifactLimits.refusedMs;
      await sets.current();
      await Promise.all(works);
      return (await sets.current()).manifestHash;
    },
  };
}

test("a switch and its rollback are taken up, and the API serves what is current", async () => {
  const one = isolate();
  const { request } = testApp({ artifacts: one.sets.current });
  const firstLabel = async () => {
    const { manifest, data } = await jsonOf<CentroidList>(request("/v1/centroids"));
    return [manifest, data[0].label[0]];
  };
  const [, label] = await firstLabel();
  await point(nextHash);
  expect(await one.looked()).toBe(nextHash);
  expect(await firstLabel()).toEqual([nextHash, "next"]);
  await point(oldHash);
  expect(await one.looked()).toBe(oldHash);
  expect(await firstLabel()).toEqual([oldHash, label]);
});

describe("a damaged set is refused and reported, and the old set stays; once mended, the set is served", () => {
  const altered = (bytes: Uint8Array<ArrayBuffer>) =>
    bytes.map((byte, i) => (i === bytes.length - 1 ? byte ^ 1 : byte));
  type Harm = (bytes: Uint8Array<ArrayBuffer>, files: Files) => Uint8Array<ArrayBuffer> | null;
  const cut: Harm = (bytes) => bytes.slice(0, -1);
  const missing: Harm = () => null;
  const harms: [string, string, Harm, RegExp][] = [
    ["a truncated table", edgeTableFile, cut, /edge-table.*SHA-256/],
    ["a table under another's name", edgeTableFile, (_, files) => files.get(tokenizerFile)!, /edge-table.*SHA-256/],
    ["a missing table", edgeTableFile, missing, /is not in the bucket/],
    ["an empty table", edgeTableFile, () => new Uint8Array(0), /edge-table has 0 bytes|edge-table.*0 bytes/],
    [
      "a table that would not fit",
      edgeTableFile,
      () => new Uint8Array(16 * 2 ** 20 + 1),
      /edge-table.* 16777217 bytes, the maximum is \d+$/,
    ],
    ["an altered manifest", manifestFile, altered, /manifest.*SHA-256/],
    ["a missing manifest", manifestFile, missing, /is not in the bucket/],
  ];
  test.each(harms)("%s", async (_, name, harm, message) => {
    // The new set shares no object with the old one, so damage leaves the old set whole.
    const files = await edgeModelFiles(true);
    const hash = await upload(files);
    const one = isolate();
    await one.sets.current();
    const object = objectName(await sha256Hex(files.get(name)!));
    const harmed = harm(files.get(name)!, files);
    if (harmed) await bucket.put(object, harmed);
    else await bucket.delete(object);
    await point(hash);
    expect(await one.looked()).toBe(oldHash);
    expect(one.told.slice(1)).toEqual([{ event: "refused", manifest: hash, cause: expect.stringMatching(message) }]);
    const fresh = isolate();
    expect((await fresh.sets.current()).manifestHash).toBe(oldHash);
    await upload(files);
    expect(await one.looked()).toBe(hash);
  });

  test.each([
    ["a pointer to nothing", JSON.stringify(switchedTo("f".repeat(64), new Date(0), null)), "f".repeat(64)],
    ["a pointer that is cut off", '{"format": 1, "switches": [', null],
    ["a pointer of another format", '{"format": 2}', null],
  ])("%s", async (_, pointer, refused) => {
    const one = isolate();
    await one.sets.current();
    await bucket.put(pointerName, pointer);
    expect(await one.looked()).toBe(oldHash);
    expect(one.told.slice(1)).toEqual([{ event: "refused", manifest: refused, cause: expect.any(String) }]);
    await bucket.put(pointerName, JSON.stringify(switchedTo(nextHash, new Date(0), null)));
    expect(await one.looked()).toBe(nextHash);
  });
});
