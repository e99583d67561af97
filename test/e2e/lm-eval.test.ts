/**
 * Requests as lm-evaluation-harness's `local-completions` sends them, and the values that it reads from the answers (see
 * `_create_payload` and `parse_logprobs` of lm_eval/models/openai_completions.py).
 */
import { expect, test } from "vitest";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { sharedStack } from "../support/shared-stack.ts";
import { seededRandom } from "../support/steps.ts";

const seed = 1234;
const random = seededRandom(seed);
const idsOf = (length: number) => Array.from({ length }, () => 300 + Math.floor(random() * 1500));
const model = "gpt2";

const stack = await sharedStack("lm-eval");
const complete = (body: object) => stack.ask<CompletionResponse>("/v1/completions", body);
const scoring = { model, temperature: 0, max_tokens: 1, logprobs: 1, seed, echo: true };
const likelihoods = (prompt: number[][]) => complete({ ...scoring, prompt });

/** For each prompt, its continuation's summed logprobs, and whether each token of the continuation is the likeliest. */
function parsedLogprobs({ choices }: CompletionResponse, contextLengths: readonly number[]): [number, boolean][] {
  const sorted = choices.toSorted((a, b) => a.index - b.index);
  return sorted.map(({ logprobs }, i) => {
    const scored = logprobs!.token_logprobs.slice(contextLengths[i], -1) as number[];
    const top = logprobs!.top_logprobs.slice(contextLengths[i], -1);
    const isGreedy = scored.every((logprob, t) => logprob === Math.max(...Object.values(top[t])));
    return [scored.reduce((sum, logprob) => sum + logprob, 0), isGreedy];
  });
}

test(`likelihoods of a batch of token ids are those of each alone (seed ${seed})`, async () => {
  const prompts = [idsOf(12), idsOf(40), idsOf(25), idsOf(9)];
  const contextLengths = [8, 33, 24, 1];
  const together = parsedLogprobs(await likelihoods(prompts), contextLengths);
  for (const [i, prompt] of prompts.entries()) {
    const [alone] = parsedLogprobs(await likelihoods([prompt]), [contextLengths[i]]);
    expect(together[i]).toEqual(alone);
    expect(alone[0]).toBeLessThan(0);
  }
});

test("a continuation is greedy only if it is the model's own", async () => {
  const prompt = idsOf(20);
  // The log-probability of the likeliest next token. Candidates are compared with this value, because the answer gives no token ids.
  const { choices } = await complete({ model, prompt: [prompt], max_tokens: 1, temperature: 0, logprobs: 1 });
  const best = choices[0].logprobs!.token_logprobs[0]!;
  const candidates = Array.from({ length: 32 }, (_, i) => 300 + 40 * i);
  const scored = parsedLogprobs(
    await likelihoods(candidates.map((id) => [...prompt, id])),
    candidates.map(() => prompt.length),
  );
  for (const [logprob, isGreedy] of scored) expect(isGreedy).toBe(logprob === best);
});
