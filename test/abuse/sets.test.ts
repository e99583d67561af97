/**
 * Attack: somebody who can write to the bucket publishes sets of artifacts that leave their folder, replace the manifest, or need
 * unbounded RAM. Judged by: answers of the served set, a counted refusal that names the fault, and the backend's peak resident memory.
 * The publish command must refuse the same sets.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { cp, mkdir, readdir, readFile, truncate, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { writeWhole } from "../../gpu-backend/files.ts";
import { objectName, pointerName } from "../../shared/artifacts/bucket.ts";
import { setLimits } from "../../shared/artifacts/limits.ts";
import { type Manifest, manifestFile, tokenizerFile } from "../../shared/artifacts/manifest.ts";
import type { Readiness } from "../../shared/contracts/inference.ts";
import { stopAtEnd } from "../support/at-end.ts";
import { startBackend } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/frames.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyModel } from "../support/tiny-model.ts";
import { forgetPeak, megabytes, mostGrowthBytes, peakBytes } from "./measurements.ts";

const publishCli = fileURLToPath(new URL("../../infra/publish/cli.ts", import.meta.url));
const patience = { timeout: 20_000, interval: 20 };
const refusedMetric = "chameleon_artifact_sets_refused_total";
const hugeBytes = 600 * 2 ** 20;

const folder = temporaryFolder();
const [model, bucket] = [path.join(folder, "model"), path.join(folder, "bucket")];
await writeTinyModel(model);
const genuine = await readFile(path.join(model, "artifacts", manifestFile), "utf8");
await mkdir(path.join(bucket, objectName("x"), ".."), { recursive: true });
for (const name of Object.keys((JSON.parse(genuine) as Manifest).files)) {
  await putObject(await readFile(path.join(model, "artifacts", name)));
}
const settings = {
  ...{ MODEL_DIR: model, THREADS: "1", DATA_DIR: path.join(folder, "data") },
  ...{ ARTIFACTS_URL: pathToFileURL(bucket).href, ARTIFACTS_POLL_MS: "20" },
};
const backend = stopAtEnd(await startBackend(settings));

async function putObject(bytes: Uint8Array): Promise<string> {
  const hash = createHash("sha256").update(bytes).digest("hex");
  await writeFile(path.join(bucket, objectName(hash)), bytes);
  return hash;
}

/** Publishes a manifest as the bucket expects it, without the publisher's checks. Returns its hash. */
async function publish(manifest: unknown): Promise<string> {
  const text = typeof manifest === "string" ? manifest : JSON.stringify(manifest);
  const hash = await putObject(Buffer.from(text));
  const pointer = { format: 1, switches: [{ manifest: hash, at: "2026-11-25T00:00:00.000Z" }] };
  // Written atomically, because the backend may be reading the pointer.
  await writeWhole(path.join(bucket, pointerName), Buffer.from(JSON.stringify(pointer)));
  return hash;
}

const answers = async () => (await backend.frames(null, [sequenceRequest("after")])).at(-1)?.type;

/** Changes a manifest in place. `sha256` is the hash of a file in the bucket. */
type Change = (manifest: Manifest, sha256: string) => unknown;
function changed(change: Change, sha256 = ""): Manifest {
  const manifest: Manifest = JSON.parse(genuine);
  change(manifest, sha256);
  return manifest;
}
const withFile =
  (...names: string[]): Change =>
  ({ files }) =>
    Object.assign(files, Object.fromEntries(names.map((name) => [name, files[tokenizerFile]])));
const withRank: Change = ({ hyperNetwork }) => Object.assign(hyperNetwork, { rank: 1_000_000_000 });
const withDimensions: Change = ({ embedding }) => Object.assign(embedding, { dimensions: 1_000_000_000 });
const withHiddenSize: Change = ({ model }) => Object.assign(model, { hiddenSize: 1_000_000_000 });
const withContext: Change = ({ model }) => Object.assign(model, { contextTokens: 1_000_000_000 });
const withManyFiles = withFile(...Array.from({ length: 100_000 }, (_, i) => `f${i}`));
const parentFolder = withFile("..");
const itself = withFile(manifestFile);
const changes: [name: string, change: Change, names: RegExp][] = [
  ["a file that is called ..", parentFolder, /Unrecognized key: "\.\."$/],
  ["a file that is called .", withFile("."), /Unrecognized key: "\."$/],
  ["a file in another folder", withFile("../x"), /Unrecognized key: "\.\.\/x"$/],
  ["a file without a name", withFile(""), /Unrecognized key: ""$/],
  ["manifest.json among its own files", itself, /Unrecognized key: "manifest\.json"$/],
  ["a rank of 10⁹", withRank, /hyperNetwork\.rank is 1000000000: /],
  ["10⁹ dimensions", withDimensions, /embedding\.dimensions is 1000000000: /],
  ["a hidden size of 10⁹", withHiddenSize, /model\.hiddenSize is 1000000000: /],
  ["a context of 10⁹ tokens", withContext, /model\.contextTokens is 1000000000: /],
  ["100,000 files", withManyFiles, RegExp(`has more than ${setLimits.manifestBytes} bytes, the limit manifestBytes$`)],
];
test.each(changes)("a set with %s is refused by name, and what is served stays", async (_, change, names) => {
  const refusals = await backend.metric(refusedMetric);
  const logged = backend.log().length;
  await publish(changed(change));
  await expect.poll(() => backend.metric(refusedMetric), patience).toBeGreaterThan(refusals);
  const lines = backend.log().slice(logged).split("\n");
  const { cause } = JSON.parse(lines.find((line) => line.includes("artifacts_refused"))!) as { cause: string };
  console.log(cause.slice(0, 200));
  expect(cause).toMatch(names);
  expect(cause.length).toBeLessThan(1000);
  // The name must be refused by validation, not by a failed file operation.
  expect(cause).not.toMatch(/EISDIR|ENOTDIR|EINVAL|ENOENT|heap|RangeError/);
  expect(await answers()).toBe("done");
  expect(backend.child.exitCode).toBeNull();
});

const withExtraFile: Change = ({ files }, sha256) =>
  Object.assign(files, { "extra.bin": { sha256, bytes: hugeBytes, tensors: {} } });
const withOtherHash: Change = ({ files }, sha256) => Object.assign(files[tokenizerFile], { sha256 });
const huge: [name: string, change: Change, hash: string][] = [
  ["an extra file of 600 MB", withExtraFile, "e".repeat(64)],
  ["a file of 600 MB where the manifest tells of few bytes", withOtherHash, "d".repeat(64)],
];
test.each(huge)("a set with %s is refused without reading it whole", async (_, change, hash) => {
  const file = path.join(bucket, objectName(hash));
  await writeFile(file, "");
  await truncate(file, hugeBytes);
  const refusals = await backend.metric(refusedMetric);
  forgetPeak(backend.child.pid!);
  const beforeBytes = peakBytes(backend.child.pid!);
  await publish(changed(change, hash));
  await expect.poll(() => backend.metric(refusedMetric), patience).toBeGreaterThan(refusals);
  const peak = peakBytes(backend.child.pid!);
  console.log(`backend's peak ${megabytes(beforeBytes)} → ${megabytes(peak)}`);
  expect(peak - beforeBytes).toBeLessThanOrEqual(mostGrowthBytes);
  expect(await answers()).toBe("done");
});

test("a set that is served after all these is kept in its folder, and no other file is written", async () => {
  // A trailing newline gives the same set another hash.
  const hash = await publish(`${genuine}\n`);
  const served = async () => (await (await fetch(`${backend.url}/readyz`)).json()) as Readiness;
  await expect.poll(async () => (await served()).manifestHash, patience).toBe(hash);
  const names = await readdir(path.join(folder, "data"), { recursive: true });
  const known = [manifestFile, ...Object.keys((JSON.parse(genuine) as Manifest).files)];
  const sets = names.flatMap((name) => /^artifacts\/[0-9a-f]{64}$/.exec(name) ?? []);
  const expected = new Set(["artifacts", ...sets, ...sets.flatMap((set) => known.map((name) => `${set}/${name}`))]);
  expect(names.filter((name) => !expected.has(name))).toEqual([]);
  expect(names).toEqual(
    expect.arrayContaining([manifestFile, tokenizerFile].map((name) => `artifacts/${hash}/${name}`)),
  );
});

test("the publisher refuses the same sets, by name", async () => {
  const artifacts = path.join(folder, "published");
  await cp(path.join(model, "artifacts"), artifacts, { recursive: true });
  const wanted: [Change, RegExp][] = [
    [parentFolder, /\.\./],
    [itself, /manifest\.json/],
    [withRank, /rank/],
  ];
  for (const [change, names] of wanted) {
    await writeFile(path.join(artifacts, manifestFile), JSON.stringify(changed(change)));
    const env = { ...process.env, STATE_DIR: path.join(folder, "state") };
    const args = [publishCli, "--dry-run", "--artifacts", artifacts];
    const outcome = await promisify(execFile)(process.execPath, args, { env }).then(
      () => "published",
      (error) => String(error.stderr),
    );
    console.log(outcome.trim().slice(0, 200));
    expect(outcome).toMatch(/^chameleon publish: /);
    expect(outcome).toMatch(names);
    expect(outcome).not.toMatch(/cannot read|EISDIR|ENOENT|RangeError/);
  }
});
