/** Names of tenants. In `eu:acme`, `eu` is a jurisdiction: requests are answered and data is kept there. */
import * as z from "zod";

/** Jurisdictions that Cloudflare offers for Durable Objects. */
export const jurisdictions = ["eu"] as const;
export type Jurisdiction = (typeof jurisdictions)[number];

const prefixes = jurisdictions.map((one) => `${one}:`);
/** Strict, because names become parts of URLs, paths and logs. */
export const tenantPattern = new RegExp(`^(?:${prefixes.join("|")})?[A-Za-z0-9_-]{1,64}$`);
export const tenantRule = `letters, digits, _ and -, at most 64, after one of the prefixes ${prefixes.join(", ")} or none`;
export const tenantSchema = z
  .string()
  .regex(tenantPattern, { error: `a tenant's name must be ${tenantRule}` })
  .meta({ maxLength: 64 + Math.max(...prefixes.map(({ length }) => length)) });

/** Owns the centroids' memories on backends' disks. No tenant can have this name. */
export const centroidTenant = ":centroids";

export function jurisdictionOf(name: string): Jurisdiction | null {
  return jurisdictions.find((one) => name.startsWith(`${one}:`)) ?? null;
}
