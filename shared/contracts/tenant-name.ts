/**
 * Names of tenants: `acme`, or `eu:acme`, whose requests are answered in the EU and whose data is kept there. All that
 * belongs to a tenant carries the name, so where it must be is a function of the name and cannot change.
 */
import * as z from "zod";

/** Where the platform can keep a tenant's data. */
export const jurisdictions = ["eu"] as const;
export type Jurisdiction = (typeof jurisdictions)[number];

const prefixes = jurisdictions.map((one) => `${one}:`);
/** Strict, because names travel into URLs, paths, logs and names of objects. */
export const tenantPattern = new RegExp(`^(?:${prefixes.join("|")})?[A-Za-z0-9_-]{1,64}$`);
export const tenantRule = `letters, digits, _ and -, at most 64, after one of the prefixes ${prefixes.join(", ")} or none`;
export const tenantSchema = z
  .string()
  .regex(tenantPattern, { error: `a tenant's name must be ${tenantRule}` })
  .meta({ maxLength: 64 + Math.max(...prefixes.map(({ length }) => length)) });

/** By the name of a tenant, or of an object (edge/platform/objects.ts); null: anywhere. */
export function jurisdictionOf(name: string): Jurisdiction | null {
  return jurisdictions.find((one) => name.startsWith(`${one}:`)) ?? null;
}
