/** Calls Cloudflare through wrangler. roll-out.ts decides the order of the calls. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { z } from "zod";
import { jsonIn, runWrangler } from "../wrangler.ts";
import type { Environment } from "./environment.ts";

/** Versions and their percentages of requests. */
export type Shares = [version: string, percentage: number][];

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
const uploadedSchema = z.object({ type: z.enum(["version-upload", "deploy"]), version_id: z.string() });

/** Returns an empty list if the error says that the Worker does not exist. Throws every other error. */
function noneIfUnknown(error: unknown): string {
  if (error instanceof Error && /\[code: (10007|10090)\]|Worker ".*not found\./.test(String(error.cause))) return "[]";
  throw error;
}

export type Platform = ReturnType<typeof wranglerPlatform>;

export function wranglerPlatform({ configFile, name, hasContainers }: Environment) {
  const wrangler = (args: string[], variables = {}) =>
    runWrangler(path.dirname(configFile), [...args, "--config", configFile, "--env", name], variables);
  const rollout = hasContainers ? ["--containers-rollout", "gradual"] : [];
  return {
    async deployments() {
      const output = await wrangler(["deployments", "list", "--json"]).catch(noneIfUnknown);
      return deploymentsSchema
        .parse(JSON.parse(jsonIn(output)))
        .sort((a, b) => Date.parse(b.created_on) - Date.parse(a.created_on))
        .map(({ versions }) => versions.map((one): Shares[number] => [one.version_id, one.percentage]));
    },
    async migrationTag(version: string) {
      const view = versionSchema.parse(JSON.parse(jsonIn(await wrangler(["versions", "view", version, "--json"]))));
      return view.resources.script_runtime.migration_tag ?? null;
    },
    async secrets() {
      const output = await wrangler(["secret", "list", "--format", "json"]).catch(noneIfUnknown);
      return secretsSchema.parse(JSON.parse(jsonIn(output))).map(({ name: secret }) => secret);
    },
    /** Uploads a version that answers no request. Returns the version's id. Fails if a migration is pending. */
    upload: () => uploaded((variables) => wrangler(["versions", "upload"], variables)),
    async setShares(shares: Shares) {
      const specs = shares.map(([version, percentage]) => `${version}@${percentage}`);
      await wrangler(["versions", "deploy", ...specs, "--yes", "--message", "npm run deploy"]);
    },
    /** Applies migrations, and uploads a version that answers every request. Returns the version's id. */
    deployAll: () => uploaded((variables) => wrangler(["deploy", ...rollout], variables)),
    async rollBack(version: string, reason: string) {
      await wrangler(["rollback", version, "--yes", "--message", reason.slice(0, 100)]);
    },
    /** No version includes routes and domains, so a command of their own applies them. */
    async applyRoutes() {
      await wrangler(["triggers", "deploy"]);
    },
  };
}

/** Reads the uploaded version's id from wrangler's file of events. */
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
