/**
 * Attack: a writer of the bucket publishes sets of artifacts that leave their folder, replace the manifest, or need unbounded
 * memory. Judged by: the served set still answers, the refusal is counted and names the fault, the backend's peak memory. The
 * publish command refuses the same sets.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { writeWhole } from "../../infra/write-whole.ts";
import { objectName, pointerName } from "../../shared/artifacts/bucket.ts";
import { type Manifest, manifestFile, tokenizerFile } from "../../shared/artifacts/manifest.ts";
import { allFrames, type Backend, startBackend } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/frames.ts";
import { writeTinyModel } from "../support/tiny-model.ts";
import { forgetPeak, megabytes, mostGrowthBytes, peakBytes } from "./measurements.ts";

const publishCli = fileURLToPath(new URL("../../infra/publish/cli.ts", import.meta.url));
const patience = { timeout: 20_000, interval: 20 };
const refusedMetric = "chameleon_artifact_sets_refused_total";
const hugeBytes = 600 * 2 ** 20;

let folder: string;
let model: string;
let bucket: string;
let genuine: string;
let backend: Backend;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "chameleon-abuse-sets-"));
  [model, bucket] = [path.join(folder, "model"), path.join(folder, "bucket")];
  await writeTinyModel(model);
  genuine = await readFile(path.join(model, "artifacts", manifestFile), "utf8");
  await mkdir(path.join(bucket, objectName("x"), ".."), { recursive: true });
  for (const name of Object.keys((JSON.parse(genuine) as Manifest).files)) {
    await putObject(await readFile(path.join(model, "artifacts", name)));
  }
  backend = await startBackend({
    ...{ MODEL_DIR: model, THREADS: "1", DATA_DIR: path.join(folder, "data") },
    ...{ ARTIFACTS_URL: pathToFileURL(bucket).href, ARTIFACTS_POLL_MS: "20" },
  });
});
afterAll(async () => {
  backend?.child.kill("SIGKILL");
  await backend?.exited;
  await rm(folder, { recursive: true });
});

async function putObject(bytes: Uint8Array): Promise<string> {
  const hash = createHash("sha256").update(bytes).digest("hex");
  await writeFile(path.join(bucket, objectName(hash)), bytes);
  return hash;
}

/** Publishes a manifest in the bucket's format, without the publisher's checks. */
async function publish(manifest: unknown): Promise<void> {
  const text = typeof manifest === "string" ? manifest : JSON.stringify(manifest);
  const hash = await putObject(Buffer.from(text));
  const pointer = { format: 1, switches: [{ manifest: hash, at: "2026-11-25T00:00:00.000Z" }] };
  // Atomically: the backend may be reading it.
  await writeWhole(path.join(bucket, pointerName), Buffer.from(JSON.stringify(pointer)));
}

async function answers(): Promise<string | undefined> {
  const response = await backend.post("/v1/batches", backend.batch(null, [sequenceRequest("after")]));
  return (await allFrames(response)).at(-1)?.type;
}

type Change = (manifest: Manifest) => Manifest;
const withFile =
  (name: string): Change =>
  (manifest) => ({ ...manifest, files: { ...manifest.files, [name]: manifest.files[tokenizerFile] } });
const withModel =
  (model: Partial<Manifest["model"]>): Change =>
  (manifest) => ({ ...manifest, model: { ...manifest.model, ...model } });
const withRank: Change = (manifest) => ({
  ...manifest,
  hyperNetwork: { ...manifest.hyperNetwork, rank: 1_000_000_000 },
});
const parentFolder = withFile("..");
const itself = withFile(manifestFile);
const changes: [name: string, change: Change, names: RegExp][] = [
  ["a file that is called ..", parentFolder, /\.\./],
  ["a file that is called .", withFile("."), /\./],
  ["a file in another folder", withFile("../x"), /\.\.\/x/],
  ["a file without a name", withFile(""), /file/],
  ["manifest.json among its own files", itself, /manifest\.json/],
  ["a rank of 10⁹", withRank, /rank/],
  [
    "10⁹ dimensions",
    (manifest) => ({ ...manifest, embedding: { ...manifest.embedding, dimensions: 1_000_000_000 } }),
    /dimensions|1000000000/,
  ],
  ["10⁹ layers", withModel({ layers: 1_000_000_000 }), /layer/],
  ["a context of 10⁹ tokens", withModel({ contextTokens: 1_000_000_000 }), /context|positions/],
  [
    "100,000 files",
    (manifest) => {
      const names = Array.from({ length: 100_000 }, (_, i) => `f${i}`);
      const more = Object.fromEntries(names.map((name) => [name, manifest.files[tokenizerFile]]));
      return { ...manifest, files: { ...manifest.files, ...more } };
    },
    /\d{5,}|files|bytes/,
  ],
];
test.each(changes)("a set with %s is refused by name, and what is served stays", async (_, change, names) => {
  const manifest = change(JSON.parse(genuine));
  const refusals = await backend.metric(refusedMetric);
  const logged = backend.log().length;
  await publish(manifest);
  await expect.poll(() => backend.metric(refusedMetric), patience).toBeGreaterThan(refusals);
  const said =
    backend
      .log()
      .slice(logged)
      .split("\n")
      .find((line) => line.includes("artifacts_refused")) ?? "";
  const { cause } = JSON.parse(said) as { cause: string };
  console.log(cause.slice(0, 200));
  expect(cause).toMatch(names);
  expect(cause.length).toBeLessThan(1000);
  // The name must be refused by validation, not by a failed file operation.
  expect(cause).not.toMatch(/EISDIR|ENOTDIR|EINVAL|ENOENT|heap|RangeError/);
  expect(await answers()).toBe("done");
  expect(backend.child.exitCode).toBeNull();
});

test("what a set asks for stays in its folder", async () => {
  const data = path.join(folder, "data");
  // Absent where every set was refused by its manifest.
  await mkdir(data, { recursive: true });
  const names = (await readdir(data, { recursive: true })).map((name) => name.replaceAll(/[0-9a-f]{64}/g, "HASH"));
  const known = [manifestFile, ...Object.keys((JSON.parse(genuine) as Manifest).files)];
  const expected = new Set(["artifacts", "artifacts/HASH", ...known.map((name) => `artifacts/HASH/${name}`)]);
  expect([...new Set(names)].filter((name) => !expected.has(name)).slice(0, 5)).toEqual([]);
});

const huge: [name: string, change: (manifest: Manifest, sha256: string) => Manifest, hash: string][] = [
  [
    "an extra file of 600 MB",
    (manifest, sha256) => ({
      ...manifest,
      files: { ...manifest.files, "extra.bin": { sha256, bytes: hugeBytes, tensors: {} } },
    }),
    "e".repeat(64),
  ],
  [
    "a file of 600 MB where the manifest tells of few bytes",
    (manifest, sha256) => ({
      ...manifest,
      files: { ...manifest.files, [tokenizerFile]: { ...manifest.files[tokenizerFile], sha256 } },
    }),
    "d".repeat(64),
  ],
];
test.each(huge)("a set with %s is refused without reading it whole", async (_, change, hash) => {
  const file = path.join(bucket, objectName(hash));
  await writeFile(file, "");
  await truncate(file, hugeBytes);
  const manifest = change(JSON.parse(genuine), hash);
  const refusals = await backend.metric(refusedMetric);
  forgetPeak(backend.child.pid!);
  const beforeBytes = peakBytes(backend.child.pid!);
  await publish(manifest);
  await expect.poll(() => backend.metric(refusedMetric), patience).toBeGreaterThan(refusals);
  const peak = peakBytes(backend.child.pid!);
  console.log(`backend's peak ${megabytes(beforeBytes)} → ${megabytes(peak)}`);
  expect(peak - beforeBytes).toBeLessThanOrEqual(mostGrowthBytes);
  expect(await answers()).toBe("done");
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
    await writeFile(path.join(artifacts, manifestFile), JSON.stringify(change(JSON.parse(genuine))));
    const env = { ...process.env, STATE_DIR: path.join(folder, "state") };
    const args = [publishCli, "--dry-run", "--artifacts", artifacts];
    const outcome = await promisify(execFile)(process.execPath, args, { env }).then(
      () => "published",
      (error) => String(error.stderr),
    );
    console.log(outcome.trim().slice(0, 200));
    expect(outcome).toMatch(/^chameleon: /);
    expect(outcome).toMatch(names);
    expect(outcome).not.toMatch(/cannot read|EISDIR|ENOENT|RangeError/);
  }
});
