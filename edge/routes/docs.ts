/**
 * GET /openapi.json, the API's document, and GET /docs, where it is read and tried. Both were made when the assets were
 * staged (`infra/stage-docs.ts`).
 */
import type { Handler } from "hono";
import { ServiceError } from "../../shared/errors.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import { documentHeaders } from "../middleware/security-headers.ts";

/** What draws the page: Swagger UI. */
const rendererTypes: Record<string, string> = {
  "swagger-ui.css": "text/css; charset=utf-8",
  "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
};
/** A day: they change with a deployment, seldom. */
const kept = "public, max-age=86400";

export function openApi({ asset }: Dependencies): Handler<AppEnvironment> {
  return async () => {
    const { body } = await asset("/openapi.json");
    const headers = {
      "content-type": "application/json; charset=utf-8",
      "cache-control": "public, max-age=300",
      // It holds nothing of anybody's, and tools on other origins read it.
      "access-control-allow-origin": "*",
    };
    return new Response(body, { headers });
  };
}

export function docs({ asset }: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    const html = await (await asset("/docs.html")).text();
    const headers = await documentHeaders(html, { script: "'self'", style: "'self'" });
    return c.html(html, { headers });
  };
}

export function docsFile({ asset }: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    const name = c.req.param("file") ?? "";
    if (!Object.hasOwn(rendererTypes, name))
      throw new ServiceError("not_found", `There is no ${c.req.path.slice(0, 200)}.`);
    const { body } = await asset(`/docs/${name}`);
    return new Response(body, { headers: { "content-type": rendererTypes[name], "cache-control": kept } });
  };
}
