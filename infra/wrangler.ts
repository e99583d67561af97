/** Runs wrangler as a child process that asks no questions. Not here: what its commands print (deploy/platform.ts). */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import path from "node:path";
import { text } from "node:stream/consumers";
import { stripVTControlCharacters } from "node:util";

/** wrangler's program. The npm package of this project does not depend on it. */
export function wranglerProgram(): string {
  return path.join(path.dirname(createRequire(import.meta.url).resolve("wrangler")), "../bin/wrangler.js");
}

/** Environment in which wrangler sends no metrics, fetches no request data from Cloudflare, and writes no banner and no log files. */
export const quietWrangler = {
  WRANGLER_SEND_METRICS: "false",
  WRANGLER_HIDE_BANNER: "true",
  WRANGLER_WRITE_LOGS: "false",
  CLOUDFLARE_CF_FETCH_ENABLED: "false",
  X_LOCAL_OBSERVABILITY: "false",
};

/** The fields of wrangler.toml that are read here. wrangler exports no type of them. */
export interface WranglerConfig {
  name: string;
  main: string;
  compatibility_date: string;
  compatibility_flags: string[];
  vars: Record<string, string>;
  definedEnvironments?: string[];
  /** Migrations of Durable Objects, oldest first. */
  migrations: { tag: string }[];
  routes?: (string | { pattern: string; custom_domain?: boolean })[];
  assets?: { binding: string; directory: string };
  durable_objects: { bindings: { name: string; class_name: string }[] };
  kv_namespaces: { binding: string; id?: string }[];
  r2_buckets: { binding: string; bucket_name?: string }[];
  containers?: unknown[];
}

/** Reads an environment of a wrangler configuration; its top level if `env` is absent. Loading wrangler takes 100 MB. */
export async function readWranglerConfig(config: string, env?: string): Promise<WranglerConfig> {
  const { unstable_readConfig } = await import("wrangler");
  return unstable_readConfig({ config, env });
}

/**
 * Runs a command in `folder`. Returns its stdout. The command has a process group of its own, so that Ctrl-C does not interrupt it in the
 * middle of a change. Throws an Error with wrangler's message, whose cause is wrangler's whole output.
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

/** The error message in a command's output, on one line. */
export function errorIn(output: string): string {
  // wrangler's own message proposes `--temporary`, an option that no command of ours has.
  if (/it's necessary to set a CLOUDFLARE_API_TOKEN|You are not authenticated/.test(output)) {
    return "Not logged in: run `npx wrangler login` or set CLOUDFLARE_API_TOKEN.";
  }
  // Leaves out the request to report a bug, which follows the message.
  const error = /\[ERROR\]\s*(.*?)\s*(\n\s*If you think this is a bug|\n\S|$)/s.exec(output)?.[1] ?? output.trim();
  return error.replace(/\s+/g, " ");
}

/** The JSON in a command's output, which may begin with other lines. */
export function jsonIn(output: string): string {
  const start = output.search(/[[{]/);
  if (start < 0) throw new Error(`wrangler answered without JSON: ${output.slice(0, 200)}`);
  return output.slice(start);
}
