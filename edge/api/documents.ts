/**
 * Documents for browsers. GET /: the playground page. GET /openapi.json and its view GET /docs/api, staged by infra/stage-pages.ts.
 * GET /docs: the documents site (infra/site), or a redirect to /docs/api if it was not built. Each document's policy allows its own
 * scripts by hash and calls of this API only.
 */
import type { Context } from "hono";
import { ServiceError } from "../../shared/errors.ts";
import { answer, chunksOf } from "./answer.ts";
import type { AppEnvironment, Dependencies, RouteHandler } from "./dependencies.ts";

type RouteContext = Context<AppEnvironment>;

/** Files of Swagger UI, which renders /docs/api. */
const rendererFiles = ["swagger-ui.css", "swagger-ui-bundle.js"];
const types: Record<string, string> = {
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  png: "image/png",
  svg: "image/svg+xml",
  woff2: "font/woff2",
};
/** One day: these files change only with a deployment. */
const cachedForADay = "public, max-age=86400";

export const page: RouteHandler = async (c, dependencies) =>
  answerDocument(c, dependencies, await dependencies.asset("/index.html"));

export const openApi: RouteHandler = async (c, dependencies) => {
  const headers = {
    "content-type": "application/json; charset=utf-8",
    "cache-control": "public, max-age=300",
    // Tools on other origins read it.
    "access-control-allow-origin": "*",
  };
  return answer(c, dependencies, chunksOf(await dependencies.asset("/openapi.json")), { headers });
};

export const apiDocs: RouteHandler = async (c, dependencies) => {
  // Swagger UI writes style attributes.
  const sources = { scripts: "'self'", styles: "'self'", hasStyleAttributes: true };
  return answerDocument(c, dependencies, await dependencies.asset("/docs.html"), sources);
};

export const docs: RouteHandler = async (c, dependencies) =>
  (await sitePage(c, dependencies, "index.html")) ?? c.redirect("/docs/api", 302);

/** A file of the renderer or of the site; `.html` may be left out. */
export const docsFile: RouteHandler = async (c, dependencies) => {
  const name = c.req.path.slice("/docs/".length);
  if (rendererFiles.includes(name)) {
    return answerFile(c, dependencies, await dependencies.asset(`/docs/${name}`), name);
  }
  const found = await sitePage(c, dependencies, /\.\w+$/.test(name) ? name : `${name || "index"}.html`);
  if (found) return found;
  if (name === "") return c.redirect("/docs/api", 302);
  throw new ServiceError("not_found", `There is no ${c.req.path.slice(0, 200)}.`);
};

/** A file of the documents site; null unless it is in the site's own list, so that no other asset is served. */
async function sitePage(c: RouteContext, dependencies: Dependencies, name: string): Promise<Response | null> {
  const { asset } = dependencies;
  const list = await asset("/docs/site/files.json").catch(() => null);
  if (!list || !(await list.json<string[]>()).includes(name)) return null;
  const file = await asset(`/docs/site/${name}`);
  if (!name.endsWith(".html")) return answerFile(c, dependencies, file, name);
  // Code is coloured by style attributes.
  return answerDocument(c, dependencies, file, {
    scripts: "'self'",
    styles: "'self' 'unsafe-inline'",
    imagesAndFonts: "'self'",
  });
}

function answerFile(c: RouteContext, dependencies: Dependencies, file: Response, name: string): Promise<Response> {
  const type = types[name.slice(name.lastIndexOf(".") + 1)] ?? "application/octet-stream";
  return answer(c, dependencies, chunksOf(file), { headers: { "content-type": type, "cache-control": cachedForADay } });
}

/** Allowed besides the document's own inline scripts and styles. */
interface AllowedSources {
  scripts?: string;
  styles?: string;
  imagesAndFonts?: string;
  /** Allows style attributes, which a hash cannot. */
  hasStyleAttributes?: boolean;
}

async function answerDocument(
  c: RouteContext,
  dependencies: Dependencies,
  document: Response,
  allowed: AllowedSources = {},
): Promise<Response> {
  const html = await document.text();
  const { scripts = "", styles = "", imagesAndFonts = "", hasStyleAttributes = false } = allowed;
  const sources = (...list: string[]) => list.filter(Boolean).join(" ") || "'none'";
  const policy = [
    "default-src 'none'",
    `script-src ${sources(await hashesOf(html, "script"), scripts)}`,
    `style-src ${sources(await hashesOf(html, "style"), styles)}`,
    ...(hasStyleAttributes ? ["style-src-attr 'unsafe-inline'"] : []),
    `img-src ${sources("data:", imagesAndFonts)}`,
    `font-src ${sources(imagesAndFonts)}`,
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; ");
  const headers = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": policy,
    "cross-origin-opener-policy": "same-origin",
  };
  return answer(c, dependencies, [html], { headers });
}

async function hashesOf(html: string, element: "script" | "style"): Promise<string> {
  const texts = [...html.matchAll(new RegExp(`<${element}\\b[^>]*>(.*?)</${element}>`, "gs"))].map(([, text]) => text);
  const digests = texts.map((text) => crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  const hashes = (await Promise.all(digests)).map(
    (digest) => `'sha256-${btoa(String.fromCharCode(...new Uint8Array(digest)))}'`,
  );
  return hashes.join(" ");
}
