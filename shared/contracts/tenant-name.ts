/** Names of tenants. The prefix of `eu:acme` is a jurisdiction. The tenant's requests are answered there, and its data is kept there. */
import * as z from "zod";

/** Jurisdictions that Cloudflare offers for Durable Objects. */
export const jurisdictions = ["eu"] as const;
export type Jurisdiction = (typeof jurisdictions)[number];

const prefixes = jurisdictions.map((one) => `${one}:`);
/** Pattern of tenants' names. It is strict, because names become parts of URLs, paths, logs and names of objects. */
export const tenantPattern = new RegExp(`^(?:${prefixes.join("|")})?[A-Za-z0-9_-]{1,64}$`);
export const tenantRule = `letters, digits, _ and -, at most 64, after one of the prefixes ${prefixes.join(", ")} or none`;
export const tenantSchema = z
  .string()
  .regex(tenantPattern, { error: `a tenant's name must be ${tenantRule}` })
  .meta({ maxLength: 64 + Math.max(...prefixes.map(({ length }) => length)) });

/** Returns the jurisdiction in the name of a tenant or of an object (edge/platform/objects.ts), or null if there is none. */
export function jurisdictionOf(name: string): Jurisdiction | null {
  return jurisdictions.find((one) => name.startsWith(`${one}:`)) ?? null;
}
