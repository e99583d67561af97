/** Records of keys as `npm run keys` writes them to the KV namespace. */
import { createHash } from "node:crypto";
import { type KeyRecord, keyIdOf, keyPrefix, scopes, type TenantLimits } from "../../shared/contracts/tenants.ts";

/** Name and JSON of a key's record, with every scope. Its tenant has these limits and no others. */
export function keyEntry(
  key: string,
  tenant: string,
  limits: Partial<TenantLimits> = {},
): [name: string, json: string] {
  const hash = createHash("sha256").update(key).digest("hex");
  const record: KeyRecord = {
    hash,
    tenant,
    scopes: [...scopes],
    createdAt: "2026-11-01T00:00:00.000Z",
    expiresAt: null,
    tenantRecord: { plan: "unlimited", limits, origins: [] },
  };
  return [keyPrefix + keyIdOf(hash), JSON.stringify(record)];
}
