/** Cuts documents into texts: a prompt, and the tokens after it that are scored. Pure. */
import { Random } from "../../../gpu-backend/training/random.ts";
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";

export const longestPrompt = 64;
export const scoredTokens = 64;
const textTokens = longestPrompt + scoredTokens;
const documentCharacters = 20_000;
const drawSeed = 12;

/** A stretch of one document. */
export interface Text {
  /** The same for all texts of a document, and for no others. */
  document: string;
  /** `longestPrompt` tokens, then those that are scored. */
  ids: number[];
  /** Of the scored tokens. */
  bytes: number;
}

export interface Source {
  name: string;
  /** Of the documents, as the corpus reader counts it. */
  sha256: string;
  documents: number;
  texts: Text[];
}

/**
 * Up to `count` texts: one of each document in drawn order, then another of each, and so on. Texts of a document do not
 * overlap; a document of fewer than 128 tokens has none.
 */
export function cutTexts(
  documents: readonly { name: string; text: string }[],
  tokenizer: Pick<Tokenizer, "encode" | "pieceOf">,
  count: number,
): Text[] {
  const byDocument = documents.map(({ name, text }, index) => {
    const ids = tokenizer.encode(text.slice(0, documentCharacters));
    const starts = Array.from({ length: Math.floor(ids.length / textTokens) }, (_, i) => i * textTokens);
    return new Random(drawSeed, index).shuffled(starts).map((start): Text => {
      const own = ids.slice(start, start + textTokens);
      const bytes = own.slice(longestPrompt).reduce((sum, id) => sum + tokenizer.pieceOf(id).length, 0);
      return { document: name, ids: own, bytes };
    });
  });
  const order = new Random(drawSeed, documents.length).shuffled(byDocument);
  const texts: Text[] = [];
  for (let round = 0; texts.length < count; round++) {
    const next = order.flatMap((own) => own.slice(round, round + 1));
    if (next.length === 0) break;
    texts.push(...next.slice(0, count - texts.length));
  }
  return texts;
}

/** The text with a prompt of `promptTokens`, so that the same tokens are scored after a prompt of any length. */
export function withPrompt({ ids }: Pick<Text, "ids">, promptTokens: number): number[] {
  return ids.slice(longestPrompt - promptTokens);
}
