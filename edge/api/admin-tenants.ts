/** `/admin/v1/keys` and `/admin/v1/tenants`: keys, limits, origins and aliases of tenants, and their erasure. */
import * as admin from "../../shared/contracts/admin.ts";
import { tenantSchema } from "../../shared/contracts/tenant-name.ts";
import { limitsOf, memoryTokensOf, scopes, type TenantRecord } from "../../shared/contracts/tenants.ts";
import { invalidRequest } from "../../shared/errors.ts";
import { type ListedKey, type NewKey, stateOf } from "../tenants/key-records.ts";
import { checked, readAdminBody } from "./body.ts";
import type { AppContext, RouteHandler } from "./dependencies.ts";

export const createKey: RouteHandler = async (c, { keyRecords, now }) => {
  const { tenant, scopes: granted = scopes, expires_at } = await readAdminBody(c, admin.createKeyRequestSchema);
  return c.json(newKeyOf(await keyRecords.create(tenant, granted, inUtc(expires_at)), now()));
};

export const listKeys: RouteHandler = async (c, { keyRecords, now }) => {
  const keys = await keyRecords.list(checked(admin.keyListQuerySchema, c.req.query()).tenant);
  return c.json({ object: "list", data: keys.map((one) => keyOf(one, now())) });
};

export const revokeKey: RouteHandler = async (c, { keyRecords, now }) => {
  return c.json(keyOf(await keyRecords.revoke(c.req.param("id")!), now()));
};

export const rotateKey: RouteHandler = async (c, { keyRecords, now }) => {
  const { old_expires_at, expires_at } = await readAdminBody(c, admin.rotateKeyRequestSchema);
  const ends = { oldExpiresAt: inUtc(old_expires_at)!, expiresAt: inUtc(expires_at) };
  const { made, old } = await keyRecords.rotate(c.req.param("id")!, ends);
  return c.json({ ...newKeyOf(made, now()), replaces: keyOf(old, now()) });
};

export const getTenant: RouteHandler = async (c, { keyRecords }) => {
  const tenant = tenantOf(c);
  return c.json(settingsOf(tenant, await keyRecords.tenant(tenant)));
};

export const changeTenant: RouteHandler = async (c, { keyRecords }) => {
  const tenant = tenantOf(c);
  const { plan, limits = {}, origins, aliases } = await readAdminBody(c, admin.changeTenantRequestSchema);
  const wrong = origins?.find((origin) => !/^https?:/.test(origin) || URL.parse(origin)?.origin !== origin);
  if (wrong !== undefined) {
    throw invalidRequest(`${JSON.stringify(wrong)} is no origin, as https://app.example.com is one`, "origins");
  }
  const given = Object.entries(limits).map(([name, value]) => [recordNames[name as keyof typeof limits], value]);
  const { memoryTokens, ...others } = Object.fromEntries(given);
  const change = { plan, limits: others, memoryTokens, origins, aliases };
  return c.json(settingsOf(tenant, await keyRecords.change(tenant, change)));
};

/** The first call revokes the tenant's keys. A later call erases the tenant, once no location accepts the keys any more. */
export const eraseTenant: RouteHandler = async (c, { keyRecords, adapters, eraseUse }) => {
  const tenant = tenantOf(c);
  const { ids, waitMs } = await keyRecords.revokeAll(tenant);
  if (waitMs > 0) {
    const retryAfter = Math.ceil(waitMs / 1000);
    const erasing = { object: "tenant.erasing", tenant, retry_after: retryAfter } satisfies admin.TenantErasure;
    return c.json(erasing, 202, { "retry-after": String(retryAfter) });
  }
  const erasure = adapters.of(tenant).erase();
  const [{ adapters: erased, partlyAsked, ...asked }] = await Promise.all([erasure, eraseUse(tenant)]);
  await keyRecords.forget(tenant, ids);
  return c.json({
    ...{ object: "tenant.erased", tenant, keys: ids.length, adapters: erased, left },
    backends: { ...asked, partly_asked: partlyAsked },
  } satisfies admin.TenantErasure);
};

const left = [
  "log lines and traces",
  "usage events of Analytics Engine (3 months)",
  "backups of backends' disks and of the platform's storage (30 days)",
  "beginnings of prompts in a backend's memory until others need the room or it restarts",
  "keys in TENANT_KEYS, which the next deployment without them ends",
];

function tenantOf(c: AppContext): string {
  return checked(tenantSchema, c.req.param("tenant"));
}

function inUtc(time: string | null | undefined): string | null {
  return time ? new Date(time).toISOString() : null;
}

function keyOf({ id, record }: ListedKey, nowMs: number): admin.Key {
  const { tenant, scopes, createdAt, expiresAt, revokedAt } = record;
  const times = { created_at: createdAt, expires_at: expiresAt, revoked_at: revokedAt };
  return { object: "key", id, tenant, scopes, ...times, state: stateOf(record, nowMs) };
}

function newKeyOf(made: NewKey, nowMs: number): admin.NewKey {
  return { ...keyOf(made, nowMs), key: made.key };
}

const recordNames = {
  requests_per_minute: "requestsPerMinute",
  tokens_per_minute: "tokensPerMinute",
  concurrent_requests: "concurrentRequests",
  tokens_per_month: "tokensPerMonth",
  memory_tokens: "memoryTokens",
} as const;

function settingsOf(tenant: string, record: TenantRecord): admin.TenantSettings {
  const { plan, origins, aliases = {} } = record;
  const values = { ...limitsOf(record), memoryTokens: memoryTokensOf(record) };
  const limits = Object.entries(recordNames).map(([name, own]) => [name, values[own]]);
  return { object: "tenant", tenant, plan, limits: Object.fromEntries(limits), origins, aliases };
}
