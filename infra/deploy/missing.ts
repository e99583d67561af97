/** Checks this machine for what a deployment needs. Makes no request. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { embeddedModel } from "../../gpu-backend/models/embedded.ts";
import type { Environment } from "./environment.ts";

/** Returns how to log in if no login is found, else null. Wrangler may know a login that is not found here. */
export function missingAccount(variables: NodeJS.ProcessEnv): string | null {
  if (variables.CLOUDFLARE_API_TOKEN || isLoggedIn(variables)) return null;
  return "no account: run `npx wrangler login`, or set CLOUDFLARE_API_TOKEN (a token of the template Edit Cloudflare Workers) and CLOUDFLARE_ACCOUNT_ID";
}

export function missingHere({ hasContainers }: Environment, variables: NodeJS.ProcessEnv): string[] {
  const missing: string[] = [];
  const manifest = path.join(variables.MODEL_DIR || embeddedModel, "artifacts/manifest.json");
  if (!existsSync(manifest)) {
    missing.push(`no artifacts: ${manifest} is not there; set MODEL_DIR to a folder that \`npm run train\` wrote`);
  }
  if (hasContainers && spawnSync("docker", ["--version"]).status !== 0) {
    missing.push("no Docker, which builds the containers' image: install it, and start it");
  }
  return missing;
}

/** Newer versions of wrangler keep a login in the user's configuration folder, older ones in ~/.wrangler. */
function isLoggedIn({ XDG_CONFIG_HOME: config = path.join(homedir(), ".config") }: NodeJS.ProcessEnv): boolean {
  const folders = [path.join(homedir(), ".wrangler"), path.join(config, ".wrangler")];
  folders.push(path.join(homedir(), "Library/Preferences/.wrangler"));
  return folders.some((folder) => existsSync(path.join(folder, "config/default.toml")));
}
