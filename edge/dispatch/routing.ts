/** The backends of one configuration, and which of them serve a manifest. */
import { holds, type Readiness } from "../../shared/contracts/inference.ts";
import type { Jurisdiction } from "../../shared/contracts/tenant-name.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import type { Region } from "../platform/region.ts";
import { addressesIn, type BackendAddress } from "./addresses.ts";
import type { BackendCalls } from "./client.ts";
import { Router } from "./router.ts";
import { probeMs } from "./routing-limits.ts";

export interface Routing {
  router: Router;
  clients: ReadonlyMap<string, BackendCalls>;
  /** Jurisdiction of the called backends; null: backends anywhere are called. */
  jurisdiction: Jurisdiction | null;
}

interface RoutingParts extends Partial<Pick<Routing, "jurisdiction">> {
  addresses: readonly BackendAddress[];
  clientOf(address: BackendAddress): BackendCalls;
  region: Region | null;
}

export function createRouting({ addresses: all, clientOf, region, jurisdiction = null }: RoutingParts): Routing {
  const addresses = addressesIn(jurisdiction, all);
  const clients = new Map(addresses.map((address) => [address.url, clientOf(address)]));
  return { router: new Router(addresses, region), clients, jurisdiction };
}

export interface RoutingEvent {
  event: /** Sequences without tokens are sent again, because `backend` failed or refused their call. */
    | "retried"
    /** Another backend has accepted sequences that already have tokens. One event for each accepted call. */
    | "resumed"
    /** Sequences with tokens end in an error, because no other backend has the same numerics fingerprint. */
    | "not_resumed"
    | "ejected"
    | "returned"
    | "call_failed";
  backend: string;
  sequences?: number;
  failure?: Error;
}

/** What each ready backend serves. A backend that does not answer within `limitMs` counts as not ready. Never rejects. */
export async function readinessOf(clients: Iterable<BackendCalls>, limitMs: number = probeMs): Promise<Readiness[]> {
  const ready: Readiness[] = [];
  const probes = Array.from(clients, async (client) => {
    const readiness = await client.readiness(null);
    if (readiness) ready.push(readiness);
  });
  await settlesWithin(Promise.allSettled(probes), limitMs);
  return ready;
}

export type Holding = "all" | "some" | "none";

export function holdingOf(ready: readonly Readiness[], manifestHash: string): Holding {
  const holding = ready.filter((one) => holds(one, manifestHash)).length;
  if (holding === 0) return "none";
  return holding === ready.length ? "all" : "some";
}
