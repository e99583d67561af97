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

export interface Allowed {
  /** Sources of scripts and styles besides the document's own inline ones. */
  script: string;
  style: string;
  /** Its code is coloured by style attributes, and it has fonts and images of this host. */
  highlighted?: boolean;
}

/** The headers of a document of ours: it may run its own inline scripts and styles, and call this API, and no more. */
export async function documentHeaders(
  html: string,
  also: Allowed = { script: "", style: "" },
): Promise<Record<string, string>> {
  const policy = [
    "default-src 'none'",
    `script-src ${[await hashesOf(html, "script"), also.script].join(" ").trim()}`,
    `style-src ${[await hashesOf(html, "style"), also.style].join(" ").trim()}`,
    ...(also.highlighted
      ? ["style-src-attr 'unsafe-inline'", "font-src 'self'", "img-src 'self' data:"]
      : ["img-src data:"]),
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
  return hashes.join(" ") || "'none'";
}
