/** What the backends that are ready serve. */
import { holds, type Readiness } from "../../shared/contracts/inference.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import type { BackendCalls } from "./client.ts";
import { probeMs } from "./routing-limits.ts";

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
