/**
 * Several backend processes behind one balancer, simulated in the test's own process: the backend's real HTTP interface over engines
 * that send `framesFor`. Each process can be killed.
 */
import { once } from "node:events";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { serve } from "@hono/node-server";
import type { FrameSink } from "../../gpu-backend/host/client.ts";
import { type AppParts, createApp } from "../../gpu-backend/http/app.ts";
import { createMetrics } from "../../gpu-backend/http/metrics.ts";
import { callVerifier } from "../../gpu-backend/http/middleware.ts";
import { nameHeader } from "../../shared/contracts/backend-headers.ts";
import { type BatchRequest, errorFrame, type Frame } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";
import { type Balancing, startBalancer } from "./balancer.ts";
import { noEngine } from "./metrics-view.ts";
import { framesFor, turn } from "./scripted-backends.ts";

export const groupSecret = "process-group-0123456789abcdef01234567";

export class FakeProcess {
  readonly name: string;
  /** The process is killed instead of sending more tokens than this. */
  killedAfterTokens = Number.POSITIVE_INFINITY;
  /** For each accepted batch, the process that the call named. */
  readonly taken: (string | null)[] = [];
  /** Ids that a call cancelled while they ran here. */
  readonly cancelled: string[] = [];
  /** Ids that a call cancelled but that did not run here. */
  readonly strangers: string[] = [];
  /** If true, each batch pauses after three frames of each sequence until its first sequence is cancelled. */
  holdsUntilCancelled = false;
  /** Hashes of the own adapters that were uploaded. */
  readonly adapters = new Set<string>();
  refusedAsOther = 0;
  port = 0;
  readonly #open = new Map<string, FrameSink>();
  #tokens = 0;
  #server: ReturnType<typeof serve> | null = null;

  constructor(name: string) {
    this.name = name;
  }

  async start(): Promise<void> {
    const app = createApp(this.#parts());
    const fetch = async (request: Request) => {
      const wanted = request.headers.get(nameHeader);
      const response = await app.fetch(request);
      if (response.status === 421) this.refusedAsOther++;
      if (response.ok && new URL(request.url).pathname === "/v1/batches") this.taken.push(wanted);
      return response;
    };
    this.#server = serve({ fetch, hostname: "127.0.0.1", port: this.port });
    await once(this.#server, "listening");
    this.port = (this.#server.address() as AddressInfo).port;
  }

  /** Ends the process at once, with all its connections. The balancer keeps its address. */
  kill(): void {
    (this.#server as Server).closeAllConnections();
    this.#server?.close();
    this.#open.clear();
  }

  #parts(): AppParts {
    const info = {
      manifest: { centroids: [], model: { name: "fake", servedAs: "gpt2" } },
      manifestHash: "a".repeat(64),
      numerics: "fake-1",
    } as unknown as ReturnType<AppParts["sets"]["requireServing"]>;
    const engine = {
      info,
      submit: (batch: BatchRequest, sink: FrameSink) => {
        for (const { id } of batch.sequences) this.#open.set(id, sink);
        void this.#run(batch, sink);
      },
      cancel: (ids: readonly string[]) => this.#end(ids),
    };
    const metrics = createMetrics(noEngine);
    const adapters = {
      begin: () => Promise.reject(new Error("not asked for")),
      upload: async (_: string, hash: string) => void this.adapters.add(hash),
      store: {
        disk: { fault: null },
        has: async (_: string, hash: string) => this.adapters.has(hash),
        remove: async (_: string, hash: string) => this.adapters.delete(hash),
      },
    };
    const memories = {
      begin: () => Promise.reject(new Error("not asked for")),
      remove: async () => undefined,
      store: { disk: { fault: null }, has: async () => false },
    };
    return {
      name: this.name,
      load: () => ({ sequences: this.#open.size, slots: 32 }),
      sets: {
        of: () => ({ engine }),
        serving: ["a".repeat(64)],
        requireServing: () => info,
        cancel: (ids: readonly string[]) => {
          const ended = this.#end(ids);
          this.cancelled.push(...ended);
          this.strangers.push(...ids.filter((id) => !ended.includes(id)));
          return ended;
        },
      },
      adapters: adapters as unknown as AppParts["adapters"],
      memories: memories as unknown as AppParts["memories"],
      metrics,
      log: () => undefined,
      verifyCall: callVerifier([groupSecret], Date.now),
      now: () => performance.now(),
    };
  }

  #end(ids: readonly string[]): string[] {
    const open = ids.filter((id) => this.#open.has(id));
    for (const id of open) {
      const sink = this.#open.get(id)!;
      this.#open.delete(id);
      sink([errorFrame(id, new ServiceError("cancelled", "cancelled"))]);
    }
    return open;
  }

  /** Sends one frame of each sequence per turn of the event loop. */
  async #run({ sequences }: BatchRequest, sink: FrameSink): Promise<void> {
    const rows = sequences.map(framesFor);
    const isHeld = (row: Frame[], i: number) =>
      this.holdsUntilCancelled && this.#open.has(sequences[0].id) && row.length < framesFor(sequences[i]).length - 2;
    while (rows.some((row) => row.length > 0 && this.#open.has(row[0].id))) {
      await turn();
      const frames: Frame[] = rows.flatMap((row, i) =>
        row.length > 0 && this.#open.has(row[0].id) && !isHeld(row, i) ? [row.shift()!] : [],
      );
      this.#tokens += frames.length;
      if (this.#tokens > this.killedAfterTokens) {
        this.killedAfterTokens = Number.POSITIVE_INFINITY;
        this.kill();
        return;
      }
      for (const { id, type } of frames) if (type === "done") this.#open.delete(id);
      if (frames.length > 0) sink(frames);
    }
  }
}

export interface ProcessGroup {
  /** The address as the edge is configured with it. */
  url: string;
  processes: FakeProcess[];
  stop(): void;
}

export async function startProcessGroup(count: number, balancing: Balancing): Promise<ProcessGroup> {
  const processes = Array.from({ length: count }, (_, i) => new FakeProcess(`pod-${i}`));
  for (const process of processes) await process.start();
  const balancer = await startBalancer(balancing, processes);
  return {
    url: balancer.url,
    processes,
    stop() {
      balancer.stop();
      for (const process of processes) process.kill();
    },
  };
}
