/** The names in the paths of tenants' files. */
import { hashPattern } from "../../shared/contracts/inference.ts";
import { tenantPattern } from "../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../shared/errors.ts";

/** Throws a ServiceError "not_found" for what is no tenant's name. */
export function requireTenant(tenant: string): string {
  if (!tenantPattern.test(tenant)) throw new ServiceError("not_found", "This is no tenant's name.");
  return tenant;
}

/** Throws the error that `missing` makes of the hash unless both can name a file. */
export function requireFileNames(
  { tenant, hash }: { tenant: string; hash: string },
  missing: (hash: string) => ServiceError,
): { tenant: string; hash: string } {
  if (!tenantPattern.test(tenant) || !hashPattern.test(hash)) throw missing(hash.slice(0, 64));
  return { tenant, hash };
}
