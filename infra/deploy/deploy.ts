/** Runs a deployment: quick checks, gates (gates.ts), roll-out (roll-out.ts). Also runs a rollback. */
import { InvalidArgumentError } from "commander";
import { httpUrl, Interrupted } from "../../gpu-backend/command-line.ts";
import { isConfirmed } from "../confirm.ts";
import type { Environment } from "./environment.ts";
import { type Gate, passGates } from "./gates.ts";
import { missingAccount, missingHere } from "./missing.ts";
import { wranglerPlatform } from "./platform.ts";
import { checkSecrets, type RollOutParts, requiredSecrets, rollBack, rollOut } from "./roll-out.ts";
import { smokeLimits, smokeTest } from "./smoke.ts";

const say = (line: string) => void process.stderr.write(`${line}\n`);

export interface DeployOptions {
  dryRun: boolean;
  yes: boolean;
  url?: string;
}

/** Returns the deployed version's id; null after a dry run. Throws an Error that tells which version answers now. */
export async function deploy(
  environment: Environment,
  options: DeployOptions,
  gates: readonly Gate[],
  signal: AbortSignal,
): Promise<string | null> {
  // The gates take minutes, so these quick checks come first.
  const url = options.url ?? (process.env.EDGE_URL ? httpUrl(process.env.EDGE_URL) : environment.url);
  const problems = [...environment.problems, ...missingHere(environment, process.env)];
  if (url === null) {
    problems.push(
      `it is not known where ${environment.worker} answers, to test it; name it by --url or EDGE_URL, or give [env.${environment.name}] a custom domain in wrangler.toml`,
    );
  }
  if (!options.dryRun) {
    requireAnswers(options);
    if (problems.length > 0) throw new Error(`nothing was changed: ${problems.join("; ")}`);
  }
  const parts = partsOf(environment, url, options, signal);
  if (options.dryRun) sayMissing(environment, problems);
  else await checkSecrets(parts);
  await passGates(gates, say, signal);
  if (options.dryRun) {
    say(`every gate passed. Migrations of ${environment.name}: ${environment.migrations.join(", ") || "none"}`);
    if (problems.length > 0) say(`missing for a deployment, as told above: ${problems.length}`);
    return null;
  }
  return await rollOut(parts);
}

export async function goBack(environment: Environment, options: DeployOptions, signal: AbortSignal): Promise<string> {
  requireAnswers(options);
  const parts = partsOf(environment, null, options, signal);
  if (await parts.confirm(`Roll ${environment.worker} back?`)) return await rollBack(parts);
  throw new Interrupted("nothing was changed");
}

function partsOf(
  environment: Environment,
  url: string | null,
  options: DeployOptions,
  signal: AbortSignal,
): RollOutParts {
  const key = process.env.SMOKE_KEY || null;
  if (url !== null && key === null) say("SMOKE_KEY is not set: versions are tested without a completion");
  return {
    environment,
    platform: wranglerPlatform(environment),
    smoke: (version, isPicked, stopped) =>
      smokeTest({ url: url ?? "", worker: environment.worker, version, isPicked, key }, smokeLimits, stopped),
    say,
    async confirm(question) {
      if (options.yes) return true;
      return await isConfirmed(question, signal).catch((cause) => {
        throw signal.aborted ? new Interrupted("stopped. Nothing was changed") : cause;
      });
    },
    signal,
  };
}

/** Also prints how to set secrets, because only Cloudflare knows which secrets are set. */
function sayMissing({ name }: Environment, problems: string[]): void {
  const account = missingAccount(process.env);
  if (account !== null) problems.unshift(account);
  for (const problem of problems) say(`missing for a deployment: ${problem}`);
  const commands = requiredSecrets.map((secret) => `npx wrangler secret put ${secret} --env ${name}`);
  say(`not checked, as only Cloudflare knows: the Worker's secrets (${commands.join("; ")})`);
}

function requireAnswers({ yes }: DeployOptions): void {
  if (!yes && !process.stdin.isTTY)
    throw new InvalidArgumentError("it asks before it changes anything; without a terminal give --yes");
}
