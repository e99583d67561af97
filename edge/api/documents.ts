/** Documents for browsers. Security: a document's content security policy allows only its own inline scripts, and calls of this API. */
import { ServiceError } from "../../shared/errors.ts";
import { answer, chunksOf } from "./answer.ts";
import type { AppContext, Dependencies, RouteHandler } from "./dependencies.ts";

const rendererFiles = ["swagger-ui.css", "swagger-ui-bundle.js"];
const types: Record<string, string> = {
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  png: "image/png",
  svg: "image/svg+xml",
  woff2: "font/woff2",
};
const cachedForADay = "public, max-age=86400";

export const page: RouteHandler = async (c, dependencies) =>
  answerDocument(c, dependencies, await dependencies.asset("/index.html"));

export const openApi: RouteHandler = async (c, dependencies) => {
  const headers = {
    "content-type": "application/json; charset=utf-8",
    "cache-control": "public, max-age=300",
    // API tools on other origins may read this document.
    "access-control-allow-origin": "*",
  };
  return answer(c, dependencies, chunksOf(await dependencies.asset("/openapi.json")), { headers });
};

export const apiDocs: RouteHandler = async (c, dependencies) => {
  // Swagger UI writes style attributes, which no hash can allow.
  const allowed = { "script-src": "'self'", "style-src": "'self'", "style-src-attr": "'unsafe-inline'" };
  return answerDocument(c, dependencies, await dependencies.asset("/docs.html"), allowed);
};

export const docs: RouteHandler = async (c, dependencies) =>
  (await sitePage(c, dependencies, "index.html")) ?? c.redirect("/docs/api", 302);

/** A name without an ending gets `.html`. */
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

/** Security: null unless the site's list has the file, so that no other asset is served. */
async function sitePage(c: AppContext, dependencies: Dependencies, name: string): Promise<Response | null> {
  const { asset } = dependencies;
  const list = await asset("/docs/site/files.json").catch(() => null);
  if (!list || !(await list.json<string[]>()).includes(name)) return null;
  const file = await asset(`/docs/site/${name}`);
  if (!name.endsWith(".html")) return answerFile(c, dependencies, file, name);
  // Highlighted code on the site has style attributes.
  return answerDocument(c, dependencies, file, {
    ...{ "script-src": "'self'", "style-src": "'self' 'unsafe-inline'", "img-src": "'self'", "font-src": "'self'" },
  });
}

function answerFile(c: AppContext, dependencies: Dependencies, file: Response, name: string): Promise<Response> {
  const type = types[name.slice(name.lastIndexOf(".") + 1)] ?? "application/octet-stream";
  return answer(c, dependencies, chunksOf(file), { headers: { "content-type": type, "cache-control": cachedForADay } });
}

/** `allowed`: further sources by directive. The document's own inline scripts and styles are always allowed. */
async function answerDocument(
  c: AppContext,
  dependencies: Dependencies,
  document: Response,
  allowed: Record<string, string> = {},
): Promise<Response> {
  const html = await document.text();
  const own: Record<string, string> = {
    "default-src": "'none'",
    "script-src": await hashesOf(html, "script"),
    "style-src": await hashesOf(html, "style"),
    "img-src": "data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
  };
  const policy = Object.keys({ ...own, ...allowed })
    .map((name) => `${name} ${[own[name], allowed[name]].filter(Boolean).join(" ") || "'none'"}`)
    .join("; ");
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
