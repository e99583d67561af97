/** Looks up API keys and each route's scope. Only a key's SHA-256 hash is stored; 64 bits of the hash name the key's record. */
import { sha256Hex } from "../../shared/bytes.ts";
import { limits } from "../../shared/contracts/limits.ts";
import {
  type Aliases,
  fileBytesOf,
  type KnownKey,
  keyIdOf,
  keyPrefix,
  limitsOf,
  memoryTokensOf,
  type Scope,
  scopes,
  type TenantLimits,
  type TenantRecord,
  tenantPrefix,
  tenantRecordSchema,
} from "../../shared/contracts/tenants.ts";
import { ServiceError, unavailable } from "../../shared/errors.ts";
import type { TenantKey } from "../config.ts";
import { localRateLimit, type RateLimit } from "../platform/rate-limit.ts";
import { type Records, storedKeySchema } from "./records.ts";

const encoder = new TextEncoder();
const unreadable = unavailable("API keys cannot be checked now");

export interface Access {
  tenant: string;
  keyId: string;
  scopes: readonly Scope[];
  limits: TenantLimits;
  memoryTokens: number | null;
  fileBytes: number | null;
  origins: readonly string[];
  aliases?: Aliases;
}

export function modelOf({ aliases = {} }: Pick<Access, "aliases">, name: string): string {
  return Object.hasOwn(aliases, name) ? aliases[name] : name;
}

export interface KeyStore {
  /**
   * Throws unauthorized for an unknown, expired or revoked key. Throws rate_limited for an unknown key if the network of `address` has used
   * up its `keyLookupsPerMinute`.
   */
  accessOf(key: string, address: string): Promise<Access>;
}

export interface AdminKey {
  /** Throws unauthorized for any key but the admin key, and rate_limited as `accessOf` does. */
  requireAdmin(key: string, address: string): Promise<void>;
}

const minuteMs = 60_000;

/** Many clients may share an address (NAT). Beyond the limit `lookups`, only keys in the cached listing of all keys are looked up. */
export function createKeyStore(
  configured: readonly TenantKey[],
  records: Records,
  now: () => number,
  lookups: RateLimit = localRateLimit(limits.keyLookupsPerMinute, minuteMs, now),
  aliases: Aliases = {},
  adminKey: string | null = null,
): KeyStore & AdminKey {
  const isWithinLookups = async (address: string) => (await lookups.limit({ key: networkOf(address) })).success;

  function tooManyUnknown(): never {
    const message = "Too many unknown API keys came from this network in the last minute; try again later.";
    throw new ServiceError("rate_limited", message, { retryAfterSeconds: minuteMs / 1000 });
  }

  let adminHash: string | null = null;
  async function isAdmin(hash: string): Promise<boolean> {
    if (adminKey === null) return false;
    adminHash ??= await sha256Hex(encoder.encode(adminKey));
    return equals(adminHash, hash);
  }
  const withAliases = (access: Access): Access => ({ ...access, aliases: { ...aliases, ...access.aliases } });

  return {
    async accessOf(key, address) {
      const hash = await sha256Hex(encoder.encode(key));
      // Security: checked first, so that the admin key is never accepted as a tenant's key.
      if (await isAdmin(hash)) throw new ServiceError("unauthorized", "The admin key opens /admin alone.");
      let match: TenantKey | null = null;
      for (const entry of configured) if (equals(entry.hash, hash)) match = entry;
      if (!match) {
        const name = keyPrefix + keyIdOf(hash);
        if (!records.isCached(name) && !(await isWithinLookups(address)) && !(await records.mayHaveKey(name))) {
          tooManyUnknown();
        }
        const record = await records.get(name, (stored) => storedKeySchema.nullable().parse(stored)).catch(unreadable);
        return withAliases(recordedAccess(hash, record, now()));
      }
      const parse = (stored: unknown) => tenantRecordSchema.nullable().parse(stored);
      const record = await records.get(tenantPrefix + match.tenant, parse).catch(unreadable);
      return withAliases({ tenant: match.tenant, keyId: keyIdOf(hash), scopes, ...grants(record ?? unlimited) });
    },
    async requireAdmin(key, address) {
      if (await isAdmin(await sha256Hex(encoder.encode(key)))) return;
      if (!(await isWithinLookups(address))) tooManyUnknown();
      const problem =
        adminKey === null
          ? "This deployment has no admin key; set the secret ADMIN_KEY"
          : "The key is not the admin key";
      throw new ServiceError("unauthorized", `${problem}.`);
    },
  };
}

/** An IPv4 address itself, or the first 64 bits of an IPv6 address. */
function networkOf(address: string): string {
  if (address.includes(".")) return address;
  const [start, end] = address.split("::").map((part) => (part === "" ? [] : part.split(":")));
  const zeros = end ? Array<string>(Math.max(0, 8 - start.length - end.length)).fill("0") : [];
  return [...start, ...zeros, ...(end ?? [])].slice(0, 4).join(":");
}

function recordedAccess(hash: string, record: KnownKey | null, nowMs: number): Access {
  const keyId = keyIdOf(hash);
  if (!record || !equals(record.hash, hash)) throw new ServiceError("unauthorized", "The API key is not known.");
  if (record.revokedAt !== null) {
    throw new ServiceError("unauthorized", `The API key ${keyId} was revoked at ${record.revokedAt}.`);
  }
  if (record.expiresAt !== null && Date.parse(record.expiresAt) <= nowMs) {
    throw new ServiceError("unauthorized", `The API key ${keyId} expired at ${record.expiresAt}.`);
  }
  return { tenant: record.tenant, keyId, scopes: record.scopes, ...grants(record.tenantRecord) };
}

/** For a tenant without a record whose key is in the configuration. */
const unlimited: TenantRecord = { plan: "unlimited", limits: {}, origins: [] };

function grants(record: TenantRecord): Omit<Access, "tenant" | "keyId" | "scopes"> {
  const { origins, aliases } = record;
  const maxima = { limits: limitsOf(record), memoryTokens: memoryTokensOf(record), fileBytes: fileBytesOf(record) };
  return { ...maxima, origins, ...(aliases && { aliases }) };
}

function equals(a: string, b: string): boolean {
  let difference = a.length ^ b.length;
  for (let i = 0; i < b.length; i++) difference |= a.charCodeAt(i) ^ b.charCodeAt(i);
  return difference === 0;
}

/** Scope that a key needs for a path and for all paths below it; null: any scope is enough. */
const scopeOfPath: Record<string, Scope | null> = {
  "/v1/completions": "completions",
  "/v1/chat/completions": "completions",
  "/v1/responses": "completions",
  "/v1/classify": "completions",
  "/v1/embeddings": "embeddings",
  "/v1/adapters": "adapters",
  "/v1/files": "adapters",
  "/v1/fine_tuning": "adapters",
  "/v1/usage": "usage",
  "/v1/assign": null,
  "/v1/centroids": null,
  "/v1/models": null,
};

/** null: any scope is enough. undefined: the path is no route. */
export function scopeOf(path: string): Scope | null | undefined {
  const known = Object.keys(scopeOfPath).find((prefix) => path === prefix || path.startsWith(`${prefix}/`));
  return known === undefined ? undefined : scopeOfPath[known];
}

/** Whether a key may make or use own adapters. For other keys, own adapters do not exist. */
export function seesOwnAdapters(scopes: readonly Scope[]): boolean {
  return scopes.includes("adapters") || scopes.includes("completions");
}
