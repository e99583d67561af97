/**
 * From log-likelihoods of texts to what is said of them. A difference is always between two methods on the same tokens.
 * Pure.
 */
import { gainOver } from "../../../gpu-backend/adapters/instant/held-out-gain.ts";
import { documentMean } from "../../../gpu-backend/training/bank/gain.ts";
import { Random } from "../../../gpu-backend/training/random.ts";
import { streams } from "../../../gpu-backend/training/streams.ts";
import { scoredTokens, type Text } from "./texts.ts";

export interface Estimate {
  mean: number;
  ci95: [number, number];
}

/** How much better one method predicts texts than another. */
export interface Difference {
  /** Nats a token; the interval resamples documents. */
  nats: Estimate;
  /** Bits a byte; the interval resamples documents. */
  bits: Estimate;
  worst: Worst;
}

export interface Worst {
  /** Nats a token, mean over the worst 5% of the texts. */
  mean: number;
  /** Of the best among the worst 5%. */
  boundary: number;
  /** Of the worst one. */
  single: number;
}

export const worstShare = 0.05;

/** `logLikelihoods` and `over`: nats of all scored tokens of each text. */
export function difference(
  texts: readonly Pick<Text, "document" | "bytes">[],
  logLikelihoods: readonly number[],
  over: readonly number[],
): Difference {
  const gained = logLikelihoods.map((nats, i) => nats - over[i]);
  const estimate = (unitsOf: (text: Pick<Text, "bytes">) => number, scale: number): Estimate => {
    const sums = texts.map((text, i) => ({ ...text, tokens: unitsOf(text), sum: gained[i] * scale }));
    const { nats: mean, ci95 } = documentMean(sums, new Random(1, streams.bootstrap))!;
    return { mean, ci95 };
  };
  return {
    nats: estimate(() => scoredTokens, 1),
    bits: estimate(({ bytes }) => bytes, 1 / Math.LN2),
    worst: worstOf(gained.map((nats) => nats / scoredTokens)),
  };
}

/** Of the 5% that gained least, at least one. */
export function worstOf(gains: readonly number[]): Worst {
  const rising = [...gains].sort((a, b) => a - b);
  const count = Math.max(1, Math.floor(worstShare * rising.length));
  const worst = rising.slice(0, count);
  return { mean: worst.reduce((sum, gain) => sum + gain, 0) / count, boundary: worst[count - 1], single: rising[0] };
}

/** Mean over sources, each counting once; the interval is Student's t over the sources. */
export function overSources(means: readonly number[]): Estimate {
  const { nats: mean, ci95 } = gainOver(means.map((nats) => ({ tokens: 1, nats })));
  return { mean, ci95 };
}
