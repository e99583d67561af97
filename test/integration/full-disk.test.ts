/** A disk that is really full: a backend whose DATA_DIR is a file system of half a megabyte. Mounting one takes root. */
import { spawnSync } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { FilePlan } from "../../gpu-backend/tenant-files/partial-file.ts";
import { TenantStore } from "../../gpu-backend/tenant-files/tenant-store.ts";
import { type Documents, type MemoryProgress, memoryProgressSchema } from "../../shared/contracts/inference.ts";
import { memoryHash } from "../../shared/contracts/memory-hash.ts";
import { allFrames, type Backend, startBackend } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { smallBase } from "../support/small-base.ts";

const disk = await mkdtemp(join(tmpdir(), "full-disk-"));
const mount = (options: string) =>
  spawnSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", disk], { encoding: "utf8" });
const mounted = mount("size=512k");
const isMounted = mounted.status === 0;
if (!isMounted) console.log(`skipped, as nothing can be mounted: ${mounted.error ?? mounted.stderr}`);

let backend: Backend | null = null;
const start = async () => {
  backend = await startBackend({ MODEL_DIR: smallBase, DATA_DIR: disk, THREADS: "1" });
};
const kill = async () => {
  backend?.child.kill("SIGKILL");
  await backend?.exited;
};
beforeAll(async () => {
  if (isMounted) await start();
});
afterAll(async () => {
  await kill();
  if (isMounted) spawnSync("umount", [disk]);
  await rm(disk, { recursive: true });
});

const words = "harbour ledger stair lantern copper gull quay rope master tide".split(" ");
const documentsOf = (count: number, length: number): Documents =>
  Array.from({ length: count }, (_, d) => ({
    name: `${d}.md`,
    text: Array.from({ length }, (_, i) => words[(i * i + d * i + length) % words.length]).join(" "),
  }));
const hashOf = (tenant: string, documents: Documents) => memoryHash(tenant, backend!.manifestHash, documents);
async function made(tenant: string, documents: Documents): Promise<MemoryProgress> {
  const { url, manifestHash } = backend!;
  const body = JSON.stringify({ version: 1, manifestHash, documents });
  const path = `${url}/v1/memories/${tenant}/${await hashOf(tenant, documents)}`;
  const answered = await fetch(path, { method: "PUT", body });
  return memoryProgressSchema.parse(JSON.parse((await answered.text()).trim().split("\n").at(-1)!));
}
/** The last frame of an answer that reads a memory, or the status of its refusal. */
async function answerOf(tenant: string, documents: Documents): Promise<unknown> {
  const memories = [{ hash: await hashOf(tenant, documents) }];
  const answered = await backend!.post("/v1/batches", {
    ...backend!.batch(null, [sequenceRequest("a", [1, 2, 3], { tenant, memories, maxTokens: 4 })]),
  });
  if (answered.ok) return (await allFrames(answered)).at(-1);
  await answered.body?.cancel();
  return answered.status;
}
const done = expect.objectContaining({ type: "done", memories: [expect.anything()] });
const fault = async () =>
  ((await (await fetch(`${backend!.url}/readyz`)).json()) as { diskFault: string | null }).diskFault;
const memoriesOnDisk = async () =>
  (await readdir(join(disk, "tenants/memories"), { recursive: true })).filter(
    (name) => /[0-9a-f]{64}\//.test(name) && !name.endsWith("key"),
  );

test.runIf(isMounted)(
  "a memory that the disk has no room for is served, nothing of it stays there, and neighbours keep theirs",
  async () => {
    const [small, large] = [documentsOf(2, 200), documentsOf(6, 1000)];
    expect(await made("neighbour", small)).toMatchObject({ type: "ready" });
    expect([await fault(), (await memoriesOnDisk()).length]).toEqual([null, 1]);
    expect(await made("acme", large)).toMatchObject({ type: "ready" });
    expect(await fault()).toBe("ENOSPC");
    expect((await memoriesOnDisk()).map((name) => name.slice(65))).toEqual([await hashOf("neighbour", small)]);
    for (let i = 0; i < 2; i++) {
      expect(await answerOf("acme", large)).toEqual(done);
      expect(await answerOf("neighbour", small)).toEqual(done);
    }

    expect(mount("remount,size=16m").status).toBe(0);
    await kill();
    await start();
    expect(await answerOf("neighbour", small)).toEqual(done);
    expect(await answerOf("acme", large)).toBe(404);
    expect(await made("acme", large)).toMatchObject({ type: "ready" });
    expect([await fault(), (await memoriesOnDisk()).length]).toEqual([null, 2]);
    await kill();
    await start();
    expect(await answerOf("acme", large)).toEqual(done);
  },
);

test.runIf(isMounted)(
  "a file that is too large for disk and memory is refused with the disk's fault, and continued when there is room",
  async () => {
    expect(mount("remount,size=24m").status).toBe(0);
    const bounds = { tenantBytes: 2 ** 28, totalBytes: 2 ** 28, now: () => new Date() };
    const store = new TenantStore({ directory: join(disk, "apart"), ...bounds });
    const record = new Uint8Array(2 ** 20).fill(7);
    const plan: FilePlan = {
      label: record.subarray(0, 9),
      head: record.subarray(0, 9),
      recordBytes: Array(70).fill(2 ** 20),
    };
    const hash = "a".repeat(64);
    const write = async () => {
      const file = await store.begin("acme", hash, plan);
      try {
        for (let i = file.length; i < plan.recordBytes.length; i++) await file.append([record]);
        return await file.finish();
      } finally {
        await file.close();
      }
    };
    const refusal = /The disk of the backend refuses the file \(ENOSPC\), which has \d+ bytes; up to 67108864/;
    await expect(write()).rejects.toThrow(refusal);
    expect([await store.has("acme", hash), store.disk.fault]).toEqual([false, "ENOSPC"]);
    expect(mount("remount,size=120m").status).toBe(0);
    const continued = await store.begin("acme", hash, plan);
    expect(continued.length).toBeGreaterThan(0);
    await continued.close();
    await write();
    expect((await store.read("acme", hash))!.every((byte) => byte === 7)).toBe(true);
  },
);
