/** Cuts documents into texts: a prompt, and the tokens after it that are scored. Pure. */
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import type { Document } from "../../training/corpus/documents.ts";
import { Random } from "../../training/random.ts";

/** The same tokens are scored after prompts of each length. */
export const promptLengths = [8, 32, 64, 128] as const;
export const longestPrompt = promptLengths[promptLengths.length - 1];
export const scoredTokens = 64;
const textTokens = longestPrompt + scoredTokens;
/** Only so many characters of each document are cut into texts, as long as these give enough of them. */
const documentCharacters = 20_000;
const drawSeed = 12;

type TextTokenizer = Pick<Tokenizer, "encode">;

/** A stretch of one document. */
export interface Text {
  /** The same for all texts of a document, and for no others. */
  document: string;
  /** The longest prompt, then the tokens that are scored. */
  ids: number[];
}

/** Tokens of each text; the last text of a document is kept if it has at least `least`. */
export interface Cut {
  tokens: number;
  least: number;
}

/**
 * Up to `count` texts: one of each document in drawn order, then a second of each, and so on. They come from the first 20,000
 * characters of each document, or from whole documents where those give fewer than `count`. Texts of a document do not overlap.
 */
export function cutTexts(
  documents: readonly Document[],
  tokenizer: TextTokenizer,
  count: number,
  cutAs: Cut = { tokens: textTokens, least: textTokens },
): Text[] {
  const order = new Random(drawSeed, documents.length).shuffled([...documents.keys()]);
  const cut = (characters: number) => {
    const byDocument: Text[][] = [];
    // Documents are cut until each text can come from one of its own.
    for (const index of order) {
      const own = textsOf(documents[index], index, tokenizer, characters, cutAs);
      if (own.length > 0) byDocument.push(own);
      if (byDocument.length === count) break;
    }
    return inTurns(byDocument, count);
  };
  const texts = cut(documentCharacters);
  return texts.length < count ? cut(Number.POSITIVE_INFINITY) : texts;
}

/** All texts of the first so many characters of a document, in drawn order. */
function textsOf(
  { name, text }: Document,
  index: number,
  tokenizer: TextTokenizer,
  characters: number,
  { tokens, least }: Cut,
): Text[] {
  const ids = tokenizer.encode(text.slice(0, characters).toWellFormed());
  const starts: number[] = [];
  for (let start = 0; start + least <= ids.length; start += tokens) starts.push(start);
  return new Random(drawSeed, index)
    .shuffled(starts)
    .map((start): Text => ({ document: name, ids: [...ids.slice(start, start + tokens)] }));
}

export function tokensOf(texts: readonly Text[]): number {
  return texts.reduce((sum, { ids }) => sum + ids.length, 0);
}

/** The text with a prompt of `promptTokens`. */
export function withPrompt({ ids }: Text, promptTokens: number): number[] {
  return ids.slice(ids.length - scoredTokens - promptTokens);
}

function inTurns(byDocument: readonly Text[][], count: number): Text[] {
  const texts: Text[] = [];
  for (let round = 0; texts.length < count; round++) {
    const next = byDocument.flatMap((own) => own.slice(round, round + 1));
    if (next.length === 0) break;
    texts.push(...next.slice(0, count - texts.length));
  }
  return texts;
}
