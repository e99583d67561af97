import { sha256Hex } from "../../shared/bytes.ts";
import { type KeyRecord, keyIdOf, keyPrefix, scopes, type TenantLimits } from "../../shared/contracts/tenants.ts";

/** Name and JSON of a key's record. The key has every scope, its tenant only these `limits`; `change` overrides fields. */
export async function keyEntry(
  key: string,
  tenant: string,
  limits: Partial<TenantLimits> = {},
  change: Partial<KeyRecord> = {},
): Promise<[name: string, json: string]> {
  const hash = await sha256Hex(new TextEncoder().encode(key));
  const record: KeyRecord = {
    ...{ hash, tenant, scopes: [...scopes], createdAt: "2026-11-01T00:00:00.000Z", expiresAt: null },
    ...{ tenantRecord: { plan: "unlimited", limits, origins: [] }, ...change },
  };
  return [keyPrefix + keyIdOf(hash), JSON.stringify(record)];
}
