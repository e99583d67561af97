import { existsSync } from "node:fs";
import { unstable_readConfig as readWranglerConfig } from "wrangler";
import { isLoopback } from "../../shared/loopback.ts";
import type { WranglerConfig } from "../wrangler.ts";

export interface Environment {
  name: string;
  configFile: string;
  worker: string;
  /** Oldest first. */
  migrations: string[];
  /** URL of the environment's first custom domain, or null. */
  url: string | null;
  hasContainers: boolean;
  /** Faults of wrangler.toml, one sentence each. */
  problems: string[];
}

export function readEnvironment(configFile: string, name: string): Environment {
  if (!existsSync(configFile)) throw new Error(`${configFile} is missing; deploy from a checkout`);
  const names = (readWranglerConfig({ config: configFile }) as WranglerConfig).definedEnvironments ?? [];
  if (!names.includes(name)) {
    throw new Error(`wrangler.toml has no environment ${name}; it has ${names.join(", ") || "none"}`);
  }
  const config: WranglerConfig = readWranglerConfig({ config: configFile, env: name });
  const domain = (config.routes ?? []).find((route) => typeof route === "object" && route.custom_domain);
  const backendUrls = config.vars.BACKEND_URLS ?? "";
  return {
    name,
    configFile,
    worker: config.name,
    migrations: config.migrations.map(({ tag }) => tag),
    url: typeof domain === "object" ? `https://${domain.pattern}` : null,
    hasContainers: (config.containers ?? []).length > 0,
    problems: problemsOf(name, backendUrls),
  };
}

function problemsOf(name: string, backendUrls: string): string[] {
  const hosts = [...backendUrls.matchAll(/https?:\/\/(\[[^\]]*\]|[^/:,\s]+)/g)].map(([, host]) => host);
  const where = `BACKEND_URLS of [env.${name}.vars] in wrangler.toml`;
  return hosts.flatMap((host) => {
    if (isLoopback(host))
      return [`${where} names ${host}, which Cloudflare cannot reach; set the backends' public addresses`];
    if (!/(^|\.)example\.(com|net|org)$/.test(host)) return [];
    return [
      `${where} is the placeholder ${host}; set the addresses of your backends, or deploy --env containers, which brings its own (infra/docs/deploy.md)`,
    ];
  });
}

/** Returns the migrations after `appliedTag`. Returns all for a tag that is null or unknown, as wrangler does. */
export function pendingMigrations(migrations: readonly string[], appliedTag: string | null): string[] {
  return migrations.slice(appliedTag === null ? 0 : migrations.indexOf(appliedTag) + 1);
}
