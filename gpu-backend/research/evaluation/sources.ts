/** The sources that artifacts are measured on: held-out documents of training corpora, and the other corpora of the lock. */
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import { splitDocuments } from "../../training/corpus/documents.ts";
import { lockedCorpora } from "../../training/corpus/lock.ts";
import { type Corpus, type CorpusSource, readCorpus } from "../../training/corpus/read-corpus.ts";
import type { Kind } from "./data.ts";
import { cutTexts, type Text } from "./texts.ts";

export interface Source {
  kind: Kind;
  name: string;
  texts: Text[];
}

type TextTokenizer = Pick<Tokenizer, "encode">;

/** Sources of the lock, fetched before, with up to `count` texts each. Throws an Error where one is missing or another. */
export async function lockedTexts(folder: string, tokenizer: TextTokenizer, count: number): Promise<Source[]> {
  const trained = await lockedCorpora("training", folder);
  const sources = trained.map((corpus) => heldOut(corpus, tokenizer, count));
  for (const kind of ["left-out", "new"] as const) {
    for (const { name, documents } of await lockedCorpora(kind, folder)) {
      sources.push({ kind, name, texts: cutTexts(documents, tokenizer, count) });
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
  const read = await Promise.all(corpora.map(readCorpus));
  return read.map((corpus) => heldOut(corpus, tokenizer, count));
}

function heldOut({ name, documents }: Corpus, tokenizer: TextTokenizer, count: number): Source {
  const splits = splitDocuments(name, documents);
  const test = documents.filter((_, i) => splits[i] === "test");
  return { kind: "trained", name, texts: cutTexts(test, tokenizer, count) };
}
