/** Rows and means of an evaluation, from scores under given rules. Pure. */
import type { Estimate } from "../data.ts";
import {
  averageOf,
  baseLossOf,
  documentsOf,
  gainOf,
  gainsOf,
  hasInk,
  overSources,
  type Pieces,
  type Values,
} from "../statistics.ts";
import type { Group, MethodMean, OwnMean, OwnRow } from "./data.ts";
import type { Kind } from "./kinds.ts";
import { suggestedTokens } from "./score.ts";

/** A kind's texts, scored by every method; `base` is one of them. */
export interface ScoredKind {
  kind: Kind;
  hasAdapter: boolean;
  logprobs: Values;
  /** 1 where the likeliest token is the one that came. */
  correct: Values;
}

/** The memory and an own adapter of the same text, over the one of the two that gains more on the kind. */
export const bothOverBetter = "both over better alone";

/** Methods of a group, and those compared with another than the base: `A over B`. */
function comparisonsOf({ logprobs }: ScoredKind): string[] {
  const names = Object.keys(logprobs).filter((name) => name !== "base");
  const compared = names.flatMap((name) => (name.startsWith("mixture, ") ? [`${name} over mixture`] : []));
  return [...names, ...compared, ...(names.includes("both") ? [bothOverBetter] : [])];
}

export function rowOf(scored: ScoredKind, tokenizer: Pieces): OwnRow {
  const { kind, logprobs, correct } = scored;
  const { group, name, texts } = kind;
  const gains = comparisonsOf(scored).map((of) => [of, gainOf(gainsOf(texts, logprobs, of))] as const);
  return {
    ...{ group, name, texts: texts.length, documents: documentsOf(texts), hasAdapter: scored.hasAdapter },
    base: {
      ...baseLossOf(texts, logprobs.base, tokenizer),
      accuracy: averageOf(correct.base.flatMap((own) => Array.from(own))),
    },
    gains: Object.fromEntries(gains),
  };
}

export function meanOf(group: Group, kinds: readonly ScoredKind[], tokenizer: Pieces): OwnMean {
  const isInk = hasInk(tokenizer);
  const methods = comparisonsOf(kinds[0]).map((name): [string, MethodMean] => {
    const gains = kinds.map(({ kind, logprobs }) => gainsOf(kind.texts, logprobs, name));
    const ofKinds = kinds.map(({ kind }, k) => ({ name: kind.name, gain: gainOf(gains[k]).mean }));
    const rising = ofKinds.toSorted((a, b) => a.gain - b.gain);
    const texts = gains.flat().map(({ sum, tokens }) => sum / tokens);
    const [method] = name.split(" over ");
    return [
      name,
      {
        gain: overSources(gains)!,
        median: quantile(
          rising.map(({ gain }) => gain),
          0.5,
        ),
        worstKind: rising[0],
        lowTexts: [quantile(texts, 0.01), quantile(texts, 0.05)],
        noWhiteSpace: overSources(kinds.map(({ kind, logprobs }) => gainsOf(kind.texts, logprobs, name, isInk)))!,
        accuracy: overSources(kinds.map(({ kind, correct }) => gainsOf(kind.texts, correct, name)))!,
        suggested: averageOf(kinds.map(({ correct }) => averageOf(correct[method].map(suggestedTokens)))),
      },
    ];
  });
  return { group, kinds: kinds.length, methods: Object.fromEntries(methods) };
}

/** The mean over kinds of one method's gain. */
export function gainOver(kinds: readonly ScoredKind[], name: string): Estimate {
  return overSources(kinds.map(({ kind, logprobs }) => gainsOf(kind.texts, logprobs, name)))!;
}

/** Linear between the values on either side. */
export function quantile(values: readonly number[], share: number): number {
  const rising = values.toSorted((a, b) => a - b);
  const at = share * (rising.length - 1);
  const low = Math.floor(at);
  return rising[low] + (at - low) * (rising[Math.min(low + 1, rising.length - 1)] - rising[low]);
}
