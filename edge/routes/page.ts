/** GET /: the playground page. It needs nothing but itself and this API, and may reach nothing else. */
import type { Handler } from "hono";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";

const headers = {
  "content-security-policy":
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
};

export function page(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    const asset = await dependencies.page(c.req.raw);
    const response = new Response(asset.body, asset);
    for (const [name, value] of Object.entries(headers)) response.headers.set(name, value);
    return response;
  };
}
