/** The texts that are measured: new text, and what is held out of domains that the adapters were trained on. */
import {
  type Corpus,
  type CorpusSource,
  parseSource,
  readCorpus,
} from "../../../gpu-backend/training/corpus/read-corpus.ts";
import { type Split, splitDocuments } from "../../../gpu-backend/training/corpus/splits.ts";
import { cutTexts, type Source } from "../../../gpu-backend/training/figures/texts.ts";
import type { Manifest } from "../../../shared/artifacts/manifest.ts";
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";

/** Fewer are measured, but said to be few. */
export const fewDocuments = 50;
const leastDocuments = 2;
const validationTexts = 20;

export interface TrainedDomain extends Source {
  /** Whether the corpus is byte for byte the one of the training, so that nothing held out here was trained on. */
  isAsTrained: boolean;
  /** Of the documents that training chose by. */
  validation: Source["texts"];
}

export async function readSources(named: readonly string[]): Promise<Corpus[]> {
  return Promise.all(named.map((argument) => readCorpus(parseSource(argument))));
}

export function newSource(corpus: Corpus, tokenizer: Tokenizer, texts: number): Source {
  return sourceOf(corpus, corpus.documents, tokenizer, texts);
}

/** A domain of the training: texts of the documents that training held out. */
export async function trainedDomain(
  source: CorpusSource,
  { training }: Manifest,
  tokenizer: Tokenizer,
  texts: number,
): Promise<TrainedDomain> {
  const corpus = await readCorpus(source);
  const split = splitDocuments(corpus.name, corpus.documents);
  const of = (wanted: Split) => corpus.documents.filter((_, i) => split[i] === wanted);
  const recorded = training?.corpora.find(({ name }) => name === corpus.name);
  return {
    ...sourceOf(corpus, of("test"), tokenizer, texts),
    isAsTrained: training?.split === "document-hash" && recorded?.sha256 === corpus.sha256,
    validation: cutTexts(of("validation"), tokenizer, validationTexts),
  };
}

function sourceOf(
  { name, sha256 }: Corpus,
  documents: Corpus["documents"],
  tokenizer: Tokenizer,
  count: number,
): Source {
  const texts = cutTexts(documents, tokenizer, count);
  const used = new Set(texts.map(({ document }) => document)).size;
  if (used < leastDocuments) {
    throw new Error(
      `${name} has ${used} document(s) of 128 tokens; an interval over documents needs ${leastDocuments}`,
    );
  }
  return { name, sha256, documents: used, texts };
}
