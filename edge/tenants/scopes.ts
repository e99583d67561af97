/** What a key's scopes allow: the scope each route needs, and who sees a tenant's own adapters. */
import type { Scope } from "../../shared/contracts/tenants.ts";

/** Holds for the path and everything below it; null: any key. */
const scopeOfPath: Record<string, Scope | null> = {
  "/v1/completions": "completions",
  "/v1/chat/completions": "completions",
  "/v1/embeddings": "embeddings",
  "/v1/adapters": "adapters",
  "/v1/usage": "usage",
  "/v1/tenant": "erase",
  "/v1/assign": null,
  "/v1/centroids": null,
  "/v1/models": null,
};

/** undefined for a path that is not in the table; every route of the app is. */
export function scopeOf(path: string): Scope | null | undefined {
  const known = Object.keys(scopeOfPath).find((prefix) => path === prefix || path.startsWith(`${prefix}/`));
  return known === undefined ? undefined : scopeOfPath[known];
}

/**
 * Whether a key may know that its tenant's own adapters exist: it can make them (`adapters`) or use them (`completions`).
 * For other keys they are unknown models, also on routes that any key may call.
 */
export function seesOwnAdapters(scopes: readonly Scope[]): boolean {
  return scopes.includes("adapters") || scopes.includes("completions");
}
