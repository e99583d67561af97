/** Gains of methods on the same tokens, their means over documents and sources with bootstrap intervals, and Markdown tables. Pure. */
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { bootstrap, documentMean, type Redraw, sumsByDocument, type WindowSum } from "../training/bank/gain.ts";
import { Random, streams } from "../training/random.ts";
import type { Text } from "./texts.ts";

/** A mean and its 95% interval. */
export interface Estimate {
  mean: number;
  ci95: [number, number];
}

export type Pieces = Pick<Tokenizer, "pieceOf">;
/** By method a value for each scored token, [texts][tokens]. The scored tokens are the last ones of a text. */
export type Values = Record<string, readonly ArrayLike<number>[]>;
/** Whether the token `ids[at]` of a text counts. */
export type TokenTest = (ids: readonly number[], at: number) => boolean;

/** A source is a corpus whose texts every method has scored. */
export interface ScoredSource {
  /** Results are averaged over the sources of a group. */
  group: string;
  name: string;
  texts: readonly Text[];
  /** Log-likelihoods in nats. `base` is one of the methods. */
  logprobs: Values;
  /** 1 where the likeliest token is the text's own, else 0. */
  correct?: Values;
}

/** Mean loss of the scored tokens under the base: nats per token, and bits per byte of their text. */
interface BaseLoss {
  nats: number;
  bitsPerByte: number;
}

/** Results of one source, by comparison (`gainsOf`): gains in nats per token, with intervals over documents. */
export interface Row {
  group: string;
  name: string;
  documents: number;
  texts: number;
  base: BaseLoss;
  gains: Record<string, Estimate>;
  /** Mean gain of the 5% of texts that gain least. */
  worst: Record<string, number>;
}

/** One comparison over the sources of a group. Each source counts once; intervals are over sources and their documents. */
interface GroupGain {
  gain: Estimate;
  /** Median over the sources. */
  median: number;
  /** The source that gains least. */
  lowest: { name: string; gain: number };
  /** Mean over the sources of `Row.worst`. */
  worst: number;
  /** 1st and 5th percentile of the gains of all texts. */
  lowTexts: [number, number];
  /** The gain on parts of the tokens. A part without any token is missing. */
  parts: Record<string, Estimate>;
  /** Gain in the share of tokens that are predicted right. */
  accuracy?: Estimate;
}

export interface Group {
  group: string;
  sources: number;
  base: BaseLoss;
  gains: Record<string, GroupGain>;
}

const worstShare = 0.05;

export function rowOf(source: ScoredSource, comparisons: readonly string[], tokenizer: Pieces): Row {
  const { group, name, texts, logprobs } = source;
  const documents = new Set(texts.map(({ document }) => document)).size;
  const gains = (of: string) => gainsOf(texts, logprobs, of);
  return {
    ...{ group, name, documents, texts: texts.length, base: baseLossOf(source, tokenizer) },
    gains: record(comparisons, (of) => gainOf(gains(of))),
    worst: record(comparisons, (of) => worstOf(gains(of))),
  };
}

/** Results of the sources of one group. `parts` says by name which tokens are in each part. */
export function groupOf(
  sources: readonly ScoredSource[],
  comparisons: readonly string[],
  tokenizer: Pieces,
  parts: Record<string, TokenTest>,
): Group {
  const bases = sources.map((source) => baseLossOf(source, tokenizer));
  const gain = (of: string): GroupGain => {
    const gains = sources.map(({ texts, logprobs }) => gainsOf(texts, logprobs, of));
    const means = gains.map((own) => gainOf(own).mean);
    const ofTexts = gains.flat().map(({ sum, tokens }) => sum / tokens);
    const ofParts = Object.entries(parts).flatMap(([name, test]) => {
      const estimate = overSources(sources.map(({ texts, logprobs }) => gainsOf(texts, logprobs, of, test)));
      return estimate ? [[name, estimate] as const] : [];
    });
    const right = sources.flatMap(({ texts, correct }) => (correct ? [gainsOf(texts, correct, of)] : []));
    const lowest = means.indexOf(Math.min(...means));
    return {
      gain: overSources(gains)!,
      median: quantile(means, 0.5),
      lowest: { name: sources[lowest].name, gain: means[lowest] },
      worst: averageOf(gains.map(worstOf)),
      lowTexts: [quantile(ofTexts, 0.01), quantile(ofTexts, 0.05)],
      parts: Object.fromEntries(ofParts),
      ...(right.length > 0 && { accuracy: overSources(right)! }),
    };
  };
  return {
    ...{ group: sources[0].group, sources: sources.length },
    base: {
      nats: averageOf(bases.map(({ nats }) => nats)),
      bitsPerByte: averageOf(bases.map(({ bitsPerByte }) => bitsPerByte)),
    },
    gains: record(comparisons, gain),
  };
}

function record<T>(keys: readonly string[], of: (key: string) => T): Record<string, T> {
  return Object.fromEntries(keys.map((key) => [key, of(key)]));
}

/** For each text, the number of tokens that count and the sum of their gains. A comparison is "A" (method A with the base) or "A over B". */
export function gainsOf(
  texts: readonly Text[],
  values: Values,
  comparison: string,
  isCounted: TokenTest = () => true,
): WindowSum[] {
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

function baseLossOf({ texts, logprobs: { base } }: ScoredSource, tokenizer: Pieces): BaseLoss {
  const scored = texts.flatMap(({ ids }, s) => ids.slice(-base[s].length));
  const nats = -sumOf(base.map((own) => sumOf(Array.from(own))));
  const bytes = sumOf(scored.map((id) => tokenizer.pieceOf(id).length));
  return { nats: nats / scored.length, bitsPerByte: nats / Math.LN2 / bytes };
}

/** Mean gain per token of a source's texts, with an interval over documents. */
export function gainOf(texts: readonly WindowSum[]): Estimate {
  const { nats: mean, ci95 } = documentMean(texts, new Random(1, streams.bootstrap))!;
  return { mean, ci95 };
}

/** Mean gain per token of the 5% of texts that gain least; at least one text. */
export function worstOf(texts: readonly WindowSum[]): number {
  const rising = texts.map(({ sum, tokens }) => sum / tokens).sort((a, b) => a - b);
  return averageOf(rising.slice(0, Math.max(1, Math.floor(worstShare * rising.length))));
}

/** Mean gain per token over the sources that have tokens that count; null if none has. The 95% interval resamples sources and documents. */
export function overSources(sources: readonly (readonly WindowSum[])[]): Estimate | null {
  const counted = sources
    .map((texts) => sumsByDocument(texts).filter(({ tokens }) => tokens > 0))
    .filter((documents) => documents.length > 0);
  if (counted.length === 0) return null;
  const meanOf = (all: typeof counted) =>
    averageOf(
      all.map((documents) => sumOf(documents.map(({ sum }) => sum)) / sumOf(documents.map(({ tokens }) => tokens))),
    );
  return resampled((drawn) => meanOf(drawn(counted).map(drawn)), meanOf(counted));
}

/** `mean` with a bootstrap interval: `draw` computes the mean of items that it resamples with `drawn`. */
export function resampled(draw: (drawn: Redraw) => number, mean: number): Estimate {
  return { mean, ci95: bootstrap(draw, new Random(1, streams.bootstrap)) };
}

/** A quantile, linearly interpolated. */
export function quantile(values: readonly number[], share: number): number {
  const rising = values.toSorted((a, b) => a - b);
  const at = share * (rising.length - 1);
  const low = Math.floor(at);
  return rising[low] + (at - low) * (rising[Math.min(low + 1, rising.length - 1)] - rising[low]);
}

export function averageOf(values: readonly number[]): number {
  return sumOf(values) / values.length;
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}

/** The same data with every number rounded to three decimals. */
export function rounded<T>(value: T): T {
  return JSON.parse(JSON.stringify(value, (_, one) => (typeof one === "number" ? Number(one.toFixed(3)) : one))) as T;
}

export function signed(value: number): string {
  return value.toFixed(3).replace("-", "−");
}

export function estimateText({ mean, ci95: [low, high] }: Estimate): string {
  return `${signed(mean)} [${signed(low)}, ${signed(high)}]`;
}

export function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  return [columns, columns.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}
