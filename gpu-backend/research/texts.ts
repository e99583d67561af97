/** The texts that artifacts are measured on: each a prompt, and the tokens after it that are scored. */
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { type Document, splitDocuments } from "../training/corpus/documents.ts";
import { lockedCorpora } from "../training/corpus/lock.ts";
import { type Corpus, type CorpusSource, readCorpus } from "../training/corpus/read-corpus.ts";
import { Random } from "../training/random.ts";

/** The same tokens are scored after prompts of each length. */
export const promptLengths = [8, 32, 64, 128] as const;
export const longestPrompt = promptLengths[promptLengths.length - 1];
export const scoredTokens = 64;
const textTokens = longestPrompt + scoredTokens;
/** Only so many characters of each document are cut into texts, as long as these give enough of them. */
const documentCharacters = 20_000;
const drawSeed = 12;

export type TextTokenizer = Pick<Tokenizer, "encode">;

/** A stretch of one document. */
export interface Text {
  /** The same for all texts of a document, and for no others. */
  document: string;
  /** The longest prompt, then the tokens that are scored. */
  ids: number[];
}

/** Documents held out of trained corpora; families that training could have used; text that is like nothing in training. */
export const kinds = ["trained", "left-out", "new"] as const;
type Kind = (typeof kinds)[number];

export interface Source {
  group: Kind;
  name: string;
  texts: Text[];
}

/** Sources of the lock, fetched before, with up to `count` texts each. Throws an Error where one is missing or another. */
export async function lockedTexts(folder: string, tokenizer: TextTokenizer, count: number): Promise<Source[]> {
  const sources = (await lockedCorpora("training", folder)).map((corpus) => heldOut(corpus, tokenizer, count));
  for (const group of ["left-out", "new"] as const) {
    for (const { name, documents } of await lockedCorpora(group, folder)) {
      sources.push({ group, name, texts: cutTexts(documents, tokenizer, count) });
    }
  }
  return sources;
}

/** Test documents of these corpora, which artifacts were trained on. */
export async function heldOutTexts(
  corpora: readonly CorpusSource[],
  tokenizer: TextTokenizer,
  count: number,
): Promise<Source[]> {
  return (await Promise.all(corpora.map(readCorpus))).map((corpus) => heldOut(corpus, tokenizer, count));
}

function heldOut({ name, documents }: Corpus, tokenizer: TextTokenizer, count: number): Source {
  const splits = splitDocuments(name, documents);
  const test = documents.filter((_, i) => splits[i] === "test");
  return { group: "trained", name, texts: cutTexts(test, tokenizer, count) };
}

/**
 * Up to `count` texts: one of each document in drawn order, then a second of each, and so on. They come from the first 20,000
 * characters of each document, or from whole documents where those give fewer than `count`. Texts of a document do not overlap;
 * the last one of a document is kept if it has at least `least` tokens.
 */
export function cutTexts(
  documents: readonly Document[],
  tokenizer: TextTokenizer,
  count: number,
  { tokens, least } = { tokens: textTokens, least: textTokens },
): Text[] {
  const order = new Random(drawSeed, documents.length).shuffled([...documents.keys()]);
  const textsOf = (index: number, characters: number) => {
    const { name, text } = documents[index];
    const ids = tokenizer.encode(text.slice(0, characters).toWellFormed());
    const starts: number[] = [];
    for (let start = 0; start + least <= ids.length; start += tokens) starts.push(start);
    return new Random(drawSeed, index)
      .shuffled(starts)
      .map((start): Text => ({ document: name, ids: [...ids.slice(start, start + tokens)] }));
  };
  const cut = (characters: number) => {
    const byDocument: Text[][] = [];
    // Documents are cut until each text can come from one of its own.
    for (const index of order) {
      if (byDocument.length === count) break;
      const own = textsOf(index, characters);
      if (own.length > 0) byDocument.push(own);
    }
    const rounds = Math.max(0, ...byDocument.map(({ length }) => length));
    const inTurns = Array.from({ length: rounds }, (_, round) =>
      byDocument.flatMap((own) => own.slice(round, round + 1)),
    );
    return inTurns.flat().slice(0, count);
  };
  const texts = cut(documentCharacters);
  return texts.length < count ? cut(Number.POSITIVE_INFINITY) : texts;
}

export function tokensOf(texts: readonly Text[]): number {
  return texts.reduce((sum, { ids }) => sum + ids.length, 0);
}

/** The text with a prompt of `promptTokens`. */
export function withPrompt({ ids }: Text, promptTokens: number): number[] {
  return ids.slice(ids.length - scoredTokens - promptTokens);
}
