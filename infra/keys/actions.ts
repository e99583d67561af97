/** What `npm run keys` does to the records of keys and tenants. Not here: where they are stored, and the command line. */
import { createHash } from "node:crypto";
import type { TenantErased } from "../../shared/contracts/responses.ts";
import {
  type Aliases,
  endPrefix,
  eraseScope,
  type KeyRecord,
  type KnownKey,
  keyEndSchema,
  keyIdOf,
  keyPrefix,
  keyRecordSchema,
  revocationSchema,
  revokedPrefix,
  type Scope,
  type TenantLimits,
  type TenantRecord,
  tenantPrefix,
  tenantRecordSchema,
  withEnd,
} from "../../shared/contracts/tenants.ts";
import type { Namespace, StoredRecord } from "./namespace.ts";

export interface Actor {
  namespace: Namespace;
  now(): Date;
  /** A key that nobody can guess. */
  newKey(): string;
}

/** A new key, in clear for the only time. */
export interface NewKey {
  key: string;
  id: string;
  record: KnownKey;
}

export type KeyState = "active" | "expires" | "expired" | "revoked";

export async function createKey(
  actor: Actor,
  tenant: string,
  options: { scopes: readonly Scope[]; expiresAt: Date | null },
): Promise<NewKey> {
  const tenantRecord = await recordOfTenant(actor, tenant);
  const made = newKeyOf(actor, { tenant, scopes: [...options.scopes], tenantRecord }, options.expiresAt);
  await actor.namespace.put(new Map([[keyPrefix + made.id, storedOf(made.record)]]));
  return made;
}

/** In order of tenant and creation. */
export async function listKeys({ namespace }: Actor, tenant?: string): Promise<{ id: string; record: KnownKey }[]> {
  const listed = await namespace.names(keyPrefix);
  const names = listed.filter((one) => tenant === undefined || one.tenant === null || one.tenant === tenant);
  const ids = names.map(({ name }) => name.slice(keyPrefix.length));
  const records = await readKeys(namespace, ids);
  return Array.from(records, ([id, record]) => ({ id, record }))
    .filter(({ record }) => tenant === undefined || record.tenant === tenant)
    .sort((a, b) => compare(a.record.tenant, b.record.tenant) || compare(a.record.createdAt, b.record.createdAt));
}

/** Throws an Error where there is no such key. */
export async function revokeKey(actor: Actor, id: string): Promise<KnownKey> {
  const record = await recordOf(actor, id);
  const revokedAt = record.revokedAt ?? actor.now().toISOString();
  await actor.namespace.put(new Map([[revokedPrefix + id, { revokedAt }]]));
  return { ...record, revokedAt };
}

/** Makes a key like the old one, which stays valid for `overlapMs`. Throws an Error if the old one is revoked or expired. */
export async function rotateKey(
  actor: Actor,
  id: string,
  options: { overlapMs: number; expiresAt: Date | null },
): Promise<NewKey & { old: KeyRecord }> {
  const now = actor.now();
  const record = await recordOf(actor, id);
  const state = stateOf(record, now);
  if (state === "revoked" || state === "expired") throw new Error(`the key ${id} is ${state}; create another`);
  const end = new Date(now.getTime() + options.overlapMs).toISOString();
  const old = withEnd(record, { expiresAt: end }, null);
  const { tenant, scopes } = record;
  const made = newKeyOf(
    actor,
    { tenant, scopes, tenantRecord: await recordOfTenant(actor, tenant) },
    options.expiresAt,
  );
  // One write, so that one of the two is always valid.
  await actor.namespace.put(
    new Map<string, StoredRecord>([
      [keyPrefix + made.id, storedOf(made.record)],
      [endPrefix + id, { expiresAt: old.expiresAt }],
    ]),
  );
  return { ...made, old };
}

/** A change of a tenant's record. A limit of null is none; "plan" restores the plan's. */
export interface TenantChange {
  plan?: TenantRecord["plan"];
  limits: { [Name in keyof TenantLimits]?: number | null | "plan" };
  memoryTokens?: number | null | "plan";
  origins?: string[];
  aliases?: Aliases;
}

/** null if the tenant has no record: then the standard plan applies, and no limit to keys of TENANT_KEYS. */
export async function readTenant({ namespace }: Actor, tenant: string): Promise<TenantRecord | null> {
  const name = tenantPrefix + tenant;
  return tenantRecordSchema.nullable().parse((await namespace.get([name])).get(name) ?? null);
}

/** Changes a tenant's record, and the copy in each of its keys. */
export async function changeTenant(actor: Actor, tenant: string, change: TenantChange): Promise<TenantRecord> {
  const before = await recordOfTenant(actor, tenant);
  const keys = await listKeys(actor, tenant);
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
  const written = new Map<string, StoredRecord>([[tenantPrefix + tenant, record]]);
  for (const { id, record: key } of keys) {
    written.set(keyPrefix + id, storedOf({ ...key, tenantRecord: record }));
  }
  await actor.namespace.put(written);
  return record;
}

/**
 * Revokes a tenant's keys, asks the edge to erase the tenant once that is in force, and deletes the records of keys and tenant. If
 * `erase` rejects, the keys stay revoked, and the call can be repeated.
 */
export async function deleteTenant(
  actor: Actor,
  tenant: string,
  edge: { inForce(): Promise<void>; erase(key: string): Promise<TenantErased> },
): Promise<{ keys: number; erased: TenantErased }> {
  const { namespace } = actor;
  const revokedAt = actor.now().toISOString();
  const ids = (await listKeys(actor, tenant)).map(({ id }) => id);
  const revoke = (some: readonly string[]) =>
    namespace.put(new Map(some.map((id) => [revokedPrefix + id, { revokedAt }])));
  if (ids.length > 0) {
    await revoke(ids);
    await edge.inForce();
  }
  const tenantRecord: TenantRecord = { plan: "unlimited", limits: {}, origins: [] };
  const expiresAt = new Date(actor.now().getTime() + 3_600_000);
  const made = newKeyOf(actor, { tenant, scopes: [eraseScope], tenantRecord }, expiresAt);
  await namespace.put(new Map([[keyPrefix + made.id, storedOf(made.record)]]));
  try {
    const erased = await edge.erase(made.key);
    const names = [...ids, made.id].flatMap((id) => [keyPrefix + id, endPrefix + id, revokedPrefix + id]);
    await namespace.remove([...names, tenantPrefix + tenant]);
    return { keys: ids.length, erased };
  } catch (error) {
    await revoke([made.id]);
    throw error;
  }
}

async function recordOfTenant(actor: Actor, tenant: string): Promise<TenantRecord> {
  return (await readTenant(actor, tenant)) ?? { plan: "standard", limits: {}, origins: [] };
}

export function stateOf({ revokedAt, expiresAt }: KnownKey, now: Date): KeyState {
  if (revokedAt !== null) return "revoked";
  if (expiresAt === null) return "active";
  return Date.parse(expiresAt) <= now.getTime() ? "expired" : "expires";
}

function newKeyOf(
  { now, newKey }: Actor,
  granted: Pick<KeyRecord, "tenant" | "scopes" | "tenantRecord">,
  expiresAt: Date | null,
): NewKey {
  const key = newKey();
  const hash = createHash("sha256").update(key).digest("hex");
  const record = {
    hash,
    ...granted,
    createdAt: now().toISOString(),
    expiresAt: expiresAt?.toISOString() ?? null,
    revokedAt: null,
  };
  return { key, id: keyIdOf(hash), record };
}

/** A key's own record: its revocation has another. */
function storedOf({ revokedAt, ...record }: KnownKey): KeyRecord {
  return record;
}

async function recordOf({ namespace }: Actor, id: string): Promise<KnownKey> {
  const record = (await readKeys(namespace, [id])).get(id);
  if (record === undefined) throw new Error(`there is no key ${id}; \`npm run keys -- list\` names them`);
  return record;
}

/** Records of the keys that are there, with their ends, by id. */
async function readKeys(namespace: Namespace, ids: readonly string[]): Promise<Map<string, KnownKey>> {
  const stored = await namespace.get(ids.flatMap((id) => [keyPrefix + id, endPrefix + id, revokedPrefix + id]));
  const records = new Map<string, KnownKey>();
  for (const id of ids) {
    const record = stored.get(keyPrefix + id);
    const end = keyEndSchema.nullable().parse(stored.get(endPrefix + id) ?? null);
    const revocation = revocationSchema.nullable().parse(stored.get(revokedPrefix + id) ?? null);
    if (record !== undefined) records.set(id, withEnd(keyRecordSchema.parse(record), end, revocation));
  }
  return records;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
