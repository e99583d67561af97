/**
 * `npm run drift`: compares how prompts fall on centroids with what training recorded, and says whether to train again.
 * The verdict goes to stdout and into the exit code, all else to stderr.
 */
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { count, createCommand, httpUrl, parsedOptions } from "../../gpu-backend/command-line.ts";
import { readConfig } from "../../gpu-backend/config.ts";
import { objectName } from "../../shared/artifacts/bucket.ts";
import { type Manifest, manifestFile, parseManifest } from "../../shared/artifacts/manifest.ts";
import { readSecrets, signatureHeader, signingKey } from "../../shared/contracts/call-signature.ts";
import { type AssignmentReport, assignmentReportSchema } from "../../shared/contracts/inference.ts";
import { emptyProfile } from "../../shared/math/assignment-profile.ts";
import { sha256Hex } from "../../shared/sha256.ts";
import { artifactsFolder, stateFolder } from "../local-edge.ts";
import { readLocalRun } from "../local-run.ts";
import { writeWhole } from "../write-whole.ts";
import { added, type DriftResult, driftOf } from "./drift.ts";
import { verdictText } from "./report.ts";
import { folded, stateSchema, totalOf } from "./state.ts";

const verdictCodes: Record<DriftResult["verdict"], number> = { fine: 0, retrain: 3, "too few requests": 4 };
const answerMs = 10_000;
const say = (line: string) => void process.stderr.write(`${line}\n`);

interface Options {
  backend?: string[];
  manifest?: string;
  state?: string;
  days: number;
  fewest: number;
  json?: string | true;
}

const program = createCommand(
  "drift",
  "Compare live traffic with what training saw, and say whether to train again",
  ["chameleon drift", "chameleon drift --backend https://backend.example.com --state drift.json"],
  `Exit code: 0 fine, 3 retrain, 4 too few requests, 1 where it could not be told. Backends count prompts that chose their
centroid by themselves, and show their counts in steps of fifty. BACKEND_SECRETS signs the calls, as the edge does; for the
backends of a local start nothing need be set.`,
)
  .option(
    "--backend <url>",
    "a backend to ask; repeatable, and then they are summed; those of the local start unless set",
    (url, before: string[] = []) => [...before, httpUrl(url)],
  )
  .option(
    "--manifest <folder>",
    "artifacts that are served; artifacts/ of MODEL_DIR, or of the embedded model, unless set",
  )
  .option(
    "--state <file>",
    "adds up what came since the last time, over restarts of the backends; without it, what they hold",
  )
  .option("--days <n>", "days that the state file keeps", count, 7)
  .option("--fewest <n>", "prompts below which nothing is said", count, 500)
  .option("--json [file]", "print all figures as JSON, or write them to a file besides");

async function run(options: Options): Promise<DriftResult> {
  const local = options.backend ? null : readLocalRun(stateFolder());
  const backends = options.backend ?? local?.backends;
  if (!backends) throw new Error("no local start is running; name the backends with --backend");
  const modelDirectory = local?.modelDirectory ?? readConfig().modelDirectory;
  const reports = await askAll(backends, process.env.BACKEND_SECRETS || local?.backendSecrets);
  const published = path.join(artifactsFolder(), objectName(reports[0].manifestHash));
  // What was published to a local start comes before the model's own.
  const isPublished = local !== null && !options.manifest && existsSync(published);
  const folder = options.manifest ?? path.join(modelDirectory, "artifacts");
  const { manifest, manifestHash } = await readManifest(isPublished ? published : path.join(folder, manifestFile));
  const reference = manifest.training?.assignments;
  if (!reference)
    throw new Error(`${folder}: this manifest does not say how training text fell on centroids; train again`);
  const other = reports.find((report) => report.manifestHash !== manifestHash);
  if (other) throw new Error(`a backend serves the manifest ${other.manifestHash}, ${folder} holds ${manifestHash}`);
  const live = options.state ? await foldedInto(options.state, reports, options.days) : sumOf(reports, manifest);
  const result = driftOf(live, reference, options.fewest);
  const figures = { manifestHash, backends: reports.length, ...result };
  if (options.json === true) process.stdout.write(`${JSON.stringify(figures)}\n`);
  else process.stdout.write(`${verdictText(result, manifest)}\n`);
  if (typeof options.json === "string") await writeJson(options.json, figures);
  return result;
}

async function readManifest(file: string): Promise<{ manifest: Manifest; manifestHash: string }> {
  const bytes = await readFile(file);
  return { manifest: parseManifest(bytes.toString("utf8")), manifestHash: await sha256Hex(new Uint8Array(bytes)) };
}

/** Those that answer; throws an Error where none does. */
async function askAll(backends: readonly string[], secrets: string | undefined): Promise<AssignmentReport[]> {
  const asked = await Promise.allSettled(backends.map((backend) => ask(backend, secrets)));
  const reports: AssignmentReport[] = [];
  for (const [i, one] of asked.entries()) {
    if (one.status === "fulfilled") reports.push(one.value);
    else say(`${backends[i]} is left out: ${one.reason instanceof Error ? one.reason.message : one.reason}`);
  }
  if (reports.length === 0) throw new Error("no backend answered");
  // Two addresses of one backend must not count twice.
  return [...new Map(reports.map((report) => [report.run, report])).values()];
}

async function ask(backend: string, secrets: string | undefined): Promise<AssignmentReport> {
  const target = new URL(`${backend}/v1/assignments`);
  const response = await fetch(target, {
    headers: await signature(target.pathname, secrets),
    signal: AbortSignal.timeout(answerMs),
  });
  if (!response.ok) throw new Error(`it answered ${response.status}`);
  return assignmentReportSchema.parse(await response.json());
}

async function signature(callPath: string, secrets: string | undefined): Promise<Record<string, string>> {
  const [secret] = readSecrets(secrets, "BACKEND_SECRETS");
  if (secret === undefined) return {};
  const call = { method: "GET", path: callPath, body: new Uint8Array(), timeMs: Date.now() };
  const nonce = randomBytes(16).toString("hex");
  return { authorization: await signatureHeader(await signingKey(secret), { ...call, nonce }) };
}

function sumOf(reports: readonly AssignmentReport[], { centroids }: Manifest) {
  return reports.map(({ classes }) => classes).reduce(added, emptyProfile(centroids.length));
}

async function foldedInto(file: string, reports: readonly AssignmentReport[], days: number) {
  const text = await readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  const parsed = text === null ? null : stateSchema.safeParse(JSON.parse(text));
  if (parsed?.error) throw new Error(`${file} is not a state of chameleon drift; name another file, or take it away`);
  const before = parsed?.data ?? null;
  if (before && before.manifestHash !== reports[0].manifestHash)
    say("another manifest is served now: counting begins anew");
  const state = folded(before, reports, new Date().toISOString().slice(0, 10), days);
  await writeJson(file, state);
  return totalOf(state);
}

function writeJson(file: string, content: unknown): Promise<boolean> {
  return writeWhole(file, Buffer.from(`${JSON.stringify(content, null, 2)}\n`));
}

const { verdict } = await run(parsedOptions<Options>(program));
process.exitCode = verdictCodes[verdict];
