/**
 * Scores a text under several models: the first tokens of each stretch assign it and weigh what answers, and the tokens after them
 * are scored, the same for all models.
 */
import { z } from "zod";
import { ApiError, type Connection } from "./connection.ts";
import { cutInTwo, mean, type Score, stretchesOf } from "./stretches.ts";

const echoSchema = z.object({
  choices: z.tuple([z.object({ logprobs: z.object({ token_logprobs: z.array(z.number().nullable()) }) })]),
});

/** The adapter of the base, which every comparison has. */
export const base = "off";

/** The mean score under the base and under each of `adapters` (values of `chameleon.adapter`). Throws an Error for too short a text. */
export async function scoreText<Name extends string>(
  connection: Connection,
  text: string,
  adapters: Record<Name, string>,
  evidenceTokens: number,
): Promise<{ stretches: number; scores: Record<Name | "base", Score> }> {
  const scored: Record<Name | "base", Score>[] = [];
  const queue = stretchesOf(text);
  for (let stretch = queue.shift(); stretch !== undefined; stretch = queue.shift()) {
    try {
      const scores = await scoreStretch(connection, stretch, adapters, evidenceTokens);
      if (scores) scored.push(scores);
    } catch (error) {
      // Only the tokenizer knows how many characters fit the context.
      if (!(error instanceof ApiError && error.code === "context_length_exceeded")) throw error;
      queue.unshift(...cutInTwo(stretch));
    }
  }
  if (scored.length === 0) throw new Error("the text is too short: 3 tokens are the fewest that can be scored");
  const names = Object.keys(scored[0]) as (Name | "base")[];
  const means = names.map((name) => [name, mean(scored.map((one) => one[name]))]);
  return { stretches: scored.length, scores: Object.fromEntries(means) as Record<Name | "base", Score> };
}

/** null for a stretch of fewer than three tokens: none would be left to score. */
async function scoreStretch<Name extends string>(
  connection: Connection,
  prompt: string,
  adapters: Record<Name, string>,
  evidenceTokens: number,
): Promise<Record<Name | "base", Score> | null> {
  const ask = async (adapter: string, evidence?: number) => {
    const { choices } = await connection.call(echoSchema, "POST", "/v1/completions", {
      ...{ prompt, max_tokens: 0, echo: true, logprobs: 0 },
      chameleon: { adapter, ...(evidence !== undefined && { evidence_tokens: evidence }) },
    });
    return choices[0].logprobs.token_logprobs;
  };
  const ofBase = await ask(base);
  if (ofBase.length < 3) return null;
  // Of a short text, half.
  const evidence = Math.min(evidenceTokens, Math.floor(ofBase.length / 2));
  const scoreOf = (logprobs: (number | null)[]): Score => {
    const after = logprobs.slice(evidence);
    const nats = -after.reduce<number>((sum, logprob) => sum + (logprob ?? 0), 0) / after.length;
    return { nats, perplexity: Math.exp(nats), tokens: after.length };
  };
  const scores: Record<string, Score> = { base: scoreOf(ofBase) };
  for (const [name, adapter] of Object.entries<string>(adapters)) scores[name] = scoreOf(await ask(adapter, evidence));
  return scores as Record<Name | "base", Score>;
}
