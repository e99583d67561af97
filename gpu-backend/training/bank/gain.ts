/** What an adapter is worth on text that it has not seen. Pure arithmetic over per-window losses. */
import type { Random } from "../random.ts";

/** Summed losses of a window, in nats, under the base and under the adapter. */
export interface WindowLoss {
  /** Any key that is the same for all windows of a document. */
  document: string;
  tokens: number;
  base: number;
  adapted: number;
}

export interface Gain {
  /** Mean loss of the base minus that of the adapter, nats a token; positive is better. */
  nats: number;
  ci95: [number, number];
  tokens: number;
}

const resamples = 1000;

/**
 * Gain with its 95% interval from a bootstrap over documents (percentiles), because windows of one document are alike.
 * Null where there is nothing to measure.
 */
export function documentGain(losses: readonly WindowLoss[], random: Random): Gain | null {
  const documents = new Map<string, { difference: number; tokens: number }>();
  for (const { document, tokens, base, adapted } of losses) {
    const sum = documents.get(document) ?? { difference: 0, tokens: 0 };
    documents.set(document, { difference: sum.difference + base - adapted, tokens: sum.tokens + tokens });
  }
  const sums = [...documents.values()];
  const tokens = sums.reduce((total, document) => total + document.tokens, 0);
  if (tokens === 0) return null;
  const nats = sums.reduce((total, document) => total + document.difference, 0) / tokens;
  const draws = Array.from({ length: resamples }, () => {
    let difference = 0;
    let drawnTokens = 0;
    for (let i = 0; i < sums.length; i++) {
      const document = sums[random.integer(sums.length)];
      difference += document.difference;
      drawnTokens += document.tokens;
    }
    return difference / drawnTokens;
  }).sort((a, b) => a - b);
  return { nats, ci95: [draws[Math.floor(0.025 * resamples)], draws[Math.ceil(0.975 * resamples) - 1]], tokens };
}

export const scaleChoices = [0, 0.25, 0.5, 0.75, 1] as const;
/** Nats a token that a scale must win on validation before it is shipped: less is noise as often as gain. */
const requiredGain = 0.005;

/**
 * The scale with the lowest validation loss, or 0, auto-off, where none beats the base by a margin.
 * @param losses summed loss under each of `scaleChoices`
 */
export function chooseScale(losses: readonly number[], tokens: number): number {
  let best = 0;
  for (let i = 1; i < losses.length; i++) if (losses[i] < losses[best]) best = i;
  return tokens > 0 && (losses[0] - losses[best]) / tokens >= requiredGain ? scaleChoices[best] : 0;
}
