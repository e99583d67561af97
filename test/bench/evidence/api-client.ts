/** Scores texts through the public API: `POST /v1/completions` with echo and logprobs, and `chameleon.evidence_tokens`. */
import { setTimeout } from "node:timers/promises";
import { z } from "zod";
import { base, mixture, nearest } from "../../../gpu-backend/training/figures/serving.ts";
import { scoredTokens } from "../../../gpu-backend/training/figures/texts.ts";

/** What the request says beside its prompt. */
const requestOf: Record<string, { isBase: boolean; adapter: string }> = {
  [base]: { isBase: true, adapter: "off" },
  [nearest]: { isBase: false, adapter: "nearest" },
  [mixture]: { isBase: false, adapter: "auto" },
};

const answerSchema = z.object({
  choices: z.tuple([z.object({ logprobs: z.object({ token_logprobs: z.array(z.number().nullable()) }) })]),
});
const attempts = 8;
const longestWaitMs = 60_000;

export interface ApiOptions {
  /** Such as http://127.0.0.1:8787. */
  url: string;
  key: string | null;
  /** The base's public name; absent: gpt2. */
  model?: string;
  /** Replaceable in tests. */
  fetch?: typeof fetch;
  pause?: (ms: number) => Promise<unknown>;
}

/** Throws an Error where the API does not know `chameleon.evidence_tokens`: it would ignore it, and score something else. */
export async function requireEvidenceTokens(options: ApiOptions): Promise<void> {
  const request = { prompt: [0, 0], max_tokens: 0, echo: true, logprobs: 0, chameleon: { evidence_tokens: -1 } };
  const response = await post(request, options);
  const said = await response.text();
  if (response.status === 400 && said.includes("evidence_tokens")) return;
  throw new Error(
    `${options.url} answered ${response.status} to evidence_tokens of -1, not 400: does it know the field? ${said}`,
  );
}

/** Nats of the last `scoredTokens` of `ids`, of which all before them are evidence. Throws an Error with the API's answer. */
export async function scoreByApi(ids: readonly number[], method: string, options: ApiOptions): Promise<number> {
  const { adapter, isBase } = requestOf[method];
  const { model = "gpt2" } = options;
  const response = await post(
    {
      ...{ model: isBase ? model : `${model}:auto`, prompt: ids, max_tokens: 0, echo: true, logprobs: 0 },
      chameleon: { adapter, evidence_tokens: ids.length - scoredTokens },
    },
    options,
  );
  if (!response.ok) throw new Error(`${options.url} answered ${response.status}: ${await response.text()}`);
  const [{ logprobs }] = answerSchema.parse(await response.json()).choices;
  const scores = logprobs.token_logprobs;
  if (scores.length !== ids.length) throw new Error(`${scores.length} logprobs for a prompt of ${ids.length} tokens`);
  return scores.slice(-scoredTokens).reduce<number>((sum, logprob) => sum + logprob!, 0);
}

/** The answer, whatever it is; one that says to wait is waited for. */
async function post(request: object, options: ApiOptions): Promise<Response> {
  const { url, key, fetch: send = fetch, pause = setTimeout } = options;
  const headers = { "content-type": "application/json", ...(key !== null && { authorization: `Bearer ${key}` }) };
  for (let attempt = 1; ; attempt++) {
    const body = JSON.stringify(request);
    const response = await send(new URL("/v1/completions", url), { method: "POST", headers, body });
    const isBusy = response.status === 429 || response.status === 503;
    if (!isBusy || attempt === attempts) return response;
    const seconds = Number(response.headers.get("retry-after") ?? 1);
    await pause(Math.min(longestWaitMs, 1000 * Math.max(1, seconds)));
  }
}
