import type { Gain } from "../../adapters/own/held-out-gain.ts";
import type { Random } from "../random.ts";

/** Losses in nats, summed over the window's tokens. */
export interface WindowLoss {
  document: string;
  tokens: number;
  base: number;
  adapted: number;
}

const resamples = 1000;

/** A value's sum over the window's tokens. */
export interface WindowSum {
  document: string;
  tokens: number;
  sum: number;
}

/** The value's mean per token, or null without tokens. The interval resamples documents, because windows of a document are alike. */
export function documentMean(windows: readonly WindowSum[], random: Random): Gain | null {
  const sums = sumsByDocument(windows);
  const total = (of: typeof sums, what: "sum" | "tokens") => of.reduce((sum, document) => sum + document[what], 0);
  const meanOf = (of: typeof sums) => total(of, "sum") / total(of, "tokens");
  const tokens = total(sums, "tokens");
  if (tokens === 0) return null;
  return { nats: meanOf(sums), ci95: bootstrap((drawn) => meanOf(drawn(sums)), random), tokens };
}

/** Draws as many items as there are, with replacement. */
export type Redraw = <T>(items: readonly T[]) => T[];

/** Returns a 95% interval. `draw` computes the value from items that it resamples with `drawn`. */
export function bootstrap(draw: (drawn: Redraw) => number, random: Random): [number, number] {
  const drawn: Redraw = (items) => items.map(() => items[random.integer(items.length)]);
  const sorted = Array.from({ length: resamples }, () => draw(drawn)).sort((a, b) => a - b);
  return [sorted[Math.floor(0.025 * sorted.length)], sorted[Math.ceil(0.975 * sorted.length) - 1]];
}

export function sumsByDocument(windows: readonly WindowSum[]): Omit<WindowSum, "document">[] {
  const documents = new Map<string, { sum: number; tokens: number }>();
  for (const { document, tokens, sum } of windows) {
    const before = documents.get(document) ?? { sum: 0, tokens: 0 };
    documents.set(document, { sum: before.sum + sum, tokens: before.tokens + tokens });
  }
  return [...documents.values()];
}

/** Resampling a single document would give an interval without width. */
export const minMeasuredDocuments = 2;
/** Every tenth document is held out for test. */
export const documentsPerCentroid = 10 * minMeasuredDocuments;

/** Returns null with fewer than `minMeasuredDocuments` documents. */
export function documentGain(losses: readonly WindowLoss[], random: Random): Gain | null {
  if (new Set(losses.map(({ document }) => document)).size < minMeasuredDocuments) return null;
  return documentMean(
    losses.map(({ document, tokens, base, adapted }) => ({ document, tokens, sum: base - adapted })),
    random,
  );
}

export const scaleChoices = [0, 0.25, 0.5, 0.75, 1] as const;
/** Nats per token. Smaller gains on validation text are often noise. */
const requiredGain = 0.005;

/** Looks at the interval's lower end, because one document that copies a known one can make the mean large. */
export function hasProvenGain(gain: Gain | null): boolean {
  return gain !== null && gain.ci95[0] >= requiredGain;
}

/** Allowed rise of any corpus's loss, in nats per token. */
const toleratedLoss = 0.005;
/** Share of a centroid's validation tokens. A corpus with a smaller share may exceed `toleratedLoss`. */
const judgedShare = 0.1;

export interface ScaleTrial {
  tokens: number;
  /** Sum of losses under each of `scaleChoices`, in nats. */
  losses: number[];
}

/** Returns 0 (off) if the best scale gains less than `requiredGain`. Scales that harm a corpus are not chosen. */
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
