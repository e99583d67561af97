import type { Environment } from "../../infra/deploy/environment.ts";

/** An environment of wrangler.toml that can be deployed to, for tests that give a platform in memory or none. */
export const production: Environment = {
  name: "production",
  configFile: "wrangler.toml",
  worker: "edge-production",
  migrations: ["v1", "v2"],
  url: null,
  hasContainers: false,
  problems: [],
};
