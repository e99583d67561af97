import type { TextSettings } from "./bank/settings.ts";
import type { TrainingBase } from "./base.ts";
import { embedWindows, placeText } from "./clustering/placement.ts";
import { fitPromptRows } from "./clustering/prompt-space.ts";
import { type Split, splitDocuments, splits } from "./corpus/documents.ts";
import { documentHash, withheldDocuments } from "./corpus/lock.ts";
import { type Corpus, type CorpusSource, readCorpus } from "./corpus/read-corpus.ts";
import { documentKey, prefixOf, sampleWindows, type Window, windowsOf, windowTokens } from "./corpus/windows.ts";
import { hiddenStatesOf, type PlacedSet, type WindowSet } from "./hidden-states.ts";
import type { Progress } from "./progress.ts";
import { Random, streams } from "./random.ts";
import { keyOf, type Run } from "./run.ts";

interface PrepareOptions extends TextSettings {
  corpora: readonly CorpusSource[];
  windowSeed: number;
  dimensions: number; // P
}

export type Prepared = Awaited<ReturnType<typeof prepare>>;

/** The edge's table starts from `rows` [V, P]. An equal `key` means the same model and windows. */
export async function prepare(base: TrainingBase, options: PrepareOptions, run: Run) {
  const { hiddenSize: D, vocabularySize: V } = base.config;
  const { corpora, chosen } = await readWindows(base, options, run.progress);
  if (chosen.train.length === 0) throw new Error("the corpora hold no document of 80 tokens or more to train on");
  const head = { vocabularySize: V, hiddenSize: D, tokenEmbedding: base.tokenEmbedding };

  const everyWindow = splits.flatMap((split) => chosen[split]);
  const tokenIds = everyWindow.map((window) => [...window.tokenIds]);
  const key = keyOf(base.weightsHash, tokenIds);
  const statesOf = await hiddenStatesOf(everyWindow, base.weightsHash, () => base.openTrunk(run.threads), run);
  const prefixes = chosen.train.map((window) => ({ tokenIds: prefixOf(window), document: documentKey(window) }));
  const rows = fitPromptRows(base.tokenEmbedding, D, prefixes, Math.min(options.dimensions, D));

  const sets = bySplit((split): WindowSet => ({ windows: chosen[split], statesOf }));
  return { base, head, corpora, rows, sets, key };
}

export function bySplit<T>(of: (split: Split) => T): Record<Split, T> {
  return { train: of("train"), validation: of("validation"), test: of("test") };
}

export type Placed = ReturnType<typeof place>;

/** The same seed gives the same result. */
export function place({ head, sets, rows }: Prepared, clusters: number, seed: number) {
  const { windows } = sets.train;
  const dimensions = rows.length / head.vocabularySize;
  const placement = placeText(rows, windows, { dimensions, clusters: Math.min(clusters, windows.length), seed });
  const embedded = (split: Split) => embedWindows(sets[split].windows, placement.table);
  return { ...placement, sets: bySplit((split): PlacedSet => ({ ...sets[split], embeddings: embedded(split) })) };
}

/** Each corpus gives this multiple of an equal share, because another corpus may have less than its share. */
const spareWindows = 4;
/** Characters of a document that are read. More are read if a corpus has too few documents. */
const documentCharacters = 20_000;
/** Upper bound on a token's mean number of characters. */
const tokenCharacters = 8;

export async function readWindows({ tokenizer }: TrainingBase, options: PrepareOptions, progress: Progress) {
  if (options.corpora.length === 0) throw new Error("training needs at least one corpus");
  const random = new Random(options.windowSeed, streams.windows);
  const limits = { train: options.trainWindows, validation: options.validationWindows, test: options.testWindows };
  const windows: Record<Split, Window[]> = { train: [], validation: [], test: [] };
  const read: Corpus[] = [];
  progress.stage("tokens", options.corpora.length);
  for (const [index, source] of options.corpora.entries()) {
    const corpus = await readCorpus(source);
    const splitOf = splitDocuments(corpus.name, corpus.documents);
    for (const split of splits) {
      const wanted = Math.ceil((spareWindows * limits[split]) / options.corpora.length);
      const documents = random.shuffled([...splitOf.keys()].filter((document) => splitOf[document] === split));
      const enough = (wanted * windowTokens * tokenCharacters) / documents.length;
      const ofSplit: Window[] = [];
      for (const document of documents) {
        if (ofSplit.length >= wanted) break;
        const { text: whole } = corpus.documents[document];
        const text = whole.slice(0, Math.max(documentCharacters, enough));
        const cut = windowsOf(index, document, Int32Array.from(tokenizer.encode(text.toWellFormed())));
        const isWithheld = withheldDocuments.has(documentHash(whole));
        ofSplit.push(...cut.map((window) => ({ ...window, isWithheld })));
      }
      windows[split].push(...ofSplit);
    }
    read.push(corpus);
    progress.advance(index + 1, corpus.name);
  }
  const chosen = bySplit((split) => sampleWindows(windows[split], limits[split], random));
  const corpora = read.map(({ documents, ...corpus }, index) => {
    const own = splits.flatMap((split) => chosen[split]).filter((window) => window.corpus === index);
    const tokens = own.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    progress.note(`corpus ${corpus.name}: ${documents.length} documents, ${tokens} tokens in ${own.length} windows`);
    return { ...corpus, documents: documents.length, tokens };
  });
  return { corpora, chosen };
}
