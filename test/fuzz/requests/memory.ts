/**
 * The memory of edge and backend, as it is once garbage is collected: what JavaScript still holds, and what the system has
 * given the process. Before that it says little: an isolate collects when its own heap has grown, and whatever hangs on its
 * garbage outside of the heap, the better part by far, waits for that.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import type { WorkerdProcess } from "../../../infra/workerd/process.ts";
import type { Backend } from "../../support/backend-process.ts";
import { watchHeap } from "../../support/live-heap.ts";

/** What the backend is started with, so that it can be watched. */
export const watchedBackend = {
  NODE_OPTIONS: `${process.env.NODE_OPTIONS ?? ""} --inspect=127.0.0.1:0`,
  // What is free goes back to the system at once: else what glibc keeps for later, 50 MB now and none then, hides all else.
  GLIBC_TUNABLES: "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072",
  // Full soon: a cache that fills looks like a leak.
  PREFIX_CACHE_BYTES: String(2 ** 21),
};
/**
 * The stand-in for Analytics Engine makes more garbage than our Worker and has next to no heap. Those for keys and artifacts
 * are asked now and then, and gather nothing.
 */
const watchedServices = ["edge", "sink"];

/** Bytes. */
export interface Memory {
  /** Objects, strings and buffers, garbage collected. */
  live: number;
  /** Resident, garbage collected. */
  rss: number;
  /** Resident, just before. */
  rssBefore: number;
}

export interface MemorySample {
  /** Sent until then. */
  requests: number;
  edge: Memory;
  backend: Memory;
}

export interface MemoryWatch {
  sample(requests: number): Promise<MemorySample>;
  close(): void;
}

/** `touch` sends a request that reaches everything at the edge. */
export async function watchMemory(
  edge: WorkerdProcess,
  backend: Backend,
  touch: () => Promise<void>,
): Promise<MemoryWatch> {
  // Of the backend and its engine.
  const backendUrls = Array.from(backend.log().matchAll(/^Debugger listening on (ws:\S+)/gm), ([, url]) => url);
  if (!edge.inspector || backendUrls.length !== 2)
    throw new Error("edge and backend must be started with their inspectors");
  const heaps = {
    edge: await watchHeap(watchedServices.map(edge.inspector), touch),
    backend: await watchHeap(backendUrls),
  };
  const memoryOf = async (name: keyof typeof heaps, pids: readonly number[]): Promise<Memory> => {
    const rss = () => pids.reduce((sum, pid) => sum + rssBytes(pid), 0);
    const rssBefore = rss();
    const { heap, buffers } = await heaps[name].live();
    return { live: heap + buffers, rss: rss(), rssBefore };
  };
  return {
    sample: async (requests) => ({
      requests,
      edge: await memoryOf("edge", [edge.pid]),
      backend: await memoryOf("backend", [backend.child.pid!, ...backend.enginePids()]),
    }),
    close() {
      heaps.edge.close();
      heaps.backend.close();
    },
  };
}

function rssBytes(pid: number): number {
  if (process.platform === "linux") {
    return 1024 * Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
  }
  return 1024 * Number(execFileSync("ps", ["-o", "rss=", "-p", String(pid)], { encoding: "utf8" }));
}
