/**
 * Looks up API keys: which tenant a key belongs to, what it may be used for, and which scope each route needs. Only SHA-256 hashes are stored, so reading
 * the records or the configuration gives nobody a key. A record is named by the hash's first 64 bits; the whole hash is
 * compared.
 */
import { z } from "zod";
import {
  keyEndSchema,
  keyIdOf,
  keyPrefix,
  keyRecordSchema,
  limitsOf,
  revocationSchema,
  type Scope,
  scopes,
  type TenantLimits,
  type TenantRecord,
  tenantPrefix,
  tenantRecordSchema,
  withEnd,
} from "../../shared/contracts/tenants.ts";
import { ServiceError } from "../../shared/errors.ts";
import { sha256Hex } from "../../shared/sha256.ts";
import type { TenantKey } from "../config.ts";
import { LocalRateLimit, type RateLimit } from "../platform/rate-limit.ts";
import type { Records } from "./records.ts";

const encoder = new TextEncoder();

/** What a key gives access to. */
export interface Access {
  tenant: string;
  keyId: string;
  scopes: readonly Scope[];
  limits: TenantLimits;
  /** Web origins whose pages may use the key. */
  origins: readonly string[];
}

export interface KeyStore {
  /**
   * Throws unauthorized for a key that is unknown, expired or revoked, and rate_limited where too many keys that are not cached were
   * looked up for the network of `address` in the last minute. Then a valid key that is not cached is refused, too, while it is newer
   * than the listing of keys (up to 10 s), or where it is past the listing's 10,000 names.
   */
  accessOf(key: string, address: string): Promise<Access>;
}

/** Look-ups of keys that are not cached, by network: a guess of 256 bits never succeeds, but each one costs three reads. */
export const keyLookups = { limit: 30, periodMs: 60_000 };

/**
 * Looks a key up in the configuration first, then in the records. Many clients share one address (NAT), so `lookups` refuses no
 * valid keys there: past the limit, the names of all key records are listed, once per 10 s and isolate, and a key among them is read.
 * A guess is not among them, and so costs no read. Guesses cannot displace cached keys: they are cached apart.
 */
export function createKeyStore(
  configured: readonly TenantKey[],
  records: Records,
  now: () => number,
  lookups: RateLimit = new LocalRateLimit(keyLookups.limit, keyLookups.periodMs, now),
): KeyStore {
  async function requireLookup(name: string, address: string): Promise<void> {
    if (records.remembers(name)) return;
    const { success } = await lookups.limit({ key: networkOf(address) });
    if (success || (await records.mayHaveKey(name))) return;
    const message = "Too many unknown API keys came from this network in the last minute; try again later.";
    throw new ServiceError("rate_limited", message, { retryAfterSeconds: keyLookups.periodMs / 1000 });
  }

  return {
    async accessOf(key, address) {
      const hash = await sha256Hex(encoder.encode(key));
      let own: TenantKey | null = null;
      for (const entry of configured) if (equals(entry.hash, hash)) own = entry;
      const read = (name: string) => records.get(name).catch(unreadable);
      if (!own) {
        await requireLookup(keyPrefix + keyIdOf(hash), address);
        return recordedAccess(hash, read, now());
      }
      const record = tenantRecordOf(await read(tenantPrefix + own.tenant));
      return { tenant: own.tenant, keyId: keyIdOf(hash), scopes, ...grants(record ?? unlimited) };
    },
  };
}

/** What one customer has: an IPv4 address, or the /64 of an IPv6 address, as it is written. */
function networkOf(address: string): string {
  return address.split(":").slice(0, 4).join(":");
}

async function recordedAccess(hash: string, read: Records["get"], nowMs: number): Promise<Access> {
  const keyId = keyIdOf(hash);
  const record = keyRecordOf(await read(keyPrefix + keyId));
  if (!record || !equals(record.hash, hash)) throw new ServiceError("unauthorized", "The API key is not known.");
  if (record.revokedAt !== null) {
    throw new ServiceError("unauthorized", `The API key ${keyId} was revoked at ${record.revokedAt}.`);
  }
  if (record.expiresAt !== null && Date.parse(record.expiresAt) <= nowMs) {
    throw new ServiceError("unauthorized", `The API key ${keyId} expired at ${record.expiresAt}.`);
  }
  return { tenant: record.tenant, keyId, scopes: record.scopes, ...grants(record.tenantRecord) };
}

/** Of a configured key whose tenant has no record. */
const unlimited: TenantRecord = { plan: "unlimited", limits: {}, origins: [] };

const storedKeySchema = z
  .object({ record: keyRecordSchema, end: keyEndSchema.nullable(), revocation: revocationSchema.nullable() })
  .transform(({ record, end, revocation }) => withEnd(record, end, revocation));
const keyRecordOf = checkedOnce(storedKeySchema.nullable());
const tenantRecordOf = checkedOnce(tenantRecordSchema.nullable());

/** `schema.parse` that checks each object once: a cached record is the same object for every request. */
function checkedOnce<T extends z.ZodType>(schema: T): (record: unknown) => z.output<T> {
  const known = new WeakMap<object, z.output<T>>();
  return (record) => {
    if (typeof record !== "object" || record === null) return schema.parse(record);
    let parsed = known.get(record);
    if (parsed === undefined) {
      parsed = schema.parse(record);
      known.set(record, parsed);
    }
    return parsed;
  };
}

function grants(record: TenantRecord): Pick<Access, "limits" | "origins"> {
  return { limits: limitsOf(record), origins: record.origins };
}

function unreadable(cause: unknown): never {
  const message = "API keys cannot be checked now; try again.";
  throw new ServiceError("backend_unavailable", message, { retryAfterSeconds: 1, cause });
}

/** Compares two strings of equal length without an early exit. */
function equals(a: string, b: string): boolean {
  let difference = a.length ^ b.length;
  for (let i = 0; i < b.length; i++) difference |= a.charCodeAt(i) ^ b.charCodeAt(i);
  return difference === 0;
}

/** Holds for the path and everything below it; null: any key. */
const scopeOfPath: Record<string, Scope | null> = {
  "/v1/completions": "completions",
  "/v1/chat/completions": "completions",
  "/v1/embeddings": "embeddings",
  "/v1/adapters": "adapters",
  "/v1/usage": "usage",
  "/v1/tenant": "erase",
  "/v1/assign": null,
  "/v1/centroids": null,
  "/v1/models": null,
};

/** undefined for a path that is not in the table; every route of the app is. */
export function scopeOf(path: string): Scope | null | undefined {
  const known = Object.keys(scopeOfPath).find((prefix) => path === prefix || path.startsWith(`${prefix}/`));
  return known === undefined ? undefined : scopeOfPath[known];
}

/**
 * Whether a key may know that its tenant's own adapters exist: it can make them (`adapters`) or use them (`completions`).
 * For other keys they are unknown models, also on routes that any key may call.
 */
export function seesOwnAdapters(scopes: readonly Scope[]): boolean {
  return scopes.includes("adapters") || scopes.includes("completions");
}
