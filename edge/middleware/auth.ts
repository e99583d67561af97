/** Bearer key → tenant. Whoever has no key gets no further. */
import { createMiddleware } from "hono/factory";
import { ServiceError } from "../../shared/errors.ts";
import type { AppEnvironment } from "../dependencies.ts";
import type { KeyStore } from "../tenants/keys.ts";

export function auth(keys: KeyStore) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const header = c.req.header("authorization");
    if (!header) {
      throw new ServiceError("unauthorized", "No API key: send the header `Authorization: Bearer <key>`.");
    }
    const key = /^Bearer +(\S+)$/i.exec(header)?.[1];
    if (!key) throw new ServiceError("unauthorized", "The Authorization header is not of the form `Bearer <key>`.");
    const tenant = await keys.tenantOf(key);
    // The key itself is never repeated: messages end up in logs.
    if (!tenant) throw new ServiceError("unauthorized", "The API key is not known.");
    c.set("tenant", tenant);
    await next();
  });
}
