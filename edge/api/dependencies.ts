/** What worker.ts or a test passes to the app, and the types of routes and middleware. */
import type { Context, Next } from "hono";
import type { Readiness } from "../../shared/contracts/inference.ts";
import type { ServiceError } from "../../shared/errors.ts";
import type { Attributes, Span } from "../../shared/observability/otlp.ts";
import type { AnswerBodies } from "../answer/answer-body.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import type { PublishBucket } from "../artifacts/publish.ts";
import type { Cells } from "../cell/resumable-answer.ts";
import type { Region } from "../platform/region.ts";
import type { BeginAdmission, PendingAdmission } from "../tenants/admission.ts";
import type { BodyReads } from "../tenants/body-reads.ts";
import type { KeyRecords } from "../tenants/key-records.ts";
import type { Access, AdminKey, KeyStore } from "../tenants/keys.ts";
import type { UsageRow } from "../tenants/ledger-store.ts";
import type { TenantAdapters } from "../tenants/tenant-adapters.ts";

export interface Arrival {
  /** The unchecked API key from the Authorization header; null if the header has none. */
  key: string | null;
  arrivedMs: number;
  region: Region;
  /** Content-Length; null if it is absent or not a number of bytes. */
  declaredBytes: number | null;
  pacedMs: number;
}

/** Values that are equal for all requests with one idempotency key. */
export interface Repeatable {
  /** 32 characters, for ids in answers. */
  id: string;
  /** uint32 */
  seed: number;
  /** Time of the first request, in milliseconds since 1970. */
  createdMs: number;
}

export interface AppEnvironment {
  Bindings: Arrival;
  Variables: {
    requestId: string;
    /** Attributes of the request's span and log line. Security: ids, counts and names only, never text. */
    attributes: Attributes;
    /** `spanId` is null if the trace is not kept. */
    trace: { traceId: string; spanId: string | null; parentSpanId: string | null };
    /** Set if the body continues after the response began. Resolves when the body ends: to the reason why it broke off, else to null. */
    end?: Promise<string | null>;
    access: Access;
    /** Origin of another site whose pages may read the response. */
    allowedOrigin?: string;
    /** Region of the cell and backends: the client's region, or one in the tenant's jurisdiction. */
    region: Region;
    admission: PendingAdmission;
    /** Set for POST requests: hex SHA-256 of tenant and Idempotency-Key; null without that header. */
    idempotencyKey: string | null;
    repeatable?: Repeatable;
    /** Set once the ledger has decided. Tenants without limits have no such headers. */
    rateLimitHeaders?: Record<string, string>;
  };
}

export type AppContext = Context<AppEnvironment>;
export type RouteHandler = (c: AppContext, dependencies: Dependencies) => Response | Promise<Response>;

export type Middleware = (c: AppContext, next: Next, dependencies: Dependencies) => Promise<Response | undefined>;

export interface Dependencies {
  artifacts(): Promise<Artifacts>;
  /** The set with this manifest hash; null if it cannot be loaded. */
  artifactsOf(manifestHash: string): Promise<Artifacts | null>;
  /** Makes the tenant's cell load artifacts, if this isolate has not loaded its own yet. */
  wakeCell(tenant: string, region: Region): void;
  keys: KeyStore;
  requireAdmin: AdminKey["requireAdmin"];
  keyRecords: KeyRecords;
  /** null: the deployment has no bucket, so nothing can be published. */
  artifactBucket: PublishBucket | null;
  bodyReads: BodyReads;
  documentReads: BodyReads;
  bodies: AnswerBodies;
  beginAdmission: BeginAdmission;
  /** `from` and `to` are days, both inclusive. */
  usage(tenant: string, from: string, to: string): Promise<UsageRow[]>;
  eraseUse(tenant: string): Promise<void>;
  adapters: TenantAdapters;
  cells: Cells;
  /** What each ready backend serves. The call starts the backends that are containers. */
  readiness(): Promise<Readiness[]>;
  hasContainers: boolean;
  /** Rejects with not_found if the deployment has no such asset. */
  asset(path: string): Promise<Response>;
  /** Keeps the Worker alive until `work` settles (waitUntil). */
  background(work: Promise<void>): void;
  version: string | null;
  now(): number;
  /** 32 characters, unique. */
  newId(): string;
  /** uint32 */
  randomSeed(): number;
  tracing: {
    /** Share of the traces begun here that are reported, 0 to 1. A caller's own sampling decision takes precedence. */
    sampleRatio: number;
    ended(span: Span): void;
    logRequest(fields: Attributes): void;
  };
  log(requestId: string, error: ServiceError): void;
  /** Longest silence of a stream, in milliseconds. */
  heartbeatMs: number;
}
