/**
 * The load that one self-hosted edge carries for many tenants at once, beside the backend alone and Portkey's gateway. The backend is a
 * fake that does no work. Backend, edge and clients share this machine's cores.
 */
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { Agent } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { readLocalRun } from "../../../infra/local-run.ts";
import { callAdmin, newKeyOf } from "../../support/admin.ts";
import { quickEngine, startFakeBackend } from "../../support/fake-backend.ts";
import { startStack } from "../../support/stack.ts";
import { quantile } from "../quantile.ts";
import {
  completionsWay,
  directWay,
  type FirstTokenRow,
  measureFirstTokens,
  streamed,
  type Way,
  warmUp,
} from "./first-token.ts";
import { portkeyWays } from "./portkey/contestant.ts";

const tenants = 64;
const concurrencies = [1, 16, 64, 256];
const streamCounts = [50, 100, 200, 400, 800];
const stepMs = 100;

/** CPU time of the edge's process for an answer of 8 tokens. Other load on the machine does not count. */
interface EdgeCpuRow {
  kind: "edge-cpu";
  concurrency: number;
  answers: number;
  cpuMs: number;
}

type StreamsRow = Awaited<ReturnType<typeof measureStreams>>;

/** Bodies for the same completions: `public` for the edge, `contract` for a backend. */
export interface Bodies {
  manifestHash: string;
  public: string[];
  contract: string[];
}

export interface CapacityParts {
  bodies: Bodies;
  longBodies: Bodies;
  sign: NonNullable<Way["sign"]>;
  secrets: string;
  say: (line: string) => void;
}

export async function measureCapacity(parts: CapacityParts, requestsPerRound: number) {
  const { bodies, longBodies } = parts;
  const cpu: EdgeCpuRow[] = [];
  const rates = await withWays(parts, bodies, quickEngine, async (ways, pid) => {
    await warmUp(ways, 500);
    const rows: FirstTokenRow[] = [];
    for (const concurrency of concurrencies) {
      const cell = { concurrency, arrivals: "in step" as const, rounds: 4, seed: concurrency };
      const count = concurrency === 1 ? Math.ceil(requestsPerRound / 6) : requestsPerRound + concurrency;
      const beganMs = cpuMsOf(pid);
      rows.push(...(await measureFirstTokens("fake", ways, { ...cell, requestsPerRound: count })));
      // The first round is not measured but used CPU time, too.
      const answers = (cell.rounds + 1) * count;
      cpu.push({ kind: "edge-cpu", concurrency, answers, cpuMs: (cpuMsOf(pid) - beganMs) / answers });
    }
    return rows;
  });
  const streams = await withWays(parts, longBodies, { firstTokenMs: stepMs, stepMs }, async (ways, pid) => {
    const rows: StreamsRow[] = [];
    for (const count of streamCounts) for (const way of ways) rows.push(await measureStreams(way, count, pid));
    return rows;
  });
  return { rates, cpu, streams };
}

/** CPU time, user and system, that a process has used. Linux counts in ticks of 10 ms. */
function cpuMsOf(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const [user, system] = fields.slice(11, 13);
  return 10 * (Number(user) + Number(system));
}

export function edgeCpuLine({ concurrency, answers, cpuMs }: EdgeCpuRow): string {
  return `self-hosted edge: ${cpuMs.toFixed(2)} ms of CPU an answer at concurrency ${concurrency} (${answers} answers)`;
}

export function streamsLine(row: StreamsRow): string {
  const { system, streams, failed, gapP50Ms, gapP99Ms, cpuMsPerToken, tokensPerSecond } = row;
  const gaps = `${gapP50Ms.toFixed(0)} ms between tokens, p99 ${gapP99Ms.toFixed(0)}`;
  const cpu = `${cpuMsPerToken.toFixed(2)} ms of the edge's CPU a token`;
  return `${system}: ${streams} streams, ${failed} failed, ${Math.round(tokensPerSecond)} tokens/s, ${gaps}, ${cpu}`;
}

/** Calls `measure` with three ways to a fake backend: direct, through an edge, through Portkey's gateway. */
async function withWays<T>(
  { sign, secrets, say }: CapacityParts,
  bodies: Bodies,
  engine: { firstTokenMs: number; stepMs: number },
  measure: (ways: Way[], edgePid: number) => Promise<T>,
): Promise<T> {
  const state = await mkdtemp(path.join(tmpdir(), "bench-capacity-"));
  const fake = await startFakeBackend({ ...engine, manifestHash: bodies.manifestHash });
  const settings = { STATE_DIR: state, BACKEND_SECRETS: secrets };
  const edge = await startStack(settings, ["--backend", fake.url], "start-edge.ts");
  const peers = await portkeyWays(fake.url, bodies.public, say);
  try {
    const keys: string[] = [];
    for (let i = 0; i < tenants; i++) {
      await callAdmin(state, "POST", `/tenants/bench-${i}`, { plan: "unlimited" });
      keys.push((await newKeyOf(state, `bench-${i}`, ["completions"])).key);
    }
    let next = 0;
    const key = async () => ({ authorization: `Bearer ${keys[next++ % keys.length]}` });
    const hosted = { ...completionsWay("self-hosted edge", edge.edge, bodies.public), sign: key };
    const ways = [directWay(fake.url, bodies.contract, sign), hosted, ...peers.ways];
    return await measure(ways, readLocalRun(state)!.worker);
  } finally {
    await peers.stop();
    await edge.stop();
    await fake.stop();
    await rm(state, { recursive: true, force: true });
  }
}

async function measureStreams(way: Way, count: number, edgePid: number) {
  const agent = new Agent({ maxSockets: count });
  const gaps: number[] = [];
  let [failed, chunks] = [0, 0];
  const [beganMs, beganCpuMs] = [performance.now(), cpuMsOf(edgePid)];
  const read = async (i: number): Promise<void> => {
    let lastMs: number | null = null;
    const reading = streamed(way, i, agent, (chunk, ms) => {
      if (!chunk.includes(way.firstToken)) return;
      if (lastMs !== null) gaps.push(ms - lastMs);
      lastMs = ms;
      chunks++;
    });
    if ((await reading.catch(() => null)) !== 200) failed++;
  };
  await Promise.all(Array.from({ length: count }, (_, i) => read(i)));
  agent.destroy();
  return {
    kind: "streams",
    system: way.system,
    streams: count,
    failed,
    gapP50Ms: quantile(gaps, 0.5),
    gapP99Ms: quantile(gaps, 0.99),
    cpuMsPerToken: (cpuMsOf(edgePid) - beganCpuMs) / chunks,
    tokensPerSecond: (1000 * chunks) / (performance.now() - beganMs),
  };
}
