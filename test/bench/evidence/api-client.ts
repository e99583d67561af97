/** Scores texts through the public API: `POST /v1/completions` with echo and logprobs, and `chameleon.evidence_tokens`. */
import { setTimeout } from "node:timers/promises";
import { z } from "zod";
import { base, mixture, nearest } from "./methods.ts";
import { scoredTokens } from "./texts.ts";

/** What the request says beside its prompt. */
const requestOf: Record<string, { model: string; adapter: string }> = {
  [base]: { model: "gpt2", adapter: "off" },
  [nearest]: { model: "gpt2:auto", adapter: "nearest" },
  [mixture]: { model: "gpt2:auto", adapter: "auto" },
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

/** Nats of the last `scoredTokens` of `ids`, of which all before them are evidence. Throws an Error with the API's answer. */
export async function scoreByApi(ids: readonly number[], method: string, options: ApiOptions): Promise<number> {
  const { url, key, model = "gpt2", fetch: send = fetch, pause = setTimeout } = options;
  const { model: named, adapter } = requestOf[method];
  const body = JSON.stringify({
    ...{ model: named.replace("gpt2", model), prompt: ids, max_tokens: 0, echo: true, logprobs: 0 },
    chameleon: { adapter, evidence_tokens: ids.length - scoredTokens },
  });
  const headers = { "content-type": "application/json", ...(key !== null && { authorization: `Bearer ${key}` }) };
  for (let attempt = 1; ; attempt++) {
    const response = await send(new URL("/v1/completions", url), { method: "POST", headers, body });
    if (response.ok) {
      const [{ logprobs }] = answerSchema.parse(await response.json()).choices;
      const scores = logprobs.token_logprobs;
      if (scores.length !== ids.length)
        throw new Error(`${scores.length} logprobs for a prompt of ${ids.length} tokens`);
      return scores.slice(-scoredTokens).reduce<number>((sum, logprob) => sum + logprob!, 0);
    }
    const isBusy = response.status === 429 || response.status === 503;
    const said = await response.text();
    if (!isBusy || attempt === attempts) throw new Error(`${url} answered ${response.status}: ${said}`);
    const seconds = Number(response.headers.get("retry-after") ?? 1);
    await pause(Math.min(longestWaitMs, 1000 * Math.max(1, seconds)));
  }
}
