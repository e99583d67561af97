/**
 * Who a key belongs to and what it may be used for. Only hashes are stored: who reads the records, or the configuration,
 * cannot use what is in them. A record is found by the hash's first characters and held against the whole of it.
 */
import type { z } from "zod";
import {
  keyIdOf,
  keyPrefix,
  keyRecordSchema,
  limitsOf,
  type plans,
  type Scope,
  scopes,
  type TenantLimits,
  type TenantRecord,
  tenantPrefix,
  tenantRecordSchema,
} from "../../shared/contracts/tenants.ts";
import { ServiceError } from "../../shared/errors.ts";
import { sha256Hex } from "../../shared/sha256.ts";
import { FailedKeys } from "./failed-keys.ts";
import type { Records } from "./records.ts";

const encoder = new TextEncoder();

/** A key of the configuration: for every use, and without an end. */
export interface TenantKey {
  /** SHA-256 of the key, lower-case hex. */
  hash: string;
  tenant: string;
}

/** What a key opens. */
export interface Access {
  tenant: string;
  keyId: string;
  scopes: readonly Scope[];
  limits: TenantLimits;
  /** Web origins whose pages may use it. */
  origins: readonly string[];
}

export interface KeyStore {
  /**
   * Throws unauthorized for a key that is unknown, expired or revoked, and rate_limited where too many such came from
   * `address` lately; a key that opened something here before is let in all the same.
   */
  accessOf(key: string, address: string): Promise<Access>;
}

/** Keys of the configuration, then those of the records. */
export function createKeyStore(configured: readonly TenantKey[], records: Records, now: () => number): KeyStore {
  const failedKeys = new FailedKeys();

  async function recorded(hash: string, address: string, read: Records["get"]): Promise<Access> {
    const waitMs = failedKeys.waitMs(address, now());
    if (waitMs > 0 && !records.remembers(keyPrefix + keyIdOf(hash))) {
      const message = "Too many keys that open nothing came from this address; try again later.";
      throw new ServiceError("rate_limited", message, { retryAfterSeconds: Math.ceil(waitMs / 1000) });
    }
    try {
      return await recordedAccess(hash, read, now());
    } catch (error) {
      if (error instanceof ServiceError && error.kind === "unauthorized") failedKeys.failed(address, now());
      throw error;
    }
  }

  return {
    async accessOf(key, address) {
      const hash = await sha256Hex(encoder.encode(key));
      let own: TenantKey | null = null;
      for (const entry of configured) if (equals(entry.hash, hash)) own = entry;
      const read = (name: string) => records.get(name).catch(unreadable);
      if (!own) return recorded(hash, address, read);
      const record = tenantOf(await read(tenantPrefix + own.tenant), "unlimited");
      return { tenant: own.tenant, keyId: keyIdOf(hash), scopes, ...grants(record) };
    },
  };
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
  const tenant = tenantOf(await read(tenantPrefix + record.tenant), "standard");
  return { tenant: record.tenant, keyId, scopes: record.scopes, ...grants(tenant) };
}

function tenantOf(record: unknown, plan: keyof typeof plans): TenantRecord {
  return tenantRecordOf(record) ?? { plan, limits: {}, origins: [] };
}

const keyRecordOf = checkedOnce(keyRecordSchema.nullable());
const tenantRecordOf = checkedOnce(tenantRecordSchema.nullable());

/** `schema.parse`, which looks at each object once: a remembered record comes with every request. */
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
