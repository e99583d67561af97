/**
 * Tests one version of the deployed edge over HTTP. A header selects the version even while it gets no other requests:
 * https://developers.cloudflare.com/workers/versions-and-deployments/version-overrides/
 */
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { parsedJson } from "../api/connection.ts";

export interface SmokeTarget {
  url: string;
  worker: string;
  version: string;
  /** true: requests select the version by a header. false: all requests must reach the version. */
  isPicked: boolean;
  /** API key for a completion; null: request no completion. */
  key: string | null;
}

export interface SmokeLimits {
  /** Time until every place knows the version and a backend is ready. */
  settleMs: number;
  retryMs: number;
  requestMs: number;
}

/** Cloudflare knows a version everywhere within seconds. A backend takes longer to start. */
export const smokeLimits: SmokeLimits = { settleMs: 60_000, retryMs: 1000, requestMs: 30_000 };

export class SmokeFailure extends Error {}

const healthSchema = z.object({ version: z.string().optional() });
const completionSchema = z.object({ usage: z.object({ completion_tokens: z.int().positive() }) });

/** Throws a SmokeFailure that tells request and answer, or the reason of an aborted `signal`. */
export async function smokeTest(target: SmokeTarget, limits: SmokeLimits, signal: AbortSignal): Promise<void> {
  const { url, worker, version, isPicked, key } = target;
  const picked = isPicked ? { "cloudflare-workers-version-overrides": `${worker}="${version}"` } : {};
  const ask = async (path: string, init: RequestInit = {}) => {
    const request = { ...init, headers: { ...picked, ...init.headers }, redirect: "manual" as const };
    const timeout = AbortSignal.any([signal, AbortSignal.timeout(limits.requestMs)]);
    const response = await fetch(`${url}${path}`, { ...request, signal: timeout }).catch((cause) => {
      signal.throwIfAborted();
      throw new SmokeFailure(`${url}${path} cannot be reached: ${cause.cause?.message ?? cause.message}`, { cause });
    });
    return { status: response.status, body: await response.text() };
  };
  const complete = (authorization: Record<string, string>) =>
    ask("/v1/completions", {
      method: "POST",
      headers: { ...authorization, "content-type": "application/json" },
      body: JSON.stringify({ chameleon: { adapter: "off" }, prompt: "Ready", max_tokens: 1 }),
    });

  await untilPassed(limits, signal, async () => {
    const { status, body } = await ask("/healthz");
    const answered = healthSchema.safeParse(parsedJson(body)).data?.version;
    if (status !== 200) throw new SmokeFailure(`/healthz was answered ${status}: ${body.slice(0, 200)}`);
    if (answered !== version)
      throw new SmokeFailure(`the version ${answered ?? "(none named)"} answered, not ${version}`);
  });
  await untilPassed(limits, signal, async () => {
    const { status, body } = await ask("/readyz?wake=true");
    if (status !== 200) throw new SmokeFailure(`/readyz was answered ${status}: ${body.slice(0, 200)}`);
  });
  const stranger = await complete({});
  if (stranger.status !== 401) {
    throw new SmokeFailure(`a completion without a key was answered ${stranger.status}, not 401`);
  }
  if (key === null) return;
  const { status, body } = await complete({ authorization: `Bearer ${key}` });
  if (status !== 200 || !completionSchema.safeParse(parsedJson(body)).success) {
    throw new SmokeFailure(`a completion was answered ${status}: ${body.slice(0, 200)}`);
  }
}

async function untilPassed(limits: SmokeLimits, signal: AbortSignal, attempt: () => Promise<void>): Promise<void> {
  const endMs = performance.now() + limits.settleMs;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof SmokeFailure) || performance.now() >= endMs) throw error;
    }
    await sleep(limits.retryMs, undefined, { signal });
  }
}
