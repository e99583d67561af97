/**
 * What the KV namespace TENANTS holds: one record per key, with a copy of its tenant's, one for each key's rotation and
 * revocation, and one per tenant. The admin API writes them. A key itself is in none: only its SHA-256.
 * Not here: what a tenant has used, which is its ledger's.
 */
import * as z from "zod";
import { hashPattern } from "./inference.ts";
import { limits } from "./limits.ts";
import { tenantSchema } from "./tenant-name.ts";

/** What a key may be used for; `edge/tenants/keys.ts` says which route needs which. */
export const scopes = ["completions", "embeddings", "adapters", "usage"] as const;
export type Scope = (typeof scopes)[number];

/** Bounds on a tenant's use; null is none. */
export interface TenantLimits {
  /** In any 60 seconds, as is `tokensPerMinute`. */
  requestsPerMinute: number | null;
  /** Prompt and completion; while a request runs, all that it may still generate counts. */
  tokensPerMinute: number | null;
  concurrentRequests: number | null;
  /** In a calendar month, UTC. */
  tokensPerMonth: number | null;
}

/** What a tenant may use where its record names nothing else. */
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

/** Most tokens of all memories of a tenant where its record says nothing else; null is none. */
const memoryTokensOfPlan: Record<Plan, number | null> = { standard: limits.tenantMemoryTokens, unlimited: null };

/** Most bytes of all files of a tenant; null is none. */
const fileBytesOfPlan: Record<Plan, number | null> = { standard: limits.tenantFileBytes, unlimited: null };

const modelName = z.string().min(1).max(limits.modelCharacters);
/** Other names of models: of each the model that it stands for, which is no alias. */
export const aliasesSchema = z
  .record(modelName, modelName)
  .refine((aliases) => Object.keys(aliases).length <= limits.aliases, { error: `more than ${limits.aliases} aliases` })
  .meta({ maxProperties: limits.aliases });
export type Aliases = z.infer<typeof aliasesSchema>;

const bound = z.int().min(0).nullable().optional();
const time = z.iso.datetime();

export const tenantRecordSchema = z.object({
  plan: z.enum(planNames),
  /** What differs from the plan. */
  limits: z.object({
    requestsPerMinute: bound,
    tokensPerMinute: bound,
    concurrentRequests: bound,
    tokensPerMonth: bound,
  }),
  /** Instead of the plan's. */
  memoryTokens: bound,
  /** Web origins whose pages may call with this tenant's keys. */
  origins: z.array(z.string()),
  /** Beside the deployment's, before which they go. */
  aliases: aliasesSchema.optional(),
});

export const keyRecordSchema = z.object({
  /** SHA-256 of the key, lower-case hex. */
  hash: z.string().regex(hashPattern),
  tenant: tenantSchema,
  scopes: z.array(z.enum(scopes)),
  createdAt: time,
  /** From then on it opens nothing. A rotated key's is the end of the overlap. */
  expiresAt: time.nullable(),
  /** A copy of its tenant's record, so that a request reads one record. */
  tenantRecord: tenantRecordSchema,
});

/**
 * When a rotated key ends, and when a key was revoked, each in a record of its own that no other command writes: KV has no
 * transactions, so what is written with other things may be undone by who has read them before.
 */
export const keyEndSchema = keyRecordSchema.pick({ expiresAt: true });
export const revocationSchema = z.object({ revokedAt: time });

export type KeyEnd = z.infer<typeof keyEndSchema>;
export type Revocation = z.infer<typeof revocationSchema>;
export type KeyRecord = z.infer<typeof keyRecordSchema>;
/** A key's record with what its end and revocation say. */
export type KnownKey = KeyRecord & { revokedAt: string | null };
export type TenantRecord = z.infer<typeof tenantRecordSchema>;

/** Of the deployment's admin key. */
export const adminKeyPattern = /^[\x21-\x7e]{32,512}$/;

/** 64 bits of the hash: names a key in lists and logs, and finds its record; whether it is the key the whole hash says. */
const keyIdCharacters = 16;
export const keyIdPattern = /^[0-9a-f]{16}$/;

export function keyIdOf(hash: string): string {
  return hash.slice(0, keyIdCharacters);
}

/** The key's record with its end, the earlier of both expiries, and its revocation. */
export function withEnd(record: KeyRecord, end: KeyEnd | null, revocation: Revocation | null): KnownKey {
  const expiries = [record.expiresAt, end?.expiresAt ?? null].filter((one) => one !== null);
  expiries.sort((a, b) => Date.parse(a) - Date.parse(b));
  return { ...record, expiresAt: expiries[0] ?? null, revokedAt: revocation?.revokedAt ?? null };
}

/** Names in the namespace. */
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
