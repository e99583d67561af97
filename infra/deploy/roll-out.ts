/**
 * The order of a deployment: upload, test the new version, give it a share of the requests, then all of them; roll back when
 * anything fails or the caller stops it. Not here: gates (gates.ts), wrangler (platform.ts).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Interrupted } from "../../gpu-backend/command-line.ts";
import { type Environment, pendingMigrations } from "./environment.ts";
import type { Platform, Shares } from "./platform.ts";

/** Tests a version of the edge; rejects if it does not work. `isPicked`: selects the version by a header. */
export type Smoke = (version: string, isPicked: boolean, signal: AbortSignal) => Promise<void>;

export interface RollOutParts {
  environment: Environment;
  platform: Platform;
  smoke: Smoke;
  /** Called with one line for each step. */
  say(line: string): void;
  /** Asks the user; false: do not deploy. */
  confirm(question: string): Promise<boolean>;
  /** Aborted when the user stops the deployment. */
  signal: AbortSignal;
}

export interface RollOutLimits {
  /** Percentage of the requests that the new version gets first. */
  share: number;
  /** How long it is tested under that share, in milliseconds. */
  watchMs: number;
  /** Interval of the tests meanwhile, in milliseconds. */
  watchEveryMs: number;
}

export const rollOutLimits: RollOutLimits = { share: 10, watchMs: 60_000, watchEveryMs: 5000 };

/** Names of secrets that every environment must have. */
export const requiredSecrets = ["BACKEND_SECRETS"];

export interface Deployed {
  version: string;
  /** What answered before; null where nothing was deployed. */
  before: string | null;
}

/** Deploys. Throws an Error that says what failed, and in which state it left the platform. */
export async function rollOut(parts: RollOutParts, limits: RollOutLimits): Promise<Deployed> {
  const { environment, platform, say, signal } = parts;
  const before = stableVersion(environment, (await platform.deployments())[0] ?? null);
  await checkSecrets(parts);
  const pending = pendingMigrations(environment.migrations, before && (await platform.migrationTag(before)));
  // Images are rolled out by a whole deployment alone.
  const isGradual = before !== null && pending.length === 0 && !environment.hasContainers;
  say(`deployed now: ${before ?? "nothing"}; migrations to apply: ${pending.join(", ") || "none"}`);
  if (!(await parts.confirm(questionOf(environment, before, pending))))
    throw new Interrupted("not deployed. Nothing was changed");
  if (signal.aborted) throw new Interrupted("stopped. Nothing was changed");
  if (isGradual) return { version: await rollOutGradually(parts, limits, before), before };
  return { version: await rollOutAtOnce(parts, before, pending), before };
}

/** Restores the version that answered every request before, and returns it. */
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
 * The version that had every request before the current one was deployed; half-way through a deployment, the last that had.
 * Not simply the last other one: a version that failed with every request is among the newest, too. `deployments`: newest first.
 */
function versionBefore(deployments: readonly Shares[]): string | null {
  const whole = deployments.map(wholeVersion);
  const current = whole[0] ?? null;
  const firstWithIt = deployments.findLastIndex((shares) => shares.some(([version]) => version === current));
  const earlier = current === null ? whole : whole.slice(firstWithIt);
  return earlier.find((version) => version !== null && version !== current) ?? null;
}

/** No request reaches the new version before its test has passed. */
async function rollOutGradually(parts: RollOutParts, limits: RollOutLimits, before: string): Promise<string> {
  const { environment, platform, smoke, say, signal } = parts;
  say("uploading a version that answers no request yet");
  const version = await platform.upload();
  if (signal.aborted)
    throw new Interrupted(`stopped. ${version} was uploaded and answers no request; nothing else changed`);
  try {
    say(`testing ${version} at 0 % of the requests`);
    await platform.setShares([
      [before, 100],
      [version, 0],
    ]);
    await smoke(version, true, signal);
    say(`${limits.share} % of the requests go to ${version}, tested for ${limits.watchMs / 1000} s`);
    await platform.setShares([
      [before, 100 - limits.share],
      [version, limits.share],
    ]);
    await watch(parts, limits, version);
    say(`all requests go to ${version}`);
    await platform.setShares([[version, 100]]);
    await smoke(version, false, signal);
  } catch (error) {
    throw await restored(parts, before, version, error);
  }
  await platform.applyRoutes().catch((cause) => {
    const again = `npx wrangler triggers deploy --env ${environment.name}`;
    throw new Error(
      `${version} answers all requests, but its routes were not applied: ${messageOf(cause)}; then run: ${again}`,
      { cause },
    );
  });
  return version;
}

/** For migrations, containers and a first deployment: the platform cannot divide requests between such versions. */
async function rollOutAtOnce(parts: RollOutParts, before: string | null, pending: string[]): Promise<string> {
  const { environment, platform, smoke, say, signal } = parts;
  say(`uploading a version for all requests at once${pending.length > 0 ? `, with ${pending.join(", ")}` : ""}`);
  const version = await platform.deployAll();
  try {
    await smoke(version, false, signal);
    return version;
  } catch (error) {
    if (before !== null) throw await restored(parts, before, version, error);
    throw new Error(
      `${messageOf(error)}\n${version} is the first version of ${environment.worker}, so there is none to go back to: it answers all requests. ` +
        `Mend the cause and deploy again, or remove the Worker: npx wrangler delete --env ${environment.name}`,
      { cause: error },
    );
  }
}

/** Tests the new version until `watchMs` have passed, once at least. */
async function watch({ smoke, signal }: RollOutParts, limits: RollOutLimits, version: string): Promise<void> {
  const endMs = performance.now() + limits.watchMs;
  do {
    await smoke(version, true, signal);
    await sleep(Math.max(0, Math.min(limits.watchEveryMs, endMs - performance.now())), undefined, { signal });
  } while (performance.now() < endMs);
}

/** Rolls back to `before`, and returns the error with the reason and the outcome. */
async function restored(parts: RollOutParts, before: string, version: string, error: unknown): Promise<Error> {
  const { environment, platform, say, signal } = parts;
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

/** Throws an Error that names the secrets that the Worker lacks. */
export async function checkSecrets({ environment: { name }, platform }: RollOutParts): Promise<void> {
  const present = await platform.secrets();
  const missing = requiredSecrets.filter((secret) => !present.includes(secret));
  if (missing.length === 0) return;
  const commands = missing.map((secret) => `npx wrangler secret put ${secret} --env ${name}`);
  throw new Error(
    `nothing was changed: these secrets are missing: ${missing.join(", ")}. Set them: ${commands.join("; ")}`,
  );
}

/** The version that answers every request; null where nothing is deployed. Throws an Error where two share them. */
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

function questionOf({ name, worker, hasContainers }: Environment, before: string | null, pending: string[]): string {
  const warning =
    before === null
      ? " It is the first deployment: the new version answers all requests at once."
      : pending.length > 0
        ? ` It applies ${pending.join(", ")}: the new version answers all requests at once, and the platform does not go back over a migration.`
        : hasContainers
          ? " It rolls containers out, too: the new version answers all requests at once, and going back leaves the containers' image as it is."
          : "";
  return `Deploy ${worker} to ${name}?${warning}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
