/** A real backend that switches between sets of artifacts: each batch is answered by the set that its manifest hash names. */
import { cp } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { beforeAll, expect, test } from "vitest";
import { type ArtifactSet, readArtifactSet } from "../../infra/publish/artifact-set.ts";
import { objectName } from "../../shared/artifacts/bucket.ts";
import type { Frame, Readiness, SequenceRequest } from "../../shared/contracts/inference.ts";
import { allFrames, type Backend, startBackend } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { FolderBucket, publishTo, rollBackIn } from "../support/memory-bucket.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinyConfig, variantOf, writeTinyModel } from "../support/tiny-model.ts";

const patience = { timeout: 20_000, interval: 20 };
const folder = temporaryFolder();
let model: string;
/** The set in the model folder, and the set that replaces it. */
let old: ArtifactSet;
let next: ArtifactSet;
let store: FolderBucket;
let environment: Record<string, string>;

beforeAll(async () => {
  model = path.join(folder, "model");
  await writeTinyModel(model);
  old = await readArtifactSet(path.join(model, "artifacts"));
  next = await readArtifactSet(await variantOf(model, path.join(folder, "next"), "next"));
  store = new FolderBucket(path.join(folder, "bucket"));
  environment = {
    MODEL_DIR: model,
    THREADS: "1",
    DATA_DIR: path.join(folder, "data"),
    ARTIFACTS_URL: pathToFileURL(path.join(folder, "bucket")).href,
    ARTIFACTS_POLL_MS: "20",
    ARTIFACT_GRACE_MS: "5000",
  };
});

const ask = (id: string, maxTokens = 30): SequenceRequest =>
  sequenceRequest(id, [3, 1, 4, 1, 5], {
    maxTokens,
    sampling: { logit_bias: [[tinyConfig.stopIds[0], -100]], logprobs: 0 },
  });

/** Tokens and logprobs of one sequence under a set. */
async function answerOf(backend: Backend, set: ArtifactSet, id: string, maxTokens?: number): Promise<unknown[]> {
  const batch = backend.batch("c1", [ask(id, maxTokens)]);
  const response = await backend.post("/v1/batches", { ...batch, manifestHash: set.manifestHash });
  expect(response.status).toBe(200);
  return said(await allFrames(response));
}
function said(frames: Frame[]): unknown[] {
  expect(frames.at(-1)).toMatchObject({ type: "done" });
  return frames.flatMap((frame) => (frame.type === "token" ? [[frame.tokenId, frame.logprob]] : []));
}
async function manifestsOf(backend: Backend): Promise<string[]> {
  return ((await (await fetch(`${backend.url}/readyz`)).json()) as Readiness).manifests ?? [];
}
async function stop(backend: Backend): Promise<void> {
  backend.child.kill("SIGTERM");
  await backend.exited;
}

/** A set's answer from a backend that serves no other set. */
async function undisturbed(set: ArtifactSet): Promise<unknown[]> {
  const directory = path.join(folder, `alone-${set.manifestHash.slice(0, 8)}`);
  await cp(model, directory, { recursive: true });
  if (set === next) await cp(path.join(folder, "next"), path.join(directory, "artifacts"), { recursive: true });
  const backend = await startBackend({ MODEL_DIR: directory, THREADS: "1" });
  try {
    expect(backend.manifestHash).toBe(set.manifestHash);
    return await answerOf(backend, set, "alone", 600);
  } finally {
    await stop(backend);
  }
}

test("a switch and a rollback: batches of both manifests are served throughout, as if each were alone", async () => {
  const [ofOld, ofNext] = [await undisturbed(old), await undisturbed(next)];
  expect(ofOld).not.toEqual(ofNext);
  const backend = await startBackend(environment);
  try {
    expect(await manifestsOf(backend)).toEqual([old.manifestHash]);
    const long = answerOf(backend, old, "long", 600);
    await publishTo(store, old);
    await publishTo(store, next);
    await expect.poll(() => manifestsOf(backend), patience).toContain(next.manifestHash);
    const readiness = await (await fetch(`${backend.url}/readyz`)).json();
    expect(readiness).toMatchObject({ manifestHash: next.manifestHash });
    expect(await answerOf(backend, next, "new-1")).toEqual(ofNext.slice(0, 30));
    expect(await answerOf(backend, old, "old-1")).toEqual(ofOld.slice(0, 30));
    expect(await long).toEqual(ofOld);

    await rollBackIn(store);
    await expect
      .poll(async () => (await fetch(`${backend.url}/readyz`)).json(), patience)
      .toMatchObject({ manifestHash: old.manifestHash });
    expect(await answerOf(backend, old, "old-2")).toEqual(ofOld.slice(0, 30));
    expect(await answerOf(backend, next, "new-2")).toEqual(ofNext.slice(0, 30));
    // The backend drops `next` once no request uses it.
    await expect.poll(() => manifestsOf(backend), patience).toEqual([old.manifestHash]);
    const late = await backend.post("/v1/batches", {
      ...backend.batch("c1", [ask("late")]),
      manifestHash: next.manifestHash,
    });
    expect(late.status).toBe(409);
    // The log comes by another pipe than answers, so it may be late.
    await expect.poll(() => backend.log(), patience).toContain('"event":"artifacts_retired"');
    const metrics = await (await fetch(`${backend.url}/metrics`)).text();
    expect(metrics).toContain(`chameleon_artifact_sets{manifest="${old.manifestHash}",role="first"} 1`);
  } finally {
    await stop(backend);
  }
});

test("a backend starts with the published set; if that is damaged, with the model's own, and says so", async () => {
  await publishTo(store, old);
  await publishTo(store, next);
  const fresh = await startBackend(environment);
  expect(await manifestsOf(fresh)).toEqual([next.manifestHash]);
  await stop(fresh);

  const { sha256, bytes } = next.files.get("hyper-network.safetensors")!;
  await store.write(objectName(sha256), bytes.slice(0, -1));
  const harmed = await startBackend({ ...environment, DATA_DIR: path.join(folder, "empty") });
  expect(await manifestsOf(harmed)).toEqual([old.manifestHash]);
  expect(harmed.log()).toMatch(/"event":"artifacts_refused".*hyper-network\.safetensors/);
  expect(await harmed.metric("chameleon_artifact_sets_refused_total")).toBeGreaterThan(0);
  await stop(harmed);
});

test.each(["throw", "SIGSEGV", "hang"])(
  "a published set whose engine fails at its start (%s) leaves the old one serving",
  async (fault) => {
    const ofOld = await undisturbed(old);
    await publishTo(store, old);
    const backend = await startBackend({
      ...environment,
      NODE_OPTIONS: `--import=${new URL("../support/engine-faults.ts", import.meta.url).href}?fault=${fault}&set=${next.manifestHash}`,
    });
    try {
      const long = answerOf(backend, old, "long", 600);
      await publishTo(store, next);
      if (fault === "hang") await expect.poll(() => backend.log(), patience).toContain("engine-faults: hang");
      else await expect.poll(() => backend.metric("chameleon_artifact_sets_refused_total"), patience).toBe(1);
      expect(await long).toEqual(ofOld);
      expect(await answerOf(backend, old, "after")).toEqual(ofOld.slice(0, 30));
      expect(await manifestsOf(backend)).toEqual([old.manifestHash]);
      expect((await fetch(`${backend.url}/healthz`)).status).toBe(200);
    } finally {
      await stop(backend);
    }
  },
);
