/** What the app needs from outside: worker.ts brings the real ones, a test its own. */

import type { Readiness } from "../shared/contracts/inference.ts";
import type { ServiceError } from "../shared/errors.ts";
import type { Artifacts } from "./assign/artifacts.ts";
import type { Cells } from "./cells/resumable-answer.ts";
import type { RequestTrace, TraceDependencies } from "./observability/request-trace.ts";
import type { Region } from "./platform/region.ts";
import type { Admissions, PendingAdmission } from "./tenants/admission.ts";
import type { BodyReads } from "./tenants/body-reads.ts";
import type { Access, KeyStore } from "./tenants/keys.ts";
import type { UsageRow } from "./tenants/ledger-store.ts";
import type { TenantAdapters } from "./tenants/tenant-adapters.ts";

/** What is known of a request before any middleware runs. */
export interface Arrival {
  /** The API key of its Authorization header, not yet checked; null where the header holds none. */
  key: string | null;
  /** By the clock of Dependencies. */
  arrivedMs: number;
  /** Where it came from. */
  region: Region;
  /** Milliseconds this request was delayed by per-key pacing; 0 if it was not. */
  pacedMs: number;
}

/** Hono's type parameter: what comes with a request, and what middleware leaves for the routes. */
export interface AppEnvironment {
  Bindings: Arrival;
  Variables: {
    requestId: string;
    trace: RequestTrace;
    tenant: string;
    access: Access;
    /** Region whose cell, leases and backends serve the request. */
    region: Region;
    /** Set for POST requests. */
    admission: PendingAdmission;
    /** Of a request that asked for admission, and whose tenant has limits. */
    rateLimitHeaders?: Record<string, string>;
  };
}

export interface Dependencies {
  /** Rejects with a ServiceError while they cannot be had. */
  artifacts(): Promise<Artifacts>;
  /** Before a completion is read: where this isolate has no artifacts yet, the cell that will answer loads them, too. */
  wakeCell(tenant: string, region: Region): void;
  keys: KeyStore;
  bodyReads: BodyReads;
  admissions: Admissions;
  /** What a tenant used from one day to another, both counted. */
  usage(tenant: string, from: string, to: string): Promise<UsageRow[]>;
  /** Adapters of tenants' own. */
  adapters: TenantAdapters;
  cells: Cells;
  /** What is served, by a backend of that manifest if one is ready; null where none is. */
  readiness(manifestHash: string): Promise<Readiness | null>;
  /** A static asset by its path, which is never taken from a request. Rejects with not_found where it was not staged. */
  asset(path: string): Promise<Response>;
  /** Keeps the Worker alive until `work` settles (waitUntil). */
  background(work: Promise<void>): void;
  /** Id of the Worker's deployed version; null where the platform gives none. */
  version: string | null;
  /** A clock in milliseconds since 1970. */
  now(): number;
  /** 32 characters, never the same twice. */
  newId(): string;
  /** uint32 */
  randomSeed(): number;
  tracing: Pick<TraceDependencies, "sampleRatio" | "ended" | "logRequest">;
  /** Receives failures that are ours rather than the caller's. */
  log(requestId: string, error: ServiceError): void;
  /** The longest silence of a stream. */
  heartbeatMs: number;
}
