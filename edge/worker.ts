/** The Worker's entry: bindings → dependencies. Everything else is app.ts. */
import { env, waitUntil } from "cloudflare:workers";
import { ServiceError } from "../shared/errors.ts";
import { createApp } from "./app.ts";
import { loadArtifacts, loadOnce } from "./assign/artifacts.ts";
import { BackendClient } from "./backend/client.ts";
import { createShardDispatch } from "./batching/shard.ts";
import { readConfig } from "./config.ts";
import { createKeyStore } from "./tenants/keys.ts";

export { Shard } from "./batching/shard.ts";

const config = readConfig(env);

const artifacts = loadOnce(async () => {
  const loading = loadArtifacts(readAsset);
  // Others wait for this promise: it must outlive the request that began it.
  waitUntil(loading.then(ignore, ignore));
  try {
    return await loading;
  } catch (cause) {
    throw new ServiceError("backend_unavailable", "The model's tables are not available at the edge.", {
      retryAfterSeconds: 2,
      cause,
    });
  }
});

const app = createApp({
  artifacts,
  keys: createKeyStore(config.tenantKeys),
  dispatch: createShardDispatch(env.SHARDS, config.shardCount, artifacts),
  readiness: () => new BackendClient(config.backendUrls[0]).readiness(),
  page: (request) => env.ASSETS.fetch(request),
  now: () => Date.now(),
  newId: () => crypto.randomUUID().replaceAll("-", ""),
  randomSeed: () => crypto.getRandomValues(new Uint32Array(1))[0],
  log: (requestId, error) => {
    const cause = error.cause instanceof Error ? (error.cause.stack ?? error.cause.message) : error.cause;
    console.error(JSON.stringify({ requestId, kind: error.kind, message: error.message, cause }));
  },
  heartbeatMs: 500,
});

export default app;

async function readAsset(name: string): Promise<Uint8Array> {
  const response = await env.ASSETS.fetch(`https://assets/artifacts/${name}`);
  if (!response.ok) throw new Error(`the asset artifacts/${name} answered ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

function ignore(): void {}
