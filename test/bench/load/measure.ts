/**
 * Puts an open-loop load on engines, each in a process of its own: our engine with few and with many centroids, or our engine and another
 * checkout's. One engine computes at a time, in rounds of alternating order.
 */
import { AskedProcess } from "../asked-process.ts";
import { gpt2Config } from "../model.ts";
import { median, quantile } from "../quantile.ts";
import type { LoadOptions, LoadResult } from "./engine.ts";
import type { ToLoad } from "./process.ts";
import { type Arrival, tracedArrivals, uniformArrivals } from "./trace.ts";

const centroidCounts = [8, 1000];
/** Sizes of batches of equal requests, which show the time of a step. None may become slower. */
const uniformBatches = [1, 8];
const uniform = { prompt: 128, maxTokens: 256 };

/** Figures that are compared. All but the first are milliseconds. */
const measures = {
  "tokens/s": ({ tokens, seconds }: LoadResult) => tokens / seconds,
  "first token p50": ({ firstTokenMs }: LoadResult) => quantile(firstTokenMs, 0.5),
  "first token p99": ({ firstTokenMs }: LoadResult) => quantile(firstTokenMs, 0.99),
  "between tokens p50": ({ betweenTokensMs }: LoadResult) => quantile(betweenTokensMs, 0.5),
  "between tokens p99": ({ betweenTokensMs }: LoadResult) => quantile(betweenTokensMs, 0.99),
};
type Measure = keyof typeof measures;

interface Settings {
  format: LoadOptions["format"];
  threads: number;
  requests: number;
  rates: number[];
}

export interface LoadRow {
  load: string;
  contestant: string;
  figures: Record<Measure, number>;
  failed: number;
}

export interface LoadRatio {
  load: string;
  /** The first contestant's figures are divided by the second's. */
  of: [string, string];
  ratios: Record<Measure, [median: number, least: number, most: number]>;
}

interface Contestant {
  name: string;
  centroids: number;
  process: AskedProcess;
}

type Say = (line: string) => void;

interface LoadFigures {
  rows: LoadRow[];
  ratios: LoadRatio[];
}

export async function measureLoad(settings: Settings, say: Say): Promise<LoadFigures> {
  const ours = await startProcess({ ...settings, folder: thisCheckout });
  try {
    const contestants = centroidCounts.map((centroids) => ({
      name: `${centroids} centroids`,
      centroids,
      process: ours,
    }));
    return await runRounds(contestants, loadsOf(settings), 1, say);
  } finally {
    ours.end();
  }
}

export async function compareLoad(
  against: string,
  settings: Settings & { rounds: number },
  say: Say,
): Promise<LoadFigures> {
  const processes: AskedProcess[] = [];
  try {
    for (const folder of [thisCheckout, against]) processes.push(await startProcess({ ...settings, folder }));
    const [ours, theirs] = processes.map((process) => ({ centroids: centroidCounts[0], process }));
    const contestants = [
      { name: "ours", ...ours },
      { name: against, ...theirs },
    ];
    const batches = uniformBatches.map((batch): [string, Arrival[]] => [
      `batch ${batch}`,
      uniformArrivals(batch, uniform, gpt2Config),
    ]);
    // Warms up caches and clocks.
    for (const { process } of contestants) await run(process, { arrivals: batches[1][1], centroids: 1 });
    return await runRounds(contestants, [...batches, ...loadsOf(settings)], settings.rounds, say);
  } finally {
    for (const process of processes) process.end();
  }
}

function rowLine({ load, contestant, figures, failed }: LoadRow): string {
  const values = Object.entries(figures).map(([name, value]) =>
    name === "tokens/s" ? `${value.toFixed(1)} ${name}` : `${name} ${value.toFixed(1)} ms`,
  );
  return `load ${load}, ${contestant}: ${values.join(", ")}, ${failed} failed`;
}

function ratioLine({ load, of, ratios }: LoadRatio): string {
  const values = Object.entries(ratios).map(
    ([name, [middle, least, most]]) => `${name} ${middle.toFixed(2)}x (${least.toFixed(2)} to ${most.toFixed(2)})`,
  );
  return `load ${load}, ${of.join(" ÷ ")}: ${values.join(", ")}`;
}

const thisCheckout = new URL("../../..", import.meta.url).pathname;

function loadsOf({ rates, requests }: Settings): [string, Arrival[]][] {
  return rates.map((rate) => [`${requests} requests at ${rate}/s`, tracedArrivals(rate, requests, gpt2Config)]);
}

async function runRounds(
  contestants: readonly Contestant[],
  loads: readonly [string, Arrival[]][],
  rounds: number,
  say: Say,
): Promise<LoadFigures> {
  const [rows, ratios]: [LoadRow[], LoadRatio[]] = [[], []];
  for (const [load, arrivals] of loads) {
    const results = contestants.map((): LoadResult[] => []);
    for (let round = 0; round < rounds; round++) {
      const order = round % 2 === 0 ? [...contestants.keys()] : [...contestants.keys()].reverse();
      for (const c of order) {
        const { process, centroids } = contestants[c];
        results[c].push(await run(process, { arrivals, centroids }));
      }
    }
    contestants.forEach(({ name }, c) => {
      const figures = mapValues(measures, (measure) => median(results[c].map(measure)));
      const failed = Math.max(...results[c].map((result) => result.failed));
      const row = { load, contestant: name, figures, failed };
      rows.push(row);
      say(rowLine(row));
    });
    const ofRounds = mapValues(measures, (measure) =>
      results[0].map((own, r) => measure(own) / measure(results[1][r])),
    );
    const ratio: LoadRatio = {
      load,
      of: [contestants[0].name, contestants[1].name],
      ratios: mapValues(ofRounds, (all) => [median(all), Math.min(...all), Math.max(...all)]),
    };
    ratios.push(ratio);
    say(ratioLine(ratio));
  }
  return { rows, ratios };
}

function mapValues<K extends string, V, T>(record: Record<K, V>, value: (from: V) => T): Record<K, T> {
  const entries = Object.entries(record) as [K, V][];
  return Object.fromEntries(entries.map(([name, from]) => [name, value(from)])) as Record<K, T>;
}

async function startProcess({ folder, format, threads }: LoadOptions): Promise<AskedProcess> {
  const script = new URL("./process.ts", import.meta.url);
  const started = new AskedProcess(script, JSON.stringify({ folder, format, threads }));
  await started.ready();
  return started;
}

const run = (process: AskedProcess, load: ToLoad) => process.ask<LoadResult>(load);
