/** The Worker's bindings as typed values: the only place that reads them. Throws an Error that names the variable. */
import * as z from "zod";
import { readSecrets } from "../shared/contracts/call-signature.ts";
import { hashPattern } from "../shared/contracts/inference.ts";
import { tenantRule, tenantSchema } from "../shared/contracts/tenant-name.ts";
import { type Aliases, adminKeyPattern, aliasesSchema } from "../shared/contracts/tenants.ts";
import { readOtlpTarget } from "../shared/observability/otlp.ts";
import { parseAddresses, urlOf } from "./dispatch/addresses.ts";
import type { BackendFetch } from "./dispatch/client.ts";
import { type Region, regions } from "./platform/region.ts";

export type Config = ReturnType<typeof readConfig>;

const tenantKeysSchema = z.array(z.strictObject({ hash: z.string().regex(hashPattern), tenant: tenantSchema }));

/** A key of the configuration: it has every scope and does not expire. */
export interface TenantKey {
  /** SHA-256 of the key, lower-case hex. */
  hash: string;
  tenant: string;
}

export interface Variables {
  BACKEND_URLS: string;
  /** A secret: what calls to backends are signed with, the same as theirs; NEW,OLD while one replaces the other. */
  BACKEND_SECRETS?: string;
  /** A client certificate (`[[mtls_certificates]]`): calls to backends are made with it. */
  BACKEND_CERTIFICATE?: { fetch: BackendFetch };
  /** A private network's service or tunnel (`[[vpc_services]]`, `[[vpc_networks]]`): calls to backends go through it. */
  BACKEND_VPC?: { fetch: BackendFetch };
  /** Backends in containers (`[[containers]]`): the URL http://NAME.container is the object NAME. */
  CONTAINERS?: { getByName(name: string, options: { locationHint?: Region }): { fetch: BackendFetch } };
  TENANT_KEYS: string;
  /** A secret: the key of the admin API; without it nobody may call that. */
  ADMIN_KEY?: string;
  CELLS_PER_REGION: string;
  /** JSON object: other names of models, and the models that they stand for. */
  MODEL_ALIASES?: string;
  OTEL_EXPORTER_OTLP_ENDPOINT?: string;
  /** A secret: headers that the collector wants, as name=value,name=value. */
  OTEL_EXPORTER_OTLP_HEADERS?: string;
  OTEL_TRACES_SAMPLER_ARG?: string;
  /** The platform's version of the Worker (`[version_metadata]`), which `/healthz` names. */
  VERSION?: { id: string };
}

export function readConfig(env: Variables) {
  const backends = parseAddresses(env.BACKEND_URLS, "BACKEND_URLS");
  if (!env.CONTAINERS && backends.some(({ url }) => containerName(urlOf(url, null)) !== null)) {
    throw new Error(
      "BACKEND_URLS names a host that ends in .container; that needs the binding CONTAINERS in wrangler.toml",
    );
  }
  const cellsPerRegion = Number(env.CELLS_PER_REGION);
  if (!Number.isInteger(cellsPerRegion) || cellsPerRegion < 1 || cellsPerRegion > 64) {
    throw new Error(`CELLS_PER_REGION is ${JSON.stringify(env.CELLS_PER_REGION)}; it must be an integer from 1 to 64`);
  }
  const traceRatio = Number(env.OTEL_TRACES_SAMPLER_ARG || 1);
  if (!(traceRatio >= 0 && traceRatio <= 1)) {
    throw new Error(`OTEL_TRACES_SAMPLER_ARG is ${JSON.stringify(env.OTEL_TRACES_SAMPLER_ARG)}; it must be 0 to 1`);
  }
  return {
    /** At least one. */
    backends,
    /** Calls a backend through its container's object, a private network or with a client certificate, if one is bound. */
    backendFetch: ((url, init) => fetcherFor(url, env).fetch(url, init)) satisfies BackendFetch,
    /** The first signs our calls to them; none: calls go out unsigned. */
    backendSecrets: readSecrets(env.BACKEND_SECRETS, "BACKEND_SECRETS"),
    tenantKeys: readTenantKeys(env.TENANT_KEYS),
    /** null: the admin API is closed. */
    adminKey: readAdminKey(env.ADMIN_KEY || null),
    aliases: readAliases(env.MODEL_ALIASES || "{}"),
    /** How many cells each region has. */
    cellsPerRegion,
    /** The collector of traces and metrics; null if none is set. */
    otlp: readOtlpTarget(env.OTEL_EXPORTER_OTLP_ENDPOINT, env.OTEL_EXPORTER_OTLP_HEADERS),
    /** Sampling ratio of traces that begin here, 0 to 1. */
    traceRatio,
    /** Id of the Worker's deployed version; null in a bare workerd. */
    version: env.VERSION?.id ?? null,
  };
}

/** NAME of http://NAME.container, or null. */
function containerName(url: string): string | null {
  return /^https?:\/\/([a-z0-9-]+)\.container(?=[/:]|$)/.exec(url)?.[1] ?? null;
}

/** A container's object is made in the region that its name begins with, as weur-1. */
function fetcherFor(url: string, env: Variables): { fetch: BackendFetch } {
  const name = env.CONTAINERS ? containerName(url) : null;
  if (env.CONTAINERS && name !== null) {
    const locationHint = regions.find((region) => name === region || name.startsWith(`${region}-`));
    return env.CONTAINERS.getByName(name, { locationHint });
  }
  // The global fetch must not be called as an object's method.
  return env.BACKEND_VPC ?? env.BACKEND_CERTIFICATE ?? { fetch: (target, init) => fetch(target, init) };
}

/**
 * Derives a value from the configuration, again when a variable has changed, so that a long-lived object uses a rotated secret or new
 * backends from its next call on. The first configuration must be valid; a later invalid one is logged once and ignored.
 */
export function configured<T>(env: Variables, make: (config: Config) => T): () => T {
  let current: { made: T; values: unknown[] } | null = null;
  return () => {
    if (current?.values.every((value, i) => value === env[watched[i]])) return current.made;
    const values = watched.map((name) => env[name]);
    try {
      current = { made: make(readConfig(env)), values };
    } catch (cause) {
      if (!current) throw cause;
      console.warn(JSON.stringify({ level: "warn", event: "configuration_refused", cause: String(cause) }));
      current = { made: current.made, values };
    }
    return current.made;
  };
}

/** Variables that are compared. Bindings are read at each call. */
const watched: (keyof Variables)[] = ["BACKEND_URLS", "BACKEND_SECRETS", "TENANT_KEYS"];

function readTenantKeys(json: string): TenantKey[] {
  try {
    return tenantKeysSchema.parse(JSON.parse(json));
  } catch (error) {
    const message = `TENANT_KEYS must be a JSON list of {"hash": SHA-256 of the key, "tenant": name}; a name is ${tenantRule}`;
    throw new Error(message, { cause: error });
  }
}

/** The error never repeats the key. */
function readAdminKey(key: string | null): string | null {
  if (key === null || adminKeyPattern.test(key)) return key;
  throw new Error(`ADMIN_KEY has ${key.length} characters; it must have 32 to 512, of printable ASCII without blanks`);
}

function readAliases(json: string): Aliases {
  try {
    return aliasesSchema.parse(JSON.parse(json));
  } catch (error) {
    const message = `MODEL_ALIASES must be a JSON object of names and models, as {"gpt-4o-mini": "smollm2-135m:auto"}`;
    throw new Error(message, { cause: error });
  }
}
