/**
 * Sends bad requests to a real edge with a real backend, and watches both: what they answer, that they live, and whether everything
 * that was begun for clients who left is released.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import fc from "fast-check";
import { startBackend } from "../../support/backend-process.ts";
import { smallArtifacts } from "../../support/small-base.ts";
import { startEdge } from "../../support/stack.ts";
import { type BadRequest, badRequests } from "./arbitraries.ts";
import { publishBadSets } from "./bad-sets.ts";
import { type Outcome, send } from "./send.ts";

const key = "sk-chameleon-fuzz";
const BACKEND_SECRETS = "fuzz-0123456789abcdef0123456789abcdef";
/** Milliseconds until an answer counts as lost. On a busy machine it may wait for generations that fill the whole context. */
const patienceMs = 180_000;
const drainMs = 15_000;
const generatedAtOnce = 500;

export async function fuzzRequests(options: { requests: number; seed: number; concurrency: number }) {
  const { requests, seed, concurrency } = options;
  const folder = await mkdtemp(path.join(tmpdir(), "chameleon-fuzz-"));
  const bucket = path.join(folder, "bucket");
  const backend = await startBackend({
    ...{ BACKEND_SECRETS, THREADS: "1", MAX_QUEUE: "256", DATA_DIR: path.join(folder, "data") },
    ...{ ARTIFACTS_URL: pathToFileURL(bucket).href, ARTIFACTS_POLL_MS: "250" },
  });
  const vars = { BACKEND_SECRETS, BACKEND_URLS: backend.url };
  const edge = await startEdge({ vars, keys: { [key]: "fuzz" } });
  const publishing = new AbortController();
  const published = publishBadSets(smallArtifacts, bucket, publishing.signal);
  try {
    const port = Number(new URL(edge.url).port);
    await goodRequest(edge.url);
    const result = {
      /** How often each status came, or each way to end without a status. */
      outcomes: {} as Record<string, number>,
      /** Requests whose answer is not allowed; only the first ten are kept. */
      failures: [] as { request: BadRequest; outcome: Outcome }[],
      failed: 0,
      /** The backend's metrics of what it holds once everything is answered. */
      left: {} as Record<string, number>,
      /** Sets of artifacts that the backend refused during the run. */
      refusedSets: 0,
      /** Milliseconds that a good request took after the run. */
      answerMs: 0,
      log: "",
    };
    const source = requestSource(seed);
    let sent = 0;
    const lane = async () => {
      while (sent < requests) {
        sent++;
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
    result.refusedSets = await backend.metric("chameleon_artifact_sets_refused_total");
    const started = performance.now();
    await goodRequest(edge.url);
    result.answerMs = performance.now() - started;
    result.log = edge.log();
    return result;
  } finally {
    publishing.abort();
    await published;
    await edge.stop();
    await backend.stop("SIGTERM");
    await rm(folder, { recursive: true, force: true });
  }
}

/** Why an outcome is not allowed, or null. */
export function failureOf({ status, answer, gaveUp }: Outcome): string | null {
  if (gaveUp === "too late" && status === null) return "no answer in time";
  if (status === null || status < 400 || gaveUp) return null;
  if (status === 503 && /^retry-after: \d+\r$/im.test(answer)) return null;
  // The request set the deadline that was exceeded itself, so 504 is allowed.
  if (status === 504 && answer.includes('"deadline_exceeded"')) return null;
  // The Worker's errors come in OpenAI's envelope. The runtime refuses what HTTP forbids before the Worker sees it.
  const isOurs = /^x-request-id: /im.test(answer);
  if (status === 501 && !isOurs && answer.includes("Unrecognized request method")) return null;
  if (status >= 500) return `answered ${status}`;
  return isOurs && !/"error":\{|\r\n\r\n$/.test(answer) ? "no error envelope" : null;
}

/** Endless requests, the same ones for the same seed. */
function* requestSource(seed: number): Generator<BadRequest, never> {
  for (let part = 0; ; part++) {
    yield* fc.sample(badRequests(key), { seed: seed + part, numRuns: generatedAtOnce });
  }
}

async function goodRequest(edgeUrl: string): Promise<void> {
  const wanted = { model: "gpt2:auto", prompt: "Once more", max_tokens: 4, temperature: 0 };
  const response = await fetch(`${edgeUrl}/v1/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify(wanted),
    signal: AbortSignal.timeout(patienceMs),
  });
  const body = (await response.json()) as { usage?: { completion_tokens: number } };
  if (body.usage?.completion_tokens !== 4) throw new Error(`a good request was answered ${JSON.stringify(body)}`);
}

/** Metrics that are 0 when no sequence is open. */
export const sequenceGauges = ["vllm:num_requests_running", "vllm:num_requests_waiting", "chameleon_parked_sequences"];

/** Waits until the backend holds no sequence, at most `drainMs`. Returns the metrics of what it still holds. */
async function settled(metric: (name: string) => Promise<number>): Promise<Record<string, number>> {
  const deadline = performance.now() + drainMs;
  for (;;) {
    const values = await Promise.all(sequenceGauges.map(metric));
    const left = Object.fromEntries(sequenceGauges.map((name, i) => [name, values[i]]));
    left.chameleon_kv_bytes = await metric("chameleon_kv_bytes");
    if (values.every((value) => value === 0) || performance.now() > deadline) return left;
    await sleep(20);
  }
}
