/** The order of a deployment: upload a version, test it, give it all requests. Rolls back if a step fails. */
import { Interrupted } from "../../gpu-backend/command-line.ts";
import { type Environment, pendingMigrations } from "./environment.ts";
import type { Platform, Shares } from "./platform.ts";

/** Rejects if the version does not work. `isPicked`: requests select the version by a header. */
export type Smoke = (version: string, isPicked: boolean, signal: AbortSignal) => Promise<void>;

export interface RollOutParts {
  environment: Environment;
  platform: Platform;
  smoke: Smoke;
  say(line: string): void;
  confirm(question: string): Promise<boolean>;
  signal: AbortSignal;
}

export const requiredSecrets = ["BACKEND_SECRETS"];

/** Returns the new version. Throws an Error that tells what failed and which version answers now. */
export async function rollOut(parts: RollOutParts): Promise<string> {
  const { environment, platform, smoke, say, signal } = parts;
  const before = stableVersion(environment, (await platform.deployments())[0] ?? null);
  await checkSecrets(parts);
  const pending = pendingMigrations(environment.migrations, before && (await platform.migrationTag(before)));
  say(`deployed now: ${before ?? "nothing"}; migrations to apply: ${pending.join(", ") || "none"}`);
  // In these cases the earlier version cannot answer while the new one is tested.
  const isAtOnce = before === null || pending.length > 0 || environment.hasContainers;
  const warning = isAtOnce ? " The new version answers all requests at once, before its test." : "";
  const migrations =
    pending.length > 0 ? ` It applies ${pending.join(", ")}: the platform does not go back over a migration.` : "";
  if (!(await parts.confirm(`Deploy ${environment.worker} to ${environment.name}?${warning}${migrations}`)))
    throw new Interrupted("not deployed. Nothing was changed");
  if (signal.aborted) throw new Interrupted("stopped. Nothing was changed");
  say("uploading");
  const version = isAtOnce ? await platform.deployAll() : await platform.upload();
  try {
    if (!isAtOnce) {
      say(`testing ${version} before it has requests`);
      await platform.setShares([
        [before, 100],
        [version, 0],
      ]);
      await smoke(version, true, signal);
      await platform.setShares([[version, 100]]);
    }
    await smoke(version, false, signal);
  } catch (error) {
    throw await restored(parts, before, version, error);
  }
  say(`${version} answers all requests; before: ${before ?? "nothing"}`);
  if (!isAtOnce) await platform.applyRoutes();
  return version;
}

export async function rollBack({ environment, platform, say }: RollOutParts): Promise<string> {
  const deployments = await platform.deployments();
  const target = versionBefore(deployments);
  if (!target)
    throw new Error(`${environment.worker} has no earlier version among its last ${deployments.length} deployments`);
  say(`rolling back to ${target}`);
  await platform.rollBack(target, "npm run deploy -- --rollback");
  return target;
}

/**
 * Returns the version that answered all requests before the current one. After an unfinished deployment, returns the last one that answered
 * all. Skips versions that were rolled back since. `deployments`: newest first.
 */
function versionBefore(deployments: readonly Shares[]): string | null {
  const whole = deployments.map(wholeVersion);
  const current = whole[0] ?? null;
  const firstWithIt = deployments.findLastIndex((shares) => shares.some(([version]) => version === current));
  const earlier = current === null ? whole : whole.slice(firstWithIt);
  return earlier.find((version) => version !== null && version !== current) ?? null;
}

/** Rolls back to `before`. Returns an Error that tells why, and which version answers now. */
async function restored(
  { environment, platform, say, signal }: RollOutParts,
  before: string | null,
  version: string,
  error: unknown,
): Promise<Error> {
  if (before === null) {
    return new Error(
      `${messageOf(error)}\n${version} is the first version of ${environment.worker}, so there is none to go back to: it answers all requests. ` +
        `Mend the cause and deploy again, or remove the Worker: npx wrangler delete --env ${environment.name}`,
      { cause: error },
    );
  }
  say(`rolling back to ${before}`);
  try {
    await platform.rollBack(before, `${version} failed`);
  } catch (cause) {
    return new Error(
      `${messageOf(error)}\nThe platform refused to go back to ${before}: ${messageOf(cause)}. It never goes back over a Durable Object migration. ` +
        `${version} may still answer requests: \`npx wrangler deployments status --env ${environment.name}\` shows it. Mend the cause and deploy again`,
      { cause: error },
    );
  }
  const state = `Rolled back: ${before} answers all requests, as before`;
  if (signal.aborted) return new Interrupted(`stopped. ${state}`);
  return new Error(`${messageOf(error)}\n${state}`, { cause: error });
}

export async function checkSecrets({ environment: { name }, platform }: RollOutParts): Promise<void> {
  const present = await platform.secrets();
  const missing = requiredSecrets.filter((secret) => !present.includes(secret));
  if (missing.length === 0) return;
  const commands = missing.map((secret) => `npx wrangler secret put ${secret} --env ${name}`);
  const advice = `Set them: ${commands.join("; ")}`;
  throw new Error(`nothing was changed: these secrets are missing: ${missing.join(", ")}. ${advice}`);
}

function stableVersion({ name }: Environment, shares: Shares | null): string | null {
  const whole = shares && wholeVersion(shares);
  if (whole !== null || shares === null) return whole;
  const now = shares.map(([version, percentage]) => `${version} ${percentage} %`).join(", ");
  throw new Error(
    `nothing was changed: an earlier deployment was left half-way (${now}). Finish it: npx wrangler versions deploy --env ${name}; or go back: npm run deploy -- --env ${name} --rollback`,
  );
}

function wholeVersion(shares: Shares): string | null {
  return shares.find(([, percentage]) => percentage === 100)?.[0] ?? null;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
