/**
 * Chooses an adapter's parts and their strengths by cross-validation, and measures the gain of this choice by nested
 * cross-validation: for each fold, parts are chosen and made without its examples, and scored on them. Pure.
 */

import { adapterMargin, type ExampleGain, type Gain, gainOver, isWorthwhile, partMargin } from "./held-out-gain.ts";
import { biasStrengths, type FoldParts, foldsOf, type Gains } from "./token-bias.ts";

export const partNames = ["gates", "unigram"] as const;
export type PartName = (typeof partNames)[number];

/** `gain` is what the part gained on top of those before it, on the examples that decided whether it is kept. */
export interface PartGain {
  name: PartName;
  kept: boolean;
  gain: Gain;
}

/** Nothing is applied where the parts together gain too little. */
export interface Choice {
  /** Whether the centroid's gates are applied. */
  gated: boolean;
  /** One of `biasStrengths`; 0 applies no bias. */
  biasStrength: number;
  /** Each part that was tried, in the order of `partNames`. */
  parts: PartGain[];
}

export interface Candidates {
  /** Number of tokens of each example. */
  tokens: readonly number[];
  /** Gain of the gates on each example; null without gates. */
  gateGains: Gains | null;
  /** The other parts on top of the gates or the base, whichever `gatesPart` decides. */
  on(gated: boolean): FoldParts;
}

/** The gates, judged by the examples outside fold `without`; by all examples where it is null. */
export function gatesPart({ tokens, gateGains }: Omit<Candidates, "on">, without: number | null): PartGain | null {
  if (!gateGains) return null;
  const folds = foldsOf(tokens.length);
  return judged("gates", new Map([...gateGains].filter(([i]) => i % folds !== without)));
}

/** Chooses by the examples outside fold `without`; by all examples where it is null. */
export function choose(candidates: Candidates, without: number | null): Choice {
  const folds = foldNumbers(candidates).filter((fold) => fold !== without);
  const leftOut = (fold: number) => (without === null ? [fold] : [without, fold]);
  const gates = gatesPart(candidates, without);
  const gated = gates?.kept ?? false;
  const made = candidates.on(gated);
  const parts = gates ? [gates] : [];
  const kept: Gains[] = gated ? [candidates.gateGains!] : [];

  const bias = best(
    biasStrengths,
    folds.map((fold) => made.biasGains(leftOut(fold), fold)),
  );
  const unigram = judged("unigram", bias.gains);
  const biasStrength = unigram.kept ? bias.strength : 0;
  parts.push(unigram);
  if (unigram.kept) kept.push(bias.gains);

  const total = gainOver(summed(candidates, [...bias.gains.keys()], kept));
  if (isWorthwhile(total, adapterMargin)) return { gated, biasStrength, parts };
  const notKept = parts.map((part) => ({ ...part, kept: false }));
  return { gated: false, biasStrength: 0, parts: notKept };
}

/**
 * Gain of adapters on examples whose fold neither made nor chose them; where the base is chosen, it is 0.
 * null for two examples: without one of them, the other cannot both make a part and judge it.
 */
export function nestedGain(candidates: Candidates): Gain | null {
  if (candidates.tokens.length < 3) return null;
  return gainOver(foldNumbers(candidates).flatMap((fold) => scoresOn(candidates, fold, choose(candidates, fold))));
}

function scoresOn(candidates: Candidates, fold: number, choice: Choice): ExampleGain[] {
  const { gated, biasStrength } = choice;
  const applied: Gains[] = gated ? [candidates.gateGains!] : [];
  if (biasStrength > 0) {
    applied.push(candidates.on(gated).biasGains([fold], fold)[biasStrengths.indexOf(biasStrength)]);
  }
  const { length } = candidates.tokens;
  const examples = [...candidates.tokens.keys()].filter((i) => i % foldsOf(length) === fold);
  return summed(candidates, examples, applied);
}

function summed({ tokens }: Candidates, examples: readonly number[], applied: readonly Gains[]): ExampleGain[] {
  return examples.map((i) => ({
    tokens: tokens[i],
    nats: applied.reduce((sum, gains) => sum + gains.get(i)!.nats, 0),
  }));
}

function foldNumbers({ tokens }: Candidates): number[] {
  return [...new Array(foldsOf(tokens.length)).keys()];
}

function judged(name: PartName, gains: Gains): PartGain {
  const gain = gainOver([...gains.values()]);
  return { name, kept: isWorthwhile(gain, partMargin), gain };
}

/** The strength of the largest gain over all folds; `byFold` lists each fold's gains by strength. */
function best(strengths: readonly number[], byFold: readonly Gains[][]): { gains: Gains; strength: number } {
  const byStrength = strengths.map((_, s) => new Map(byFold.flatMap((gains) => [...gains[s]])));
  const totals = byStrength.map((gains) => gains.values().reduce((sum, { nats }) => sum + nats, 0));
  const s = totals.indexOf(Math.max(...totals));
  return { gains: byStrength[s], strength: strengths[s] };
}
