/**
 * Memory of edge and backend after garbage collection: live bytes of JavaScript, and resident memory of the process. Without a
 * collection resident memory says little, because an isolate collects when its heap has grown, but most garbage lies outside that heap.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import type { WorkerdProcess } from "../../../infra/workerd/process.ts";
import type { Backend } from "../../support/backend-process.ts";
import { watchHeap } from "../../support/live-heap.ts";

/** Environment variables of a backend that can be watched. */
export const watchedBackend = {
  NODE_OPTIONS: `${process.env.NODE_OPTIONS ?? ""} --inspect=127.0.0.1:0`,
  // Makes glibc return free memory to the system at once. What it would keep varies by 50 MB, which hides everything else.
  GLIBC_TUNABLES: "glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072",
  // A small cache is soon full; one that still fills looks like a leak.
  PREFIX_CACHE_BYTES: String(2 ** 21),
};
/** Watched services in workerd. `sink` stands in for Analytics Engine and makes more garbage than the Worker. */
const watchedServices = ["edge", "sink"];

/** What the edge or the backend holds, in bytes. */
export interface Memory {
  /** Objects, strings and buffers after garbage collection. */
  live: number;
  /** Resident memory after garbage collection. */
  rss: number;
  /** Resident memory just before garbage collection. */
  rssBefore: number;
}

export interface MemorySample {
  /** Requests that were sent before this sample. */
  requests: number;
  edge: Memory;
  backend: Memory;
}

/** `touch` sends a request that makes every isolate of the edge work. */
export async function watchMemory(edge: WorkerdProcess, backend: Backend, touch: () => Promise<void>) {
  // The inspectors of the backend and of its engine.
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
    sample: async (requests: number): Promise<MemorySample> => ({
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
