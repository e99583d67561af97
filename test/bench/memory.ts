/**
 * Resident memory that serving adds to a session: the backend beside a bare session over the same graph, and beside node-llama-cpp. Then
 * the backend before its first own adapter, and an idle minute after it. Memory is that of a process and its children while they hold every
 * row; a page of a file that several map counts once. Linux only.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { idleMs } from "../../gpu-backend/host/own-adapters/fit-client.ts";
import type { WeightFormat } from "../../gpu-backend/runtime/products.ts";
import type { Backend } from "../support/backend-process.ts";
import { embeddedBase } from "../support/embedded-base.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { AskedProcess } from "./asked-process.ts";
import { runGroup } from "./contest.ts";
import { promptsOf } from "./model.ts";
import { descendantsOf } from "./process-memory.ts";
import { median } from "./quantile.ts";
import { generate, makeAdapter, withBackend } from "./served.ts";

const context = 128;
const steps = 8;
const examples = { count: 6, tokens: 60 };
/** Time in which the fitter's process must end after it was idle for `idleMs`. */
const unloadingMs = 2000;
const steadyBatches = 5;
const targetBytes = 120e6;
/** Maximum growth of a backend's resident memory, an idle minute after its first adapter was made. */
const targetGrowth = 0.05;

interface Resident {
  bytes: number;
  rssBytes: number;
}

type MemoryRow = Awaited<ReturnType<typeof measureMemory>>;

export async function measureMemory(
  format: WeightFormat,
  batch: number,
  { threads, note }: { threads: number; note(line: string): void },
) {
  const artifacts = join(embeddedBase, "artifacts");
  const session = { modelDirectory: embeddedBase, artifactsDirectory: artifacts, threads, weightFormat: format };
  const bareBytes = await bareSession(session, batch);
  const settings = { WEIGHT_FORMAT: format, THREADS: `${threads}` };
  const withoutPrefixCache = await withBackend({ ...settings, PREFIX_CACHE_BYTES: "0" }, (backend) =>
    serveBatch(backend, batch),
  );
  const measured = await withBackend(settings, async (backend) => ({
    served: await serveBatch(backend, batch),
    prefixCacheBytes: await backend.metric("chameleon_prefix_cache_bytes"),
    adapter: await measureAdapter(backend, batch),
  }));
  const peer = { system: "node-llama-cpp", format: "gguf" } as const;
  const gguf = join(embeddedBase, "model.gguf");
  const { rows } = await runGroup([peer], [{ batch, context, steps }], { rounds: 1, threads, gguf, note });
  /** Null if node-llama-cpp cannot run. */
  const llamaBytes = rows.at(0)?.rssBytes ?? null;
  return { format, batch, bareBytes, withoutPrefixCache, ...measured, llamaBytes };
}

export function memoryLines({ format, batch, bareBytes, adapter, ...row }: MemoryRow): string[] {
  const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;
  const beside = ({ bytes, rssBytes }: Resident) =>
    `${megabytes(bytes)}, ${megabytes(bytes - bareBytes)} more (RSS ${megabytes(rssBytes)}, ${megabytes(rssBytes - bareBytes)} more)`;
  const growth = adapter.idleBytes / adapter.beforeBytes - 1;
  const verdict = (isOver: boolean) => (isOver ? "LOSES  " : "  ");
  return [
    `memory ${format}, batch ${batch}, context ${context}: bare session ${megabytes(bareBytes)}`,
    `${verdict(row.served.bytes - bareBytes > targetBytes)}backend: ${beside(row.served)}, of which the prefix cache holds ${megabytes(row.prefixCacheBytes)}; without one: ${beside(row.withoutPrefixCache)}; target ${megabytes(targetBytes)} more`,
    `  node-llama-cpp: ${row.llamaBytes === null ? "not measured" : megabytes(row.llamaBytes)}`,
    `${verdict(growth > targetGrowth)}first own adapter: before ${megabytes(adapter.beforeBytes)}, made ${megabytes(adapter.madeBytes)}, after ${idleMs / 1000} s idle ${megabytes(adapter.idleBytes)} (${(100 * growth).toFixed(1)}%; target ${100 * targetGrowth}%)`,
  ];
}

async function bareSession(settings: object, batch: number): Promise<number> {
  const script = new URL("./memory-process.ts", import.meta.url);
  const cell = JSON.stringify({ batch, context, steps });
  return new AskedProcess(script, JSON.stringify(settings), cell).ready();
}

async function serveBatch(backend: Backend, batch: number): Promise<Resident> {
  const sequences = promptsOf(batch, context - steps).map((ids, i) =>
    sequenceRequest(`${i}`, ids, { maxTokens: steps }),
  );
  const pid = backend.child.pid!;
  let rssBytes = 0;
  await generate(backend, sequences, () => {
    rssBytes = Math.max(rssBytes, rssOf(pid));
  });
  return { bytes: rssBytes - sharedBytes(pid), rssBytes };
}

async function measureAdapter(backend: Backend, batch: number) {
  const beforeBytes = await steadyBytes(backend, batch);
  await makeAdapter(backend, "tenant", promptsOf(examples.count, examples.tokens), 1);
  const pid = backend.child.pid!;
  const madeBytes = rssOf(pid) - sharedBytes(pid);
  await setTimeout(idleMs + unloadingMs);
  return { beforeBytes, madeBytes, idleBytes: await steadyBytes(backend, batch) };
}

/** Median over several equal batches, because garbage comes and goes by tens of megabytes. */
async function steadyBytes(backend: Backend, batch: number): Promise<number> {
  const bytes: number[] = [];
  for (let i = 0; i < steadyBatches; i++) bytes.push((await serveBatch(backend, batch)).bytes);
  return median(bytes);
}

function rssOf(pid: number): number {
  const ofProcess = (one: number) => /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${one}/status`, "utf8"))?.[1];
  return [pid, ...descendantsOf(pid)].reduce((sum, one) => sum + 1024 * Number(ofProcess(one)), 0);
}

/**
 * Bytes that the sum of RSS counts more than once. For each mapped part of a file: the sum of the processes' resident bytes minus the
 * largest. Reading these bytes at every token would be too slow.
 */
function sharedBytes(pid: number): number {
  const largest = new Map<string, number>();
  let sum = 0;
  for (const one of [pid, ...descendantsOf(pid)]) {
    for (const part of readFileSync(`/proc/${one}/smaps`, "utf8").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
      const [, , offset, device, inode] = part.slice(0, part.indexOf("\n")).split(/ +/);
      if (inode === "0") continue;
      const kilobytes = (name: string) => Number(new RegExp(`^${name}: +(\\d+) kB`, "m").exec(part)?.[1] ?? 0);
      const bytes = 1024 * (kilobytes("Rss") - kilobytes("Anonymous"));
      const file = `${device} ${inode} ${offset}`;
      largest.set(file, Math.max(largest.get(file) ?? 0, bytes));
      sum += bytes;
    }
  }
  return sum - largest.values().reduce((total, bytes) => total + bytes, 0);
}
