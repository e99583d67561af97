/**
 * All backends as one: a Dispatch that survives the loss of any of them. It sets no timer but those of calls under way,
 * and probes only while there is traffic, so that an idle one costs nothing.
 */
import { holds, type Readiness } from "../../shared/contracts/inference.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import { Budget } from "./budget.ts";
import type { BackendCalls } from "./client.ts";
import type { Dispatch } from "./dispatch.ts";
import { FirstFrameTimes } from "./first-frame-times.ts";
import { Journey, type Roads } from "./journey.ts";
import { Router } from "./router.ts";
import { hedgeBudget, retryBudget } from "./routing-limits.ts";

export type BackendsParts = Pick<Roads, "clients" | "observer" | "now" | "after" | "keepAlive">;

export class Backends {
  readonly #roads: Roads;
  readonly #journeys = new Set<Journey>();

  constructor(parts: BackendsParts) {
    this.#roads = {
      ...parts,
      router: new Router([...parts.clients.keys()]),
      retries: new Budget(retryBudget),
      hedges: new Budget(hedgeBudget),
      firstFrames: new FirstFrameTimes(),
    };
  }

  readonly openBatch: Dispatch = async (batch, signal) => {
    this.#probe();
    const journey = new Journey(batch, this.#roads);
    this.#journeys.add(journey);
    try {
      await journey.begin(signal);
    } catch (error) {
      this.#journeys.delete(journey);
      throw error;
    }
    return journey.frames(() => this.#journeys.delete(journey));
  };

  /** Drops sequences of batches that go on for others. */
  cancel(ids: readonly string[]): void {
    for (const journey of this.#journeys) journey.cancel(ids);
  }

  #probe(): void {
    const { router, clients, observer, now, keepAlive } = this.#roads;
    for (const backend of router.takeProbes(now())) {
      const probe = async () => {
        const readiness = await clients
          .get(backend)!
          .readiness()
          .catch(() => null);
        router.probed(backend, readiness !== null, now());
        if (readiness) observer.returned(backend);
      };
      keepAlive(probe());
    }
  }
}

/** What is served: by a backend of this manifest if one is ready, else by any that is; null where none is. */
export async function readinessOf(clients: Iterable<BackendCalls>, manifestHash: string): Promise<Readiness | null> {
  const asked = Array.from(clients, (client) => client.readiness().catch(() => null));
  const ready = (await Promise.all(asked)).filter((one) => one !== null);
  return ready.find((one) => holds(one, manifestHash)) ?? ready[0] ?? null;
}

/** How many of the ready backends serve batches of a manifest. */
export type Holding = "all" | "some" | "none";

/** Whoever has not answered within `limitMs` is not ready. Never rejects. */
export async function holdingOf(
  clients: Iterable<BackendCalls>,
  manifestHash: string,
  limitMs: number,
): Promise<Holding> {
  let ready = 0;
  let holding = 0;
  const asked = Array.from(clients, async (client) => {
    const readiness = await client.readiness().catch(() => null);
    if (!readiness) return;
    ready++;
    if (holds(readiness, manifestHash)) holding++;
  });
  await settlesWithin(Promise.all(asked), limitMs);
  if (holding === 0) return "none";
  return holding === ready ? "all" : "some";
}
