/** The only file that reads the Worker's variables. Throws an Error that names the variable. */
import * as z from "zod";
import { readSecrets } from "../shared/contracts/call-signature.ts";
import { hashPattern } from "../shared/contracts/inference.ts";
import { tenantRule, tenantSchema } from "../shared/contracts/tenant-name.ts";
import { adminKeyPattern, aliasesSchema } from "../shared/contracts/tenants.ts";
import { readOtlpTarget } from "../shared/observability/otlp.ts";
import { type BackendAddress, parseAddresses, urlOf } from "./dispatch/addresses.ts";
import type { BackendFetch } from "./dispatch/client.ts";
import { type Region, regions } from "./platform/region.ts";

export type Config = ReturnType<typeof readConfig>;

/** A key in TENANT_KEYS has every scope and does not expire. `hash`: SHA-256 of the key, lower-case hex. */
const tenantKeysSchema = z.array(z.strictObject({ hash: z.string().regex(hashPattern), tenant: tenantSchema }));
export type TenantKey = z.output<typeof tenantKeysSchema>[number];
const tenantKeysRule = `TENANT_KEYS must be a JSON list of {"hash": SHA-256 of the key, "tenant": name}; a name is ${tenantRule}`;
const aliasesRule = `MODEL_ALIASES must be a JSON object of names and models, as {"gpt-4o-mini": "smollm2-135m:auto"}`;

export interface Variables {
  BACKEND_URLS: string;
  /** Secret that signs calls to backends, which have the same secret. During a rotation: NEW,OLD. */
  BACKEND_SECRETS?: string;
  /** Client certificate (`[[mtls_certificates]]`) for calls to backends. */
  BACKEND_CERTIFICATE?: { fetch: BackendFetch };
  /** Private network (`[[vpc_services]]`, `[[vpc_networks]]`) for calls to backends. */
  BACKEND_VPC?: { fetch: BackendFetch };
  /** Backends in containers (`[[containers]]`): the URL http://NAME.container calls the object NAME. */
  CONTAINERS?: { getByName(name: string, options: { locationHint?: Region }): { fetch: BackendFetch } };
  TENANT_KEYS: string;
  /** Secret: the key of the admin API. Without it the admin API refuses every call. */
  ADMIN_KEY?: string;
  CELLS_PER_REGION: string;
  /** JSON object from aliases to names of models. */
  MODEL_ALIASES?: string;
  OTEL_EXPORTER_OTLP_ENDPOINT?: string;
  /** Secret: headers for the collector, as name=value,name=value. */
  OTEL_EXPORTER_OTLP_HEADERS?: string;
  OTEL_TRACES_SAMPLER_ARG?: string;
  /** Version id of the deployed Worker (`[version_metadata]`), which `/healthz` reports. */
  VERSION?: { id: string };
}

export function readConfig(env: Variables) {
  const backends = parseAddresses(env.BACKEND_URLS, "BACKEND_URLS");
  if (!env.CONTAINERS && backends.some(isContainer)) {
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
    backends,
    backendFetch: ((url, init) => fetcherFor(url, env).fetch(url, init)) satisfies BackendFetch,
    /** The first secret signs calls to backends. Without secrets, calls are unsigned. */
    backendSecrets: readSecrets(env.BACKEND_SECRETS, "BACKEND_SECRETS"),
    tenantKeys: parsed(tenantKeysSchema, env.TENANT_KEYS, tenantKeysRule),
    adminKey: readAdminKey(env.ADMIN_KEY || null),
    aliases: parsed(aliasesSchema, env.MODEL_ALIASES || "{}", aliasesRule),
    cellsPerRegion,
    otlp: readOtlpTarget(env.OTEL_EXPORTER_OTLP_ENDPOINT, env.OTEL_EXPORTER_OTLP_HEADERS),
    traceRatio,
    version: env.VERSION?.id ?? null,
  };
}

/** Whether calls to an address start a container, and keep it running. */
export function isContainer({ url }: BackendAddress): boolean {
  return containerName(urlOf(url, null)) !== null;
}

function containerName(url: string): string | null {
  return /^https?:\/\/([a-z0-9-]+)\.container(?=[/:]|$)/.exec(url)?.[1] ?? null;
}

/** A container's object is created in the region that its name begins with: `weur-1` in weur. */
function fetcherFor(url: string, env: Variables): { fetch: BackendFetch } {
  const name = env.CONTAINERS ? containerName(url) : null;
  if (env.CONTAINERS && name !== null) {
    const locationHint = regions.find((region) => name === region || name.startsWith(`${region}-`));
    return env.CONTAINERS.getByName(name, { locationHint });
  }
  // workerd's global fetch fails if it is called as a method of another object.
  return env.BACKEND_VPC ?? env.BACKEND_CERTIFICATE ?? { fetch: (target, init) => fetch(target, init) };
}

/** Returns a function that derives a value again after a watched variable changes. Throws only for an invalid first configuration. */
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

const watched: (keyof Variables)[] = ["BACKEND_URLS", "BACKEND_SECRETS", "TENANT_KEYS"];

function parsed<T extends z.ZodType>(schema: T, json: string, rule: string): z.output<T> {
  try {
    return schema.parse(JSON.parse(json));
  } catch (error) {
    throw new Error(rule, { cause: error });
  }
}

/** Security: the error never contains the key. */
function readAdminKey(key: string | null): string | null {
  if (key === null || adminKeyPattern.test(key)) return key;
  throw new Error(`ADMIN_KEY has ${key.length} characters; it must have 32 to 512, of printable ASCII without blanks`);
}
