/** How long callers wait for a first token: several ways to the same backend, in rounds whose order alternates. */
import { Agent, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { seededRandom } from "../../support/steps.ts";
import { mean, quantile } from "../quantile.ts";

/** One way to a completion. */
export interface Way {
  system: string;
  url: string;
  headers: Record<string, string>;
  /** Gives more headers for a body, before its time counts. */
  sign?: (body: Uint8Array) => Promise<Record<string, string>>;
  /** Bodies of its requests, each used in turn. */
  bodies: string[];
  /** What the answer holds once it holds a token. */
  firstToken: string;
}

/**
 * Whether callers ask again at once, and so, with answers of one length, all at the same moment; or after a pause each of its
 * own length, as callers do that know nothing of each other.
 */
export type Arrivals = "in step" | "apart";
const longestPauseMs = 20;

export interface FirstTokenRow {
  kind: "first-token";
  backend: string;
  system: string;
  concurrency: number;
  arrivals: Arrivals;
  requests: number;
  meanMs: number;
  p50Ms: number;
  p99Ms: number;
  requestsPerSecond: number;
}

/** Takes all ways, at the same time, as often as makes their code compiled: one that serves has served before. */
export async function warmUp(ways: readonly Way[], requests: number): Promise<void> {
  const concurrency = 16;
  const agent = new Agent({ keepAlive: true, maxSockets: concurrency });
  await Promise.all(ways.map((way) => closedLoop(concurrency, requests, (i) => timed(way, i, agent))));
  agent.destroy();
}

export async function measureFirstTokens(
  backend: string,
  ways: readonly Way[],
  options: { concurrency: number; arrivals: Arrivals; rounds: number; requestsPerRound: number; seed: number },
): Promise<FirstTokenRow[]> {
  const { concurrency, arrivals, rounds, requestsPerRound, seed } = options;
  const agent = new Agent({ keepAlive: true, maxSockets: concurrency });
  const samples = new Map(ways.map((way) => [way, [] as number[]]));
  const spentMs = new Map(ways.map((way) => [way, 0]));
  // One round more, which is not counted: connections open.
  for (let round = -1; round < rounds; round++) {
    for (const way of round % 2 === 0 ? ways : [...ways].reverse()) {
      const started = performance.now();
      const random = seededRandom(seed + round + 2);
      const waits = await closedLoop(concurrency, requestsPerRound, async (i) => {
        if (arrivals === "apart") await sleep(longestPauseMs * random());
        return (await timed(way, i + round * 7, agent)).firstMs;
      });
      if (round < 0) continue;
      samples.get(way)!.push(...waits);
      spentMs.set(way, spentMs.get(way)! + performance.now() - started);
    }
  }
  agent.destroy();
  return ways.map((way) => {
    const waits = samples.get(way)!;
    return {
      kind: "first-token",
      backend,
      system: way.system,
      concurrency,
      arrivals,
      requests: waits.length,
      meanMs: mean(waits),
      p50Ms: quantile(waits, 0.5),
      p99Ms: quantile(waits, 0.99),
      requestsPerSecond: (1000 * waits.length) / spentMs.get(way)!,
    };
  });
}

/** Runs `count` tasks, `concurrency` at a time. */
export async function closedLoop<T>(concurrency: number, count: number, task: (i: number) => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  let next = 0;
  const lane = async () => {
    for (let i = next++; i < count; i = next++) results.push(await task(i));
  };
  await Promise.all(Array.from({ length: concurrency }, lane));
  return results;
}

/** Milliseconds of one completion, from its request on. */
export interface Times {
  firstMs: number;
  totalMs: number;
  /** The answer as it came. */
  text: string;
}

export async function timed(way: Way, index: number, agent: Agent): Promise<Times> {
  const { system, url, bodies, firstToken } = way;
  const body = bodies[(index + bodies.length) % bodies.length];
  const signed = (await way.sign?.(new TextEncoder().encode(body))) ?? {};
  const headers = { "content-type": "application/json", ...way.headers, ...signed };
  return new Promise((resolve, reject) => {
    const startedMs = performance.now();
    const sent = request(url, { method: "POST", agent, headers });
    const fail = (cause: Error) => {
      const socket = sent.reusedSocket ? "a used connection" : "a new connection";
      reject(new Error(`${system}, on ${socket}: ${cause.message}`, { cause }));
    };
    sent.once("error", fail);
    sent.once("response", (response) => {
      let waitedMs: number | null = null;
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        text += chunk;
        if (waitedMs === null && text.includes(firstToken)) waitedMs = performance.now() - startedMs;
      });
      response.once("error", fail);
      response.once("end", () => {
        if (waitedMs === null) reject(new Error(`${system} answered ${response.statusCode}: ${text.slice(0, 300)}`));
        else resolve({ firstMs: waitedMs, totalMs: performance.now() - startedMs, text });
      });
    });
    sent.end(body);
  });
}
