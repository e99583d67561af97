import type { Hono } from "hono";
import { hashPattern } from "../../shared/contracts/inference.ts";
import { tenantPattern } from "../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../shared/errors.ts";

const kinds = { adapters: "adapter", memories: "memory" } as const;

export function missing(kind: keyof typeof kinds, name: string): ServiceError {
  const one = kinds[kind];
  return new ServiceError(`${one}_not_found`, `There is no ${one} ${name.slice(0, 64)} of this tenant.`);
}

/** Without a hash, deletes all files of a tenant. Refuses invalid names, also on routes added later. */
export function addTenantPaths(
  app: Hono,
  kind: keyof typeof kinds,
  remove: (tenant: string, hash: string | null) => Promise<void>,
): void {
  const paths = [`/v1/${kind}/:tenant`, `/v1/${kind}/:tenant/:hash`] as const;
  for (const path of paths) {
    app.use(path, async (context, next) => {
      const { tenant, hash } = context.req.param() as { tenant: string; hash?: string };
      if (!tenantPattern.test(tenant)) throw missing(kind, tenant);
      if (hash !== undefined && !hashPattern.test(hash)) throw missing(kind, hash);
      await next();
    });
    app.delete(path, async (context) => {
      const { tenant, hash = null } = context.req.param() as { tenant: string; hash?: string };
      await remove(tenant, hash);
      return context.body(null, 204);
    });
  }
}
