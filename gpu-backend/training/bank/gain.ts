/** Gain of an adapter on held-out text, and the choice of its scale, from losses of windows. Pure. */
import type { Gain } from "../../adapters/own/held-out-gain.ts";
import type { Random } from "../random.ts";

/** Summed losses of a window, in nats, under the base and under the adapter. */
export interface WindowLoss {
  /** Any key that is the same for all windows of a document. */
  document: string;
  tokens: number;
  base: number;
  adapted: number;
}

export const resamples = 1000;

/** A sum over a window's tokens, to be averaged. */
export interface WindowSum {
  document: string;
  tokens: number;
  sum: number;
}

/** Mean per token with its 95% interval from a bootstrap over documents, as windows of one document are alike. Null without tokens. */
export function documentMean(windows: readonly WindowSum[], random: Random): Gain | null {
  const sums = sumsByDocument(windows);
  const tokens = sums.reduce((total, document) => total + document.tokens, 0);
  if (tokens === 0) return null;
  const nats = sums.reduce((total, document) => total + document.sum, 0) / tokens;
  const draws = Array.from({ length: resamples }, () => {
    let sum = 0;
    let drawnTokens = 0;
    for (let i = 0; i < sums.length; i++) {
      const document = sums[random.integer(sums.length)];
      sum += document.sum;
      drawnTokens += document.tokens;
    }
    return sum / drawnTokens;
  });
  return { nats, ci95: intervalOf(draws), tokens };
}

/** Sums over the tokens of each document, in the order of the documents' first windows. */
export function sumsByDocument(windows: readonly WindowSum[]): Omit<WindowSum, "document">[] {
  const documents = new Map<string, { sum: number; tokens: number }>();
  for (const { document, tokens, sum } of windows) {
    const before = documents.get(document) ?? { sum: 0, tokens: 0 };
    documents.set(document, { sum: before.sum + sum, tokens: before.tokens + tokens });
  }
  return [...documents.values()];
}

/** The 2.5th and 97.5th percentiles of a bootstrap's draws. */
export function intervalOf(draws: readonly number[]): [number, number] {
  const sorted = draws.toSorted((a, b) => a - b);
  return [sorted[Math.floor(0.025 * sorted.length)], sorted[Math.ceil(0.975 * sorted.length) - 1]];
}

/** Resampling a single document would give an interval of no width. */
export const minMeasuredDocuments = 2;
/** With so many documents about two of them are in the tenth that is held out for test. */
export const documentsPerCentroid = 10 * minMeasuredDocuments;

/** Gain of an adapter over the base, and its interval over documents; null where fewer than two were held out. */
export function documentGain(losses: readonly WindowLoss[], random: Random): Gain | null {
  if (new Set(losses.map(({ document }) => document)).size < minMeasuredDocuments) return null;
  return documentMean(
    losses.map(({ document, tokens, base, adapted }) => ({ document, tokens, sum: base - adapted })),
    random,
  );
}

export const scaleChoices = [0, 0.25, 0.5, 0.75, 1] as const;
/** Nats a token that a scale must gain on validation: less is as often noise. */
const requiredGain = 0.005;
/** Nats a token that a corpus may lose under a chosen scale. */
const toleratedLoss = 0.005;
/** A corpus with a smaller share of a centroid's validation tokens is ignored. */
const judgedShare = 0.1;

/** Validation of one corpus within one centroid. */
export interface ScaleTrial {
  tokens: number;
  /** Summed loss under each choice; the first is to do nothing. */
  losses: number[];
}

/**
 * A centroid's scale: the one with the lowest loss of those under which no corpus gets worse; 0 (auto-off) where its gain is
 * negligible. Text that the base knows by heart can only lose, so no other corpus may outweigh it.
 */
export function chooseScale(trials: readonly ScaleTrial[]): number {
  const tokens = trials.reduce((sum, trial) => sum + trial.tokens, 0);
  const gainAt = (choice: number) => trials.reduce((sum, { losses }) => sum + losses[0] - losses[choice], 0);
  const harms = (choice: number) =>
    trials.some(
      (trial) =>
        trial.tokens >= judgedShare * tokens && trial.losses[choice] - trial.losses[0] > toleratedLoss * trial.tokens,
    );
  let best = 0;
  for (let choice = 1; choice < scaleChoices.length; choice++) {
    if (gainAt(choice) > gainAt(best) && !harms(choice)) best = choice;
  }
  return gainAt(best) >= requiredGain * tokens ? scaleChoices[best] : 0;
}
