/**
 * Throws bad requests at a real edge with a real backend behind it, and watches both: what they answer, that they live,
 * what memory they hold, and whether all that was begun for those who left is given back.
 */

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { stageArtifacts } from "../../../infra/stage-artifacts.ts";
import { prepareBareEdge } from "../../../infra/workerd/edge.ts";
import { startWorkerd } from "../../../infra/workerd/process.ts";
import { startBackend } from "../../support/backend-process.ts";
import { type BadRequest, badRequests } from "./arbitraries.ts";
import { type Outcome, send } from "./send.ts";

const root = path.join(import.meta.dirname, "../../..");
const key = "sk-chameleon-fuzz";
const BACKEND_SECRETS = "fuzz-0123456789abcdef0123456789abcdef";
/** An answer may wait behind generations to the context's end, on a busy machine; whoever waits longer has been forgotten. */
const patienceMs = 180_000;
const drainMs = 15_000;
const generatedAtOnce = 500;

export interface FuzzResult {
  /** Status, or how it ended without one → count. */
  outcomes: Record<string, number>;
  /** Requests whose answer may not be; at most some are kept. */
  failures: { request: BadRequest; outcome: Outcome }[];
  failed: number;
  /** Resident memory in bytes at each tenth of the run. */
  edgeRss: number[];
  backendRss: number[];
  /** Of the backend, once everything is answered; what was there at the start in brackets. */
  left: Record<string, number>;
  /** Milliseconds that a good request took afterwards. */
  answerMs: number;
  log: string;
}

export async function fuzzRequests(options: {
  requests: number;
  seed: number;
  concurrency: number;
  note(line: string): void;
}): Promise<FuzzResult> {
  const { requests, seed, concurrency, note } = options;
  await stageArtifacts();
  const backend = await startBackend({ BACKEND_SECRETS, THREADS: "1", MAX_QUEUE: "256" });
  const bare = await prepareBareEdge(path.join(root, "wrangler.toml"));
  const hash = createHash("sha256").update(key).digest("hex");
  const TENANT_KEYS = JSON.stringify([{ hash, tenant: "fuzz" }]);
  const vars = { BACKEND_SECRETS, BACKEND_URLS: backend.url, TENANT_KEYS };
  const edge = await startWorkerd(await bare.configure({ vars }));
  try {
    const port = Number(new URL(edge.url).port);
    await goodRequest(edge.url);
    const result: FuzzResult = {
      outcomes: {},
      failures: [],
      failed: 0,
      edgeRss: [],
      backendRss: [],
      left: {},
      answerMs: 0,
      log: "",
    };
    const source = requestSource(seed);
    let sent = 0;
    const lane = async () => {
      while (sent < requests) {
        const index = sent++;
        if (index % Math.max(1, Math.floor(requests / 10)) === 0) {
          result.edgeRss.push(rssBytes(edge.pid));
          result.backendRss.push(rssBytes(backend.child.pid!));
          note(`${index} of ${requests}: edge ${MB(result.edgeRss.at(-1)!)}, backend ${MB(result.backendRss.at(-1)!)}`);
        }
        const request = source.next().value;
        const outcome = await send(request, port, patienceMs);
        const name = outcome.gaveUp ?? outcome.status ?? "closed";
        result.outcomes[name] = (result.outcomes[name] ?? 0) + 1;
        const failure = failureOf(outcome);
        if (!failure) continue;
        result.failed++;
        if (result.failures.length < 10) result.failures.push({ request, outcome });
      }
    };
    await Promise.all(Array.from({ length: concurrency }, lane));
    result.left = await settled(backend.metric);
    result.edgeRss.push(rssBytes(edge.pid));
    result.backendRss.push(rssBytes(backend.child.pid!));
    const started = performance.now();
    await goodRequest(edge.url);
    result.answerMs = performance.now() - started;
    result.log = edge.log();
    return result;
  } finally {
    await edge.stop();
    await bare.remove();
    backend.child.kill();
    await backend.exited;
  }
}

/** Why an outcome is one that may not be, or null. */
export function failureOf({ status, answer, gaveUp }: Outcome): string | null {
  if (gaveUp === "too late" && status === null) return "no answer in time";
  if (status === null || status < 400 || gaveUp) return null;
  if (status === 503 && /^retry-after: \d+\r$/im.test(answer)) return null;
  // Ours comes in OpenAI's envelope; what HTTP itself forbids is refused by the runtime before the Worker sees it.
  const isOurs = /^x-request-id: /im.test(answer);
  if (status === 501 && !isOurs && answer.includes("Unrecognized request method")) return null;
  if (status >= 500) return `answered ${status}`;
  return isOurs && !/"error":\{|\r\n\r\n$/.test(answer) ? "no error envelope" : null;
}

/** Endless, the same for the same seed. */
function* requestSource(seed: number): Generator<BadRequest, never> {
  for (let part = 0; ; part++) {
    yield* fc.sample(badRequests(key), { seed: seed + part, numRuns: generatedAtOnce });
  }
}

async function goodRequest(edgeUrl: string): Promise<void> {
  const response = await fetch(`${edgeUrl}/v1/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({ model: "gpt2:auto", prompt: "Once more", max_tokens: 4, temperature: 0 }),
    signal: AbortSignal.timeout(patienceMs),
  });
  const body = (await response.json()) as { usage?: { completion_tokens: number } };
  if (body.usage?.completion_tokens !== 4) throw new Error(`a good request was answered ${JSON.stringify(body)}`);
}

/** What the backend still holds, once it is nothing, or after some time. */
async function settled(metric: (name: string) => Promise<number>): Promise<Record<string, number>> {
  const names = ["chameleon_running_sequences", "chameleon_queue_sequences", "chameleon_parked_sequences"];
  const deadline = performance.now() + drainMs;
  for (;;) {
    const values = await Promise.all(names.map(metric));
    const left = Object.fromEntries(names.map((name, i) => [name, values[i]]));
    left.chameleon_kv_bytes = await metric("chameleon_kv_bytes");
    if (values.every((value) => value === 0) || performance.now() > deadline) return left;
    await sleep(20);
  }
}

function rssBytes(pid: number): number {
  if (process.platform === "linux") {
    return 1024 * Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
  }
  return 1024 * Number(execFileSync("ps", ["-o", "rss=", "-p", String(pid)], { encoding: "utf8" }));
}

export function MB(bytes: number): string {
  return `${(bytes / 1e6).toFixed(0)} MB`;
}
