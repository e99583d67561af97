/**
 * `chameleon publish`: uploads artifacts through the admin API, and switches edge and backends to them. Prints the hash of the served
 * manifest on stdout.
 */
import path from "node:path";
import { InvalidArgumentError, Option } from "commander";
import { createCommand, parsedOptions } from "../../gpu-backend/command-line.ts";
import { readConfig } from "../../gpu-backend/config.ts";
import { previousOf } from "../../shared/artifacts/bucket.ts";
import { artifactFileSchema, switchListSchema, switchReportSchema } from "../../shared/contracts/admin.ts";
import {
  type AdminOptions,
  ApiError,
  adminConnection,
  type Connection,
  withAdminConnection,
} from "../api/connection.ts";
import { type ArtifactSet, readArtifactSet } from "./artifact-set.ts";

const apiPath = "/admin/v1/artifacts";
const say = (line: string) => void process.stderr.write(`${line}\n`);

interface Options extends AdminOptions {
  artifacts?: string;
  list?: boolean;
  rollback?: boolean;
  to?: string;
  otherModel: boolean;
  dryRun: boolean;
}

const others = ["artifacts", "dryRun", "otherModel"];
const program = withAdminConnection(
  createCommand(
    "publish",
    "Publish artifacts: upload them under their hashes, then switch the one pointer to them",
    ["chameleon publish --artifacts ./my-artifacts", "chameleon publish --rollback"],
    `Nothing is switched unless every file is there whole. Edge and backends take a set up within seconds, each once it has it
whole; what was served before stays there, so that --rollback is as quick.`,
  ),
)
  .option("--artifacts <folder>", "what training wrote; artifacts/ of MODEL_DIR, or of the embedded model, unless set")
  .addOption(
    new Option("--list", "list every switch, newest first, and which is served now").conflicts([
      ...others,
      "rollback",
      "to",
    ]),
  )
  .addOption(new Option("--rollback", "serve again what was served before").conflicts([...others, "to"]))
  .addOption(
    new Option("--to <hash>", "serve again the manifest whose hash begins so").conflicts(others).argParser(readPrefix),
  )
  .option("--other-model", "also where the weights are not those of what is served", false)
  .option("--dry-run", "only say what would be uploaded", false);

function readPrefix(text: string): string {
  if (/^[0-9a-f]{4,64}$/.test(text)) return text;
  throw new InvalidArgumentError("must be a manifest's hash, or 4 of its first digits or more");
}

async function run(options: Options): Promise<void> {
  const isRollback = options.rollback || options.to !== undefined;
  // A bad folder is reported even without a server.
  const folder = options.artifacts ?? path.join(readConfig().modelDirectory, "artifacts");
  const set = options.list || isRollback ? null : await readArtifactSet(folder);
  const connection = adminConnection(options);
  if (options.list) return await list(connection, options);
  const { dryRun, json } = options;
  const uploaded = set ? await upload(connection, set, dryRun) : 0;
  const present = set ? set.files.size - uploaded : 0;
  if (dryRun) {
    if (json) process.stdout.write(`${JSON.stringify({ manifest: set!.manifestHash, uploaded, present, dryRun })}\n`);
    return say(`${uploaded} files to upload, ${present} there already; nothing was switched`);
  }
  const body = {
    // The body has a hash instead of "previous", so that a repeated call does not switch back.
    manifest: set?.manifestHash ?? options.to ?? (await previous(connection)),
    other_model: isRollback || options.otherModel,
  };
  const { manifest, before, switched } = await connection.call(switchReportSchema, "POST", apiPath, body);
  const published = { manifest, before, switched, uploaded, present, dryRun };
  process.stdout.write(`${json ? JSON.stringify(published) : manifest}\n`);
  const files = set ? `${uploaded} files uploaded, ${present} there already; ` : "";
  if (switched)
    say(`${files}switched to ${manifest} from ${before ?? "nothing published"}; served once the backends have it`);
  else say(`${files}it is what is served already`);
}

/** Hash of the manifest that was served before; without one, "previous", which the edge refuses with a message. */
async function previous(connection: Connection): Promise<string> {
  const { data: switches } = await connection.call(switchListSchema, "GET", apiPath);
  return previousOf({ switches }) ?? "previous";
}

async function list(connection: Connection, { json }: Options): Promise<void> {
  const { data } = await connection.call(switchListSchema, "GET", apiPath);
  const lines = data.map(({ manifest, at }, i) => `${manifest}  ${at}${i === 0 ? "  served now" : ""}\n`);
  process.stdout.write(json ? `${JSON.stringify(data, null, 2)}\n` : lines.join(""));
  if (data.length === 0) say("nothing was published yet");
}

async function upload(connection: Connection, { files }: ArtifactSet, dryRun: boolean): Promise<number> {
  let uploaded = 0;
  // The manifest comes last. Once it is stored, all its files are stored.
  for (const [name, { sha256, bytes }] of files) {
    const file = `${apiPath}/files/${sha256}`;
    const stored = await connection.call(artifactFileSchema, "GET", file).catch((error) => {
      if (error instanceof ApiError && error.code === "not_found") return null;
      throw error;
    });
    if (stored) continue;
    uploaded++;
    say(`${dryRun ? "would upload" : "uploading"} ${name}, ${bytes.length} bytes, as ${sha256}`);
    if (!dryRun) await connection.call(artifactFileSchema, "PUT", file, bytes);
  }
  return uploaded;
}

await run(parsedOptions<Options>(program));
