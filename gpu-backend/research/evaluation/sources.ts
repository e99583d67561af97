/** The sources that shipped artifacts are measured on: test documents of corpora, and the new text of the corpus lock. */
import type { Manifest } from "../../../shared/artifacts/manifest.ts";
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import { splitDocuments } from "../../training/corpus/documents.ts";
import { type CorpusLock, isKnown, lockedCorpora } from "../../training/corpus/lock.ts";
import { type Corpus, type CorpusSource, readCorpus } from "../../training/corpus/read-corpus.ts";
import { maxPromptTokens, type Source } from "./shipped.ts";
import { answerTexts, cutTexts, exampleTexts, scoredTokens } from "./texts.ts";

export interface SourceOptions {
  lock: CorpusLock;
  manifest: Manifest;
  tokenizer: Tokenizer;
  /** Scored texts of each source at most. */
  texts: number;
  /** Example texts of each source at most. */
  examples: number;
}

/** All sources of the lock, fetched before. Throws an Error where one is missing or another. */
export async function lockedTexts(folder: string, options: SourceOptions): Promise<Source[]> {
  const trained = await lockedCorpora("training", folder);
  const fresh = await lockedCorpora("new", folder);
  return [
    ...trained.map((corpus) => trainedSource(corpus, options)),
    ...fresh.map((corpus): Source => {
      const texts = cutTexts(corpus.documents, options.tokenizer, options.texts, longestOf(options));
      const scored = new Set(texts.map(({ document }) => document));
      const others = corpus.documents.filter(({ name }) => !scored.has(name));
      const examples = exampleTexts(others, options.tokenizer, options.examples);
      const known = isKnownText(corpus, options);
      return { kind: "new", name: corpus.name, known, heldOut: true, texts, answers: [], examples };
    }),
  ];
}

/** Test documents of corpora that the artifacts were trained on. */
export async function trainedTexts(corpora: readonly CorpusSource[], options: SourceOptions): Promise<Source[]> {
  const read = await Promise.all(corpora.map(readCorpus));
  return read.map((corpus) => trainedSource(corpus, options));
}

function trainedSource(corpus: Corpus, options: SourceOptions): Source {
  const { manifest, tokenizer, texts: count } = options;
  const { name, sha256, documents } = corpus;
  const splits = splitDocuments(name, documents);
  const test = documents.filter((_, i) => splits[i] === "test");
  return {
    ...{ kind: "trained", name, known: isKnownText(corpus, options) },
    heldOut: manifest.training?.corpora.some((trained) => trained.sha256 === sha256) ?? false,
    texts: cutTexts(test, tokenizer, count, longestOf(options)),
    answers: answerTexts(test, tokenizer, count),
    examples: exampleTexts(
      documents.filter((_, i) => splits[i] === "train"),
      tokenizer,
      options.examples,
    ),
  };
}

/** The longest prompt that the model has room for beside the scored tokens. */
function longestOf({ manifest }: SourceOptions): number {
  return Math.min(maxPromptTokens, manifest.model.contextTokens - scoredTokens - 1);
}

function isKnownText({ sha256 }: Corpus, { lock, manifest }: SourceOptions): boolean {
  return isKnown(lock, manifest.model.weights, sha256);
}
