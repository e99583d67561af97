/** The backends of one configuration, the manifests that they serve, and the events of routing. */
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
  /** By the URL of an address. */
  clients: ReadonlyMap<string, BackendCalls>;
  /** Jurisdiction that all these backends are in; null for no restriction. */
  jurisdiction: Jurisdiction | null;
}

export interface RoutingParts {
  addresses: readonly BackendAddress[];
  clientOf(address: BackendAddress): BackendCalls;
  /** Where the caller is: the nearest backends are preferred. null: all are equally near. */
  region: Region | null;
  /** Backends elsewhere are never called; null: all may be. */
  jurisdiction?: Jurisdiction | null;
}

export function createRouting({ addresses: all, clientOf, region, jurisdiction = null }: RoutingParts): Routing {
  const addresses = addressesIn(jurisdiction, all);
  const clients = new Map(addresses.map((address) => [address.url, clientOf(address)]));
  return { router: new Router(addresses, region), clients, jurisdiction };
}

/** For metrics, logs and tests. */
export interface RoutingEvent {
  event: /** Sequences without tokens are sent again, because `backend` failed or refused their call. */
    | "retried"
    /** Another backend has accepted sequences with tokens, because `backend` failed: once for each call. */
    | "resumed"
    /** Sequences with tokens end in an error, because `backend` failed and no other has the same numerics. */
    | "not_resumed"
    /** The backend is used only if no other is fit, until a probe succeeds. */
    | "ejected"
    /** A probe of an ejected backend succeeded. */
    | "returned"
    | "call_failed";
  backend: string;
  /** Number of sequences, if the event is about sequences. */
  sequences?: number;
  /** Why the call failed. */
  failure?: Error;
}

/** The ready backends. One that has not answered within `limitMs` counts as not ready. Never rejects. */
export async function readinessOf(clients: Iterable<BackendCalls>, limitMs: number = probeMs): Promise<Readiness[]> {
  const ready: Readiness[] = [];
  const probes = Array.from(clients, async (client) => {
    const readiness = await client.readiness(null);
    if (readiness) ready.push(readiness);
  });
  await settlesWithin(Promise.allSettled(probes), limitMs);
  return ready;
}

/** How many of the ready backends serve batches of a manifest. */
export type Holding = "all" | "some" | "none";

export function holdingOf(ready: readonly Readiness[], manifestHash: string): Holding {
  const holding = ready.filter((one) => holds(one, manifestHash)).length;
  if (holding === 0) return "none";
  return holding === ready.length ? "all" : "some";
}
