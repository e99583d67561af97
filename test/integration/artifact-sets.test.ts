/** A real backend that switches between sets of artifacts: each batch is answered by the set that its manifest hash names. */
import { cp } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { type ArtifactSet, readArtifactSet } from "../../infra/publish/artifact-set.ts";
import { objectName } from "../../shared/artifacts/bucket.ts";
import type { Readiness, SequenceRequest } from "../../shared/contracts/inference.ts";
import { atEnd } from "../support/at-end.ts";
import { type Backend, startBackend } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { FolderBucket, publishTo, rollBackIn } from "../support/memory-bucket.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinyConfig, variantOf, writeTinyModel } from "../support/tiny-model.ts";

const patience = { timeout: 20_000, interval: 20 };
const folder = temporaryFolder();
const model = path.join(folder, "model");
await writeTinyModel(model);
/** The set in the model folder, and the set that replaces it. */
const old = await readArtifactSet(path.join(model, "artifacts"));
const next = await readArtifactSet(await variantOf(model, path.join(folder, "next"), "next"));
const store = new FolderBucket(path.join(folder, "bucket"));
const environment = {
  MODEL_DIR: model,
  THREADS: "1",
  DATA_DIR: path.join(folder, "data"),
  ARTIFACTS_URL: pathToFileURL(path.join(folder, "bucket")).href,
  ARTIFACTS_POLL_MS: "20",
  ARTIFACT_GRACE_MS: "5000",
};

/** Starts a backend. When the test ends, the backend gets SIGTERM, because a killed backend leaves behind an engine that hangs. */
async function start(env: Record<string, string> = environment): Promise<Backend> {
  const backend = await startBackend(env);
  atEnd(() => backend.stop("SIGTERM"));
  return backend;
}

const ask = (id: string, maxTokens = 30): SequenceRequest =>
  sequenceRequest(id, [3, 1, 4, 1, 5], {
    maxTokens,
    sampling: { logit_bias: [[tinyConfig.stopIds[0], -100]], logprobs: 0 },
  });

/** Tokens and logprobs of one sequence under a set. */
async function answerOf(backend: Backend, set: ArtifactSet, id: string, maxTokens?: number): Promise<unknown[]> {
  const frames = await backend.frames("c1", [ask(id, maxTokens)], { manifestHash: set.manifestHash });
  expect(frames.at(-1)).toMatchObject({ type: "done" });
  return frames.flatMap((frame) => (frame.type === "token" ? [[frame.tokenId, frame.logprob]] : []));
}
const readinessOf = async ({ url }: Backend) => (await (await fetch(`${url}/readyz`)).json()) as Readiness;
const manifestsOf = async (backend: Backend) => (await readinessOf(backend)).manifests ?? [];

/** A set's answer from a backend that serves no other set. */
async function undisturbed(set: ArtifactSet): Promise<unknown[]> {
  const directory = path.join(folder, `alone-${set.manifestHash.slice(0, 8)}`);
  await cp(model, directory, { recursive: true });
  if (set === next) await cp(path.join(folder, "next"), path.join(directory, "artifacts"), { recursive: true });
  const backend = await start({ MODEL_DIR: directory, THREADS: "1" });
  expect(backend.manifestHash).toBe(set.manifestHash);
  return answerOf(backend, set, "alone", 600);
}

test("a switch and a rollback: batches of both manifests are served throughout, as if each were alone", async () => {
  const [ofOld, ofNext] = [await undisturbed(old), await undisturbed(next)];
  expect(ofOld).not.toEqual(ofNext);
  const backend = await start();
  expect(await manifestsOf(backend)).toEqual([old.manifestHash]);
  const long = answerOf(backend, old, "long", 600);
  await publishTo(store, old);
  await publishTo(store, next);
  await expect.poll(() => manifestsOf(backend), patience).toContain(next.manifestHash);
  expect(await readinessOf(backend)).toMatchObject({ manifestHash: next.manifestHash });
  expect(await answerOf(backend, next, "new-1")).toEqual(ofNext.slice(0, 30));
  expect(await answerOf(backend, old, "old-1")).toEqual(ofOld.slice(0, 30));
  expect(await long).toEqual(ofOld);

  await rollBackIn(store);
  await expect.poll(() => readinessOf(backend), patience).toMatchObject({ manifestHash: old.manifestHash });
  expect(await answerOf(backend, old, "old-2")).toEqual(ofOld.slice(0, 30));
  expect(await answerOf(backend, next, "new-2")).toEqual(ofNext.slice(0, 30));
  // The backend drops `next` once no request uses it.
  await expect.poll(() => manifestsOf(backend), patience).toEqual([old.manifestHash]);
  const late = { ...backend.batch("c1", [ask("late")]), manifestHash: next.manifestHash };
  expect((await backend.post("/v1/batches", late)).status).toBe(409);
  // Log and answers come through different pipes, so the log may be late.
  await expect.poll(() => backend.log(), patience).toContain('"event":"artifacts_retired"');
  const metrics = await (await fetch(`${backend.url}/metrics`)).text();
  expect(metrics).toContain(`chameleon_artifact_sets{manifest="${old.manifestHash}",role="first"} 1`);
});

test("a backend starts with the published set; if that is damaged, with the model's own, and says so", async () => {
  await publishTo(store, old);
  await publishTo(store, next);
  const fresh = await start();
  expect(await manifestsOf(fresh)).toEqual([next.manifestHash]);
  await fresh.stop("SIGTERM");

  const { sha256, bytes } = next.files.get("hyper-network.safetensors")!;
  await store.write(objectName(sha256), bytes.slice(0, -1));
  const harmed = await start({ ...environment, DATA_DIR: path.join(folder, "empty") });
  expect(await manifestsOf(harmed)).toEqual([old.manifestHash]);
  expect(harmed.log()).toMatch(/"event":"artifacts_refused".*hyper-network\.safetensors/);
  expect(await harmed.metric("chameleon_artifact_sets_refused_total")).toBeGreaterThan(0);
});

test.each(["throw", "SIGSEGV", "hang"])("a set whose engine fails at its start (%s) is not served", async (fault) => {
  const ofOld = await undisturbed(old);
  await publishTo(store, old);
  const faults = new URL(`../support/engine-faults.ts?fault=${fault}&set=${next.manifestHash}`, import.meta.url);
  const backend = await start({ ...environment, NODE_OPTIONS: `--import=${faults.href}` });
  const long = answerOf(backend, old, "long", 600);
  await publishTo(store, next);
  if (fault === "hang") await expect.poll(() => backend.log(), patience).toContain("engine-faults: hang");
  else await expect.poll(() => backend.metric("chameleon_artifact_sets_refused_total"), patience).toBe(1);
  expect(await long).toEqual(ofOld);
  expect(await answerOf(backend, old, "after")).toEqual(ofOld.slice(0, 30));
  expect(await manifestsOf(backend)).toEqual([old.manifestHash]);
  expect((await fetch(`${backend.url}/healthz`)).status).toBe(200);
});
