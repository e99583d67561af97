/** Differences between two methods on the same tokens, with intervals from a bootstrap. Pure. */
import { documentMean, intervalOf, resamples, sumsByDocument, type WindowSum } from "../../training/bank/gain.ts";
import { Random, streams } from "../../training/random.ts";
import type { Estimate } from "./data.ts";
import type { Text } from "./texts.ts";

/** How much better one method predicts texts than another, in nats a token. */
interface Difference {
  /** The interval resamples documents. */
  nats: Estimate;
  /** Mean of the 5% of texts with the lowest difference. */
  worst: number;
}

type ScoredText = Pick<Text, "document" | "scored">;
type DocumentSum = Omit<WindowSum, "document">;

const worstShare = 0.05;

/** `logLikelihoods` and `over`: log-likelihood of each text's scored tokens, in nats, [texts]. */
export function difference(
  texts: readonly ScoredText[],
  logLikelihoods: readonly number[],
  over: readonly number[],
): Difference {
  const gained = logLikelihoods.map((nats, i) => nats - over[i]);
  const { nats: mean, ci95 } = documentMean(withTokens(texts, gained), new Random(1, streams.bootstrap))!;
  return { nats: { mean, ci95 }, worst: worstOf(gained.map((nats, i) => nats / texts[i].scored)) };
}

/** Mean of the lowest 5%, at least one. */
export function worstOf(gains: readonly number[]): number {
  const rising = gains.toSorted((a, b) => a - b);
  const count = Math.max(1, Math.floor(worstShare * rising.length));
  return rising.slice(0, count).reduce((sum, gain) => sum + gain, 0) / count;
}

/**
 * Mean of the domains' means a token, each domain counting once. The 95% interval resamples domains, and the documents within
 * each. Throws an Error where a domain is empty.
 */
export function overDomains(domains: readonly (readonly DocumentSum[])[]): Estimate {
  if (domains.some((documents) => documents.length === 0)) throw new Error("a domain without documents has no mean");
  const random = new Random(1, streams.bootstrap);
  const drawn = <T>(items: readonly T[]) => items.map(() => items[random.integer(items.length)]);
  const meanOf = (all: readonly (readonly DocumentSum[])[]) =>
    all.reduce((total, documents) => total + meanPerToken(documents), 0) / all.length;
  const draws = Array.from({ length: resamples }, () => meanOf(drawn(domains).map(drawn)));
  return { mean: meanOf(domains), ci95: intervalOf(draws) };
}

function meanPerToken(documents: readonly DocumentSum[]): number {
  const sum = documents.reduce((total, document) => total + document.sum, 0);
  return sum / documents.reduce((total, document) => total + document.tokens, 0);
}

/** Sums of texts added up by document. */
export function byDocument(texts: readonly ScoredText[], sums: readonly number[]): DocumentSum[] {
  return sumsByDocument(withTokens(texts, sums));
}

function withTokens(texts: readonly ScoredText[], sums: readonly number[]): WindowSum[] {
  return texts.map(({ document, scored }, i) => ({ document, tokens: scored, sum: sums[i] }));
}
