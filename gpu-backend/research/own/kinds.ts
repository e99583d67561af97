/** Kinds of text: ten served to develop the rule of memories, twelve fresh kinds only measure the rule. */
import { createHash } from "node:crypto";
import { type Document, splitDocuments } from "../../training/corpus/documents.ts";
import { type CorpusLock, type LockedCorpus, lockedSources } from "../../training/corpus/lock.ts";
import { readCorpus } from "../../training/corpus/read-corpus.ts";
import { readPositionsOf } from "../../training/memory-scores.ts";
import { cutTexts, type Text, type TextTokenizer, tokensOf } from "../texts.ts";

/** A development kind is measured with the rule fitted on the other nine. */
export const groups = ["development", "fresh"] as const;
export type Group = (typeof groups)[number];

const developmentKinds = [
  ...["gsm8k", "httpd-manual-turkish", "postgresql-manual", "webster-dictionary", "go-programs", "moby-dick"],
  ...["jargon-file", "german-fortunes", "anarchist-faq", "licences"],
];
const freshCount = 12;

export const promptTokens = 64;
export const scoredTokens = 96;
/** The first `evidenceCount` of `readPositions` [P] set the brakes, factors of a memory's weight. */
export const { evidence: evidenceCount, positions: readPositions } = readPositionsOf(promptTokens, scoredTokens);

/** Tokens of each memory. A smaller memory is the beginning of a larger one. */
export const knownSizes: Record<Group, readonly number[]> = {
  development: [1000, 4000, 16_000],
  fresh: [1000, 4000, 6000],
};

/** Tokens of the memory that is compared with other methods. */
export function comparedSize(group: Group): number {
  return Math.max(...knownSizes[group]);
}

/** Maximum tokens of an excerpt. Memories consist of excerpts. */
const excerptTokens = 256;
const leastExcerptTokens = 16;

export interface Kind {
  group: Group;
  name: string;
  /** Excerpts for memories, in the order of `cutTexts`. */
  known: Text[];
  /** Texts to score, from other documents than the excerpts: 64 tokens of prompt, then 96 scored tokens. */
  texts: Text[];
}

/** Of the corpora that neither training nor any choice used, takes those whose names have the lowest SHA-256. */
export function freshKinds(corpora: readonly Pick<LockedCorpus, "name" | "role">[]): string[] {
  const hashOf = (name: string) => createHash("sha256").update(name).digest("hex");
  const candidates = corpora.filter(({ role }) => role === "new" || role === "left-out").map(({ name }) => name);
  return candidates.toSorted((a, b) => (hashOf(a) < hashOf(b) ? -1 : 1)).slice(0, freshCount);
}

export async function lockedKinds(
  { corpora }: CorpusLock,
  folder: string,
  tokenizer: TextTokenizer,
  texts: number,
): Promise<Kind[]> {
  const read: Kind[] = [];
  const names = { development: developmentKinds, fresh: freshKinds(corpora) };
  for (const group of groups) {
    for (const wanted of names[group]) {
      const corpus = corpora.find(({ name }) => name === wanted);
      if (!corpus) throw new Error(`the corpus lock has no ${wanted}`);
      const [source] = lockedSources([corpus], folder);
      const { documents } = await readCorpus(source);
      read.push(kindOf(group, wanted, documents, { isTrained: corpus.role === "training", tokenizer, texts }));
    }
  }
  return read;
}

/** Scores test documents. If training has not used the validation documents (`isTrained`), scores these, too. */
export function kindOf(
  group: Group,
  name: string,
  documents: readonly Document[],
  { isTrained, tokenizer, texts }: { isTrained: boolean; tokenizer: TextTokenizer; texts: number },
): Kind {
  const splits = splitDocuments(name, documents);
  const known = documents.filter((_, i) => splits[i] === "train");
  const held = documents.filter((_, i) => splits[i] === "test" || (!isTrained && splits[i] === "validation"));
  const most = comparedSize(group);
  const excerpts = excerptsOf(known, tokenizer, most);
  if (tokensOf(excerpts) <= most - leastExcerptTokens) {
    throw new Error(`${name} has ${tokensOf(excerpts)} tokens to know; ${most} are measured`);
  }
  const tokens = promptTokens + scoredTokens;
  return {
    ...{ group, name, known: excerpts },
    texts: cutTexts(held, tokenizer, texts, { tokens, least: tokens }),
  };
}

function excerptsOf(documents: readonly Document[], tokenizer: TextTokenizer, tokens: number): Text[] {
  const cut = { tokens: excerptTokens, least: leastExcerptTokens };
  for (let count = Math.ceil(tokens / excerptTokens); ; count *= 2) {
    const excerpts = firstTokens(cutTexts(documents, tokenizer, count, cut), tokens);
    if (excerpts.length < count || tokensOf(excerpts) >= tokens) return excerpts;
  }
}

export function firstTokens<T extends Text>(texts: readonly T[], tokens: number): T[] {
  const result: T[] = [];
  let left = tokens;
  for (const text of texts) {
    if (left < leastExcerptTokens) break;
    result.push({ ...text, ids: text.ids.slice(0, left) });
    left -= Math.min(left, text.ids.length);
  }
  return result;
}

/** The token after each position of `readPositions`, [texts × P]. */
export function targetsOf(texts: readonly Text[]): Int32Array {
  return Int32Array.from(texts.flatMap(({ ids }) => readPositions.map((t) => ids[t + 1])));
}
