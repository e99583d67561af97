/** Rows and means of an evaluation, from readings under given rules. Pure. */
import type { Tokenizer } from "../../../../shared/tokenizer/tokenizer.ts";
import type { Estimate } from "../data.ts";
import { difference, overSources, type TextSum } from "../statistics.ts";
import type { Text } from "../texts.ts";
import type { Group, OwnMean, OwnRow } from "./data.ts";
import { type Kind, scoredTokens } from "./kinds.ts";
import { suggestedTokens, type TextScore } from "./score.ts";

/** A kind's texts, scored by every method; `base` is one of them. */
export interface ScoredKind {
  kind: Kind;
  scores: Record<string, TextScore[]>;
}

type Pieces = Pick<Tokenizer, "pieceOf">;
/** What counts of a scored token. */
type Value = (score: TextScore, place: number) => number;

const logprob: Value = ({ logprobs }, place) => logprobs[place];
const correct: Value = ({ isCorrect }, place) => (isCorrect[place] ? 1 : 0);

/** For each text the difference between a method and the base, summed over the tokens that count. */
function differences(
  { kind, scores }: ScoredKind,
  method: string,
  { value = logprob, counts = () => true }: { value?: Value; counts?: (text: Text, place: number) => boolean } = {},
): TextSum[] {
  const [name, than = "base"] = method.split(" over ");
  return kind.texts.map((text, s) => {
    let [sum, tokens] = [0, 0];
    for (let place = 0; place < scoredTokens; place++) {
      if (!counts(text, place)) continue;
      sum += value(scores[name][s], place) - value(scores[than][s], place);
      tokens++;
    }
    return { document: text.document, tokens, sum };
  });
}

/** Methods of a group, and those compared with another than the base: `A over B`. */
export function methodNames({ scores }: ScoredKind): string[] {
  const names = Object.keys(scores).filter((name) => name !== "base");
  const compared = names.flatMap((name) => (name.startsWith("mixture, ") ? [`${name} over mixture`] : []));
  return [...names, ...compared];
}

export function rowOf(scored: ScoredKind, tokenizer: Pieces): OwnRow {
  const { kind, scores } = scored;
  const count = kind.texts.length * scoredTokens;
  const total = (value: Value) =>
    scores.base.reduce((sum, text) => sum + text.isCorrect.reduce((own, _, i) => own + value(text, i), 0), 0);
  const bytes = kind.texts
    .flatMap(({ ids }) => ids.slice(-scoredTokens))
    .reduce((sum, id) => sum + tokenizer.pieceOf(id).length, 0);
  return {
    ...{ group: kind.group, name: kind.name, texts: kind.texts.length },
    documents: new Set(kind.texts.map(({ document }) => document)).size,
    base: {
      nats: -total(logprob) / count,
      bitsPerByte: -total(logprob) / Math.LN2 / bytes,
      accuracy: total(correct) / count,
    },
    gains: Object.fromEntries(methodNames(scored).map((name) => [name, difference(differences(scored, name)).nats])),
  };
}

export function meanOf(group: Group, kinds: readonly ScoredKind[], tokenizer: Pieces): OwnMean {
  const isInk = (text: Text, place: number) =>
    new TextDecoder().decode(tokenizer.pieceOf(text.ids[text.ids.length - scoredTokens + place])).trim().length > 0;
  const methods = methodNames(kinds[0]).map((name) => {
    const own = kinds.map((kind) => ({ name: kind.kind.name, gain: difference(differences(kind, name)).nats.mean }));
    const rising = own.toSorted((a, b) => a.gain - b.gain);
    const texts = kinds.flatMap((kind) => differences(kind, name)).map(({ sum, tokens }) => sum / tokens);
    const over = (options: Parameters<typeof differences>[2]) =>
      overSources(kinds.map((kind) => differences(kind, name, options)))!;
    const suggested = kinds.map(({ scores }) => mean(scores[name.split(" over ")[0]].map(suggestedTokens)));
    const values = {
      gain: over({}),
      median: quantile(
        own.map(({ gain }) => gain),
        0.5,
      ),
      worstKind: rising[0],
      lowTexts: [quantile(texts, 0.01), quantile(texts, 0.05)] satisfies [number, number],
      noWhiteSpace: over({ counts: isInk }),
      accuracy: over({ value: correct }),
      suggested: mean(suggested),
    };
    return [name, values] as const;
  });
  return { group, kinds: kinds.length, methods: Object.fromEntries(methods) };
}

/** The mean over kinds of one method's gain. */
export function gainOver(kinds: readonly ScoredKind[], name: string): Estimate {
  return overSources(kinds.map((kind) => differences(kind, name)))!;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Linear between the values on either side. */
export function quantile(values: readonly number[], share: number): number {
  const rising = values.toSorted((a, b) => a - b);
  const at = share * (rising.length - 1);
  const low = Math.floor(at);
  return rising[low] + (at - low) * (rising[Math.min(low + 1, rising.length - 1)] - rising[low]);
}
