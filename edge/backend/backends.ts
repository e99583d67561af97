/**
 * All backends behind one call, which survives the loss of any of them. It has timers only for calls under way and
 * probes only when a batch arrives, so it costs nothing while idle.
 */
import { type BatchRequest, type Frame, holds, type Readiness } from "../../shared/contracts/inference.ts";
import type { Jurisdiction } from "../../shared/contracts/tenant-name.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import type { Region } from "../platform/region.ts";
import { addressesIn, type BackendAddress } from "./addresses.ts";
import { BatchRun } from "./batch-run.ts";
import { Budget } from "./budget.ts";
import type { BackendCalls } from "./client.ts";
import { FirstFrameTimes } from "./first-frame-times.ts";
import { type Route, Router } from "./router.ts";
import type { RoutingContext } from "./routing-context.ts";
import { hedgeBudget, probeMs, retryBudget } from "./routing-limits.ts";

export interface BackendsParts extends Pick<RoutingContext, "observe" | "now" | "after" | "keepAlive"> {
  addresses: readonly BackendAddress[];
  clientOf(address: BackendAddress): BackendCalls;
  /** Where the caller is: the nearest backends are preferred. null: all are equally near. */
  region: Region | null;
  /** Backends elsewhere are never called; null: all may be. */
  jurisdiction?: Jurisdiction | null;
}

/**
 * Resolves when the batch is accepted, or a tenant's part of it, to its frames in groups as they arrived. Each sequence gets
 * its frames in order, and exactly one `done` or `error` as the last. Rejects with a ServiceError if all of the batch is
 * refused; after that, failures are `error` frames.
 */
export type Dispatch = (batch: BatchRequest) => Promise<AsyncIterable<Frame[]>>;

export class Backends {
  readonly #context: RoutingContext;
  readonly #runs = new Set<BatchRun>();

  constructor({ addresses: all, clientOf, region, jurisdiction = null, ...parts }: BackendsParts) {
    const addresses = addressesIn(jurisdiction, all);
    this.#context = {
      ...parts,
      jurisdiction,
      clients: new Map(addresses.map((address) => [address.url, clientOf(address)])),
      router: new Router(addresses, region),
      retries: new Budget(retryBudget),
      hedges: new Budget(hedgeBudget),
      firstFrames: new FirstFrameTimes(),
    };
  }

  readonly openBatch: Dispatch = async (batch) => {
    this.#probeEjected();
    const run = new BatchRun(batch, this.#context);
    this.#runs.add(run);
    try {
      await run.begin();
    } catch (error) {
      this.#runs.delete(run);
      throw error;
    }
    return run.frames(() => this.#runs.delete(run));
  };

  /** No batch is under way. */
  get idle(): boolean {
    return this.#runs.size === 0;
  }

  /** Id of the backend that a batch of this route would be sent to now; null if there is none. */
  backendOf(route: Route): string | null {
    const { router, now } = this.#context;
    return router.choose(route, new Set(), now())?.backend.id ?? null;
  }

  /** Cancels sequences by id, whichever batches they are in. A batch of which none is left ends, accepted or not. */
  cancel(ids: readonly string[]): void {
    for (const run of this.#runs) run.cancel(ids);
  }

  /** Probes the backends whose ejection has ended. */
  #probeEjected(): void {
    const { router, clients, observe, now, keepAlive } = this.#context;
    for (const backend of router.takeProbes(now())) {
      const probe = async () => {
        const readiness = await clients
          .get(backend.address.url)!
          .readiness(backend.name)
          .catch(() => null);
        backend.group.recordProbe(backend, readiness !== null, now());
        if (readiness) observe({ event: "returned", backend: backend.id });
      };
      keepAlive(probe());
    }
  }
}

/** What each backend that is ready serves. One that has not answered within `limitMs` counts as not ready. Never rejects. */
export async function readinessOf(clients: Iterable<BackendCalls>, limitMs: number = probeMs): Promise<Readiness[]> {
  const ready: Readiness[] = [];
  const asked = Array.from(clients, async (client) => {
    const readiness = await client.readiness(null);
    if (readiness) ready.push(readiness);
  });
  await settlesWithin(Promise.allSettled(asked), limitMs);
  return ready;
}

/** How many of the ready backends serve batches of a manifest. */
export type Holding = "all" | "some" | "none";

export function holdingOf(ready: readonly Readiness[], manifestHash: string): Holding {
  const holding = ready.filter((one) => holds(one, manifestHash)).length;
  if (holding === 0) return "none";
  return holding === ready.length ? "all" : "some";
}
