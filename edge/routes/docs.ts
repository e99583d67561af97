/**
 * GET /openapi.json, the API's document; GET /docs/api, where it is read and tried (both staged by `infra/stage-docs.ts`); and
 * GET /docs, the documents site (`npm run docs`, infra/site). Where the site was not built, /docs and /docs/ lead to /docs/api.
 */
import type { Handler } from "hono";
import { ServiceError } from "../../shared/errors.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import { documentHeaders } from "../middleware/security-headers.ts";

/** What draws /docs/api: Swagger UI. */
const rendererFiles = ["swagger-ui.css", "swagger-ui-bundle.js"];
const types: Record<string, string> = {
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  png: "image/png",
  svg: "image/svg+xml",
  woff2: "font/woff2",
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

export function apiDocs({ asset }: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    const html = await (await asset("/docs.html")).text();
    const sources = { scripts: "'self'", styles: "'self'", imagesAndFonts: "" };
    // Swagger UI writes style attributes whenever it draws; the browser would report each as an error.
    return c.html(html, { headers: await documentHeaders(html, { ...sources, hasStyleAttributes: true }) });
  };
}

export function docs(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => (await sitePage(dependencies, "index.html")) ?? c.redirect("/docs/api", 302);
}

/** A file of the site or of the renderer, or a page of the site by its name without an extension. */
export function docsFile(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    const name = c.req.param("file") ?? "";
    if (rendererFiles.includes(name)) return fileResponse(await dependencies.asset(`/docs/${name}`), name);
    const page = await sitePage(dependencies, /\.\w+$/.test(name) ? name : `${name || "index"}.html`);
    if (page) return page;
    if (name === "") return c.redirect("/docs/api", 302);
    throw new ServiceError("not_found", `There is no ${c.req.path.slice(0, 200)}.`);
  };
}

/** A file of the site, by the list that was built with it: no other asset can be asked for. Null where it has none such. */
async function sitePage({ asset }: Dependencies, name: string): Promise<Response | null> {
  const list = await asset("/docs/site/files.json").catch(() => null);
  if (!list || !(await list.json<string[]>()).includes(name)) return null;
  const file = await asset(`/docs/site/${name}`);
  if (!name.endsWith(".html")) return fileResponse(file, name);
  const html = await file.text();
  const headers = {
    "content-type": "text/html; charset=utf-8",
    // Code is coloured by style attributes, which no hash can name.
    ...(await documentHeaders(html, {
      scripts: "'self'",
      styles: "'self' 'unsafe-inline'",
      imagesAndFonts: "'self'",
    })),
  };
  return new Response(html, { headers });
}

function fileResponse({ body }: Response, name: string): Response {
  const type = types[name.slice(name.lastIndexOf(".") + 1)] ?? "application/octet-stream";
  return new Response(body, { headers: { "content-type": type, "cache-control": kept } });
}
