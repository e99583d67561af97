/** GET /: the playground page. It needs nothing but itself and this API, and may reach nothing else. */
import type { Handler } from "hono";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import { documentHeaders } from "../middleware/security-headers.ts";

export function page({ asset }: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    // Read whole: what it may run is read off it.
    const html = await (await asset("/index.html")).text();
    return c.html(html, { headers: await documentHeaders(html) });
  };
}
