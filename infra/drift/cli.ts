/**
 * `npm run drift`: compares how prompts fall on centroids with what training recorded, and says whether to train again.
 * The verdict goes to stdout and into the exit code, all else to stderr.
 */
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { Command, InvalidArgumentError } from "commander";
import { readConfig } from "../../gpu-backend/config.ts";
import { type Manifest, manifestFile, parseManifest } from "../../shared/artifacts/manifest.ts";
import { readSecrets, signatureHeader, signingKey } from "../../shared/contracts/call-signature.ts";
import { type AssignmentReport, assignmentReportSchema } from "../../shared/contracts/inference.ts";
import { emptyProfile } from "../../shared/math/assignment-profile.ts";
import { sha256Hex } from "../../shared/sha256.ts";
import { writeWhole } from "../write-whole.ts";
import { added, type DriftResult, driftOf } from "./drift.ts";
import { verdictText } from "./report.ts";
import { folded, stateSchema, totalOf } from "./state.ts";

const exitCodes: Record<DriftResult["verdict"], number> = { fine: 0, retrain: 2, "too few requests": 3 };
const answerMs = 10_000;
const say = (line: string) => void process.stderr.write(`${line}\n`);

interface Options {
  backend: string[];
  manifest?: string;
  state?: string;
  days: number;
  fewest: number;
  json?: string;
}

const count = (value: string) => {
  const number = Number(value);
  if (!Number.isInteger(number) || number < 1) throw new InvalidArgumentError("must be a whole number of 1 or more");
  return number;
};
const url = (value: string, before: string[] = []) => {
  if (!/^https?:$/.test(URL.parse(value)?.protocol ?? "")) throw new InvalidArgumentError("must be an http(s) URL");
  return [...before, value.replace(/\/+$/, "")];
};

const program = new Command("drift")
  .description("Compare live traffic with what training saw, and say whether to train again")
  .requiredOption("--backend <url>", "a backend to ask; repeatable, and then they are summed", url)
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
  .option("--json <file>", "also write all figures there")
  .addHelpText(
    "after",
    `
Exit code: 0 fine, 2 retrain, 3 too few requests, 1 where it could not be told. Backends count prompts that chose their
centroid by themselves, and show their counts in steps of fifty. BACKEND_SECRETS signs the calls, as the edge does.`,
  );

async function run(options: Options): Promise<DriftResult> {
  const folder = options.manifest ?? path.join(readConfig(process.env, []).modelDirectory, "artifacts");
  const { manifest, manifestHash } = await readManifest(folder);
  const reference = manifest.training?.assignments;
  if (!reference)
    throw new Error(`${folder}: this manifest does not say how training text fell on centroids; train again`);
  const reports = await askAll(options.backend);
  const other = reports.find((report) => report.manifestHash !== manifestHash);
  if (other) throw new Error(`a backend serves the manifest ${other.manifestHash}, ${folder} holds ${manifestHash}`);
  const live = options.state ? await foldedInto(options.state, reports, options.days) : sumOf(reports, manifest);
  const result = driftOf(live, reference, options.fewest);
  if (options.json) await writeJson(options.json, { manifestHash, backends: reports.length, ...result });
  process.stdout.write(`${verdictText(result, manifest)}\n`);
  return result;
}

async function readManifest(folder: string): Promise<{ manifest: Manifest; manifestHash: string }> {
  const bytes = await readFile(path.join(folder, manifestFile));
  return { manifest: parseManifest(bytes.toString("utf8")), manifestHash: await sha256Hex(new Uint8Array(bytes)) };
}

/** Those that answer; throws an Error where none does. */
async function askAll(backends: readonly string[]): Promise<AssignmentReport[]> {
  const asked = await Promise.allSettled(backends.map(ask));
  const reports: AssignmentReport[] = [];
  for (const [i, one] of asked.entries()) {
    if (one.status === "fulfilled") reports.push(one.value);
    else say(`${backends[i]} is left out: ${one.reason instanceof Error ? one.reason.message : one.reason}`);
  }
  if (reports.length === 0) throw new Error("no backend answered");
  // Two addresses of one backend must not count twice.
  return [...new Map(reports.map((report) => [report.run, report])).values()];
}

async function ask(backend: string): Promise<AssignmentReport> {
  const target = new URL(`${backend}/v1/assignments`);
  const response = await fetch(target, {
    headers: await signature(target.pathname),
    signal: AbortSignal.timeout(answerMs),
  });
  if (!response.ok) throw new Error(`it answered ${response.status}`);
  return assignmentReportSchema.parse(await response.json());
}

async function signature(callPath: string): Promise<Record<string, string>> {
  const [secret] = readSecrets(process.env.BACKEND_SECRETS, "BACKEND_SECRETS");
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
  if (parsed?.error) throw new Error(`${file} is not a state of npm run drift; name another file, or take it away`);
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

try {
  program.parse();
  const { verdict } = await run(program.opts<Options>());
  process.exitCode = exitCodes[verdict];
} catch (error) {
  say(`error: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
