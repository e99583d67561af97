/** Checks the API key: which tenant it belongs to, and whether its scopes allow this route. */
import { createMiddleware } from "hono/factory";
import { jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { AppEnvironment } from "../dependencies.ts";
import { regionWithin } from "../platform/region.ts";
import type { KeyStore } from "../tenants/keys.ts";
import { scopeOf } from "../tenants/scopes.ts";

export function auth(keys: KeyStore) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const { key } = c.env;
    if (key === null) {
      const isSent = c.req.header("authorization") !== undefined;
      const problem = isSent ? "The Authorization header is not of the form `Bearer <key>`" : "No API key";
      throw new ServiceError("unauthorized", `${problem}: send the header \`Authorization: Bearer <key>\`.`);
    }
    // No message repeats the key: messages are logged.
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
    c.set("region", regionWithin(jurisdictionOf(access.tenant), c.env.region));
    await next();
  });
}
