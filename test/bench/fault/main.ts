/**
 * What clients notice when a backend is killed, hangs, fails, is slow or is restarted, under 200 streams. With --edge-kills: whether a
 * self-hosted edge that is killed loses or doubles anything.
 * Run: npm run bench:fault -- --help
 */

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { cpus, loadavg, tmpdir } from "node:os";
import path from "node:path";
import { count, createCommand, parsedOptions } from "../../../gpu-backend/command-line.ts";
import { startCluster } from "../../fault/cluster.ts";
import { killUnderLoad, startKilledEdge } from "../../fault/edge-kills.ts";
import { type Result, resultLine, runScenario, scenarios, undisturbed } from "../../fault/scenarios.ts";
import { requestsOf, shippedCentroids } from "../../fault/traffic.ts";

interface Options {
  json?: string;
  requests: number;
  tokens: number;
  only?: string[];
  edgeKills?: number;
}

const options = parsedOptions<Options>(
  createCommand("bench:fault", "streams that survive the loss of a backend", [
    "chameleon bench:fault",
    "chameleon bench:fault --edge-kills 50 --requests 100",
  ])
    .option("--json <file>", "write the figures there")
    .option("--requests <n>", "streams, all at once", count, 200)
    .option("--tokens <n>", "tokens of a stream, at least", count, 64)
    .option("--edge-kills <n>", "kill -9 of a self-hosted edge so many times, instead of all else", count)
    .option("--only <names>", "scenarios, separated by commas", (names: string) => names.split(",")),
);

const say = (line: string) => void process.stdout.write(`${line}\n`);
if (options.edgeKills !== undefined) {
  const folder = await mkdtemp(path.join(tmpdir(), "edge-kills-"));
  const { edge, backend } = await startKilledEdge(folder);
  try {
    const figures = await killUnderLoad(edge, {
      ...{ kills: options.edgeKills, streams: options.requests, seed: Date.now() % 1e6, say },
    });
    say(JSON.stringify(figures, null, 2));
    if (options.json) await writeFile(options.json, `${JSON.stringify(figures, null, 2)}\n`);
  } finally {
    await edge.stop();
    backend.child.kill("SIGKILL");
    await rm(folder, { recursive: true, maxRetries: 3 });
  }
  process.exit();
}
const chosen = scenarios.filter(({ name }) => options.only?.includes(name) ?? true);
if (chosen.length === 0) throw new Error(`there are the scenarios ${scenarios.map(({ name }) => name).join(", ")}`);

const cluster = await startCluster();
const results: Result[] = [];
try {
  const load = { bodies: requestsOf(options.requests, options.tokens), concurrency: options.requests };
  const expected = await undisturbed(cluster, load);
  say(
    `${options.requests} streams of at least ${options.tokens} tokens at once, over ${shippedCentroids.length} centroids; two backends`,
  );
  for (const scenario of chosen) {
    const result = await runScenario(cluster, scenario, load, expected);
    results.push(result);
    say(resultLine(result));
    for (const example of result.examples) say(`  ${example.slice(0, 400)}`);
  }
} finally {
  await cluster.stop();
}
if (options.json) {
  const machine = { cpu: cpus()[0].model, cores: cpus().length, load: loadavg()[0], node: process.version };
  const { requests, tokens } = options;
  await writeFile(options.json, `${JSON.stringify({ machine, requests, tokens, results }, null, 2)}\n`);
}
if (results.some(({ failed, different }) => failed + different > 0)) process.exitCode = 1;
