/** Cloudflare as a deployment uses it, through wrangler's commands. Not here: their order. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { z } from "zod";
import { jsonIn, runWrangler, WranglerError } from "../wrangler.ts";
import type { Environment } from "./environment.ts";

/** Version → percentage of the requests that it answers. */
export type Shares = [version: string, percentage: number][];

export interface Platform {
  /** The ten newest deployments, newest first; empty where the Worker does not exist. */
  deployments(): Promise<Shares[]>;
  /** The newest Durable Object migration that a version was uploaded with; null where there was none. */
  migrationTag(version: string): Promise<string | null>;
  /** Names of the Worker's secrets; empty where the Worker does not exist. */
  secrets(): Promise<string[]>;
  /** Uploads a version that answers no request, and returns its id. Fails where a migration is pending. */
  upload(): Promise<string>;
  /** Sets what answers requests from now on. */
  setShares(shares: Shares): Promise<void>;
  /** Applies migrations, and uploads a version that answers every request at once. Returns its id. */
  deployAll(): Promise<string>;
  /** Lets an earlier version answer every request. */
  rollBack(version: string, reason: string): Promise<void>;
  /** Puts routes and domains in force, which belong to no version. */
  applyRoutes(): Promise<void>;
}

const deploymentsSchema = z.array(
  z.object({
    created_on: z.string(),
    versions: z.array(z.object({ version_id: z.string(), percentage: z.number() })),
  }),
);
const versionSchema = z.object({
  resources: z.object({ script_runtime: z.object({ migration_tag: z.string().nullish() }) }),
});
const secretsSchema = z.array(z.object({ name: z.string() }));
/** Of wrangler's file of events, one JSON object a line. */
const uploadedSchema = z.object({ type: z.enum(["version-upload", "deploy"]), version_id: z.string() });

/** By the platform's codes for a Worker that does not exist, or wrangler's own words for it. */
const isUnknownWorker = (error: unknown) =>
  error instanceof WranglerError && /\[code: (10007|10090)\]|Worker ".*not found\./.test(error.output);

export function wranglerPlatform({ configFile, name, hasContainers }: Environment): Platform {
  const wrangler = (args: string[], variables = {}) =>
    runWrangler(path.dirname(configFile), [...args, "--config", configFile, "--env", name], variables);
  const rollout = hasContainers ? ["--containers-rollout", "gradual"] : [];
  return {
    async deployments() {
      const output = await wrangler(["deployments", "list", "--json"]).catch((error) => {
        if (isUnknownWorker(error)) return "[]";
        throw error;
      });
      return deploymentsSchema
        .parse(JSON.parse(jsonIn(output)))
        .sort((a, b) => Date.parse(b.created_on) - Date.parse(a.created_on))
        .map(({ versions }) => versions.map((one): Shares[number] => [one.version_id, one.percentage]));
    },
    async migrationTag(version) {
      const view = versionSchema.parse(JSON.parse(jsonIn(await wrangler(["versions", "view", version, "--json"]))));
      return view.resources.script_runtime.migration_tag ?? null;
    },
    async secrets() {
      const output = await wrangler(["secret", "list", "--format", "json"]).catch((error) => {
        if (isUnknownWorker(error)) return "[]";
        throw error;
      });
      return secretsSchema.parse(JSON.parse(jsonIn(output))).map(({ name: secret }) => secret);
    },
    upload: () => uploaded((variables) => wrangler(["versions", "upload"], variables)),
    async setShares(shares) {
      const specs = shares.map(([version, percentage]) => `${version}@${percentage}`);
      await wrangler(["versions", "deploy", ...specs, "--yes", "--message", "npm run deploy"]);
    },
    deployAll: () => uploaded((variables) => wrangler(["deploy", ...rollout], variables)),
    async rollBack(version, reason) {
      await wrangler(["rollback", version, "--yes", "--message", reason.slice(0, 100)]);
    },
    async applyRoutes() {
      await wrangler(["triggers", "deploy"]);
    },
  };
}

/** The version's id from the file of events that wrangler is asked to write. */
async function uploaded(run: (variables: Record<string, string>) => Promise<string>): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), "chameleon-deploy-"));
  try {
    const events = path.join(folder, "events.json");
    await run({ WRANGLER_OUTPUT_FILE_PATH: events });
    for (const line of (await readFile(events, "utf8")).trim().split("\n")) {
      const event = uploadedSchema.safeParse(JSON.parse(line));
      if (event.success) return event.data.version_id;
    }
    throw new Error("wrangler uploaded, but named no version; look at `npx wrangler versions list`");
  } finally {
    await rm(folder, { recursive: true });
  }
}
