/** An environment of wrangler.toml, as a deployment needs it. Not here: what is deployed now. */
import { existsSync } from "node:fs";
import { unstable_readConfig as readWranglerConfig } from "wrangler";
import { isLoopback } from "../../shared/loopback.ts";
import type { WranglerConfig } from "../wrangler.ts";

export interface Environment {
  name: string;
  configFile: string;
  /** The Worker's name on the platform. */
  worker: string;
  /** Tags of its Durable Object migrations, oldest first. */
  migrations: string[];
  /** Where it answers, by its first custom domain; null where it has none. */
  url: string | null;
  hasContainers: boolean;
  /** What the platform makes with its first deployment, and what is to be done with it then. */
  makes: string[];
  /** What must be changed in wrangler.toml before anything can be deployed, one sentence each. */
  problems: string[];
}

/** Throws an Error that names the environments where there is no such one. */
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
    makes: [
      ...config.kv_namespaces
        .filter(({ id }) => !id)
        .map(({ binding }) => {
          return `the KV namespace ${config.name}-${binding.toLowerCase()}`;
        }),
      ...config.r2_buckets.map(({ bucket_name }) => `the R2 bucket ${bucket_name}, unless it is there`),
    ],
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

/** Migrations that a deployment has yet to apply. All of them where `appliedTag` is null or unknown, as wrangler does. */
export function pendingMigrations(migrations: readonly string[], appliedTag: string | null): string[] {
  return migrations.slice(appliedTag === null ? 0 : migrations.indexOf(appliedTag) + 1);
}
