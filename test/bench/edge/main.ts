/**
 * What the edge costs: its CPU per request inside workerd, and the time it adds to a first token, beside Portkey's gateway.
 * Edges run in a bare workerd on loopback, because wrangler's development server adds milliseconds.
 * Run: npm run bench:edge -- --help
 */
import { readFile, writeFile } from "node:fs/promises";
import { cpus, loadavg, totalmem } from "node:os";
import path from "node:path";
import { loadArtifacts } from "../../../edge/artifacts/artifacts.ts";
import { batchesOf, planCompletion } from "../../../edge/plan/plan.ts";
import { count, createCommand, parsedOptions } from "../../../gpu-backend/command-line.ts";
import { stageArtifacts } from "../../../infra/stage-artifacts.ts";
import { prepareBareEdge } from "../../../infra/workerd/edge.ts";
import { createSigner } from "../../../shared/contracts/call-signature.ts";
import { completionRequestSchema } from "../../../shared/contracts/openai.ts";
import { startBackend } from "../../support/backend-process.ts";
import { quickEngine, startFakeBackend } from "../../support/fake-backend.ts";
import { read, root } from "../../support/project.ts";
import { pinsOf } from "../peer-package.ts";
import { type Bodies, edgeCpuLine, measureCapacity, streamsLine } from "./capacity.ts";
import { measureCpu } from "./cpu.ts";
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
  capacity?: boolean;
  json?: string;
  rounds: number;
  requests: number;
}>(
  createCommand("bench:edge", "the edge's CPU per request, and the time it adds to a first token", [
    "chameleon bench:edge",
    "chameleon bench:edge --capacity",
  ])
    .option(
      "--capacity",
      "what a self-hosted edge holds: answers a second, streams, and what it adds, instead of all else",
    )
    .option("--json <file>", "write the figures there")
    .option("--rounds <n>", "rounds, in alternating order", count, 6)
    .option("--requests <n>", "requests of a round and contestant; a sixth of it at concurrency 1", count, 180),
);

const sign = createSigner([BACKEND_SECRETS], Date.now);
const signed = (body: Uint8Array) => sign("POST", "/v1/batches", body);

const say = (line: string) => void process.stdout.write(`${line}\n`);

const ours = "chameleon edge";
await stageArtifacts();

const bodies = await waysBodies();
const { rows, losing, ...more } = await (options.capacity ? measureHeld : measureCosts)();
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

function measureWays(): Promise<FirstTokenRow[]> {
  return stopping(async (stopLater) => {
    const edge = await prepareBareEdge(path.join(root, "wrangler.toml"));
    stopLater(() => edge.remove());
    /** The direct way to a backend, and the way through a fresh process of the edge. */
    const ownWays = async (backendUrl: string): Promise<Way[]> => {
      const vars = { BACKEND_SECRETS, BACKEND_URLS: backendUrl };
      const workerd = await edge.start({ vars, keys: { [key]: "bench" } });
      stopLater(() => workerd.stop());
      const way = completionsWay(ours, workerd.url, bodies.public);
      return [directWay(backendUrl, bodies.contract, signed), { ...way, headers: { authorization: `Bearer ${key}` } }];
    };
    const fake = await startFakeBackend({ ...quickEngine, manifestHash: bodies.manifestHash });
    stopLater(fake.stop);
    const peers = await portkeyWays(fake.url, bodies.public, say);
    stopLater(peers.stop);
    const rows = await measureBackend("fake", [...(await ownWays(fake.url)), ...peers.ways]);
    const backend = await startBackend({ BACKEND_SECRETS, THREADS: "1" });
    stopLater(() => {
      backend.child.kill();
      return backend.exited;
    });
    return [...rows, ...(await measureBackend("real", await ownWays(backend.url)))];
  });
}

async function measureBackend(backend: string, ways: Way[]): Promise<FirstTokenRow[]> {
  const rows: FirstTokenRow[] = [];
  const cells: [number, Arrivals][] = [
    [1, "in step"],
    [16, "apart"],
    [16, "in step"],
  ];
  await warmUp(ways, 1500);
  const { rounds, requests } = options;
  for (const [concurrency, arrivals] of cells) {
    const requestsPerRound = concurrency === 1 ? Math.ceil(requests / 6) : requests;
    const cell = { concurrency, arrivals, rounds, requestsPerRound, seed: 0 };
    rows.push(...(await measureFirstTokens(backend, ways, cell)));
  }
  return rows;
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

function versions(): Record<string, string> {
  const { name, version, dependencies } = JSON.parse(read("package.json"));
  const { hono, workerd } = dependencies;
  return { node: process.versions.node, [name]: version, workerd, hono, ...pinsOf(portkeyFolder) };
}
