/** Cancellations and probes, which wait in the CallQueue like sequences. */
import type { Backend } from "./backend-group.ts";
import type { CallGroup, QueueEntry } from "./call-queue.ts";
import type { BackendCalls } from "./client.ts";
import type { Routing, RoutingEvent } from "./routing.ts";

const controlTenant = "";

export interface ControlCall extends QueueEntry {
  group: CallGroup;
  /** The id to cancel; empty for a probe. */
  ids: string[];
  /** `ids`: ids of all control calls that share the call. Never rejects. */
  send(ids: string[]): Promise<void>;
}

/** At most one call at a time, so that a process that hangs occupies only one connection. */
function groupOf(kind: "cancel" | "probe", { id: backend }: Backend): CallGroup {
  return { key: `${kind} ${backend}`, backend, maxCalls: 1 };
}

/** If the cancelling call fails, the sequences run to their end. */
export function cancellations(backend: Backend, client: BackendCalls, ids: string[], dueMs: number): ControlCall[] {
  const send = (all: string[]) => client.cancel(all, backend.name).catch(() => undefined);
  const group = groupOf("cancel", backend);
  return ids.map((id) => ({ tenant: controlTenant, dueMs, group, ids: [id], send }));
}

export function probes(
  { router, clients }: Routing,
  { now, observe }: { now(): number; observe(event: RoutingEvent): void },
): ControlCall[] {
  return router.takeProbes(now()).map((backend) => {
    const send = async () => {
      const client = clients.get(backend.address.url)!;
      const readiness = await client.readiness(backend.name).catch(() => null);
      backend.group.recordProbe(backend, readiness !== null, now());
      if (readiness) observe({ event: "returned", backend: backend.id });
    };
    return { tenant: controlTenant, dueMs: now(), group: groupOf("probe", backend), ids: [], send };
  });
}
