import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { type Document, splitDocuments } from "../training/corpus/documents.ts";
import { type CorpusLock, lockedSources } from "../training/corpus/lock.ts";
import { type CorpusSource, readCorpus } from "../training/corpus/read-corpus.ts";
import { Random } from "../training/random.ts";

/** Lengths in tokens. The same tokens are scored after each length. */
export const promptLengths = [8, 32, 64, 128] as const;
export const longestPrompt = promptLengths[promptLengths.length - 1];
export const scoredTokens = 64;
const textTokens = longestPrompt + scoredTokens;
/** Texts are cut from this many characters of a document, or from the whole document if there are too few texts. */
const documentCharacters = 20_000;
const drawSeed = 12;

export type TextTokenizer = Pick<Tokenizer, "encode">;

export interface Text {
  document: string;
  ids: number[];
}

/** "trained": test documents of training corpora. "left-out": families of text that training left out. "new": any other text. */
export const kinds = ["trained", "left-out", "new"] as const;
type Kind = (typeof kinds)[number];

export interface Source {
  group: Kind;
  name: string;
  texts: Text[];
}

export function measuredCorpora({ corpora }: CorpusLock, folder: string): (CorpusSource & { group: Kind })[] {
  return kinds.flatMap((group) => {
    const role = group === "trained" ? "training" : group;
    const own = corpora.filter((corpus) => corpus.role === role);
    return lockedSources(own, folder).map((source) => ({ ...source, group }));
  });
}

/** The group "trained" gives texts of test documents only. */
export async function readTexts(
  corpora: readonly (CorpusSource & { group: Kind })[],
  tokenizer: TextTokenizer,
  count: number,
): Promise<Source[]> {
  const sources: Source[] = [];
  for (const { group, ...source } of corpora) {
    const { name, documents } = await readCorpus(source);
    const splits = group === "trained" ? splitDocuments(name, documents) : null;
    const measured = documents.filter((_, i) => !splits || splits[i] === "test");
    sources.push({ group, name, texts: cutTexts(measured, tokenizer, count) });
  }
  return sources;
}

/** Takes one text of each document in random order, then a second, and so on. Every text has at least `least` tokens. */
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
    // Stops once every text can come from a different document.
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

export function withPrompt({ ids }: Text, promptTokens: number): number[] {
  return ids.slice(ids.length - scoredTokens - promptTokens);
}
