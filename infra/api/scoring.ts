/**
 * Scores a text under several adapters, in stretches that fit the context. The first tokens of a stretch weigh the adapters; only the
 * tokens after them are scored.
 */
import { z } from "zod";
import { ApiError, type Connection } from "./connection.ts";
import { cutInTwo, mean, type Score, stretchesOf } from "./stretches.ts";

const echoSchema = z.object({
  choices: z.tuple([z.object({ logprobs: z.object({ token_logprobs: z.array(z.number().nullable()) }) })]),
});

type Scores = Record<string, Score> & { base: Score };

/** Returns mean scores of the base and of `adapters` (name → value of `chameleon.adapter`). Throws an Error for a short text. */
export async function scoreText(
  connection: Connection,
  text: string,
  adapters: Record<string, string>,
  evidenceTokens: number,
): Promise<{ stretches: number; scores: Scores }> {
  const scored: Scores[] = [];
  const queue = stretchesOf(text);
  for (let stretch = queue.shift(); stretch !== undefined; stretch = queue.shift()) {
    try {
      const scores = await scoreStretch(connection, stretch, adapters, evidenceTokens);
      if (scores) scored.push(scores);
    } catch (error) {
      // Only the edge has the tokenizer, so a stretch may turn out too long for the context.
      if (!(error instanceof ApiError && error.code === "context_length_exceeded")) throw error;
      queue.unshift(...cutInTwo(stretch));
    }
  }
  if (scored.length === 0) throw new Error("the text is too short: 3 tokens are the fewest that can be scored");
  const means = Object.keys(scored[0]).map((name) => [name, mean(scored.map((one) => one[name]))]);
  return { stretches: scored.length, scores: Object.fromEntries(means) };
}

async function scoreStretch(
  connection: Connection,
  prompt: string,
  adapters: Record<string, string>,
  evidenceTokens: number,
): Promise<Scores | null> {
  const ask = async (adapter: string, evidence?: number) => {
    const { choices } = await connection.call(echoSchema, "POST", "/v1/completions", {
      ...{ prompt, max_tokens: 0, echo: true, logprobs: 0 },
      chameleon: { adapter, ...(evidence !== undefined && { evidence_tokens: evidence }) },
    });
    return choices[0].logprobs.token_logprobs;
  };
  const ofBase = await ask("off");
  if (ofBase.length < 3) return null;
  const evidence = Math.min(evidenceTokens, Math.floor(ofBase.length / 2));
  const scoreOf = (logprobs: (number | null)[]): Score => {
    const after = logprobs.slice(evidence);
    const nats = -after.reduce<number>((sum, logprob) => sum + (logprob ?? 0), 0) / after.length;
    return { nats, perplexity: Math.exp(nats), tokens: after.length };
  };
  const scores: Scores = { base: scoreOf(ofBase) };
  for (const [name, adapter] of Object.entries(adapters)) scores[name] = scoreOf(await ask(adapter, evidence));
  return scores;
}
