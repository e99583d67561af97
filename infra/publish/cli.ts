/**
 * `npm run publish`: uploads artifacts into the bucket that the edge and its backends read, and switches the pointer to them. Prints
 * the served manifest's hash on stdout, and everything else on stderr.
 */
import path from "node:path";
import { InvalidArgumentError, Option } from "commander";
import { createCommand, parsedOptions } from "../../gpu-backend/command-line.ts";
import { readConfig } from "../../gpu-backend/config.ts";
import { artifactsFolder } from "../local-edge.ts";
import { readWranglerConfig } from "../wrangler.ts";
import { readArtifactSet } from "./artifact-set.ts";
import { listSwitches, type Published, publishSet, rollBack, switchLines } from "./publish.ts";
import type { ObjectStore } from "./store.ts";
import { folderStore, remoteStore } from "./store.ts";

const root = path.dirname(path.dirname(import.meta.dirname));
const binding = "ARTIFACTS";
const say = (line: string) => void process.stderr.write(`${line}\n`);

interface Options {
  artifacts?: string;
  list?: boolean;
  rollback?: boolean;
  to?: string;
  remote?: boolean;
  env?: string;
  endpoint?: string;
  otherModel: boolean;
  dryRun: boolean;
  json?: boolean;
}

const program = createCommand(
  "publish",
  "Publish artifacts: upload them under their hashes, then switch the one pointer to them",
  ["chameleon publish --artifacts ./my-artifacts", "chameleon publish --rollback"],
  `--remote reads AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, an R2 token that may read and write the bucket's objects.
Nothing is switched unless every file reads back whole. Edge and backends take a set up within seconds, each once it
has it whole; what was served before stays there, so that --rollback is as quick.`,
)
  .option("--artifacts <folder>", "what training wrote; artifacts/ of MODEL_DIR, or of the embedded model, unless set")
  .addOption(
    new Option("--list", "list every switch, newest first, and which is served now").conflicts([
      "artifacts",
      "rollback",
      "to",
    ]),
  )
  .addOption(new Option("--rollback", "serve again what was served before").conflicts(["artifacts", "to"]))
  .addOption(
    new Option("--to <hash>", "serve again the manifest whose hash begins so")
      .conflicts("artifacts")
      .argParser(readPrefix),
  )
  .option("--other-model", "also where the weights are not those of what is served", false)
  .option("--dry-run", "only say what would be done", false)
  .option("--remote", "the deployed edge's bucket, over R2's S3 API; the local edge's otherwise")
  .option("--env <name>", "environment of wrangler.toml whose bucket it is; its top level unless set")
  .option("--endpoint <url>", "of the S3 API; https://$CLOUDFLARE_ACCOUNT_ID.r2.cloudflarestorage.com unless set")
  .option("--json", "print JSON");

function readPrefix(text: string): string {
  if (/^[0-9a-f]{4,64}$/.test(text)) return text;
  throw new InvalidArgumentError("must be a manifest's hash, or 4 of its first digits or more");
}

async function storeOf({ remote, env, endpoint }: Options): Promise<ObjectStore> {
  if (!remote) return folderStore(artifactsFolder());
  const { r2_buckets: buckets } = await readWranglerConfig(path.join(root, "wrangler.toml"), env);
  return remoteStore(process.env, buckets.find((one) => one.binding === binding)?.bucket_name, endpoint);
}

async function run(options: Options): Promise<void> {
  if (options.list) {
    const switches = await listSwitches(await storeOf(options));
    if (options.json) process.stdout.write(`${JSON.stringify(switches, null, 2)}\n`);
    else process.stdout.write(switchLines(switches));
    if (switches.length === 0) say("nothing was published yet");
    return;
  }
  const { dryRun, otherModel } = options;
  const isRollback = options.rollback || options.to !== undefined;
  // Read first: a folder that cannot be served needs no store.
  const folder = options.artifacts ?? path.join(readConfig().modelDirectory, "artifacts");
  const set = isRollback ? null : await readArtifactSet(folder);
  const publisher = { store: await storeOf(options), say, now: () => new Date() };
  const published = set
    ? await publishSet(publisher, set, { otherModel, dryRun })
    : await rollBack(publisher, options.to ?? null, dryRun);
  tell(published, options);
}

function tell(published: Published, { json, dryRun }: Options): void {
  const { manifest, before, uploaded, present, switched } = published;
  if (json) process.stdout.write(`${JSON.stringify({ ...published, dryRun })}\n`);
  else if (!dryRun) process.stdout.write(`${manifest}\n`);
  const files = `${uploaded} files ${dryRun ? "to upload" : "uploaded"}, ${present} there already`;
  if (switched) say(`${files}; serves ${manifest} now, ${before ?? "nothing published"} before`);
  else say(`${files}; ${before === manifest ? "it is what is served already" : "nothing was switched"}`);
}

await run(parsedOptions<Options>(program));
