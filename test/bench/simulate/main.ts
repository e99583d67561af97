/**
 * What a world of callers would see: discrete events over the product's own decisions (regions, cells, micro-batches, routing,
 * the engine's plan), with stated service times. Run: npm run simulate -- --help
 */
import { writeFile } from "node:fs/promises";
import { cpus } from "node:os";
import { count, createCommand, parsedOptions } from "../../../gpu-backend/command-line.ts";
import { chunkTokens } from "../../../gpu-backend/config.ts";
import { seededRandom } from "../../support/steps.ts";
import { checkAgainstRealStack } from "./check.ts";
import { costOf } from "./cost.ts";
import { bottlenecks, simulationPage } from "./report.ts";
import { readCities } from "./traffic.ts";
import { simulate, type WorldOptions, type WorldResult } from "./world.ts";

const options = parsedOptions<{
  requests: number;
  backends: number;
  cells: number;
  tenants: number;
  centroids: number;
  seconds: number;
  seed: number;
  report?: string;
  json?: string;
  quick: boolean;
  check: boolean;
}>(
  createCommand("simulate", "Simulate callers of 300 cities, and say what they and each part would see", [
    "chameleon simulate --quick",
    "chameleon simulate --report simulation.html --json simulation.json",
    "chameleon simulate --check",
  ])
    .option("--requests <n>", "requests a second, in all", count, 10_000)
    .option("--backends <n>", "backend processes, placed where the callers are", count, 200)
    .option("--cells <n>", "cells of each region", count, 16)
    .option("--tenants <n>", "tenants, by Zipf's law", count, 100_000)
    .option("--centroids <n>", "centroids, by Zipf's law", count, 1000)
    .option("--seconds <n>", "simulated seconds that are measured, after half as many that are not", count, 10)
    .option("--seed <n>", "of all that is random", count, 1)
    .option("--quick", "a tenth of the requests, backends and cells", false)
    .option("--report <file>", "write a page with plots there")
    .option("--json <file>", "write the figures there")
    .option("--check", "compare a small case with the real edge and backend on this machine instead", false),
);

const say = (line: string) => void process.stdout.write(`${line}\n`);

if (options.check) {
  process.exitCode = (await checkAgainstRealStack(options.seed, say)) ? 0 : 1;
} else {
  await run();
}

async function run(): Promise<void> {
  const scale = options.quick ? 0.1 : 1;
  const scaled = (n: number, least: number) => Math.max(least, Math.round(n * scale));
  const world: WorldOptions = {
    requestsPerSecond: scaled(options.requests, 1),
    seconds: options.seconds,
    warmUpSeconds: options.seconds / 2,
    // One for each region at least.
    backends: scaled(options.backends, 9),
    cellsPerRegion: scaled(options.cells, 2),
    traffic: { tenants: options.tenants, centroids: options.centroids, contextTokens: 1024 },
    // Assumed: a GPU that takes 3 ms for the smallest step, decodes 128 rows in 7 ms and prefills 250,000 tokens a second.
    stepTimes: { fixed: 3, prompt: 0.2, promptToken: 0.004, decodedRow: 0.03 },
    // `npm run bench:edge` measures the edge's; a frame's is a share of its line.
    cellTimes: { request: 0.3, frame: 0.002 },
    workerMs: 1,
    limits: {
      maxSequences: 128,
      maxQueue: 512,
      stepTokens: 1024,
      chunkTokens,
      kvBytes: 2 ** 34,
      // GPT-2 124M, and one pair for the pointer.
      kvShape: { layers: 13, heads: 12, headWidth: 64, contextTokens: 1024 },
    },
    lostRegion: null,
  };
  const cities = readCities();
  say(
    `${world.requestsPerSecond} requests a second of ${cities.length} cities and ${options.tenants} tenants; ${options.centroids} centroids, ${world.backends} backends, ${world.cellsPerRegion} cells a region; seed ${options.seed}`,
  );
  const { fixed, prompt, promptToken, decodedRow } = world.stepTimes;
  say(
    `service times: a step ${fixed} ms + ${prompt} a prompt + ${promptToken} a prompt token + ${decodedRow} a decoded row, ${world.limits.maxSequences} slots; a cell ${world.cellTimes.request} ms a request + ${world.cellTimes.frame} a frame; a Worker ${world.workerMs} ms`,
  );
  const whole = timed("all regions", () => simulate(cities, world, seededRandom(options.seed)));
  print(whole, world);
  const busiest = whole.rows.reduce((a, b) => (b.requests > a.requests ? b : a)).region;
  const lost = timed(`${busiest} lost half-way`, () =>
    simulate(cities, { ...world, lostRegion: busiest }, seededRandom(options.seed)),
  );
  say(`backends of ${busiest} lost half-way: ${lost.failed} of ${lost.requests} requests failed; after the loss`);
  for (const { region, p50, p99, freeP99 } of lost.afterLoss!)
    say(
      `${region.padEnd(6)} first token p50 ${p50.toFixed(0)} ms, p99 ${p99.toFixed(0)}, ${(p99 / freeP99).toFixed(2)} times that without queues`,
    );
  const result = { world, seed: options.seed, machine: `${cpus().length} x ${cpus()[0].model}`, whole, lost };
  if (options.json) await writeFile(options.json, `${JSON.stringify(result, null, 1)}\n`);
  if (options.report) {
    await writeFile(options.report, simulationPage(world, whole, { region: busiest, result: lost }, cities));
    say(`report: ${options.report}`);
  }
}

function timed(what: string, run: () => WorldResult): WorldResult {
  process.stderr.write(`${what}…\n`);
  const startedMs = performance.now();
  const result = run();
  process.stderr.write(`${what}: ${((performance.now() - startedMs) / 1000).toFixed(0)} s, ${result.steps} steps\n`);
  return result;
}

function print(result: WorldResult, world: WorldOptions): void {
  say(
    "region  backends  requests/s   first token p50   p99   without queues p50   p99   p99 ÷   utilisation   busiest cell",
  );
  for (const row of result.rows) {
    const cells = [
      row.region.padEnd(6),
      String(row.backends).padStart(9),
      (row.requests / world.seconds).toFixed(0).padStart(11),
      `${row.p50.toFixed(0)} ms`.padStart(17),
      row.p99.toFixed(0).padStart(6),
      row.freeP50.toFixed(0).padStart(20),
      row.freeP99.toFixed(0).padStart(6),
      (row.p99 / row.freeP99).toFixed(2).padStart(8),
      `${(100 * row.utilisation).toFixed(0)}%`.padStart(13),
      `${row.busiestCell.toFixed(0)} requests/s`.padStart(16),
    ];
    say(cells.join(""));
  }
  say(
    `${result.requests} requests, ${result.failed} failed, ${result.meanBatch.toFixed(2)} requests a micro-batch on average, ${result.callsPerRequest.toFixed(2)} calls a request`,
  );
  for (const { what, used, limit } of bottlenecks(result)) {
    say(`${what}: ${used.toFixed(2)} of ${limit}, so ${(limit / used).toFixed(1)} times this traffic`);
  }
  const cost = costOf(result, world);
  say(
    `a million generated tokens cost $${cost.total.toFixed(2)}: ${cost.parts.map(([part, dollars]) => `${part} ${dollars.toFixed(2)}`).join(", ")}`,
  );
}
