/** Cuts documents into texts: a prompt, and the tokens after it that are scored. Pure. */
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import type { Document } from "../../training/corpus/documents.ts";
import { Random } from "../../training/random.ts";

export const scoredTokens = 64;
/** A stretch with a shorter prompt is no text. */
export const minPromptTokens = 64;
/** Only so many characters of each document are cut into texts, as long as these give enough of them. */
const documentCharacters = 20_000;
const drawSeed = 12;
const exampleTokens = 200;
/** So many characters of a text surely hold `exampleTokens` tokens. */
const maxPieceCharacters = 50;
/** An answer of fewer tokens says too little. */
const minAnswerTokens = 16;

type TextTokenizer = Pick<Tokenizer, "encode" | "pieceOf">;

/** A stretch of one document. */
export interface Text {
  /** The same for all texts of a document, and for no others. */
  document: string;
  /** A prompt, then the tokens that are scored. */
  ids: number[];
  /** How many of the ids are scored. */
  scored: number;
  /** Of the scored tokens. */
  bytes: number;
}

/**
 * Up to `count` texts with prompts of `longest` tokens: one of each document in drawn order, then a second of each, and so on. They
 * come from the first 20,000 characters of each document, or from whole documents where those give fewer than `count`. Texts of a
 * document do not overlap; its last may have a shorter prompt. A document of fewer than 128 tokens has none.
 */
export function cutTexts(
  documents: readonly Document[],
  tokenizer: TextTokenizer,
  count: number,
  longest = minPromptTokens,
): Text[] {
  const cut = (characters: number) => inTurns(textsByDocument(documents, tokenizer, longest, characters), count);
  const texts = cut(documentCharacters);
  return texts.length < count ? cut(Number.POSITIVE_INFINITY) : texts;
}

/** All texts of the first so many characters of each document. */
function textsByDocument(
  documents: readonly Document[],
  tokenizer: TextTokenizer,
  longest: number,
  characters: number,
): Text[][] {
  const textTokens = longest + scoredTokens;
  return documents.map(({ name, text }, index) => {
    const ids = tokenizer.encode(text.slice(0, characters));
    const whole = Array.from({ length: Math.floor(ids.length / textTokens) }, (_, i) => i * textTokens);
    const rest = whole.length * textTokens;
    const restIsText = ids.length - rest >= minPromptTokens + scoredTokens;
    const starts = [...new Random(drawSeed, index).shuffled(whole), ...(restIsText ? [rest] : [])];
    return starts.map((start): Text => {
      const own = ids.slice(start, start + textTokens);
      return { document: name, ids: own, scored: scoredTokens, bytes: bytesOf(own, scoredTokens, tokenizer) };
    });
  });
}

/** Questions as prompts, and the first tokens of their answers to score: of documents that say where an answer begins. */
export function answerTexts(documents: readonly Document[], tokenizer: TextTokenizer, count: number): Text[] {
  const byDocument = documents.map(({ name, text, answerAt }): Text[] => {
    if (answerAt === undefined) return [];
    const question = tokenizer.encode(text.slice(0, answerAt));
    const answer = tokenizer.encode(text.slice(answerAt)).slice(0, scoredTokens);
    const ids = [...question, ...answer];
    if (answer.length < minAnswerTokens) return [];
    return [{ document: name, ids, scored: answer.length, bytes: bytesOf(ids, answer.length, tokenizer) }];
  });
  return inTurns(byDocument, count);
}

/** The beginnings of up to `count` drawn documents, for an own adapter. */
export function exampleTexts(documents: readonly Document[], tokenizer: TextTokenizer, count: number): number[][] {
  const drawn = new Random(drawSeed, documents.length).shuffled([...documents]).slice(0, count);
  return drawn
    .map(({ text }) => tokenizer.encode(text.slice(0, exampleTokens * maxPieceCharacters)).slice(0, exampleTokens))
    .filter((ids) => ids.length >= 2);
}

/** Whether the text has a prompt of so many tokens. */
export function hasPrompt({ ids, scored }: Text, promptTokens: number): boolean {
  return ids.length - scored >= promptTokens;
}

/** The text with a prompt of `promptTokens`, so that the same tokens are scored after a prompt of any length. */
export function withPrompt({ ids, scored }: Pick<Text, "ids" | "scored">, promptTokens: number): number[] {
  return ids.slice(ids.length - scored - promptTokens);
}

function inTurns(byDocument: readonly Text[][], count: number): Text[] {
  const order = new Random(drawSeed, byDocument.length).shuffled(byDocument);
  const texts: Text[] = [];
  for (let round = 0; texts.length < count; round++) {
    const next = order.flatMap((own) => own.slice(round, round + 1));
    if (next.length === 0) break;
    texts.push(...next.slice(0, count - texts.length));
  }
  return texts;
}

function bytesOf(ids: readonly number[], scored: number, tokenizer: TextTokenizer): number {
  return ids.slice(-scored).reduce((sum, id) => sum + tokenizer.pieceOf(id).length, 0);
}
