/** Changes the records of keys and tenants, for the admin API. Not here: the look-up of a request's key (keys.ts). */
import { sha256Hex } from "../../shared/bytes.ts";
import { limits as requestLimits } from "../../shared/contracts/limits.ts";
import {
  type Aliases,
  endPrefix,
  type KnownKey,
  keyIdOf,
  keyIdPattern,
  keyPrefix,
  revokedPrefix,
  type Scope,
  type TenantLimits,
  type TenantRecord,
  tenantPrefix,
  tenantRecordSchema,
  withEnd,
} from "../../shared/contracts/tenants.ts";
import { invalidRequest, ServiceError, unavailable } from "../../shared/errors.ts";
import { cacheSeconds, type Namespace, namesWith, recordTimes, storedKeySchema } from "./records.ts";

export interface RecordStore {
  get(names: string[], options: { type: "json"; cacheTtl: number }): Promise<Map<string, unknown>>;
  list: Namespace["list"];
  put(name: string, value: string, options: { metadata?: { tenant: string } }): Promise<void>;
  delete(name: string): Promise<void>;
  /** Seconds for which a read may give an old record; absent: `cacheSeconds`, as with KV. */
  staleSeconds?: number;
}

const storeAway = unavailable("Keys and tenants cannot be read or written now");

export interface NewKey extends ListedKey {
  key: string;
}

export interface ListedKey {
  id: string;
  record: KnownKey;
}

export type KeyState = "active" | "expires" | "expired" | "revoked";

/** null: no limit. "plan": the limit of the tenant's plan. */
interface TenantChange {
  plan?: TenantRecord["plan"];
  limits: { [Name in keyof TenantLimits]?: number | null | "plan" };
  memoryTokens?: number | null | "plan";
  origins?: string[];
  aliases?: Aliases;
}

/** KV's maximum of names for one operation. A request may make 1,000 operations. */
const namesPerRead = 100;
/** `cacheTtl` is KV's minimum, in seconds. A location reads its own writes at once. */
const readOptions = { type: "json", cacheTtl: 30 } as const;

export class KeyRecords {
  readonly #store: RecordStore;
  readonly #now: () => number;
  readonly #random: () => Uint8Array;

  /** `random`: returns 32 bytes that nobody can guess. */
  constructor(store: RecordStore, now: () => number, random: () => Uint8Array) {
    this.#store = store;
    this.#now = now;
    this.#random = random;
  }

  async create(tenant: string, granted: readonly Scope[], expiresAt: string | null): Promise<NewKey> {
    const tenantRecord = await this.tenant(tenant);
    const random = btoa(String.fromCharCode(...this.#random()));
    const key = `sk-chameleon-${random.replaceAll("+", "-").replaceAll("/", "_").replace("=", "")}`;
    const hash = await sha256Hex(new TextEncoder().encode(key));
    const times = { createdAt: this.#time(), expiresAt, revokedAt: null };
    const made = { key, id: keyIdOf(hash), record: { hash, tenant, scopes: [...granted], tenantRecord, ...times } };
    await this.#putKey(made);
    return made;
  }

  /** Keys in the order of tenant and creation. Throws invalid_request for more than `limits.listedKeys` keys. */
  async list(tenant?: string): Promise<ListedKey[]> {
    const ids: string[] = [];
    const list: RecordStore["list"] = (page) => this.#store.list(page).catch(storeAway);
    for await (const { name, metadata } of namesWith({ list }, keyPrefix)) {
      const of = (metadata as { tenant?: string } | null | undefined)?.tenant ?? tenant;
      if (tenant !== undefined && of !== tenant) continue;
      ids.push(name.slice(keyPrefix.length));
      if (ids.length > requestLimits.listedKeys) {
        throw invalidRequest(`there are more than ${requestLimits.listedKeys} keys; name a tenant`, "tenant");
      }
    }
    const records = await this.#read(ids);
    return Array.from(records, ([id, record]) => ({ id, record }))
      .filter(({ record }) => tenant === undefined || record.tenant === tenant)
      .sort(({ record: a }, { record: b }) => compare(a.tenant, b.tenant) || compare(a.createdAt, b.createdAt));
  }

  async revoke(id: string): Promise<ListedKey> {
    const record = await this.#record(id);
    const revokedAt = record.revokedAt ?? this.#time();
    await this.#put(revokedPrefix + id, { revokedAt });
    return { id, record: { ...record, revokedAt } };
  }

  /** Creates a key like an old key, which stays valid until `oldExpiresAt`. Throws invalid_request if the old key is revoked or expired. */
  async rotate(
    id: string,
    ends: { oldExpiresAt: string; expiresAt: string | null },
  ): Promise<{ made: NewKey; old: ListedKey }> {
    const record = await this.#record(id);
    const state = stateOf(record, this.#now());
    if (state === "revoked" || state === "expired") throw invalidRequest(`the key ${id} is ${state}; create another`);
    const { tenant, scopes } = record;
    const made = await this.create(tenant, scopes, ends.expiresAt);
    const old = withEnd(record, { expiresAt: ends.oldExpiresAt }, null);
    await this.#put(endPrefix + id, { expiresAt: old.expiresAt });
    return { made, old: { id, record: old } };
  }

  /** Without a record, a tenant has the standard plan, or is unlimited if its key is in TENANT_KEYS (keys.ts). */
  async tenant(tenant: string): Promise<TenantRecord> {
    const name = tenantPrefix + tenant;
    const stored = (await this.#get([name])).get(name);
    return tenantRecordSchema.parse(stored ?? { plan: "standard", limits: {}, origins: [] });
  }

  /** Also changes the copies of the tenant's record in the records of its valid keys. */
  async change(tenant: string, change: TenantChange): Promise<TenantRecord> {
    const before = await this.tenant(tenant);
    const keys = await this.list(tenant);
    const limits = Object.entries({ ...before.limits, ...change.limits }).filter(([, value]) => value !== "plan");
    const memoryTokens = change.memoryTokens === undefined ? before.memoryTokens : change.memoryTokens;
    const aliases = change.aliases ?? before.aliases;
    const record = tenantRecordSchema.parse({
      plan: change.plan ?? before.plan,
      limits: Object.fromEntries(limits),
      ...(memoryTokens !== undefined && memoryTokens !== "plan" && { memoryTokens }),
      origins: change.origins ?? before.origins,
      ...(aliases && { aliases }),
    });
    const valid = keys.filter(({ record: key }) => !["revoked", "expired"].includes(stateOf(key, this.#now())));
    if (valid.length > requestLimits.validKeys) {
      throw invalidRequest(`${tenant} has ${valid.length} valid keys, the maximum is ${requestLimits.validKeys}`);
    }
    await this.#put(tenantPrefix + tenant, record);
    for (const { id, record: key } of valid) await this.#putKey({ id, record: { ...key, tenantRecord: record } });
    return record;
  }

  /** `waitMs` of the result: milliseconds for which a location may still accept one of the keys. */
  async revokeAll(tenant: string): Promise<{ ids: string[]; waitMs: number }> {
    const keys = await this.list(tenant);
    const staleMs = 1000 * (this.#store.staleSeconds ?? cacheSeconds) + recordTimes.usableMs;
    let waitMs = 0;
    for (const { id, record } of keys) {
      const { revokedAt } = record.revokedAt === null ? (await this.revoke(id)).record : record;
      const ageMs = this.#now() - Date.parse(revokedAt!);
      // The age is negative if the clock was set back. The erasure must not wait for hours then.
      if (Math.abs(ageMs) < staleMs) waitMs = Math.max(waitMs, staleMs - ageMs);
    }
    return { ids: keys.map(({ id }) => id), waitMs };
  }

  /** Deletes the records of a tenant and of its keys. Records of revocations stay, because caches may still hold a key's record. */
  async forget(tenant: string, ids: readonly string[]): Promise<void> {
    const names = ids.flatMap((id) => [endPrefix + id, keyPrefix + id]);
    for (const name of [...names, tenantPrefix + tenant]) await this.#store.delete(name).catch(storeAway);
  }

  async #record(id: string): Promise<KnownKey> {
    const record = keyIdPattern.test(id) ? (await this.#read([id])).get(id) : undefined;
    if (record === undefined) throw new ServiceError("not_found", `There is no key ${id.slice(0, 100)}.`);
    return record;
  }

  async #read(ids: readonly string[]): Promise<Map<string, KnownKey>> {
    const names = ids.flatMap((id) => [keyPrefix + id, endPrefix + id, revokedPrefix + id]);
    const stored = new Map<string, unknown>();
    for (let i = 0; i < names.length; i += namesPerRead) {
      for (const [name, value] of await this.#get(names.slice(i, i + namesPerRead))) stored.set(name, value);
    }
    const records = new Map<string, KnownKey>();
    for (const id of ids) {
      const [record, end, revocation] = [keyPrefix, endPrefix, revokedPrefix].map((prefix) => stored.get(prefix + id));
      if (record == null) continue;
      records.set(id, storedKeySchema.parse({ record, end: end ?? null, revocation: revocation ?? null }));
    }
    return records;
  }

  /** Leaves out `revokedAt`, because a revocation has its own record. */
  #putKey({ id, record: { revokedAt, ...record } }: ListedKey): Promise<void> {
    return this.#put(keyPrefix + id, record, { tenant: record.tenant });
  }

  #put(name: string, record: object, metadata?: { tenant: string }): Promise<void> {
    return this.#store.put(name, JSON.stringify(record), metadata ? { metadata } : {}).catch(storeAway);
  }

  #get(names: string[]): Promise<Map<string, unknown>> {
    return this.#store.get(names, readOptions).catch(storeAway);
  }

  #time(): string {
    return new Date(this.#now()).toISOString();
  }
}

export function stateOf({ revokedAt, expiresAt }: KnownKey, nowMs: number): KeyState {
  if (revokedAt !== null) return "revoked";
  if (expiresAt === null) return "active";
  return Date.parse(expiresAt) <= nowMs ? "expired" : "expires";
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
