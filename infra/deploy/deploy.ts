/**
 * A deployment or a rollback, from the options on: checks that need no time, gates, roll-out. Not here: the command line, and the
 * steps themselves.
 */
import { createInterface } from "node:readline/promises";
import { InvalidArgumentError } from "commander";
import { httpUrl, Interrupted } from "../../gpu-backend/command-line.ts";
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

/** Returns the version that answers then; null after a dry run. Throws an Error that says in which state it left the platform. */
export async function deploy(
  environment: Environment,
  options: DeployOptions,
  gates: readonly Gate[],
  signal: AbortSignal,
): Promise<string | null> {
  // Checked before the gates, which take minutes.
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

/** Returns the version that answers then. */
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
    confirm: async (question) => options.yes || (await isConfirmed(question, signal)),
    signal,
  };
}

/** What a deployment would lack, before the gates, which take minutes; and what only Cloudflare knows. */
function sayMissing({ name, makes }: Environment, problems: string[]): void {
  const account = missingAccount(process.env);
  if (account !== null) problems.unshift(account);
  for (const problem of problems) say(`missing for a deployment: ${problem}`);
  for (const made of makes) say(`made by the first deployment: ${made}`);
  const commands = requiredSecrets.map((secret) => `npx wrangler secret put ${secret} --env ${name}`);
  say(`not checked, as only Cloudflare knows: the Worker's secrets (${commands.join("; ")})`);
}

function requireAnswers({ yes }: DeployOptions): void {
  if (!yes && !process.stdin.isTTY)
    throw new InvalidArgumentError("it asks before it changes anything; without a terminal give --yes");
}

async function isConfirmed(question: string, signal: AbortSignal): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  // A terminal in raw mode sends no signal.
  terminal.on("SIGINT", () => process.kill(process.pid, "SIGINT"));
  try {
    return /^y(es)?$/i.test((await terminal.question(`${question} [y/N] `, { signal })).trim());
  } catch (cause) {
    if (signal.aborted) throw new Interrupted("stopped. Nothing was changed");
    throw cause;
  } finally {
    terminal.close();
  }
}
