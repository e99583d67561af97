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

const resamples = 1000;

/** A sum over a window's tokens, to be averaged. */
export interface WindowSum {
  document: string;
  tokens: number;
  sum: number;
}

/** Mean per token with its 95% interval from a bootstrap over documents, as windows of one document are alike. Null without tokens. */
export function documentMean(windows: readonly WindowSum[], random: Random): Gain | null {
  const sums = sumsByDocument(windows);
  const total = (of: typeof sums, what: "sum" | "tokens") => of.reduce((sum, document) => sum + document[what], 0);
  const meanOf = (of: typeof sums) => total(of, "sum") / total(of, "tokens");
  const tokens = total(sums, "tokens");
  if (tokens === 0) return null;
  return { nats: meanOf(sums), ci95: bootstrap((drawn) => meanOf(drawn(sums)), random), tokens };
}

/** Draws as many of the items, with replacement. */
export type Redraw = <T>(items: readonly T[]) => T[];

/** The 95% interval of what `draw` makes of resampled items. */
export function bootstrap(draw: (drawn: Redraw) => number, random: Random): [number, number] {
  const drawn: Redraw = (items) => items.map(() => items[random.integer(items.length)]);
  const sorted = Array.from({ length: resamples }, () => draw(drawn)).sort((a, b) => a - b);
  return [sorted[Math.floor(0.025 * sorted.length)], sorted[Math.ceil(0.975 * sorted.length) - 1]];
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
