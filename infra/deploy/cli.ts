/**
 * `npm run deploy`: this checkout to an environment of wrangler.toml, or back to what was deployed there before. On stdout the
 * version that answers then, alone; progress goes to stderr.
 */
import path from "node:path";
import { createInterface } from "node:readline/promises";
import { InvalidArgumentError, Option } from "commander";
import {
  count,
  createCommand,
  httpUrl,
  Interrupted,
  onStopRequest,
  parsedOptions,
} from "../../gpu-backend/command-line.ts";
import { remoteStore } from "../publish/s3-store.ts";
import { publishArtifacts } from "./artifacts.ts";
import { type Environment, readEnvironment } from "./environment.ts";
import { gatesOf, passGates, type TestSet, testSets } from "./gates.ts";
import { wranglerPlatform } from "./platform.ts";
import { type RollOutParts, rollBack, rollOut } from "./roll-out.ts";
import { smokeLimits, smokeTest } from "./smoke.ts";

const root = path.dirname(path.dirname(import.meta.dirname));
const say = (line: string) => void process.stderr.write(`${line}\n`);

interface Options {
  env: string;
  dryRun: boolean;
  rollback: boolean;
  yes: boolean;
  tests: TestSet;
  artifacts?: string;
  url?: string;
  share: number;
  watch: number;
}

const program = createCommand(
  "deploy",
  "Deploy this checkout to an environment of wrangler.toml: tests, upload, a test of the new version, then its requests",
  [
    "chameleon deploy --env production --dry-run",
    "chameleon deploy --env production --url https://api.example.com",
    "chameleon deploy --env production --rollback",
  ],
  `Environment:
  CLOUDFLARE_API_TOKEN, CLOUDFLARE_ACCOUNT_ID  where \`wrangler login\` did not set the account
  EDGE_URL   where the environment answers, as --url
  SMOKE_KEY  an API key of that environment; with it the test of a version asks for a completion, too
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY  an R2 token, for --artifacts

No request reaches a version before its test has passed; when anything fails, or after Ctrl-C, the earlier version answers
every request again. The exception is a version with a Durable Object migration: the platform gives it every request at once
and does not go back over a migration. The command says so and asks first.`,
)
  .requiredOption("--env <name>", "environment of wrangler.toml: dev, staging, production, containers")
  .option("--dry-run", "pass every gate, and change and ask nothing outside this machine", false)
  .addOption(
    new Option("--rollback", "let the earlier version answer again").default(false).conflicts(["dryRun", "artifacts"]),
  )
  .option("--yes", "do not ask", false)
  .addOption(
    new Option("--tests <set>", "tests to pass first; passed-in-ci only in CI, after a job that ran all of them")
      .choices(testSets)
      .default("quick"),
  )
  .option("--artifacts <folder>", "publish these artifacts with the deployment, and take them back with it")
  .option(
    "--url <origin>",
    "where the environment answers; its first custom domain in wrangler.toml unless set",
    httpUrl,
  )
  .option("--share <percent>", "of the requests that the new version gets first", share, 10)
  .option("--watch <seconds>", "how long it is tested under that share", count, 60);

function share(text: string): number {
  const percent = count(text);
  if (percent < 100) return percent;
  throw new InvalidArgumentError("must be from 1 to 99");
}

async function deploy(options: Options): Promise<void> {
  const { tests, dryRun, rollback } = options;
  if (tests === "passed-in-ci" && !process.env.CI) {
    throw new InvalidArgumentError("--tests passed-in-ci holds in CI alone, where CI is set; use quick or all");
  }
  const environment = readEnvironment(path.join(root, "wrangler.toml"), options.env);
  const stop = new AbortController();
  onStopRequest(
    () => performance.now(),
    () => {
      say("stopping; the step under way is finished first");
      stop.abort(new Interrupted("stopped"));
    },
  );
  if (rollback) {
    requireAnswers(options);
    const parts = partsOf(environment, null, options, stop.signal);
    if (!(await parts.confirm(`Roll ${environment.worker} back?`))) throw new Interrupted("nothing was changed");
    process.stdout.write(`${await rollBack(parts)}\n`);
    return;
  }
  // All that can be known before the gates, which take minutes.
  const url = options.url ?? (process.env.EDGE_URL ? httpUrl(process.env.EDGE_URL) : environment.url);
  if (!dryRun) {
    requireAnswers(options);
    if (environment.problems.length > 0) throw new Error(`nothing was changed: ${environment.problems.join("; ")}`);
    if (url === null) {
      throw new Error(
        `nothing was changed: it is not known where ${environment.worker} answers, to test it; name it by --url or EDGE_URL, or give [env.${environment.name}] a custom domain in wrangler.toml`,
      );
    }
  }
  const parts = partsOf(environment, url, options, stop.signal);
  await passGates(gatesOf(environment, tests), say, stop.signal);
  if (dryRun) {
    say(
      `every gate passed. Migrations that ${environment.name} would have: ${environment.migrations.join(", ") || "none"}`,
    );
    for (const problem of environment.problems) say(`before a deployment: ${problem}`);
    return;
  }
  const { share: percent, watch } = options;
  const deployed = await rollOut(parts, { share: percent, watchMs: watch * 1000, watchEveryMs: 5000 });
  say(`${deployed.version} answers all requests of ${url}; before: ${deployed.before ?? "nothing"}`);
  process.stdout.write(`${deployed.version}\n`);
}

function partsOf(environment: Environment, url: string | null, options: Options, signal: AbortSignal): RollOutParts {
  const key = process.env.SMOKE_KEY || null;
  if (url !== null && key === null) say("SMOKE_KEY is not set: versions are tested without a completion");
  const { artifacts } = options;
  return {
    environment,
    platform: wranglerPlatform(environment),
    smoke: (version, isPicked, stopped) =>
      smokeTest({ url: url ?? "", worker: environment.worker, version, isPicked, key }, smokeLimits, stopped),
    publish:
      artifacts === undefined
        ? null
        : () => publishArtifacts(remoteStore(process.env, environment.bucket), artifacts, say, () => new Date()),
    say,
    confirm: async (question) => options.yes || (await isConfirmed(question)),
    signal,
  };
}

function requireAnswers({ yes }: Options): void {
  if (!yes && !process.stdin.isTTY)
    throw new InvalidArgumentError("it asks before it changes anything; without a terminal give --yes");
}

async function isConfirmed(question: string): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await terminal.question(`${question} [y/N] `);
  terminal.close();
  return /^y(es)?$/i.test(answer.trim());
}

await deploy(parsedOptions<Options>(program));
