/**
 * Whether the simulation agrees with the real thing: a small case on a real edge and backend of this machine beside the same
 * case simulated. Service times are measured on the idle stack first, one request after the other; then requests arrive at
 * random. Not here: distances, which a single machine has not.
 */
import { chunkTokens } from "../../../gpu-backend/config.ts";
import { type Stack, startStack } from "../../support/stack.ts";
import { seededRandom } from "../../support/steps.ts";
import { median, quantile } from "../quantile.ts";
import { type BackendLimits, SimulatedBackend, type StepTimes } from "./backend.ts";
import { SimulatedCell } from "./cell.ts";
import { EventQueue } from "./events.ts";

/** How far simulated and measured medians may be apart. */
const tolerance = 0.15;
const requests = 300;
const outputTokens = 24;
/** Prompt lengths, each as likely: below and above a chunk. */
const promptLengths = [48, 96, 192];
/** Part of the backend's time that the requests take. */
const load = 0.25;
const repetitions = 15;
/** The embedded model, and the server's defaults. */
const limits: BackendLimits = {
  maxSequences: 32,
  maxQueue: 512,
  stepTokens: 256,
  chunkTokens,
  kvBytes: 2 ** 30,
  kvShape: { layers: 5, heads: 4, headWidth: 32, contextTokens: 512 },
};

interface Timed {
  firstTokenMs: number;
  /** Between its tokens, on average. */
  betweenMs: number;
}

/** True if the medians agree. Throws an Error where the stack does not start. */
export async function checkAgainstRealStack(seed: number, say: (line: string) => void): Promise<boolean> {
  const stack = await startStack({ THREADS: "1" });
  try {
    const random = seededRandom(seed);
    const ask = (promptTokens: number, n = 1) => timed(stack, promptTokens, n, random);
    for (let i = 0; i < repetitions; i++) await ask(promptLengths[0]);
    const alone = await repeated(() => ask(promptLengths[0]));
    const long = await repeated(() => ask(promptLengths[2]));
    const eight = await repeated(() => ask(promptLengths[0], 8));
    const decodedRow = Math.max(0, (eight.betweenMs - alone.betweenMs) / 7);
    const fixed = Math.max(0, alone.betweenMs - decodedRow);
    const promptToken = Math.max(0, (long.firstTokenMs - alone.firstTokenMs) / (promptLengths[2] - promptLengths[0]));
    // What a prompt's first step takes beyond its tokens, and the way through edge and cell.
    const aroundMs = alone.firstTokenMs - fixed - decodedRow - promptToken * promptLengths[0];
    const times: StepTimes = { fixed, promptToken, decodedRow };
    say(
      `measured: a step ${fixed.toFixed(2)} ms + ${promptToken.toFixed(4)} a prompt token + ${decodedRow.toFixed(3)} a decoded row; around it ${aroundMs.toFixed(2)} ms`,
    );
    const meanPrompt = promptLengths.reduce((a, b) => a + b, 0) / promptLengths.length;
    const workMs = outputTokens * (fixed + decodedRow) + meanPrompt * promptToken;
    const perSecond = (1000 * load) / workMs;
    const arrivals = Array.from({ length: requests }, () => ({
      gapMs: (-Math.log(1 - random()) / perSecond) * 1000,
      promptTokens: promptLengths[Math.floor(random() * promptLengths.length)],
    }));
    const real = await runReal(arrivals, (promptTokens) => ask(promptTokens));
    const simulated = runSimulated(arrivals, times, aroundMs);
    let agrees = true;
    for (const [name, part] of [
      ["p50", 0.5],
      ["p90", 0.9],
    ] as const) {
      const [measured, predicted] = [quantile(real, part), quantile(simulated, part)];
      const difference = predicted / measured - 1;
      if (Math.abs(difference) > tolerance && part === 0.5) agrees = false;
      say(
        `${name} of the first token at ${perSecond.toFixed(0)} requests/s: measured ${measured.toFixed(1)} ms, simulated ${predicted.toFixed(1)} ms, ${(100 * difference).toFixed(0)}%`,
      );
    }
    say(`${agrees ? "agree" : "do not agree"} within ${100 * tolerance}% (median)`);
    return agrees;
  } finally {
    await stack.stop();
  }
}

async function timed(stack: Stack, promptTokens: number, n: number, random: () => number): Promise<Timed> {
  const prompt = Array.from({ length: promptTokens }, () => 300 + Math.floor(random() * 1000));
  const startedMs = performance.now();
  const body = { prompt, n, max_tokens: outputTokens, temperature: 0, stream: true, ignore_eos: true };
  const response = await stack.post("/v1/completions", body);
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  let text = "";
  let firstMs = 0;
  const decoder = new TextDecoder();
  for await (const bytes of response.body!) {
    text += decoder.decode(bytes, { stream: true });
    if (firstMs === 0 && text.includes('"text"')) firstMs = performance.now();
  }
  const endMs = performance.now();
  return {
    firstTokenMs: firstMs - startedMs,
    betweenMs: (endMs - firstMs) / (outputTokens - 1),
  };
}

async function repeated(ask: () => Promise<Timed>): Promise<Timed> {
  const all: Timed[] = [];
  for (let i = 0; i < repetitions; i++) all.push(await ask());
  return {
    firstTokenMs: median(all.map((one) => one.firstTokenMs)),
    betweenMs: median(all.map((one) => one.betweenMs)),
  };
}

type Arrivals = readonly { gapMs: number; promptTokens: number }[];

/** Milliseconds to each first token. */
async function runReal(arrivals: Arrivals, ask: (promptTokens: number) => Promise<Timed>): Promise<number[]> {
  const open: Promise<Timed>[] = [];
  let dueMs = performance.now();
  for (const { gapMs, promptTokens } of arrivals) {
    dueMs += gapMs;
    const waitMs = dueMs - performance.now();
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    open.push(ask(promptTokens));
  }
  return (await Promise.all(open)).map(({ firstTokenMs }) => firstTokenMs);
}

function runSimulated(arrivals: Arrivals, times: StepTimes, aroundMs: number): number[] {
  const events = new EventQueue();
  const process = new SimulatedBackend(events, times, limits);
  const address = { url: "http://backend.example", region: null };
  const cell = new SimulatedCell(
    events,
    "enam",
    { request: 0, frame: 0 },
    new Map([[address.url, { address, process }]]),
    () => 0,
  );
  const firstTokens: number[] = [];
  let dueMs = 0;
  for (const { gapMs, promptTokens } of arrivals) {
    dueMs += gapMs;
    const atMs = dueMs;
    events.after(atMs, () =>
      cell.take({
        arrival: { tenant: "local", centroidId: "c0", promptTokens, outputTokens },
        arrivedMs: events.nowMs,
        sequence: { tenant: "local" },
        sharedBy: "mixtures",
        generated: 0,
        attempts: 0,
        onFirstToken: () => firstTokens.push(events.nowMs - atMs + aroundMs),
        onDone: () => undefined,
        onFailed: () => undefined,
      }),
    );
  }
  events.runUntil(dueMs + 60_000);
  return firstTokens;
}
