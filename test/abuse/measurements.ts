/** Measures attacks by another caller's latency, compared with a run without the attack, and by a process's resident memory. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { quantile } from "../bench/quantile.ts";

/** Maximum ratio of another caller's median latency under attack to its median latency without an attack, in the same run. */
export const mostSlowdown = 4;
/** Maximum ratio of another caller's p95 latency beside an attack to its p95 beside as many harmless requests of the same size. */
export const mostVictimRatio = 2;
/** Maximum growth of the edge's resident memory in bytes, for any number of clients that never read or never finish. */
export const mostGrowthBytes = 64 * 2 ** 20;

export function residentBytes(pid: number): number {
  return statusKilobytes(pid, "VmRSS") * 1024;
}

/** Resets the peak to the current resident memory. */
export function forgetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, "5");
}

/** Peak resident memory since the last reset or the start of the process, in bytes. */
export function peakBytes(pid: number): number {
  return statusKilobytes(pid, "VmHWM") * 1024;
}

function statusKilobytes(pid: number, field: string): number {
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
}

export function megabytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(0)} MB`;
}

export const median = (values: readonly number[]) => quantile(values, 0.5);
export const p95 = (values: readonly number[]) => quantile(values, 0.95);

/** A request that is repeated on many connections. */
export interface Flood {
  port: number;
  /** One request. */
  bytesBase64: string;
  /** Number of connections; each sends one request after another. */
  connections: number;
}

/** Number of responses by status; `closed` counts connections that closed without a response. */
export type FloodResult = Record<string, number>;

const rounds = 2;
const fewestSamples = 3;
const mostSamples = 12;
/** A phase ends after this duration, even if a slow caller has given fewer than the maximum of samples, but at least `fewestSamples`. */
const phaseMs = 2500;

/** Measures the median latency of `request` alternately without and with a flood. `statuses` in the result are those of the flood. */
export async function slowdownBeside(flood: Flood, request: () => Promise<unknown>) {
  const { alone, beside } = await timesBeside({ alone: null, beside: flood }, request, { rounds, most: mostSamples });
  const [aloneMs, besideMs] = [median(alone.times), median(beside.times)];
  return { aloneMs, besideMs, ratio: besideMs / aloneMs, statuses: beside.statuses };
}

/** Measures the p95 latency of `request` beside an attack, and beside as many harmless requests of the same size. */
export async function p95Beside(floods: { harmless: Flood; attack: Flood }, request: () => Promise<unknown>) {
  const { harmless, attack } = await timesBeside(floods, request, { rounds: 4, most: 25 });
  const found = () => {
    const [harmlessMs, attackMs] = [p95(harmless.times), p95(attack.times)];
    return { harmlessMs, attackMs, ratio: attackMs / harmlessMs };
  };
  // p95 rests on the five slowest of a hundred samples. If the ratio is too high, 200 more are measured to rule out chance.
  if (found().ratio > mostVictimRatio) {
    const more = await timesBeside(floods, request, { rounds: 8, most: 25 });
    harmless.times.push(...more.harmless.times);
    attack.times.push(...more.attack.times);
  }
  return { ...found(), statuses: { harmless: harmless.statuses, attack: attack.statuses } };
}

interface Beside {
  /** Latencies in milliseconds. */
  times: number[];
  statuses: FloodResult;
}

/**
 * Measures the latency of `request` beside each flood in turn; null is no flood. Floods are sent by another process, so that
 * sending does not slow the measurement.
 */
async function timesBeside<Name extends string>(
  floods: Record<Name, Flood | null>,
  request: () => Promise<unknown>,
  { rounds, most }: { rounds: number; most: number },
): Promise<Record<Name, Beside>> {
  const child = fork(path.join(import.meta.dirname, "flood-process.ts"), {
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  const names = Object.keys(floods) as Name[];
  const empty = names.map((name): [Name, Beside] => [name, { times: [], statuses: {} }]);
  const found = Object.fromEntries(empty) as Record<Name, Beside>;
  try {
    for (let round = 0; round < rounds; round++) {
      for (const name of names) {
        const flood = floods[name];
        const { times, statuses } = found[name];
        // Warm-up: the previous flood drains and code is compiled before the samples.
        await timed(request, fewestSamples);
        if (flood) await told(child, flood, "flooding");
        times.push(...(await timed(request, most)));
        if (!flood) continue;
        const { result } = (await told(child, "stop", "stopped")) as { result: FloodResult };
        for (const [status, count] of Object.entries(result)) statuses[status] = (statuses[status] ?? 0) + count;
      }
    }
  } finally {
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }
  return found;
}

async function timed(request: () => Promise<unknown>, most: number): Promise<number[]> {
  const times: number[] = [];
  const untilMs = performance.now() + phaseMs;
  while (times.length < most && (times.length < fewestSamples || performance.now() < untilMs)) {
    const startMs = performance.now();
    await request();
    times.push(performance.now() - startMs);
  }
  return times;
}

/** Sends a message and waits for a reply of this kind. */
async function told(child: ChildProcess, message: Flood | "stop", kind: string): Promise<object> {
  child.send(message);
  for (;;) {
    const [answer] = (await once(child, "message")) as [{ kind: string }];
    if (answer.kind === kind) return answer;
  }
}
