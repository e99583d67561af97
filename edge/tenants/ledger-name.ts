/** The names of a tenant's ledgers. */
import { type Region, regions } from "../platform/region.ts";

/** The name of a tenant's ledger in a region. No tenant's name has an `@`. */
export function regionalName(tenant: string, region: Region): string {
  return `${tenant}@${region}`;
}

/** The tenant whose ledger has this name. */
export function tenantOf(name: string): string {
  return partsOf(name).tenant;
}

export function partsOf(name: string): { tenant: string; region: Region | null } {
  const [tenant, region] = name.split("@");
  return { tenant, region: regions.find((known) => known === region) ?? null };
}
