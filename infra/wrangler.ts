/** Runs wrangler as a child process that asks no questions. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import path from "node:path";
import { text } from "node:stream/consumers";
import { stripVTControlCharacters } from "node:util";

/** Resolved only when needed, because the npm package does not depend on wrangler. */
export function wranglerProgram(): string {
  return path.join(path.dirname(createRequire(import.meta.url).resolve("wrangler")), "../bin/wrangler.js");
}

/** Keeps wrangler from sending metrics, fetching request data, and writing a banner and logs. */
export const quietWrangler = {
  WRANGLER_SEND_METRICS: "false",
  WRANGLER_HIDE_BANNER: "true",
  WRANGLER_WRITE_LOGS: "false",
  CLOUDFLARE_CF_FETCH_ENABLED: "false",
  X_LOCAL_OBSERVABILITY: "false",
};

/** The fields that this project uses. wrangler exports no type for them. */
export interface WranglerConfig {
  name: string;
  main: string;
  compatibility_date: string;
  compatibility_flags: string[];
  vars: Record<string, string>;
  definedEnvironments?: string[];
  migrations: { tag: string }[];
  routes?: (string | { pattern: string; custom_domain?: boolean })[];
  assets?: { binding: string; directory: string };
  durable_objects: { bindings: { name: string; class_name: string }[] };
  kv_namespaces: { binding: string; id?: string }[];
  r2_buckets: { binding: string; bucket_name?: string }[];
  containers?: unknown[];
}

/** `env`: absent for the top level. Loading wrangler takes 100 MB. */
export async function readWranglerConfig(config: string, env?: string): Promise<WranglerConfig> {
  const { unstable_readConfig } = await import("wrangler");
  return unstable_readConfig({ config, env });
}

/**
 * Returns the command's stdout. wrangler has a process group of its own, so that Ctrl-C does not interrupt a change. Throws an Error with
 * wrangler's message; its cause is the whole output.
 */
export async function runWrangler(folder: string, args: readonly string[], variables = {}): Promise<string> {
  const child = spawn(process.execPath, [wranglerProgram(), ...args], {
    cwd: folder,
    env: { ...process.env, ...quietWrangler, NO_COLOR: "1", FORCE_COLOR: "0", ...variables },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
  if (code === 0) return stdout;
  const output = stripVTControlCharacters(stderr + stdout);
  const firstOption = args.findIndex((arg) => arg.startsWith("-"));
  const command = args.slice(0, firstOption < 0 ? 3 : Math.min(firstOption, 3));
  throw new Error(`wrangler ${command.join(" ")}: ${errorIn(output) || `exit code ${code}`}`, { cause: output });
}

export function errorIn(output: string): string {
  // wrangler's own message proposes `--temporary`, an option that this project's commands do not have.
  if (/it's necessary to set a CLOUDFLARE_API_TOKEN|You are not authenticated/.test(output)) {
    return "Not logged in: run `npx wrangler login` or set CLOUDFLARE_API_TOKEN.";
  }
  // wrangler's request to report a bug is left out.
  const error = /\[ERROR\]\s*(.*?)\s*(\n\s*If you think this is a bug|\n\S|$)/s.exec(output)?.[1] ?? output.trim();
  return error.replace(/\s+/g, " ");
}

export function jsonIn(output: string): string {
  const start = output.search(/[[{]/);
  if (start < 0) throw new Error(`wrangler answered without JSON: ${output.slice(0, 200)}`);
  return output.slice(start);
}
