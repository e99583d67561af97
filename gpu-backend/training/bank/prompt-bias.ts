/**
 * Measures the prompt bias (adapters/prompt-bias.ts) on top of adapters, and chooses how strong each centroid's is. A text
 * is cut where a prompt would end; the tokens after the cut are scored, with the bias of those before it, as when it is
 * served. Gains are arithmetic over the head's probabilities of the prompt's tokens: one run tells of all strengths.
 */
import type { RowBias } from "../../adapters/adapter.ts";
import { biasGains } from "../../adapters/instant/token-bias.ts";
import { type PromptBiasShape, promptBias } from "../../adapters/prompt-bias.ts";
import type { HeadSession } from "../../runtime/head-probabilities.ts";
import { prefixTokens, scoredTokens, type Window } from "../corpus/windows.ts";
import type { WindowSet } from "./batches.ts";
import { chooseHarmless, type ScaleTrial } from "./gain.ts";

/** Prompts whose continuations lie in a window. */
export const promptLengths = [64, 128, 192] as const;
/** Tokens at most that are scored after a prompt, and at least. */
export const continuationTokens = 64;
const fewestTokens = 16;
/** Windows at most that a choice, or a measurement, is made on. */
const mostWindows = 600;

/** What is tried; the first strength is off. */
const strengths = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8] as const;
const priors = [200, 500, 1000, 2000] as const;

/** Counts tell what a prompt uses more than others do. */
export interface TokenFrequencies {
  /** Natural logarithms, [V]. */
  logarithms: Float32Array;
  endOfTextId: number;
}

/** The tokens after a prompt. */
export interface Continuation {
  promptIds: Int32Array;
  targets: Int32Array; // [N]
  hidden: Float32Array; // [N, D], what predicts them
}

/** Adapters as windows wear them: the gates of each group (a centroid, or all text) and each window's group. */
export interface Worn {
  gates: readonly Float32Array[]; // groups × [Q]
  groupOf: ArrayLike<number>;
}

export interface PromptBiasChoice {
  prior: number;
  /** Of each group; 0 is off. */
  strengths: number[];
}

/** A continuation's gain under each of some biases, in nats, summed over its tokens. */
export interface ContinuationGain {
  window: number;
  promptTokens: number;
  tokens: number;
  /** Without the bias. */
  loss: number;
  gains: number[];
}

/** Logarithms of the frequencies of the windows' tokens [V], half a count added to each. */
export function logFrequenciesOf(windows: readonly Window[], V: number): Float32Array {
  const counts = new Float64Array(V).fill(0.5);
  for (const { tokenIds } of windows) for (const id of tokenIds) counts[id]++;
  const total = counts.reduce((sum, count) => sum + count, 0);
  return Float32Array.from(counts, (count) => Math.log(count / total));
}

/** What each of `choices` gains on one continuation. */
export async function continuationGains(
  head: HeadSession,
  { promptIds, targets, hidden }: Continuation,
  gates: Float32Array,
  { logarithms, endOfTextId }: TokenFrequencies,
  choices: readonly PromptBiasShape[],
): Promise<{ loss: number; gains: number[] }> {
  const biases = choices.map((shape) => promptBias(promptIds, logarithms, shape, endOfTextId));
  // The distinct tokens of the prompt, whatever the strength; a run needs one at least.
  const support = biases.find((bias) => bias !== null)?.ids ?? Int32Array.of(endOfTextId);
  const { logprobs, probabilities } = await head.run({ hidden, targets, gates, chosen: support });
  const placeOf = new Map([...support].map((id, m) => [id, m]));
  const observed = {
    exampleOf: new Int32Array(targets.length),
    targets: targets.map((id) => placeOf.get(id) ?? -1),
    probabilities,
  };
  const everywhere = Int32Array.from(targets.keys());
  return {
    loss: -logprobs.reduce((sum, logprob) => sum + logprob, 0),
    gains: biases.map((bias) => (bias ? gainOf(observed, everywhere, bias) : 0)),
  };
}

function gainOf(observed: Parameters<typeof biasGains>[0], at: Int32Array, { values }: RowBias): number {
  return biasGains(observed, at, Float64Array.from(values)).get(0)!.nats;
}

/**
 * The prior and the groups' strengths with the lowest loss on `set`, of those that make no corpus of a group worse
 * (`chooseHarmless`). A group of which nothing is seen gets 0.
 */
export async function choosePromptBias(
  head: HeadSession,
  hiddenSize: number,
  set: WindowSet,
  worn: Worn,
  frequencies: TokenFrequencies,
): Promise<PromptBiasChoice> {
  const choices = priors.flatMap((prior) => strengths.map((strength) => ({ prior, strength })));
  const measured = await measurePromptBias(head, hiddenSize, set, worn, frequencies, () => choices);
  const byPrior = priors.map((prior, p) => {
    const trials = worn.gates.map(() => new Map<number, ScaleTrial>()); // by corpus
    for (const { window, tokens, loss, gains } of measured) {
      const ofGroup = trials[worn.groupOf[window]];
      const { corpus } = set.windows[window];
      const trial = ofGroup.get(corpus) ?? { tokens: 0, losses: strengths.map(() => 0) };
      ofGroup.set(corpus, trial);
      trial.tokens += tokens;
      for (const s of strengths.keys()) trial.losses[s] += loss - gains[p * strengths.length + s];
    }
    const chosen = trials.map((ofGroup) => chooseHarmless([...ofGroup.values()]));
    const gain = trials.reduce(
      (sum, ofGroup, k) => sum + ofGroup.values().reduce((nats, { losses }) => nats + losses[0] - losses[chosen[k]], 0),
      0,
    );
    return { gain, choice: { prior, strengths: chosen.map((s) => strengths[s]) } };
  });
  return byPrior.reduce((best, one) => (one.gain > best.gain ? one : best)).choice;
}

/** Gains of the choices that `choicesOf` gives for a group, over the continuations that the windows hold. */
export async function measurePromptBias(
  head: HeadSession,
  hiddenSize: number,
  set: WindowSet,
  { gates, groupOf }: Worn,
  frequencies: TokenFrequencies,
  choicesOf: (group: number) => readonly PromptBiasShape[],
): Promise<ContinuationGain[]> {
  const every = Math.max(1, Math.ceil(set.windows.length / mostWindows));
  const result: ContinuationGain[] = [];
  for (let window = 0; window < set.windows.length; window += every) {
    const choices = choicesOf(groupOf[window]);
    if (choices.every(({ strength }) => strength === 0)) {
      // Nothing to run the head for.
      for (const { promptTokens, tokens } of cutsOf(set.windows[window])) {
        result.push({ window, promptTokens, tokens, loss: 0, gains: choices.map(() => 0) });
      }
      continue;
    }
    const { tokenIds } = set.windows[window];
    const hidden = new Float32Array(scoredTokens(set.windows[window]) * hiddenSize);
    await set.states.read(set.firstState + window, hidden, 0);
    for (const { promptTokens, tokens } of cutsOf(set.windows[window])) {
      const first = promptTokens - prefixTokens;
      const continuation = {
        promptIds: tokenIds.subarray(0, promptTokens),
        targets: tokenIds.slice(promptTokens, promptTokens + tokens),
        hidden: hidden.subarray(first * hiddenSize, (first + tokens) * hiddenSize),
      };
      const of = await continuationGains(head, continuation, gates[groupOf[window]], frequencies, choices);
      result.push({ window, promptTokens, tokens, ...of });
    }
  }
  return result;
}

/** Where prompts of `promptLengths` would end in a window, and how many tokens are scored after them. */
function cutsOf({ tokenIds }: Window): { promptTokens: number; tokens: number }[] {
  return promptLengths
    .map((promptTokens) => ({ promptTokens, tokens: Math.min(continuationTokens, tokenIds.length - promptTokens) }))
    .filter(({ tokens }) => tokens >= fewestTokens);
}
