/**
 * Measures the edge's CPU per request inside workerd, and the time that it adds to a first token, beside Portkey's gateway. With --against:
 * first tokens of this edge and another checkout's. Edges run in a bare workerd, because wrangler's development server adds milliseconds.
 * Run: npm run bench:edge -- --help
 */
import { readFile, writeFile } from "node:fs/promises";
import { cpus, loadavg, totalmem } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { InvalidArgumentError } from "commander";
import { loadArtifacts } from "../../../edge/artifacts/artifacts.ts";
import { batchesOf, planCompletion } from "../../../edge/plan/plan.ts";
import { count, createCommand, parsedOptions } from "../../../gpu-backend/command-line.ts";
import { prepareBareEdge } from "../../../infra/workerd/edge.ts";
import { createSigner } from "../../../shared/contracts/call-signature.ts";
import { completionRequestSchema } from "../../../shared/contracts/openai.ts";
import { startBackend } from "../../support/backend-process.ts";
import { quickEngine, startFakeBackend } from "../../support/fake-backend.ts";
import { read, root } from "../../support/project.ts";
import { pinsOf } from "../peer-package.ts";
import { type Bodies, edgeCpuLine, measureCapacity, streamsLine } from "./capacity.ts";
import { measureCpu } from "./cpu.ts";
import { compareEdges, edgesLine, laterLines } from "./edges.ts";
import {
  type Arrivals,
  completionsWay,
  directWay,
  type FirstTokenRow,
  measureFirstTokens,
  type Way,
  warmUp,
} from "./first-token.ts";
import { portkeyWays } from "./portkey/contestant.ts";
import { added, addedLine, cpuLine, firstTokenLine, losingLines, targets } from "./report.ts";
import { benchTexts } from "./texts.ts";

const portkeyFolder = path.join(import.meta.dirname, "portkey");
const key = "sk-chameleon-bench";
const BACKEND_SECRETS = "bench-0123456789abcdef0123456789abcdef";
const promptTokens = 100;
const maxTokens = 8;
const streamedTokens = 40;
/** Distinct prompts, so that no cache answers. */
const prompts = 256;

const options = parsedOptions<{
  quick?: boolean;
  capacity?: boolean;
  against?: string;
  json?: string;
  rounds: number;
  requests: number;
  processes: number;
}>(
  createCommand("bench:edge", "the edge's CPU per request, and the time it adds to a first token", [
    "chameleon bench:edge",
    "chameleon bench:edge --capacity",
    "chameleon bench:edge --quick --against ../chameleon-before-cells",
  ])
    .option("--quick", "short rounds, the fake backend only")
    .option(
      "--against <folder>",
      "compare first tokens with the edge of another checkout, which has its packages installed and its own artifacts, instead of all else",
    )
    .option(
      "--capacity",
      "what a self-hosted edge holds: answers a second, streams, and what it adds, instead of all else",
    )
    .option("--json <file>", "write the figures there")
    .option("--rounds <n>", "rounds, in alternating order", count, 6)
    .option("--requests <n>", "requests of a round and contestant; a sixth of it at concurrency 1", count, 180)
    // With 6 processes, each of the three cases is first once in each order of the two edges.
    .option("--processes <n>", "with --against: fresh processes of each edge, in alternating pairs", processCount, 6),
);

const sign = createSigner([BACKEND_SECRETS], Date.now);
const signed = (body: Uint8Array) => sign("POST", "/v1/batches", body);

const say = (line: string) => void process.stdout.write(`${line}\n`);

const ours = "chameleon edge";
const theirs = "other edge";
const folders = new Map([[ours, root]]);
if (options.against !== undefined) folders.set(theirs, path.resolve(options.against));
// Each checkout stages its artifacts with its own code.
for (const folder of folders.values()) {
  const { stageArtifacts }: typeof import("../../../infra/stage-artifacts.ts") = await import(
    pathToFileURL(path.join(folder, "infra/stage-artifacts.ts")).href
  );
  await stageArtifacts();
}

const bodies = await waysBodies();
const { rows, losing, ...more } = await (folders.has(theirs)
  ? measureEdges
  : options.capacity
    ? measureHeld
    : measureCosts)();
for (const line of losing) say(line);
if (losing.length === 0 && !options.capacity) say("nothing loses");

if (options.json) {
  const result = {
    command: ["npm run bench:edge --", ...process.argv.slice(2)].join(" "),
    machine: { cpu: cpus()[0].model, cores: cpus().length, memoryBytes: totalmem(), load: loadavg() },
    versions: versions(),
    ...more,
    rows,
    losing,
  };
  await writeFile(options.json, `${JSON.stringify(result, null, 2)}\n`);
}

interface Measured {
  rows: object[];
  losing: string[];
  targets: object;
}

async function measureCosts(): Promise<Measured> {
  const cpu = await measureCpu();
  for (const row of cpu) say(cpuLine(row));
  const firstTokens = await measureWays();
  const addedRows = reportAdded(firstTokens, ours);
  const losing = losingLines(cpu, addedRows, ours, "portkey");
  return { targets, rows: [...cpu, ...firstTokens, ...addedRows], losing };
}

async function measureHeld(): Promise<Measured> {
  const longBodies = await waysBodies(streamedTokens);
  const parts = { bodies, longBodies, sign: signed, secrets: BACKEND_SECRETS, say };
  const { rates, cpu, streams } = await measureCapacity(parts, options.requests);
  const addedRows = reportAdded(rates, "self-hosted edge");
  for (const row of cpu) say(edgeCpuLine(row));
  for (const row of streams) say(streamsLine(row));
  return { targets: {}, rows: [...rates, ...addedRows, ...cpu, ...streams], losing: [] };
}

function reportAdded(rows: readonly FirstTokenRow[], edge: string) {
  for (const row of rows) say(firstTokenLine(row));
  const addedRows = [
    ...added(rows, edge, "the backend directly"),
    ...added(rows, "portkey", "an OpenAI server directly"),
  ];
  for (const row of addedRows) say(addedLine(row));
  return addedRows;
}

type StopLater = (stop: () => unknown) => void;

/** Runs `work`, then calls what it passed to `stopLater`, last first. */
async function stopping<T>(work: (stopLater: StopLater) => Promise<T>): Promise<T> {
  const stops: (() => unknown)[] = [];
  try {
    return await work((stop) => void stops.push(stop));
  } finally {
    for (const stop of stops.reverse()) await stop();
  }
}

async function prepareEdge(system: string, folder: string, stopLater: StopLater) {
  const edge = await prepareBareEdge(path.join(folder, "wrangler.toml"));
  stopLater(() => edge.remove());
  return { system, edge };
}
type PreparedEdge = Awaited<ReturnType<typeof prepareEdge>>;

async function startEdge({ system, edge }: PreparedEdge, backendUrl: string, stopLater: StopLater): Promise<Way> {
  const vars = { BACKEND_SECRETS, BACKEND_URLS: backendUrl };
  const workerd = await edge.start({ vars, keys: { [key]: "bench" } });
  stopLater(() => workerd.stop());
  return { ...completionsWay(system, workerd.url, bodies.public), headers: { authorization: `Bearer ${key}` } };
}

async function startFake(stopLater: StopLater): Promise<string> {
  const fake = await startFakeBackend({ ...quickEngine, manifestHash: bodies.manifestHash });
  stopLater(fake.stop);
  return fake.url;
}

function measureEdges(): Promise<Measured> {
  const { processes } = options;
  return stopping(async (stopLater) => {
    const edges: PreparedEdge[] = [];
    for (const [system, folder] of folders) edges.push(await prepareEdge(system, folder, stopLater));
    const fakeUrl = await startFake(stopLater);
    const runs: FirstTokenRow[][] = [];
    for (let run = 0; run < processes; run++) {
      runs.push(await measureProcesses(run % 2 === 0 ? edges : edges.toReversed(), fakeUrl, run));
      say(`measured ${run + 1} of ${processes} processes of each edge`);
    }
    const compared = compareEdges(runs, ours, theirs);
    for (const row of compared) say(edgesLine(row));
    return { targets: {}, rows: compared, losing: laterLines(compared) };
  });
}

function measureProcesses(edges: readonly PreparedEdge[], backendUrl: string, run: number): Promise<FirstTokenRow[]> {
  return stopping(async (stopLater) => {
    const ways: Way[] = [];
    for (const edge of edges) ways.push(await startEdge(edge, backendUrl, stopLater));
    return measureBackend("fake", ways, run);
  });
}

function measureWays(): Promise<FirstTokenRow[]> {
  return stopping(async (stopLater) => {
    const edge = await prepareEdge(ours, root, stopLater);
    const ownWays = async (backendUrl: string) => [
      directWay(backendUrl, bodies.contract, signed),
      await startEdge(edge, backendUrl, stopLater),
    ];
    const fakeUrl = await startFake(stopLater);
    const peers = await portkeyWays(fakeUrl, bodies.public, say);
    stopLater(peers.stop);
    const rows = await measureBackend("fake", [...(await ownWays(fakeUrl)), ...peers.ways]);
    if (options.quick) return rows;

    const backend = await startBackend({ BACKEND_SECRETS, THREADS: "1" });
    stopLater(() => {
      backend.child.kill();
      return backend.exited;
    });
    return [...rows, ...(await measureBackend("real", await ownWays(backend.url)))];
  });
}

/**
 * `run` numbers the pairs of processes. Garbage collections begin at about the same request of each process, so each run varies the
 * warm-up, the arrivals and the first case.
 */
async function measureBackend(backend: string, ways: Way[], run = 0): Promise<FirstTokenRow[]> {
  const rows: FirstTokenRow[] = [];
  const cells: [number, Arrivals][] = [
    [1, "in step"],
    [16, "apart"],
    [16, "in step"],
  ];
  const first = run % cells.length;
  await warmUp(ways, (options.quick ? 200 : 1500) + 50 * run);
  for (const [concurrency, arrivals] of [...cells.slice(first), ...cells.slice(0, first)]) {
    const requests = options.quick ? 48 : options.requests;
    const requestsPerRound = concurrency === 1 ? Math.ceil(requests / 6) : requests;
    const rounds = options.quick ? quickRounds(concurrency) : options.rounds;
    const cell = { concurrency, arrivals, rounds, requestsPerRound, seed: 100 * run };
    rows.push(...(await measureFirstTokens(backend, ways, cell)));
  }
  return rows;
}

/**
 * Rounds with --quick. A garbage collection delays a burst by 3 to 5 ms (V8's trace), at about the same request in each run. Two short
 * rounds would depend on where the collections fall.
 */
function quickRounds(concurrency: number): number {
  return concurrency === 1 ? 2 : 8;
}

async function waysBodies(tokens = maxTokens): Promise<Bodies> {
  const artifacts = await loadArtifacts((name) => readFile(path.join(root, "edge/public/artifacts", name)));
  const sampling = { max_tokens: tokens, temperature: 0, stream: true };
  const requests = benchTexts(artifacts.tokenizer, promptTokens, prompts).map((prompt) => ({ prompt, ...sampling }));
  const planned = requests.map(async (request, i) => {
    const caller = { requestId: `direct-${i}`, tenant: "bench", randomSeed: 1, now: () => performance.now() };
    const plan = await planCompletion(completionRequestSchema.parse(request), artifacts, caller);
    return JSON.stringify(batchesOf(plan)[0]);
  });
  const contract = await Promise.all(planned);
  return { manifestHash: artifacts.manifestHash, public: requests.map((request) => JSON.stringify(request)), contract };
}

/** Parses at least 2, which a confidence interval needs. */
function processCount(text: string): number {
  const value = count(text);
  if (value < 2) throw new InvalidArgumentError("must be at least 2");
  return value;
}

function versions(): Record<string, string> {
  const { name, version, dependencies } = JSON.parse(read("package.json"));
  const { hono, workerd } = dependencies;
  return { node: process.versions.node, [name]: version, workerd, hono, ...pinsOf(portkeyFolder) };
}
