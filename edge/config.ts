/** The Worker's bindings as typed values: the only place that reads them. Throws an Error that names the variable. */
import { z } from "zod";
import { hashPattern, idPattern } from "../shared/contracts/inference.ts";
import type { TenantKey } from "./tenants/keys.ts";

export interface Config {
  /** At least one. */
  backendUrls: string[];
  tenantKeys: TenantKey[];
  /** How many micro-batching objects the centroids are spread over. */
  shardCount: number;
}

const tenantKeysSchema = z.array(
  z.strictObject({ hash: z.string().regex(hashPattern), tenant: z.string().regex(idPattern) }),
);

export function readConfig(env: { BACKEND_URLS: string; TENANT_KEYS: string; SHARD_COUNT: string }): Config {
  const backendUrls = env.BACKEND_URLS.split(",").map((url) => url.trim());
  for (const url of backendUrls) {
    if (!/^https?:$/.test(URL.parse(url)?.protocol ?? "")) {
      throw new Error(`BACKEND_URLS holds ${JSON.stringify(url)}; it must be http(s) URLs, separated by commas`);
    }
  }
  const shardCount = Number(env.SHARD_COUNT);
  if (!Number.isInteger(shardCount) || shardCount < 1 || shardCount > 64) {
    throw new Error(`SHARD_COUNT is ${JSON.stringify(env.SHARD_COUNT)}; it must be an integer from 1 to 64`);
  }
  return {
    backendUrls: backendUrls.map((url) => url.replace(/\/+$/, "")),
    tenantKeys: readTenantKeys(env.TENANT_KEYS),
    shardCount,
  };
}

function readTenantKeys(json: string): TenantKey[] {
  try {
    return tenantKeysSchema.parse(JSON.parse(json));
  } catch (error) {
    throw new Error('TENANT_KEYS must be a JSON list of {"hash": SHA-256 of the key, "tenant": id}', { cause: error });
  }
}
