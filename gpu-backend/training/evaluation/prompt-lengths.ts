/**
 * What a request's own prompt adds, by its length: the 64 tokens after it are scored as they would be served, under the
 * adapter that the prompt leads to, with and without the prompt bias. On stretches of test documents that are long enough
 * for the longest prompt; strengths are chosen on validation.
 */
import { openHeadSession } from "../../runtime/head-probabilities.ts";
import type { TrunkRunner } from "../../runtime/trunk-runner.ts";
import type { Adapters } from "../bank/measure.ts";
import type { BankShape } from "../bank/parameters.ts";
import {
  choosePromptBias,
  continuationGains,
  continuationTokens,
  type PromptBiasChoice,
  type TokenFrequencies,
} from "../bank/prompt-bias.ts";
import type { HeadWeights } from "../bank/training-graph.ts";
import { prefixTokens, type Window } from "../corpus/windows.ts";
import { assignAll, embedWindows } from "../embed.ts";
import type { Placed } from "../prepare.ts";
import type { Method } from "./methods.ts";

export const measuredPrompts = [16, 64, 128, 192, 256] as const;
/** Of a stretch: the longest prompt and what follows it. */
export const stretchTokens = measuredPrompts[measuredPrompts.length - 1] + continuationTokens;

/** One way of serving: adapters at scales; null serves the base. */
export interface Served {
  method: Method;
  adapters: Adapters;
  scales: Float32Array | null; // [K]
}

export interface PromptBiasOutcome extends PromptBiasChoice {
  method: Method;
  /** Of each stretch and each prompt length in it, in nats. */
  gains: { stretch: number; promptTokens: number; tokens: number; gain: number }[];
}

export interface StretchContext {
  head: HeadWeights;
  shape: BankShape;
  placed: Placed;
  /** Of test documents, up to `stretchTokens` long. */
  stretches: readonly Window[];
  frequencies: TokenFrequencies;
  trunk: TrunkRunner;
  threads: number;
}

/** All of `served` have the parameters of one training, and differ in their gates. */
export async function promptBiasOutcomes(
  served: readonly Served[],
  { head: weights, shape, placed, stretches, frequencies, trunk, threads }: StretchContext,
): Promise<PromptBiasOutcome[]> {
  const { hiddenSize: D } = weights;
  const parameters = served[0].adapters.parameters;
  const bank = { gates: shape.gates, a: parameters.get("a")!, a0: shape.a0, b: parameters.get("b")! };
  const head = await openHeadSession(weights.tokenEmbedding, D, bank, threads);
  try {
    const { validation } = placed.sets;
    const ways = [];
    for (const { method, adapters, scales } of served) {
      const gates = scales
        ? Array.from(scales, (scale, k) => adapters.gatesAt(k, scale))
        : [new Float32Array(shape.gates)];
      // With one group for all text there is nothing to assign.
      const assigned = (embeddings: Float32Array): ArrayLike<number> =>
        gates.length === 1
          ? new Int32Array(embeddings.length / placed.table.dimensions)
          : assignAll(embeddings, adapters.centroids);
      const groupOf = assigned(validation.embeddings);
      const choice = await choosePromptBias(head, D, validation, { gates, groupOf }, frequencies);
      const strengths = choice.strengths.map((strength, k) => (scales?.[k] === 0 ? 0 : strength));
      const groupsAt = measuredPrompts.map((tokens) =>
        assigned(embedWindows(stretches, placed.table, Math.min(tokens, prefixTokens))),
      );
      const outcome: PromptBiasOutcome = { method, prior: choice.prior, strengths, gains: [] };
      ways.push({ gates, groupsAt, outcome });
    }
    for (const [stretch, { tokenIds }] of stretches.entries()) {
      const hidden = await trunk.hidden(tokenIds, 1, tokenIds.length);
      for (const [l, promptTokens] of measuredPrompts.entries()) {
        const end = Math.min(promptTokens + continuationTokens, tokenIds.length);
        // A text that ends before its 64 tokens are full is left to the shorter prompts.
        if (end - promptTokens < continuationTokens) break;
        const continuation = {
          promptIds: tokenIds.subarray(0, promptTokens),
          targets: tokenIds.slice(promptTokens, end),
          hidden: hidden.subarray((promptTokens - 1) * D, (end - 1) * D),
        };
        for (const { gates, groupsAt, outcome } of ways) {
          const group = groupsAt[l][stretch];
          const choice = { prior: outcome.prior, strength: outcome.strengths[group] };
          const { gains } = await continuationGains(head, continuation, gates[group], frequencies, [choice]);
          outcome.gains.push({ stretch, promptTokens, tokens: continuationTokens, gain: gains[0] });
        }
      }
    }
    return ways.map(({ outcome }) => outcome);
  } finally {
    await head.release();
  }
}
