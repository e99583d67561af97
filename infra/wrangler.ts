/** wrangler's command line as a child process, quiet and without questions. Not here: what its commands answer. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import path from "node:path";
import { text } from "node:stream/consumers";
import { stripVTControlCharacters } from "node:util";

/** The program of wrangler's package, which the npm package leaves out. */
export function wranglerProgram(): string {
  return path.join(path.dirname(createRequire(import.meta.url).resolve("wrangler")), "../bin/wrangler.js");
}

/** wrangler's environment here: no metrics, no request data fetched from Cloudflare, no banner, no log files. */
export const quietWrangler = {
  WRANGLER_SEND_METRICS: "false",
  WRANGLER_HIDE_BANNER: "true",
  WRANGLER_WRITE_LOGS: "false",
  CLOUDFLARE_CF_FETCH_ENABLED: "false",
  X_LOCAL_OBSERVABILITY: "false",
};

/** What is read of wrangler.toml; wrangler's own type of it is not part of its package. */
export interface WranglerConfig {
  name: string;
  main: string;
  compatibility_date: string;
  compatibility_flags: string[];
  vars: Record<string, string>;
  definedEnvironments?: string[];
  /** Of Durable Objects, oldest first. */
  migrations: { tag: string }[];
  routes?: (string | { pattern: string; custom_domain?: boolean })[];
  assets?: { binding: string; directory: string };
  durable_objects: { bindings: { name: string; class_name: string }[] };
  kv_namespaces: { binding: string; id?: string }[];
  r2_buckets: { binding: string; bucket_name?: string }[];
  containers?: unknown[];
}

/** Reads an environment of a wrangler configuration, its top level unless named. wrangler's module takes 100 MB. */
export async function readWranglerConfig(config: string, env?: string): Promise<WranglerConfig> {
  const { unstable_readConfig } = await import("wrangler");
  return unstable_readConfig({ config, env });
}

/** A command of wrangler that failed. */
export class WranglerError extends Error {
  /** All that it wrote. */
  readonly output: string;

  constructor(message: string, output: string) {
    super(message);
    this.output = output;
  }
}

/**
 * Runs a command in `folder` and returns what it wrote to stdout. It has a process group of its own, so that Ctrl-C does not
 * cut it off half-way through a change. Throws a WranglerError with wrangler's own words.
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
  throw new WranglerError(`wrangler ${command.join(" ")}: ${errorIn(output) || `exit code ${code}`}`, output);
}

/** The error in a command's output, on one line; empty where it wrote nothing. */
export function errorIn(output: string): string {
  // wrangler proposes `--temporary` here, an option of its own that none of our commands has.
  if (/it's necessary to set a CLOUDFLARE_API_TOKEN|You are not authenticated/.test(output)) {
    return "Not logged in: run `npx wrangler login` or set CLOUDFLARE_API_TOKEN.";
  }
  // Without the request to report a bug after it.
  const error = /\[ERROR\]\s*(.*?)\s*(\n\s*If you think this is a bug|\n\S|$)/s.exec(output)?.[1] ?? output.trim();
  return error.replace(/\s+/g, " ");
}

/** The JSON that a command printed, where something else may be said before it. */
export function jsonIn(output: string): string {
  const start = output.search(/[[{]/);
  if (start < 0) throw new Error(`wrangler answered without JSON: ${output.slice(0, 200)}`);
  return output.slice(start);
}
