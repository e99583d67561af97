/**
 * `npm run deploy`: deploys this checkout to an environment of wrangler.toml, or rolls back. Prints the id of the version that answers
 * afterwards on stdout.
 */
import path from "node:path";
import { Option } from "commander";
import { createCommand, httpUrl, Interrupted, onStopRequest, parsedOptions } from "../../gpu-backend/command-line.ts";
import { type DeployOptions, deploy, goBack } from "./deploy.ts";
import { readEnvironment } from "./environment.ts";
import { gatesOf } from "./gates.ts";

const root = path.dirname(path.dirname(import.meta.dirname));

interface Options extends DeployOptions {
  env: string;
  rollback: boolean;
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
every request again. The exceptions are a first version, one with containers, and one with a Durable Object migration, over which
the platform does not go back: they have every request at once. The command says so and asks first.`,
)
  .requiredOption("--env <name>", "environment of wrangler.toml: dev, staging, production, containers")
  .option("--dry-run", "pass every gate, and change and ask nothing outside this machine", false)
  .addOption(new Option("--rollback", "let the earlier version answer again").default(false).conflicts("dryRun"))
  .option("--yes", "do not ask", false)
  .option(
    "--url <origin>",
    "where the environment answers; its first custom domain in wrangler.toml unless set",
    httpUrl,
  );

const options = parsedOptions<Options>(program);
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
  : await deploy(environment, options, gatesOf(environment), stop.signal);
if (version !== null) process.stdout.write(`${version}\n`);
