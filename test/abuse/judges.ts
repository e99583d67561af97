/** What the attacks are judged by: a bystander's latency as a ratio to its own, and the memory of a process. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

/** Another caller's median latency under attack may be this many times what it is alone, in the same run. */
export const mostSlowdown = 4;
/** Bytes by which never-reading or never-ending clients, however many, may grow the edge. */
export const mostGrowthBytes = 64 * 2 ** 20;

/** Resident memory. */
export function residentBytes(pid: number): number {
  return statusKilobytes(pid, "VmRSS") * 1024;
}

/** Lets the peak begin anew: what is resident now. */
export function forgetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, "5");
}

/** The most that was resident since the peak was forgotten, or the process began. */
export function peakBytes(pid: number): number {
  return statusKilobytes(pid, "VmHWM") * 1024;
}

function statusKilobytes(pid: number, field: string): number {
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
}

export function megabytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(0)} MB`;
}

export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}

/** What a flood does until it is told to stop. */
export interface Flood {
  port: number;
  /** Of one request. */
  bytesBase64: string;
  /** Each sends one request after the other. */
  connections: number;
}

/** Status → answers with it; `closed` counts connections that ended without one. */
export type FloodResult = Record<string, number>;

export interface Slowdown {
  aloneMs: number;
  besideMs: number;
  ratio: number;
  /** Of the flood, over all rounds. */
  statuses: FloodResult;
}

const rounds = 2;
const fewestSamples = 3;
const mostSamples = 12;
/** A slow bystander is seen to be slow after fewer samples. */
const phaseMs = 2500;

/**
 * The latency of `request` alone and beside a flood, in turns. The flood comes from a process of its own, so that what it
 * costs to send is not part of what is measured.
 */
export async function slowdownBeside(flood: Flood, request: () => Promise<unknown>): Promise<Slowdown> {
  const child = fork(path.join(import.meta.dirname, "flood-process.ts"), {
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  const samples = { alone: [] as number[], beside: [] as number[] };
  const statuses: FloodResult = {};
  try {
    for (let round = 0; round < rounds; round++) {
      // What the last flood left is answered, and code is compiled, before anything counts.
      await timed(request, fewestSamples);
      samples.alone.push(...(await timed(request, mostSamples)));
      await told(child, flood, "flooding");
      samples.beside.push(...(await timed(request, mostSamples)));
      const { result } = (await told(child, "stop", "stopped")) as { result: FloodResult };
      for (const [status, count] of Object.entries(result)) statuses[status] = (statuses[status] ?? 0) + count;
    }
  } finally {
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }
  const [aloneMs, besideMs] = [median(samples.alone), median(samples.beside)];
  return { aloneMs, besideMs, ratio: besideMs / aloneMs, statuses };
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

/** Sends a message and waits for the answer of this kind. */
async function told(child: ChildProcess, message: Flood | "stop", kind: string): Promise<object> {
  child.send(message);
  for (;;) {
    const [answer] = (await once(child, "message")) as [{ kind: string }];
    if (answer.kind === kind) return answer;
  }
}
