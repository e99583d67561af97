/**
 * `npm run deploy`: deploys this checkout to an environment of wrangler.toml, or rolls back there. Prints the version that answers
 * then on stdout, and progress on stderr.
 */
import path from "node:path";
import { InvalidArgumentError, Option } from "commander";
import { createCommand, httpUrl, Interrupted, onStopRequest, parsedOptions } from "../../gpu-backend/command-line.ts";
import { type DeployOptions, deploy, goBack } from "./deploy.ts";
import { readEnvironment } from "./environment.ts";
import { gatesOf, type TestSet, testSets } from "./gates.ts";

const root = path.dirname(path.dirname(import.meta.dirname));

interface Options extends DeployOptions {
  env: string;
  rollback: boolean;
  tests: TestSet;
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

No request reaches a version before its test has passed; when anything fails, or after Ctrl-C, the earlier version answers
every request again. The exception is a version with a Durable Object migration: the platform gives it every request at once
and does not go back over a migration. The command says so and asks first.`,
)
  .requiredOption("--env <name>", "environment of wrangler.toml: dev, staging, production, containers")
  .option("--dry-run", "pass every gate, and change and ask nothing outside this machine", false)
  .addOption(new Option("--rollback", "let the earlier version answer again").default(false).conflicts("dryRun"))
  .option("--yes", "do not ask", false)
  .addOption(
    new Option("--tests <set>", "tests to pass first; passed-in-ci only in CI, after a job that ran all of them")
      .choices(testSets)
      .default("quick"),
  )
  .option(
    "--url <origin>",
    "where the environment answers; its first custom domain in wrangler.toml unless set",
    httpUrl,
  );

const options = parsedOptions<Options>(program);
if (options.tests === "passed-in-ci" && !process.env.CI) {
  throw new InvalidArgumentError("--tests passed-in-ci holds in CI alone, where CI is set; use quick or all");
}
const environment = readEnvironment(path.join(root, "wrangler.toml"), options.env);
const stop = new AbortController();
onStopRequest(
  () => performance.now(),
  () => {
    process.stderr.write("stopping; the step under way is finished first\n");
    stop.abort(new Interrupted("stopped"));
  },
);
const version = options.rollback
  ? await goBack(environment, options, stop.signal)
  : await deploy(environment, options, gatesOf(environment, options.tests), stop.signal);
if (version !== null) process.stdout.write(`${version}\n`);
