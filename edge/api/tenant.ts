/** DELETE /v1/tenant: erases what the edge and its backends keep of the key's tenant. Its keys are records that `npm run keys` deletes. */
import type { TenantErased } from "../../shared/contracts/responses.ts";
import type { RouteHandler } from "./dependencies.ts";

export const eraseTenant: RouteHandler = async (c, dependencies) => {
  const { tenant } = c.get("access");
  const [{ adapters, ...backends }, ledgers] = await Promise.all([
    dependencies.adapters.of(tenant).erase(),
    dependencies.eraseUse(tenant),
  ]);
  return c.json({ object: "tenant.erased", tenant, adapters, ledgers, backends } satisfies TenantErased);
};
