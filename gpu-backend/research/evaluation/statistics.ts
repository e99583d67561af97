/** Means of gains on the same tokens, with intervals from a bootstrap. Pure. */
import { documentMean, intervalOf, resamples, sumsByDocument, type WindowSum } from "../../training/bank/gain.ts";
import { Random, streams } from "../../training/random.ts";
import type { Estimate } from "./data.ts";

/** A gain summed over tokens of a text, in nats. */
export type TextSum = WindowSum;
type DocumentSum = Omit<WindowSum, "document">;

const worstShare = 0.05;

/** Mean gain a token of a source's texts, with an interval over documents, and that of the worst texts. */
export function difference(texts: readonly TextSum[]): { nats: Estimate; worst: number } {
  const { nats: mean, ci95 } = documentMean(texts, new Random(1, streams.bootstrap))!;
  return { nats: { mean, ci95 }, worst: worstOf(texts) };
}

/** Mean gain a token of the 5% of texts that gain least, at least one. */
export function worstOf(texts: readonly TextSum[]): number {
  const rising = texts.map(({ sum, tokens }) => sum / tokens).sort((a, b) => a - b);
  const count = Math.max(1, Math.floor(worstShare * rising.length));
  return rising.slice(0, count).reduce((sum, gain) => sum + gain, 0) / count;
}

/**
 * Mean of the sources' means a token, each source counting once. The 95% interval resamples sources, and the documents within
 * each. Sources without such tokens do not count; null where none has any.
 */
export function overSources(sources: readonly (readonly TextSum[])[]): Estimate | null {
  const counted = sources
    .map((texts) => sumsByDocument(texts).filter(({ tokens }) => tokens > 0))
    .filter((documents) => documents.length > 0);
  if (counted.length === 0) return null;
  const random = new Random(1, streams.bootstrap);
  const drawn = <T>(items: readonly T[]) => items.map(() => items[random.integer(items.length)]);
  const meanOf = (all: readonly (readonly DocumentSum[])[]) =>
    all.reduce((total, documents) => total + meanPerToken(documents), 0) / all.length;
  const draws = Array.from({ length: resamples }, () => meanOf(drawn(counted).map(drawn)));
  return { mean: meanOf(counted), ci95: intervalOf(draws) };
}

function meanPerToken(documents: readonly DocumentSum[]): number {
  const sum = documents.reduce((total, document) => total + document.sum, 0);
  return sum / documents.reduce((total, document) => total + document.tokens, 0);
}
