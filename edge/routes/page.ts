/** GET /: the playground page. It needs nothing but itself and this API, and may reach nothing else. */
import type { Handler } from "hono";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import { documentHeaders } from "../middleware/security-headers.ts";

export function page(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    // Whole, whatever the browser holds: what it may run is read off it.
    const asset = await dependencies.page(new Request(c.req.url));
    const html = await asset.text();
    return c.html(html, { status: asset.status as 200, headers: await documentHeaders(html) });
  };
}
