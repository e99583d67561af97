/**
 * Whether the simulation agrees with the real thing: small cases on a real edge and backend of this machine beside the same
 * cases simulated. What a request takes is measured with requests that arrive evenly and do not meet, at the rate of the case,
 * as a machine that idles longer is slower: time, and CPU time of all processes. Then they arrive at random, and the simulation
 * has to say what meeting costs. Load generator, edge and backend share this machine's cores there, too. Linux only. Not here:
 * distances, which a single machine has not.
 */
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { chunkTokens } from "../../../gpu-backend/config.ts";
import { type Stack, startStack } from "../../support/stack.ts";
import { seededRandom } from "../../support/steps.ts";
import { median, quantile } from "../quantile.ts";
import { type BackendLimits, queueFreePrefillMs, SimulatedBackend, type StepTimes } from "./backend.ts";
import { SimulatedCell } from "./cell.ts";
import { EventQueue } from "./events.ts";
import { Machine } from "./machine.ts";

/** How far simulated and measured quantiles may be apart. */
const tolerance = 0.15;
const quantiles = { p50: 0.5, p90: 0.9 };
/** Requests a second of each case. */
const rates = [8, 16];
const requests = 200;
/** Times that each case is measured; the median counts, as other programs disturb single ones. */
const rounds = 3;
const outputTokens = 24;
/** Prompt lengths, each as likely: below and above a chunk. */
const promptLengths = [48, 96, 192];
const warmUps = 30;
/** Requests of each kind that are measured alone. */
const repetitions = 40;
/** Runs of each simulated case, which draw other requests' times. */
const runs = 20;
/** The embedded model, and the server's defaults. */
const limits: BackendLimits = {
  maxSequences: 32,
  maxQueue: 512,
  stepTokens: 256,
  chunkTokens,
  kvBytes: 2 ** 30,
  kvShape: { layers: 5, heads: 4, headWidth: 32, contextTokens: 512 },
};

/** One request, in milliseconds. */
interface Timed {
  promptTokens: number;
  firstTokenMs: number;
  /** Of the engine, as the answer reports it. */
  prefillMs: number;
  decodeMs: number;
}

interface Measured {
  step: StepTimes;
  /** What a first token took beside the engine's steps, of each measured request. */
  aroundMs: number[];
  /** CPU time of all processes but the engine, for a request and for one of its frames. */
  requestCpuMs: number;
  frameCpuMs: number;
}

interface Arrival {
  gapMs: number;
  promptTokens: number;
}

/** True if all quantiles agree. Throws an Error where the stack does not start. */
export async function checkAgainstRealStack(seed: number, say: (line: string) => void): Promise<boolean> {
  const stack = await startStack({ THREADS: "1" });
  try {
    const random = seededRandom(seed);
    for (let i = 0; i < warmUps; i++) await ask(stack, promptLengths[0], random);
    let agrees = true;
    for (const perSecond of rates) {
      const measured = await measure(stack, 1000 / perSecond, random);
      say(`${perSecond} requests a second; alone: ${described(measured)}`);
      const arrivals = Array.from({ length: requests }, () => ({
        gapMs: (-Math.log(1 - random()) / perSecond) * 1000,
        promptTokens: promptLengths[Math.floor(random() * promptLengths.length)],
      }));
      const simulated = Array.from({ length: runs }, () => runSimulated(arrivals, measured, random)).flat();
      const real: number[][] = [];
      for (let i = 0; i < rounds; i++)
        real.push(await runReal(arrivals, (promptTokens) => ask(stack, promptTokens, random)));
      for (const [name, part] of Object.entries(quantiles)) {
        const each = real.map((round) => quantile(round, part));
        const [realMs, simulatedMs] = [median(each), quantile(simulated, part)];
        const difference = simulatedMs / realMs - 1;
        agrees &&= Math.abs(difference) <= tolerance;
        say(
          `${name} of the first token: measured ${realMs.toFixed(1)} ms (${each.map((ms) => ms.toFixed(1)).join(", ")}), simulated ${simulatedMs.toFixed(1)} ms, ${(100 * difference).toFixed(0)}%`,
        );
      }
    }
    say(`${agrees ? "agree" : "do not agree"} within ${100 * tolerance}%`);
    return agrees;
  } finally {
    await stack.stop();
  }
}

async function measure(stack: Stack, spacingMs: number, random: () => number): Promise<Measured> {
  const repeated = async (times: number, one: (i: number) => Promise<Timed>) => {
    const all: Timed[] = [];
    const beforeMs = cpuMs();
    for (let i = 0; i < times; i++) {
      const nextMs = performance.now() + spacingMs;
      all.push(await one(i));
      await sleep(Math.max(0, nextMs - performance.now()));
    }
    const engineMs = all.reduce((sum, { prefillMs, decodeMs }) => sum + prefillMs + decodeMs, 0);
    return { all, cpuMs: (cpuMs() - beforeMs - engineMs) / times };
  };
  const whole = await repeated(repetitions * promptLengths.length, (i) =>
    ask(stack, promptLengths[i % promptLengths.length], random),
  );
  const oneToken = await repeated(repetitions, () => ask(stack, promptLengths[0], random, { max_tokens: 1 }));
  const eight = await repeated(repetitions, () => ask(stack, promptLengths[0], random, { n: 8 }));
  const stepOf = ({ all }: typeof whole) => median(all.map(({ decodeMs }) => decodeMs)) / (outputTokens - 1);
  const decodedRow = Math.max(0, (stepOf(eight) - stepOf(whole)) / 7);
  const fixed = stepOf(whole) - decodedRow;
  const prefillOf = (tokens: number) =>
    median(whole.all.filter(({ promptTokens }) => promptTokens === tokens).map(({ prefillMs }) => prefillMs));
  const [short, long] = [promptLengths[0], promptLengths.at(-1)!];
  const furtherChunks = Math.ceil(long / chunkTokens) - Math.ceil(short / chunkTokens);
  const promptToken = (prefillOf(long) - prefillOf(short) - furtherChunks * fixed) / (long - short);
  const prompt = prefillOf(short) - fixed - decodedRow - promptToken * short;
  const step = { fixed, prompt, promptToken, decodedRow };
  const frameCpuMs = (whole.cpuMs - oneToken.cpuMs) / (outputTokens - 1);
  return {
    step,
    aroundMs: whole.all.map((one) => one.firstTokenMs - queueFreePrefillMs(one.promptTokens, step, limits)),
    requestCpuMs: oneToken.cpuMs - frameCpuMs,
    frameCpuMs,
  };
}

function described({ step, aroundMs, requestCpuMs, frameCpuMs }: Measured): string {
  const ms = (value: number) => `${value.toFixed(2)} ms`;
  const steps = `a step ${ms(step.fixed)} + ${ms(step.prompt)} a prompt + ${ms(step.promptToken)} a prompt token + ${ms(step.decodedRow)} a decoded row`;
  const around = `around it ${ms(median(aroundMs))}, p90 ${ms(quantile(aroundMs, 0.9))}`;
  return `${steps}; ${around}; CPU beside the engine ${ms(requestCpuMs)} a request + ${ms(frameCpuMs)} a frame, on ${availableParallelism()} cores`;
}

async function ask(stack: Stack, promptTokens: number, random: () => number, options: object = {}): Promise<Timed> {
  const prompt = Array.from({ length: promptTokens }, () => 300 + Math.floor(random() * 1000));
  const startedMs = performance.now();
  const body = { prompt, max_tokens: outputTokens, temperature: 0, stream: true, ignore_eos: true, ...options };
  const response = await stack.post("/v1/completions", body);
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  let text = "";
  let firstMs = 0;
  const decoder = new TextDecoder();
  for await (const bytes of response.body!) {
    text += decoder.decode(bytes, { stream: true });
    if (firstMs === 0 && text.includes('"text"')) firstMs = performance.now();
  }
  const { prefill, decode } = JSON.parse(/"timings":(\{[^}]*\})/.exec(text)![1]) as { prefill: number; decode: number };
  return { promptTokens, firstTokenMs: firstMs - startedMs, prefillMs: prefill, decodeMs: decode };
}

/** CPU time of this process and all that it started, in milliseconds. */
function cpuMs(): number {
  /** The kernel counts in hundredths of a second. */
  const tickMs = 10;
  const processes = new Map<number, { parent: number; ms: number }>();
  for (const name of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    let stat: string;
    try {
      stat = readFileSync(`/proc/${name}/stat`, "utf8");
    } catch {
      continue; // It has ended.
    }
    // After the command, which is in parentheses: proc_pid_stat(5).
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const [parent, user, system] = [1, 11, 12].map((at) => Number(fields[at]));
    processes.set(Number(name), { parent, ms: (user + system) * tickMs });
  }
  const isOwn = (id: number | undefined): boolean =>
    id !== undefined && (id === process.pid || isOwn(processes.get(id)?.parent));
  let total = 0;
  for (const [id, { ms }] of processes) if (isOwn(id)) total += ms;
  return total;
}

/** Milliseconds to each first token. */
async function runReal(
  arrivals: readonly Arrival[],
  request: (promptTokens: number) => Promise<Timed>,
): Promise<number[]> {
  const open: Promise<Timed>[] = [];
  let dueMs = performance.now();
  for (const { gapMs, promptTokens } of arrivals) {
    dueMs += gapMs;
    const waitMs = dueMs - performance.now();
    if (waitMs > 0) await sleep(waitMs);
    open.push(request(promptTokens));
  }
  return (await Promise.all(open)).map(({ firstTokenMs }) => firstTokenMs);
}

function runSimulated(arrivals: readonly Arrival[], measured: Measured, random: () => number): number[] {
  const { step, aroundMs, requestCpuMs, frameCpuMs } = measured;
  const events = new EventQueue();
  const machine = new Machine(events, availableParallelism());
  const process = new SimulatedBackend(events, step, limits, machine);
  const address = { url: "http://backend.example", region: null };
  const backends = new Map([[address.url, { address, process }]]);
  const cell = new SimulatedCell(events, null, { request: 0, frame: frameCpuMs }, backends, machine);
  const firstTokens: number[] = [];
  let dueMs = 0;
  for (const { gapMs, promptTokens } of arrivals) {
    dueMs += gapMs;
    const atMs = dueMs;
    // The way of a measured request, and what it is busy with after its first token.
    const wayMs = aroundMs[Math.floor(random() * aroundMs.length)] - frameCpuMs;
    const wayCpuMs = Math.min(wayMs, requestCpuMs);
    const pending = {
      arrival: { tenant: "local", centroidId: "c0", promptTokens, outputTokens },
      arrivedMs: atMs,
      sequence: { tenant: "local" },
      sharedBy: "mixtures",
      generated: 0,
      losses: 0,
      onFirstToken: () => firstTokens.push(events.nowMs - atMs),
      onDone: () => machine.run(requestCpuMs - wayCpuMs, () => undefined),
      onFailed: () => undefined,
    };
    events.after(atMs + wayMs - wayCpuMs, () => machine.run(wayCpuMs, () => cell.take(pending)));
  }
  events.runUntil(dueMs + 60_000);
  return firstTokens;
}
