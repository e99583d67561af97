/**
 * Makes an own adapter of a few examples: chooses by cross-validation which of its two parts are used, makes them of all
 * examples, and measures what adapters made this way gain on examples that neither made nor chose them. If that is next to
 * nothing, the adapter is the base. Pure but for the head, which computes probabilities.
 * Shapes: D hidden size, V vocabulary, Q gates, M tokens of the support.
 */
import type { RowBias } from "../adapter.ts";
import { type Candidates, choose, gatesPart, nestedGain, type PartGain } from "./choice.ts";
import type { ExampleGain, Gain } from "./held-out-gain.ts";
import { expectedCount, FoldParts, foldsOf, type Observed, scaled } from "./token-bias.ts";

/** One example after the trunk. */
export interface Example {
  hidden: Float32Array; // [N, D]
  /** The token id after each position, [N]. */
  targets: Int32Array;
}

/** What the head makes of an example's hidden states under given gates [Q]; null is the base. */
export interface Head {
  vocabularySize: number; // V
  /** Logprob of each target [N], and how often each token is expected over all positions, [V]. */
  survey(example: Example, gates: Float32Array | null): Promise<{ logprobs: Float32Array; expected: Float64Array }>;
  /** Probabilities of the tokens of `support` [M] at each position, [N, M]. */
  probabilities(example: Example, gates: Float32Array | null, support: Int32Array): Promise<Float32Array>;
}

export interface OwnAdapterFit {
  /** null where they are not worth it. */
  gates: Float32Array | null;
  bias: RowBias | null;
  /** Each part that was tried, with its gain on the examples that decided whether it is kept: an optimistic figure. */
  parts: PartGain[];
  /**
   * By nested cross-validation: what adapters made and chosen without an example gain on it. The interval may reach below 0.
   * null where the adapter is the base: nothing is worth keeping, or there are two examples, too few to nest.
   */
  gain: Gain | null;
}

/**
 * `gates` are those of the examples' centroid [Q]; null where the served hyper-network makes none. Each example has its share
 * in that centroid, a fold's examples included: what gates gain is therefore about .012 nats too high for 5 examples, .004
 * for 20 (a base of 1.8 million parameters, six domains). Nothing else of a fold enters what is measured on it.
 */
export async function fitOwnAdapter(
  examples: readonly Example[],
  gates: Float32Array | null,
  head: Head,
): Promise<OwnAdapterFit> {
  const base = await eachOf(examples, (example) => head.survey(example, null));
  const adapted = gates && (await eachOf(examples, (example) => head.survey(example, gates)));
  const made = new Map<boolean, FoldParts>();
  const candidates: Candidates = {
    tokens: examples.map(({ targets }) => targets.length),
    gateGains: adapted && new Map(adapted.map(({ logprobs }, i) => [i, gainOf(logprobs, base[i].logprobs)])),
    on: (gated) => made.get(gated)!,
  };
  /** Observes what the choice without a fold needs: with the gates or without them. */
  const prepare = async (without: number | null) => {
    const gated = gatesPart(candidates, without)?.kept ?? false;
    if (made.has(gated)) return;
    const [start, surveys] = gated ? [gates, adapted!] : [null, base];
    made.set(gated, new FoldParts(await observe(examples, head, start, surveys)));
  };

  await prepare(null);
  const { gated, biasStrength, parts } = choose(candidates, null);
  let gain: Gain | null = null;
  if (parts.some(({ kept }) => kept)) {
    for (let fold = 0; fold < foldsOf(examples.length); fold++) await prepare(fold);
    gain = nestedGain(candidates);
  }
  // No margin here: adapters kept because this figure is high would on average be reported as better than they are. The
  // margins belong to the choice, which is made again within the folds.
  if (!gain || gain.nats <= 0) {
    const notKept = parts.map((part) => ({ ...part, kept: false }));
    return { gates: null, bias: null, parts: notKept, gain: null };
  }
  const chosen = candidates.on(gated);
  return {
    gates: gated ? gates : null,
    bias: rowBias(chosen.observed, scaled(chosen.bias([]), biasStrength)),
    parts,
    gain,
  };
}

function gainOf(logprobs: Float32Array, baseLogprobs: Float32Array): ExampleGain {
  return { tokens: logprobs.length, nats: logprobs.reduce((sum, logprob, n) => sum + logprob - baseLogprobs[n], 0) };
}

/** One after the other: results of V numbers each are better not all under way at once. */
async function eachOf<T>(examples: readonly Example[], ask: (example: Example) => Promise<T>): Promise<T[]> {
  const answers: T[] = [];
  for (const example of examples) answers.push(await ask(example));
  return answers;
}

export async function observe(
  examples: readonly Example[],
  head: Head,
  gates: Float32Array | null,
  surveys: readonly { expected: Float64Array }[],
): Promise<Observed> {
  const wanted = new Float64Array(head.vocabularySize);
  for (const { expected } of surveys)
    expected.forEach((count, id) => {
      wanted[id] += count;
    });
  for (const { targets } of examples) for (const id of targets) wanted[id] = Number.POSITIVE_INFINITY;
  const support = Int32Array.from(wanted.keys().filter((id) => wanted[id] >= expectedCount));
  const placeOf = new Int32Array(head.vocabularySize);
  support.forEach((id, m) => {
    placeOf[id] = m;
  });

  const N = examples.reduce((sum, { targets }) => sum + targets.length, 0);
  const M = support.length;
  const observed: Observed = {
    exampleOf: new Int32Array(N),
    targets: new Int32Array(N),
    support,
    probabilities: new Float32Array(N * M),
  };
  let at = 0;
  for (const [i, example] of examples.entries()) {
    const { targets } = example;
    observed.exampleOf.fill(i, at, at + targets.length);
    observed.targets.set(
      targets.map((id) => placeOf[id]),
      at,
    );
    observed.probabilities.set(await head.probabilities(example, gates, support), at * M);
    at += targets.length;
  }
  return observed;
}

/** The nonzero entries of a bias [M] over the support; null if there are none. */
function rowBias({ support }: Observed, values: Float64Array): RowBias | null {
  const kept = Int32Array.from(values.keys().filter((m) => values[m] !== 0));
  if (kept.length === 0) return null;
  return { ids: kept.map((m) => support[m]), values: Float32Array.from(kept, (m) => values[m]) };
}
