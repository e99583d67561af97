/** What the app needs from outside: worker.ts brings the real ones, a test its own. Also the types of routes and middleware. */

import type { Context, Next } from "hono";
import type { Readiness } from "../../shared/contracts/inference.ts";
import type { ServiceError } from "../../shared/errors.ts";
import type { Attributes, Span } from "../../shared/observability/otlp.ts";
import type { AnswerBodies } from "../answer/answer-body.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import type { Cells } from "../cell/resumable-answer.ts";
import type { Region } from "../platform/region.ts";
import type { Admissions, PendingAdmission } from "../tenants/admission.ts";
import type { BodyReads } from "../tenants/body-reads.ts";
import type { Access, KeyStore } from "../tenants/keys.ts";
import type { ErasedRegions } from "../tenants/ledger.ts";
import type { UsageRow } from "../tenants/ledger-store.ts";
import type { TenantAdapters } from "../tenants/tenant-adapters.ts";

/** What is known of a request before any middleware runs. */
export interface Arrival {
  /** The API key of its Authorization header, not yet checked; null where the header holds none. */
  key: string | null;
  /** By the clock of Dependencies. */
  arrivedMs: number;
  /** Where it came from. */
  region: Region;
  /** Content-Length; null where it is absent or is not a number of bytes. */
  declaredBytes: number | null;
  /** Milliseconds this request was delayed by per-key pacing; 0 if it was not. */
  pacedMs: number;
}

/** Hono's type parameter: what comes with a request, and what middleware leaves for the routes. */
export interface AppEnvironment {
  Bindings: Arrival;
  Variables: {
    requestId: string;
    /** Of the request's span and its line of log: ids, counts and names, never text. Routes add to it. */
    attributes: Attributes;
    /** The request's span in its trace; `spanId` is null where the trace is not kept. */
    trace: { traceId: string; spanId: string | null; parentSpanId: string | null };
    /** The trace as it travels on; null where it is not kept. */
    traceparent: string | null;
    /** Of an answer that goes on behind its head: resolves when it ends, to why it broke off or to null. */
    end?: Promise<string | null>;
    access: Access;
    /** The other origin whose page may read the response. */
    allowedOrigin?: string;
    /** Region whose cell, leases and backends serve the request. */
    region: Region;
    /** Set for POST requests. */
    admission: PendingAdmission;
    /** Of a request that asked for admission, and whose tenant has limits. */
    rateLimitHeaders?: Record<string, string>;
  };
}

/** Answers a request. */
export type RouteHandler = (c: Context<AppEnvironment>, dependencies: Dependencies) => Response | Promise<Response>;

/** Runs around routes. After `next` it may change the response, which may be an error's. */
export type Middleware = (
  c: Context<AppEnvironment>,
  next: Next,
  dependencies: Dependencies,
) => Promise<Response | undefined>;

export interface Dependencies {
  /** Rejects with a ServiceError while they cannot be had. */
  artifacts(): Promise<Artifacts>;
  /** Before a completion is read: where this isolate has no artifacts yet, the cell that will answer loads them, too. */
  wakeCell(tenant: string, region: Region): void;
  keys: KeyStore;
  bodyReads: BodyReads;
  /** Large answers of the Worker itself. */
  bodies: AnswerBodies;
  admissions: Admissions;
  /** What a tenant used from one day to another, both counted. */
  usage(tenant: string, from: string, to: string): Promise<UsageRow[]>;
  /** Erases what a tenant used, and what of its limits is reserved or lent. */
  eraseUse(tenant: string): Promise<ErasedRegions>;
  /** Adapters of tenants' own. */
  adapters: TenantAdapters;
  cells: Cells;
  /** What each backend that is ready serves. */
  readiness(): Promise<Readiness[]>;
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
  tracing: {
    /** Share of the traces that begin here and are reported; a caller's own decision goes first. 0 reports none. */
    sampleRatio: number;
    /** Takes the request's span; must not throw. */
    ended(span: Span): void;
    logRequest(fields: Attributes): void;
  };
  /** Receives failures that are ours rather than the caller's. */
  log(requestId: string, error: ServiceError): void;
  /** The longest silence of a stream. */
  heartbeatMs: number;
}
