/** Time to a first token, by several ways to the same backend, in rounds of alternating order. */
import { Agent, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { seededRandom } from "../../support/steps.ts";
import { mean, quantile } from "../quantile.ts";

export interface Way {
  system: string;
  url: string;
  headers: Record<string, string>;
  /** Headers made from the body, such as a signature. The time starts after they are made. */
  sign?: (body: Uint8Array) => Promise<Record<string, string>>;
  bodies: string[];
  /** An answer contains this text as soon as it contains a token. */
  firstToken: string;
}

export function completionsWay(system: string, serverUrl: string, bodies: string[]): Way {
  return { system, url: `${serverUrl}/v1/completions`, headers: {}, bodies, firstToken: "data: {" };
}

export function directWay(backendUrl: string, bodies: string[], sign: Way["sign"]): Way {
  const url = `${backendUrl}/v1/batches`;
  return { system: "the backend directly", url, headers: {}, sign, bodies, firstToken: '"type":"token"' };
}

/** "in step": callers ask again at once, so that all ask at the same moment. "apart": each caller first waits for a random pause. */
export type Arrivals = "in step" | "apart";
const longestPauseMs = 20;

export type FirstTokenRow = Awaited<ReturnType<typeof measureFirstTokens>>[number];

/** Runs enough requests that the ways' code is compiled. */
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
) {
  const { concurrency, arrivals, rounds, requestsPerRound, seed } = options;
  const agent = new Agent({ keepAlive: true, maxSockets: concurrency });
  const samples = new Map(ways.map((way) => [way, [] as number[]]));
  const spentMs = new Map(ways.map((way) => [way, 0]));
  // The first round opens connections and is not counted.
  for (let round = -1; round < rounds; round++) {
    for (const way of round % 2 === 0 ? ways : [...ways].reverse()) {
      const started = performance.now();
      const random = seededRandom(seed + round + 2);
      const waits = await closedLoop(concurrency, requestsPerRound, async (i) => {
        if (arrivals === "apart") await sleep(longestPauseMs * random());
        return timed(way, i + round * 7, agent);
      });
      if (round < 0) continue;
      samples.get(way)!.push(...waits);
      spentMs.set(way, spentMs.get(way)! + performance.now() - started);
    }
  }
  agent.destroy();
  return ways.map((way) => {
    const waits = samples.get(way)!;
    const cell = { backend, system: way.system, concurrency, arrivals, requests: waits.length };
    const times = { meanMs: mean(waits), p50Ms: quantile(waits, 0.5), p99Ms: quantile(waits, 0.99) };
    const requestsPerSecond = (1000 * waits.length) / spentMs.get(way)!;
    return { kind: "first-token" as const, ...cell, ...times, requestsPerSecond };
  });
}

async function closedLoop<T>(concurrency: number, count: number, task: (i: number) => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  let next = 0;
  const lane = async () => {
    for (let i = next++; i < count; i = next++) results.push(await task(i));
  };
  await Promise.all(Array.from({ length: concurrency }, lane));
  return results;
}

async function timed(way: Way, index: number, agent: Agent): Promise<number> {
  let waitedMs: number | null = null;
  let text = "";
  const status = await streamed(way, index, agent, (chunk, ms) => {
    text += chunk;
    if (waitedMs === null && text.includes(way.firstToken)) waitedMs = ms;
  });
  if (waitedMs === null) throw new Error(`${way.system} answered ${status}: ${text.slice(0, 300)}`);
  return waitedMs;
}

/** Passes on each chunk with the milliseconds since the request. Resolves to the status. */
export async function streamed(
  way: Way,
  index: number,
  agent: Agent,
  seen: (chunk: string, ms: number) => void,
): Promise<number> {
  const body = way.bodies[(index + way.bodies.length) % way.bodies.length];
  const signed = (await way.sign?.(new TextEncoder().encode(body))) ?? {};
  const headers = { "content-type": "application/json", ...way.headers, ...signed };
  return new Promise((resolve, reject) => {
    const startedMs = performance.now();
    const sent = request(way.url, { method: "POST", agent, headers });
    const fail = (cause: Error) => {
      const socket = sent.reusedSocket ? "a used connection" : "a new connection";
      reject(new Error(`${way.system}, on ${socket}: ${cause.message}`, { cause }));
    };
    sent.once("error", fail);
    sent.once("response", (response) => {
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => seen(chunk, performance.now() - startedMs));
      response.once("error", fail);
      response.once("end", () => resolve(response.statusCode!));
    });
    sent.end(body);
  });
}
