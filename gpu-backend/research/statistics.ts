/** Gains of methods on the same tokens, with bootstrap intervals over documents and sources, and Markdown tables. Pure. */
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { bootstrap, documentMean, type Redraw, sumsByDocument, type WindowSum } from "../training/bank/gain.ts";
import { Random, streams } from "../training/random.ts";
import type { Text } from "./texts.ts";

export interface Estimate {
  mean: number;
  ci95: [number, number];
}

export type Pieces = Pick<Tokenizer, "pieceOf">;
/** By method, a value for each scored token, [texts][tokens]. A text's scored tokens are its last tokens. */
export type Values = Record<string, readonly ArrayLike<number>[]>;
/** Whether the token `ids[at]` of a text counts. */
export type TokenTest = (ids: readonly number[], at: number) => boolean;

export interface ScoredSource {
  group: string;
  name: string;
  texts: readonly Text[];
  /** Log-likelihoods in nats, by method. One method is `base`. */
  logprobs: Values;
  /** 1 where the likeliest token equals the text's token, else 0. */
  correct?: Values;
}

const worstShare = 0.05;

/** Gains in nats per token, by comparison (`gainsOf`), with intervals over documents. */
export function rowOf(source: ScoredSource, comparisons: readonly string[], tokenizer: Pieces) {
  const { group, name, texts, logprobs } = source;
  const documents = new Set(texts.map(({ document }) => document)).size;
  const gains = (of: string) => gainsOf(texts, logprobs, of);
  return {
    ...{ group, name, documents, texts: texts.length, base: baseLossOf(source, tokenizer) },
    gains: record(comparisons, (of) => gainOf(gains(of))),
    worst: record(comparisons, (of) => worstOf(gains(of))),
  };
}

/** All sources have the same weight. `parts` selects the tokens of each part. `accuracy` is the gain in the share of right tokens. */
export function groupOf(
  sources: readonly ScoredSource[],
  comparisons: readonly string[],
  tokenizer: Pieces,
  parts: Record<string, TokenTest>,
) {
  const bases = sources.map((source) => baseLossOf(source, tokenizer));
  const gain = (of: string) => {
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

/** The comparison "A" compares method A with the base, "A over B" with method B. */
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

export function hasInk(tokenizer: Pieces): TokenTest {
  return (ids, at) => new TextDecoder().decode(tokenizer.pieceOf(ids[at])).trim().length > 0;
}

/** Loss in nats per token, and in bits per byte of the text. */
function baseLossOf({ texts, logprobs: { base } }: ScoredSource, tokenizer: Pieces) {
  const scored = texts.flatMap(({ ids }, s) => ids.slice(-base[s].length));
  const nats = -sumOf(base.map((own) => sumOf(Array.from(own))));
  const bytes = sumOf(scored.map((id) => tokenizer.pieceOf(id).length));
  return { nats: nats / scored.length, bitsPerByte: nats / Math.LN2 / bytes };
}

/** Mean gain per token, with an interval over documents. */
export function gainOf(texts: readonly WindowSum[]): Estimate {
  const { nats: mean, ci95 } = documentMean(texts, new Random(1, streams.bootstrap))!;
  return { mean, ci95 };
}

/** Mean over the 5% of texts that gain least; at least one text. */
export function worstOf(texts: readonly WindowSum[]): number {
  const rising = texts.map(({ sum, tokens }) => sum / tokens).sort((a, b) => a - b);
  return averageOf(rising.slice(0, Math.max(1, Math.floor(worstShare * rising.length))));
}

/** Returns null if no source has counted tokens. The 95% interval resamples sources and documents. */
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

/** `draw` computes the mean from items that it resamples with `drawn`. */
export function resampled(draw: (drawn: Redraw) => number, mean: number): Estimate {
  return { mean, ci95: bootstrap(draw, new Random(1, streams.bootstrap)) };
}

/** Interpolates linearly. */
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
