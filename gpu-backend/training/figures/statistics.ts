/**
 * From log-likelihoods of texts to what is said of them. A difference is always between two methods on the same tokens.
 * Pure.
 */
import { documentMean } from "../bank/gain.ts";
import { Random } from "../random.ts";
import { streams } from "../streams.ts";
import type { Text } from "./texts.ts";

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

/** What statistics need of a text. */
export type ScoredText = Pick<Text, "document" | "bytes" | "scored">;

export const worstShare = 0.05;

/** `logLikelihoods` and `over`: nats of all scored tokens of each text. */
export function difference(
  texts: readonly ScoredText[],
  logLikelihoods: readonly number[],
  over: readonly number[],
): Difference {
  const gained = logLikelihoods.map((nats, i) => nats - over[i]);
  const estimate = (unitsOf: (text: ScoredText) => number, scale: number): Estimate => {
    const sums = texts.map((text, i) => ({ ...text, tokens: unitsOf(text), sum: gained[i] * scale }));
    const { nats: mean, ci95 } = documentMean(sums, new Random(1, streams.bootstrap))!;
    return { mean, ci95 };
  };
  return {
    nats: estimate(({ scored }) => scored, 1),
    bits: estimate(({ bytes }) => bytes, 1 / Math.LN2),
    worst: worstOf(gained.map((nats, i) => nats / texts[i].scored)),
  };
}

/** Of the 5% that gained least, at least one. */
export function worstOf(gains: readonly number[]): Worst {
  const rising = [...gains].sort((a, b) => a - b);
  const count = Math.max(1, Math.floor(worstShare * rising.length));
  const worst = rising.slice(0, count);
  return { mean: worst.reduce((sum, gain) => sum + gain, 0) / count, boundary: worst[count - 1], single: rising[0] };
}

/** Sums over the tokens of one document of a domain. */
export interface DocumentSum {
  sum: number;
  tokens: number;
}

const resamples = 1000;

/**
 * Mean over domains, each counting once, of a mean a token. The 95% interval resamples domains, and within each drawn domain
 * its documents: what another choice of domains and documents could have given. Throws an Error where a domain is empty.
 */
export function overDomains(domains: readonly (readonly DocumentSum[])[]): Estimate {
  if (domains.some((documents) => documents.length === 0)) throw new Error("a domain without documents has no mean");
  const random = new Random(1, streams.bootstrap);
  const drawn = <T>(items: readonly T[]) => items.map(() => items[random.integer(items.length)]);
  const meanOf = (all: readonly (readonly DocumentSum[])[]) =>
    all.reduce((total, documents) => total + meanPerToken(documents), 0) / all.length;
  const means = Array.from({ length: resamples }, () => meanOf(drawn(domains).map(drawn))).sort((a, b) => a - b);
  const ci95: [number, number] = [means[Math.floor(0.025 * resamples)], means[Math.ceil(0.975 * resamples) - 1]];
  return { mean: meanOf(domains), ci95 };
}

function meanPerToken(documents: readonly DocumentSum[]): number {
  const sum = documents.reduce((total, document) => total + document.sum, 0);
  return sum / documents.reduce((total, document) => total + document.tokens, 0);
}

/** Texts' sums by document, with how many tokens they are of, or bytes. */
export function byDocument(
  texts: readonly ScoredText[],
  sums: readonly number[],
  unit: "scored" | "bytes" = "scored",
): DocumentSum[] {
  const documents = new Map<string, DocumentSum>();
  for (const [i, text] of texts.entries()) {
    const before = documents.get(text.document) ?? { sum: 0, tokens: 0 };
    documents.set(text.document, { sum: before.sum + sums[i], tokens: before.tokens + text[unit] });
  }
  return [...documents.values()];
}
