/**
 * What every response tells browsers: that nothing of ours is to be embedded, guessed at, kept or referred to. Documents
 * name what they may run, by its hash; everything else may run nothing.
 */
import { createMiddleware } from "hono/factory";
import type { AppEnvironment } from "../dependencies.ts";
import { presetHeaders, setHeaders } from "./response-headers.ts";

const always = {
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
};
/** Where a route says nothing else. */
const presets = {
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "cache-control": "no-store",
};
/** A year; subdomains are whoever's the domain is. */
const httpsOnly = "max-age=31536000";

export function securityHeaders() {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    await next();
    setHeaders(c, always);
    presetHeaders(c, presets);
    if (c.req.url.startsWith("https:")) setHeaders(c, { "strict-transport-security": httpsOnly });
  });
}

/** Sources besides the document's own inline scripts and styles. */
export interface AllowedSources {
  scripts: string;
  styles: string;
  imagesAndFonts: string;
  /** Style attributes, which no hash can name. */
  hasStyleAttributes?: true;
}

/** The headers of a document of ours: it may run its own inline scripts and styles, and call this API, and no more. */
export async function documentHeaders(
  html: string,
  allowed: AllowedSources = { scripts: "", styles: "", imagesAndFonts: "" },
): Promise<Record<string, string>> {
  const sources = (...list: string[]) => list.filter(Boolean).join(" ") || "'none'";
  const policy = [
    "default-src 'none'",
    `script-src ${sources(await hashesOf(html, "script"), allowed.scripts)}`,
    `style-src ${sources(await hashesOf(html, "style"), allowed.styles)}`,
    ...(allowed.hasStyleAttributes ? ["style-src-attr 'unsafe-inline'"] : []),
    `img-src ${sources("data:", allowed.imagesAndFonts)}`,
    `font-src ${sources(allowed.imagesAndFonts)}`,
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; ");
  return { "content-security-policy": policy, "cross-origin-opener-policy": "same-origin" };
}

async function hashesOf(html: string, element: "script" | "style"): Promise<string> {
  const texts = [...html.matchAll(new RegExp(`<${element}\\b[^>]*>(.*?)</${element}>`, "gs"))].map(([, text]) => text);
  const digests = texts.map((text) => crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  const hashes = (await Promise.all(digests)).map(
    (digest) => `'sha256-${btoa(String.fromCharCode(...new Uint8Array(digest)))}'`,
  );
  return hashes.join(" ");
}
