/** The backend as a process of its own, on a port that the system chooses. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { BatchRequest, Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import { FrameReader } from "../../shared/contracts/ndjson.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import { endWithProcess } from "./process-end.ts";

const startMs = 60_000;
const endMs = 10_000;
const mainFile = fileURLToPath(new URL("../../gpu-backend/main.ts", import.meta.url));

export interface Backend {
  url: string;
  manifestHash: string;
  child: ChildProcess;
  exited: Promise<number | null>;
  log(): string;
  /** Process ids of the engines, in the order in which they became ready. */
  enginePids(): number[];
  batch(centroidId: string | null, sequences: SequenceRequest[]): BatchRequest;
  /** Throws an Error if the batch is refused. */
  frames(centroidId: string | null, sequences: SequenceRequest[], rest?: Partial<BatchRequest>): Promise<Frame[]>;
  post(path: string, body: unknown, signal?: AbortSignal): Promise<Response>;
  metric(name: string): Promise<number>;
  /** Returns the exit code. Kills the process and throws an Error if it does not end in 10 s. */
  stop(signal?: NodeJS.Signals): Promise<number | null>;
}

/** Starts main.ts. Throws an Error with its stderr if it ends before it is ready. */
export async function startBackend(env: Record<string, string>): Promise<Backend> {
  const child = spawn(process.execPath, [mainFile], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, BACKEND_PORT: "0", ...env },
  });
  let written = "";
  child.stderr!.on("data", (chunk) => {
    written += chunk;
  });
  const exited = once(child, "close").then(([code]) => code as number | null);
  const line = await firstLine(child, () => written);
  if (line === null) throw new Error(`exit ${await exited}: ${written}`);
  const { url, manifest } = JSON.parse(line) as { url: string; manifest: string };
  const backend: Backend = {
    url,
    manifestHash: manifest,
    child,
    exited,
    log: () => written,
    enginePids: () => Array.from(written.matchAll(/"event":"engine",.*"pid":(\d+)/g), ([, pid]) => Number(pid)),
    batch: (centroidId, sequences) => ({ version: 4, manifestHash: manifest, centroidId, sequences }),
    async frames(centroidId, sequences, rest = {}) {
      const response = await backend.post("/v1/batches", { ...backend.batch(centroidId, sequences), ...rest });
      if (response.status !== 200)
        throw new Error(`the batch was answered ${response.status} ${await response.text()}`);
      return allFrames(response);
    },
    post: (path, body, signal) =>
      fetch(url + path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
        signal,
      }),
    metric: (name) => metricAt(url, name),
    async stop(signal = "SIGTERM") {
      child.kill(signal);
      if (await settlesWithin(exited, endMs)) return exited;
      child.kill("SIGKILL");
      throw new Error(`the backend did not end within ${endMs} ms of ${signal}: ${written}`);
    },
  };
  return backend;
}

/** NaN if the backend has no such metric. Throws an Error if the metric has several series. */
export async function metricAt(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const series = [...text.matchAll(new RegExp(`^${name}(?:\\{.*\\})? (.*)$`, "gm"))];
  if (series.length > 1) throw new Error(`${name} has ${series.length} series`);
  return Number(series[0]?.[1]);
}

export async function* framesOf(response: Response): AsyncGenerator<Frame> {
  const reader = new FrameReader();
  for await (const chunk of response.body!) yield* reader.push(chunk);
  reader.end();
}

export async function allFrames(response: Response): Promise<Frame[]> {
  return Array.fromAsync(framesOf(response));
}

/** False for a zombie, which has ended without being waited for. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return process.platform !== "linux" || !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/**
 * The first line that a process prints; null if the process ends before. After a minute kills the process and throws an Error with `log()`.
 */
export async function firstLine(child: ChildProcess, log: () => string): Promise<string | null> {
  child.once(
    "exit",
    endWithProcess(() => child.kill("SIGKILL")),
  );
  const signal = AbortSignal.timeout(startMs);
  for await (const line of createInterface({ input: child.stdout!, signal })) return line;
  if (!signal.aborted) return null;
  child.kill("SIGKILL");
  throw new Error(`the process was not ready after ${startMs} ms: ${log()}`);
}
