/** Which scope a key needs for which route: the one table. A route with null takes any key. */
import type { Scope } from "../../shared/contracts/tenants.ts";

/** Each holds for the path and all below it. */
const scopeOfPath: Record<string, Scope | null> = {
  "/v1/completions": "completions",
  "/v1/chat/completions": "completions",
  "/v1/embeddings": "embeddings",
  "/v1/adapters": "adapters",
  "/v1/usage": "usage",
  "/v1/assign": null,
  "/v1/centroids": null,
  "/v1/models": null,
};

/** undefined for a path that the table does not know, which no route may have. */
export function scopeOf(path: string): Scope | null | undefined {
  const known = Object.keys(scopeOfPath).find((prefix) => path === prefix || path.startsWith(`${prefix}/`));
  return known === undefined ? undefined : scopeOfPath[known];
}
