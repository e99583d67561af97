/** Memories of centroids in a real backend: made of the set's text at first need, shared by tenants, the same after a restart. */
import { expect, test } from "vitest";
import { atEnd } from "../support/at-end.ts";
import { startBackend } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

const [model, data] = [temporaryFolder(), temporaryFolder()];
const texts = Array.from({ length: 4 }, (_, k) => Array.from({ length: 200 }, (_, i) => (i * i * (k + 3) + i) % 250));
await writeTinyModel(model, 7, { texts });
const start = () => startBackend({ MODEL_DIR: model, DATA_DIR: data, THREADS: "1" });
let backend = await start();
atEnd(() => backend.stop());

const reading = (id: string, tenant: string, centroidId: string, prompt = texts[1].slice(0, 60)) =>
  sequenceRequest(id, prompt, { tenant, maxTokens: 8, sources: true, memories: [{ centroidId }] });
const tokensOf = async (id: string, tenant: string, centroidId: string) => {
  const frames = await backend.frames(null, [reading(id, tenant, centroidId)]);
  expect(frames.at(-1)).toMatchObject({ type: "done", memories: [{ brake: expect.any(Number) }] });
  return frames.flatMap((frame) => (frame.type === "token" ? [{ ...frame, id: "" }] : []));
};
const cancel = async (id: string) =>
  (await (await backend.post("/v1/cancellations", { version: 4, ids: [id] })).json()) as { cancelled: string[] };

test("requests that come first wait for one build; every tenant then reads the same memory, also after a restart", async () => {
  const all = await Promise.all([1, 2, 3, 4].map((i) => tokensOf(`s${i}`, `tenant-${i}`, "c1")));
  for (const tokens of all) expect(tokens).toEqual(all[0]);
  expect(await backend.metric("chameleon_memory_disk_files")).toBe(1);
  const passages = all[0].flatMap(({ sources }) => sources!.passages);
  expect(passages.length).toBeGreaterThan(0);
  // The excerpt begins 10 bytes after the beginning of its document.
  for (const { document, start: from } of passages) expect([document, from >= 10]).toEqual(["public 1", true]);
  await backend.stop("SIGKILL");
  backend = await start();
  expect(await tokensOf("s5", "tenant-5", "c1")).toEqual(all[0]);
  expect(await tokensOf("s6", "tenant-5", "c2")).not.toEqual(all[0]);
});

test("only the sequence that needs a memory waits for it or fails without it, and it can be cancelled meanwhile", async () => {
  const plain = sequenceRequest("plain", [1, 2, 3], { maxTokens: 1 });
  const batch = [reading("none", "acme", "c9"), reading("cold", "acme", "c3"), plain];
  const frames = await backend.frames(null, batch);
  expect(frames).toContainEqual(expect.objectContaining({ id: "none", type: "error", kind: "memory_not_found" }));
  const at = (id: string) => frames.findIndex((frame) => frame.id === id && frame.type === "done");
  expect(at("plain")).toBeGreaterThanOrEqual(0);
  expect(at("cold")).toBeGreaterThan(at("plain"));

  const left = backend.frames(null, [{ ...reading("left", "acme", "c0"), maxTokens: 900 }]);
  await expect.poll(async () => (await cancel("left")).cancelled).toEqual(["left"]);
  expect((await left).at(-1)).toMatchObject({ type: "error", kind: "cancelled" });
});
