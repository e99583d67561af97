/**
 * Whether one tenant's burst stays inside its limits exactly, and what another tenant notices of it: its completions alone,
 * beside a tenant that sends 500 requests at once, and again each second, whatever it is told, to another edge of this machine
 * or to the same. In turns, through a bare workerd. The backend is one that answers by the clock, so that what is measured is
 * the edge, and then the real one; of that, the engine's share is told, as each answer says it: prefill and decode, and before
 * them the queue, which begins at the edge. Last the real engine without an edge, whose queue the burst fills: there the quiet
 * tenant's wait is counted in steps.
 * Run: npm run bench:tenants -- --help
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { Agent } from "node:http";
import { cpus, loadavg } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Option } from "commander";
import { count, createCommand, parsedOptions } from "../../../gpu-backend/command-line.ts";
import { stageArtifacts } from "../../../infra/stage-artifacts.ts";
import { type BareEdge, prepareBareEdge } from "../../../infra/workerd/edge.ts";
import { completionResponseSchema } from "../../../shared/contracts/responses.ts";
import { startBackend } from "../../support/backend-process.ts";
import { quickEngine, startFakeBackend } from "../../support/fake-backend.ts";
import { keyEntry } from "../../support/key-records.ts";
import { closedLoop, type Times, timed, type Way } from "../edge/first-token.ts";
import { quantile } from "../quantile.ts";
import type { BurstResult, BurstTask } from "./burst.ts";
import { type EngineFigures, engineLines, measureEngine } from "./engine.ts";

const root = path.join(import.meta.dirname, "../../..");
const BACKEND_SECRETS = "bench-0123456789abcdef0123456789abcdef";
/** A quiet tenant has few requests open. */
const quietLanes = 2;
/** As impatient as a client gets that does not read Retry-After. */
const pauseMs = 1000;
/** No longer, or the minute is over and more may pass. */
const burstingMs = 45_000;
const targetRatio = 1.5;

/** Steps that the quiet tenant may wait in the engine's queue, at p99. */
const targetSteps = 2;
const backendNames = ["fake", "real", "engine"] as const;

const options = parsedOptions<{
  backend?: (typeof backendNames)[number];
  json?: string;
  rounds: number;
  requests: number;
  burst: number;
  limit: number;
  tokens: number;
}>(
  createCommand("bench:tenants", "one tenant's burst: exact limits, and what another tenant notices", [
    "chameleon bench:tenants",
  ])
    .addOption(new Option("--backend <name>", "one of the three alone").choices(backendNames))
    .option("--json <file>", "write the figures there")
    .option("--rounds <n>", "rounds, quiet and burst in turns", count, 3)
    .option("--requests <n>", "the quiet tenant's completions of a round and phase", count, 100)
    .option("--burst <n>", "requests at once of a burst", count, 500)
    .option("--limit <n>", "requests a minute that a bursting tenant may have", count, 64)
    .option("--tokens <n>", "tokens of a completion", count, 64),
);

/** Bursts elsewhere go through an edge of their own: what they cost the quiet tenant is this machine's share. */
const phases = ["alone", "beside bursts elsewhere", "beside bursts"] as const;
type Phase = (typeof phases)[number];

interface Row {
  backend: string;
  phase: Phase;
  requests: number;
  firstP50Ms: number;
  firstP99Ms: number;
  totalP50Ms: number;
  totalP99Ms: number;
  /** null where the backend has no engine. */
  engine: Record<"queueP50Ms" | "queueP99Ms" | "prefillP99Ms" | "runP50Ms" | "runP99Ms", number> | null;
}

const say = (line: string) => void process.stdout.write(`${line}\n`);
const body = (prompt: string) =>
  JSON.stringify({
    model: "gpt2:auto",
    prompt,
    max_tokens: options.tokens,
    temperature: 0,
    stream: true,
    chameleon: {},
  });

await stageArtifacts();
const rows: Row[] = [];
const wrong: string[] = [];
let bursts = 0;
if (options.backend !== "engine") await measureEdge();
let engine: EngineFigures[] = [];
if (!options.backend || options.backend === "engine") {
  const { burst, tokens, requests } = options;
  engine = await measureEngine({ burst, tokens, requests, lanes: quietLanes, threads: 1 });
  for (const { line } of engineLines(engine, targetSteps)) say(line);
}
const verdicts = [...ratioLines(), ...(engine.length > 0 ? engineLines(engine, targetSteps) : [])];
const losing = verdicts.filter(({ isOver }) => isOver);
if (options.json) {
  const machine = { cpu: cpus()[0].model, cores: cpus().length, load: loadavg() };
  const result = { machine, options, rows, engine, bursts, wrong, losing: losing.map(({ line }) => line) };
  await writeFile(options.json, `${JSON.stringify(result, null, 2)}\n`);
}
// Exactness must hold on any machine; time is for who reads it.
process.exitCode = wrong.length > 0 ? 1 : 0;

async function measureEdge(): Promise<void> {
  const fake = await startFakeBackend(quickEngine);
  const real = await startBackend({ BACKEND_SECRETS, THREADS: "1" });
  const bare = await prepareBareEdge(path.join(root, "wrangler.toml"));
  try {
    for (const [backend, url] of Object.entries({ fake: fake.url, real: real.url })) {
      if (!options.backend || options.backend === backend) await measure(backend, url, bare);
    }
  } finally {
    await fake.stop();
    real.child.kill();
    await real.exited;
    bare.remove();
  }
  say(
    `${bursts} bursts of ${options.burst}, ${options.limit} a minute allowed: ${wrong.length === 0 ? "all exact" : wrong.join("; ")}`,
  );
  for (const { line } of ratioLines()) say(line);
}

async function measure(backend: string, backendUrl: string, bare: BareEdge): Promise<void> {
  const tenants = ["quiet", ...Array.from({ length: options.rounds + 1 }, (_, i) => `burst-${i}`)];
  const vars = { BACKEND_SECRETS, BACKEND_URLS: backendUrl };
  const entries = Object.fromEntries(
    tenants.map((tenant) =>
      keyEntry(keyOf(tenant), tenant, tenant === "quiet" ? {} : { requestsPerMinute: options.limit }),
    ),
  );
  const start = () => bare.start({ vars, entries });
  const [edge, elsewhere] = [await start(), await start()];
  const [url, urlElsewhere] = [edge, elsewhere].map((one) => `${one.url}/v1/completions`);
  const burster = fork(path.join(import.meta.dirname, "burst.ts"), [body("Buy now")]);
  const agent = new Agent({ keepAlive: true, maxSockets: quietLanes });
  const headers = { authorization: `Bearer ${keyOf("quiet")}` };
  const bodies = Array.from({ length: 256 }, (_, i) => body(`On the ${i}th of May a letter came, and`));
  const quiet: Way = { system: "quiet tenant", url, headers, bodies, firstToken: "data: {" };
  const samples: Record<Phase, Times[]> = { alone: [], "beside bursts elsewhere": [], "beside bursts": [] };
  const run = (requests: number) => closedLoop(quietLanes, requests, (i) => timed(quiet, i, agent));
  try {
    await run(40); // connections open, code is compiled
    for (const one of [url, urlElsewhere]) check(await bursting(burster, one, options.rounds), options.limit);
    for (let round = 0; round < options.rounds; round++) {
      const beside = async (burstUrl: string) => {
        let isOver = false;
        const running = run(options.requests).finally(() => {
          isOver = true;
        });
        const untilMs = performance.now() + burstingMs;
        for (let i = 0; !isOver && performance.now() < untilMs; i++) {
          check(await bursting(burster, burstUrl, round), i === 0 ? options.limit : 0);
          await sleep(pauseMs);
        }
        return running;
      };
      const ways: Record<Phase, () => Promise<Times[]>> = {
        alone: () => run(options.requests),
        "beside bursts elsewhere": () => beside(urlElsewhere),
        "beside bursts": () => beside(url),
      };
      for (const phase of round % 2 === 0 ? phases : phases.toReversed()) samples[phase].push(...(await ways[phase]()));
    }
  } finally {
    burster.kill();
    agent.destroy();
    await Promise.all([edge.stop(), elsewhere.stop()]);
  }
  for (const [phase, times] of Object.entries(samples) as [Phase, Times[]][]) {
    const [first, total] = [times.map(({ firstMs }) => firstMs), times.map(({ totalMs }) => totalMs)];
    const row: Row = {
      ...{ backend, phase, requests: times.length },
      ...{ firstP50Ms: quantile(first, 0.5), firstP99Ms: quantile(first, 0.99) },
      ...{ totalP50Ms: quantile(total, 0.5), totalP99Ms: quantile(total, 0.99) },
      engine: backend === "real" ? engineOf(times) : null,
    };
    rows.push(row);
    say(
      `${backend} backend, quiet tenant ${phase}: first token p50 ${row.firstP50Ms.toFixed(1)} p99 ${row.firstP99Ms.toFixed(1)} ms, whole p50 ${row.totalP50Ms.toFixed(0)} p99 ${row.totalP99Ms.toFixed(0)} ms (${row.requests} completions)`,
    );
    if (!row.engine) continue;
    const { queueP50Ms, queueP99Ms, prefillP99Ms, runP50Ms, runP99Ms } = row.engine;
    say(
      `  in the engine: queue p50 ${queueP50Ms.toFixed(1)} p99 ${queueP99Ms.toFixed(1)} ms, prefill p99 ${prefillP99Ms.toFixed(1)} ms, prefill and decode p50 ${runP50Ms.toFixed(0)} p99 ${runP99Ms.toFixed(0)} ms`,
    );
  }
}

async function bursting(child: ChildProcess, url: string, index: number): Promise<BurstResult> {
  child.send({ url, key: keyOf(`burst-${index}`), requests: options.burst } satisfies BurstTask);
  const [result] = (await once(child, "message")) as [BurstResult];
  return result;
}

/** Exactly `limit` pass, each is told what is left, and all others are refused. */
function check({ statuses, remaining }: BurstResult, limit: number): void {
  bursts++;
  const { burst } = options;
  const expected = Array.from({ length: Math.min(burst, limit) }, (_, i) => limit - 1 - i);
  const isExact =
    (statuses[200] ?? 0) === expected.length &&
    (statuses[429] ?? 0) === burst - expected.length &&
    remaining.sort((a, b) => b - a).every((left, i) => left === expected[i]);
  if (!isExact) wrong.push(`burst ${bursts} had ${JSON.stringify(statuses)}`);
}

function ratioLines(): { line: string; isOver: boolean }[] {
  return ["fake", "real"].flatMap((backend) => {
    const [alone, elsewhere, beside] = phases.map((phase) =>
      rows.find((row) => row.backend === backend && row.phase === phase),
    );
    if (!alone || !elsewhere || !beside) return [];
    const ratiosTo = (row: Row) => ({
      "first token": row.firstP99Ms / alone.firstP99Ms,
      "whole completion": row.totalP99Ms / alone.totalP99Ms,
      ...(row.engine && { "prefill and decode": row.engine.runP99Ms / alone.engine!.runP99Ms }),
    });
    const machines: Record<string, number> = ratiosTo(elsewhere);
    return Object.entries(ratiosTo(beside)).map(([what, ratio]) => {
      const isOver = ratio > targetRatio;
      return {
        line: `${isOver ? "LOSES  " : ""}${backend} backend: p99 of the quiet tenant's ${what} ${ratio.toFixed(2)}x beside bursts, ${machines[what].toFixed(2)}x beside bursts elsewhere`,
        isOver,
      };
    });
  });
}

function engineOf(times: readonly Times[]): Row["engine"] {
  const timings = times.map(({ text }) => {
    const last = text.split("\n").findLast((line) => line.includes('"timings"'));
    if (!last) throw new Error(`an answer has no timings: ${text.slice(-300)}`);
    return completionResponseSchema.parse(JSON.parse(last.slice("data: ".length))).choices[0].chameleon!.timings!;
  });
  const [queues, prefills] = [timings.map(({ queue }) => queue), timings.map(({ prefill }) => prefill)];
  const runs = timings.map(({ adapter, prefill, decode }) => adapter + prefill + decode);
  return {
    ...{ queueP50Ms: quantile(queues, 0.5), queueP99Ms: quantile(queues, 0.99) },
    ...{ prefillP99Ms: quantile(prefills, 0.99), runP50Ms: quantile(runs, 0.5), runP99Ms: quantile(runs, 0.99) },
  };
}

function keyOf(tenant: string): string {
  return `sk-bench-${tenant}`;
}
