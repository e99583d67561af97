/** Bearer key → tenant, and whether the key may be used for this route. Whoever may not gets no further. */
import { createMiddleware } from "hono/factory";
import { ServiceError } from "../../shared/errors.ts";
import type { AppEnvironment } from "../dependencies.ts";
import type { KeyStore } from "../tenants/keys.ts";
import { scopeOf } from "../tenants/scopes.ts";

export function auth(keys: KeyStore) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const header = c.req.header("authorization");
    if (!header) {
      throw new ServiceError("unauthorized", "No API key: send the header `Authorization: Bearer <key>`.");
    }
    const key = /^Bearer +(\S+)$/i.exec(header)?.[1];
    if (!key) throw new ServiceError("unauthorized", "The Authorization header is not of the form `Bearer <key>`.");
    // The key itself is never repeated: messages end up in logs.
    const access = await keys.accessOf(key, c.req.header("cf-connecting-ip") ?? "");
    const scope = scopeOf(c.req.path);
    if (scope && !access.scopes.includes(scope)) {
      throw new ServiceError(
        "forbidden",
        `${c.req.path} needs a key with the scope ${scope}; this one has ${access.scopes.join(", ") || "none"}.`,
      );
    }
    c.set("tenant", access.tenant);
    c.set("access", access);
    await next();
  });
}
