/** Records in the KV namespace TENANTS. They hold SHA-256 hashes of keys, never keys. */
import * as z from "zod";
import { hashPattern } from "./inference.ts";
import { limits } from "./limits.ts";
import { tenantSchema } from "./tenant-name.ts";

/** edge/tenants/keys.ts lists the scope of each route. */
export const scopes = ["completions", "embeddings", "adapters", "usage"] as const;
export type Scope = (typeof scopes)[number];

const bound = z.int().min(0).nullable().optional();
const tenantLimitsSchema = z.object({
  /** Counted over any 60 seconds. */
  requestsPerMinute: bound,
  /** Prompt and completion tokens. A running request counts with all tokens that it may still generate. */
  tokensPerMinute: bound,
  concurrentRequests: bound,
  /** Counted over a calendar month, in UTC. */
  tokensPerMonth: bound,
});
/** null means no limit. */
export type TenantLimits = Record<keyof z.infer<typeof tenantLimitsSchema>, number | null>;

export const plans = {
  standard: {
    requestsPerMinute: 600,
    tokensPerMinute: 250_000,
    concurrentRequests: 64,
    tokensPerMonth: 50_000_000,
  },
  unlimited: { requestsPerMinute: null, tokensPerMinute: null, concurrentRequests: null, tokensPerMonth: null },
} as const satisfies Record<string, TenantLimits>;
export type Plan = keyof typeof plans;
export const planNames = Object.keys(plans) as [Plan, ...Plan[]];

const memoryTokensOfPlan: Record<Plan, number | null> = { standard: limits.tenantMemoryTokens, unlimited: null };

const fileBytesOfPlan: Record<Plan, number | null> = { standard: limits.tenantFileBytes, unlimited: null };

const modelName = z.string().min(1).max(limits.modelCharacters);
/** Alias → model. The model must not be an alias itself. */
export const aliasesSchema = z
  .record(modelName, modelName)
  .refine((aliases) => Object.keys(aliases).length <= limits.aliases, { error: `more than ${limits.aliases} aliases` })
  .meta({ maxProperties: limits.aliases });
export type Aliases = z.infer<typeof aliasesSchema>;

const time = z.iso.datetime();

export const tenantRecordSchema = z.object({
  plan: z.enum(planNames),
  limits: tenantLimitsSchema,
  /** Absent: the plan's maximum. */
  memoryTokens: bound,
  /** Web origins whose pages may call with this tenant's keys. */
  origins: z.array(z.string()),
  /** Take precedence over the deployment's aliases. */
  aliases: aliasesSchema.optional(),
});

export const keyRecordSchema = z.object({
  /** SHA-256 of the key, lower-case hex. */
  hash: z.string().regex(hashPattern),
  tenant: tenantSchema,
  scopes: z.array(z.enum(scopes)),
  createdAt: time,
  expiresAt: time.nullable(),
  /** A copy of the tenant's record, which saves reading that record. */
  tenantRecord: tenantRecordSchema,
});

/** A separate record, because KV has no transactions: a concurrent change of the key's record could overwrite the end. */
export const keyEndSchema = keyRecordSchema.pick({ expiresAt: true });
export const revocationSchema = z.object({ revokedAt: time });

export type KeyEnd = z.infer<typeof keyEndSchema>;
export type Revocation = z.infer<typeof revocationSchema>;
export type KeyRecord = z.infer<typeof keyRecordSchema>;
export type KnownKey = KeyRecord & { revokedAt: string | null };
export type TenantRecord = z.infer<typeof tenantRecordSchema>;

export const adminKeyPattern = /^[\x21-\x7e]{32,512}$/;

/** The first 64 bits of the key's hash. The id names the key in lists and logs. Authentication compares the whole hash. */
export const keyIdPattern = /^[0-9a-f]{16}$/;

export function keyIdOf(hash: string): string {
  return hash.slice(0, 16);
}

/** The earlier `expiresAt` of key and end holds. */
export function withEnd(record: KeyRecord, end: KeyEnd | null, revocation: Revocation | null): KnownKey {
  const expiries = [record.expiresAt, end?.expiresAt ?? null].filter((one) => one !== null);
  expiries.sort((a, b) => Date.parse(a) - Date.parse(b));
  return { ...record, expiresAt: expiries[0] ?? null, revokedAt: revocation?.revokedAt ?? null };
}

export const keyPrefix = "key:";
export const endPrefix = "end:";
export const revokedPrefix = "revoked:";
export const tenantPrefix = "tenant:";

export function limitsOf(record: TenantRecord): TenantLimits {
  const differing = Object.entries(record.limits).filter(([, value]) => value !== undefined);
  return { ...plans[record.plan], ...Object.fromEntries(differing) };
}

export function memoryTokensOf({ plan, memoryTokens }: TenantRecord): number | null {
  return memoryTokens === undefined ? memoryTokensOfPlan[plan] : memoryTokens;
}

export function fileBytesOf({ plan }: TenantRecord): number | null {
  return fileBytesOfPlan[plan];
}
