/** Gains on the same tokens and their means, with intervals from a bootstrap. Pure. */
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import { documentMean, intervalOf, resamples, sumsByDocument, type WindowSum } from "../../training/bank/gain.ts";
import { Random, streams } from "../../training/random.ts";
import type { BaseLoss, Estimate } from "./data.ts";
import type { Text } from "./texts.ts";

/** A gain summed over tokens of a text, in nats. */
export type TextSum = WindowSum;
type DocumentSum = Omit<WindowSum, "document">;
export type Pieces = Pick<Tokenizer, "pieceOf">;

/** By method a value of each scored token, [texts][tokens]; the scored tokens are a text's last. */
export type Values = Record<string, readonly ArrayLike<number>[]>;
/** Whether the scored token at a place of a text's ids counts. */
export type TokenTest = (ids: readonly number[], at: number) => boolean;

const worstShare = 0.05;

/** For each text the sum of a comparison's gains over the tokens that count, and their number. "A": over the base; or "A over B". */
export function gainsOf(
  texts: readonly Text[],
  values: Values,
  comparison: string,
  isCounted: TokenTest = () => true,
): TextSum[] {
  const [method, than = "base"] = comparison.split(" over ");
  return texts.map(({ document, ids }, s) => {
    const [own, others] = [values[method][s], values[than][s]];
    let [sum, tokens] = [0, 0];
    for (let n = 0; n < own.length; n++) {
      if (!isCounted(ids, ids.length - own.length + n)) continue;
      sum += own[n] - others[n];
      tokens++;
    }
    return { document, tokens, sum };
  });
}

/** Whether a token is more than white space. */
export function hasInk(tokenizer: Pieces): TokenTest {
  return (ids, at) => new TextDecoder().decode(tokenizer.pieceOf(ids[at])).trim().length > 0;
}

/** Of the log-likelihoods of the texts' scored tokens under the base. */
export function baseLossOf(
  texts: readonly Text[],
  logprobs: readonly ArrayLike<number>[],
  tokenizer: Pieces,
): BaseLoss {
  const scored = texts.flatMap(({ ids }, s) => ids.slice(-logprobs[s].length));
  const nats = -sumOf(logprobs.map((own) => sumOf(Array.from(own))));
  const bytes = sumOf(scored.map((id) => tokenizer.pieceOf(id).length));
  return { nats: nats / scored.length, bitsPerByte: nats / Math.LN2 / bytes };
}

export function documentsOf(texts: readonly Text[]): number {
  return new Set(texts.map(({ document }) => document)).size;
}

/** Mean gain a token of a source's texts, with an interval over documents. */
export function gainOf(texts: readonly TextSum[]): Estimate {
  const { nats: mean, ci95 } = documentMean(texts, new Random(1, streams.bootstrap))!;
  return { mean, ci95 };
}

/** Mean gain a token of the 5% of texts that gain least, at least one. */
export function worstOf(texts: readonly TextSum[]): number {
  const rising = texts.map(({ sum, tokens }) => sum / tokens).sort((a, b) => a - b);
  return averageOf(rising.slice(0, Math.max(1, Math.floor(worstShare * rising.length))));
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
    averageOf(
      all.map((documents) => sumOf(documents.map(({ sum }) => sum)) / sumOf(documents.map(({ tokens }) => tokens))),
    );
  const draws = Array.from({ length: resamples }, () => meanOf(drawn(counted).map(drawn)));
  return { mean: meanOf(counted), ci95: intervalOf(draws) };
}

export function averageOf(values: readonly number[]): number {
  return sumOf(values) / values.length;
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
