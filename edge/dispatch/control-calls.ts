/** Cancellations and probes, which wait in the CallQueue like sequences. */
import type { Backend } from "./backend-group.ts";
import type { CallGroup, QueueEntry } from "./call-queue.ts";
import type { BackendCalls } from "./client.ts";
import type { Routing, RoutingEvent } from "./routing.ts";

/** Control calls take turns with tenants under this name, which no tenant has. */
const controlTenant = "";

export class ControlCall implements QueueEntry {
  readonly tenant = controlTenant;
  readonly dueMs: number;
  readonly group: CallGroup;
  /** Of the sequence to cancel, if it is a cancellation. */
  readonly ids: readonly string[];
  /** Makes one call for all that go together. Never rejects. */
  readonly send: (ids: string[]) => Promise<void>;

  constructor(
    kind: "cancel" | "probe",
    { id: backend }: Backend,
    { dueMs, ids = [], send }: Pick<ControlCall, "dueMs" | "send"> & { ids?: string[] },
  ) {
    this.dueMs = dueMs;
    // Calls of a kind to a process go one after the other: one that hangs takes one connection.
    this.group = { key: `${kind} ${backend}`, backend, maxCalls: 1 };
    this.ids = ids;
    this.send = send;
  }
}

/** Cancels sequences at the backend, by the ids that it knows. If that fails, they run to their end. */
export function cancellations(
  backend: Backend,
  client: BackendCalls,
  ids: readonly string[],
  dueMs: number,
): ControlCall[] {
  const send = (all: string[]) => client.cancel(all, backend.name).catch(() => undefined);
  return ids.map((id) => new ControlCall("cancel", backend, { dueMs, ids: [id], send }));
}

/** Probes each backend whose ejection has ended. */
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
    return new ControlCall("probe", backend, { dueMs: now(), send });
  });
}
